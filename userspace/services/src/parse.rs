//! Texts and numbers of objects into types that cannot be wrong: addresses, ranges, ports, protocols.
//!
//! Called by the parsers of Services and slices; every failure is a [`Reason`], never more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::problem::{Reason, excerpt};
use crate::state::{Family, Protocol};

/// Longest text that can be an address: 39 hex digits and colons, a dotted quad, and generous
/// room for leading zeros.
const LONGEST_ADDRESS: usize = 128;

/// Reads an address as Kubernetes does (`netutils.ParseIPSloppy`): leading zeros are decimal, not
/// octal, and an IPv4-mapped address is the IPv4 address (R6). The result is canonical.
pub(crate) fn address(text: &str) -> Result<IpAddr, Reason> {
    sloppy(text).map(|a| a.to_canonical()).ok_or_else(|| Reason::NotAnAddress(excerpt(text)))
}

fn sloppy(text: &str) -> Option<IpAddr> {
    if text.len() > LONGEST_ADDRESS {
        return None;
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let mut plain = String::with_capacity(text.len());
    for group in text.split_inclusive([':', '.']) {
        let digits = group.trim_start_matches('0');
        // A group of zeros only keeps one of them.
        if digits.len() < group.len() && !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
            plain.push('0');
        }
        plain.push_str(digits);
    }
    plain.parse().ok()
}

/// What an address is to be used for: some are possible in one place only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Cluster and LB addresses: the API puts no further limits on them.
    Service,
    /// Endpoints and `externalIPs`: not link-local (`ValidateNonSpecialIP` of the API server).
    Outside,
}

/// As [`address`], and refuses those that can be nobody's in this place.
pub(crate) fn usable_address(text: &str, usage: Use) -> Result<IpAddr, Reason> {
    let address = address(text)?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
        || (link_local && usage == Use::Outside)
    {
        return Err(Reason::SpecialAddress(address.to_string()));
    }
    Ok(address)
}

/// Reads a range, blanks around it trimmed (R4), sloppily (R6); host bits are cleared.
pub(crate) fn range(text: &str) -> Result<IpNet, Reason> {
    let bad = || Reason::NotARange(excerpt(text));
    let (network, length) = text.trim().split_once('/').ok_or_else(bad)?;
    if length.is_empty() || length.len() > 16 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let length: u8 = length.parse().map_err(|_| bad())?;
    let network = sloppy(network).ok_or_else(bad)?;
    let (network, length) = match network {
        // ::ffff:192.0.2.0/120 is 192.0.2.0/24; a shorter prefix covers more than IPv4.
        IpAddr::V6(v6) if is_mapped(v6) && length >= 96 => (network.to_canonical(), length - 96),
        _ => (network, length),
    };
    IpNet::new(network, length).map(|net| net.trunc()).map_err(|_| bad())
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// A port number of the API: 1 to 65535.
pub(crate) fn port(number: i32) -> Result<u16, Reason> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Reason::NotAPort(number.into())),
    }
}

/// A protocol, TCP where none is given (R5).
pub(crate) fn protocol(name: Option<&str>) -> Result<Protocol, Reason> {
    match name {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Reason::UnknownProtocol(excerpt(other))),
    }
}

/// The API's name of a family.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A name out of a list of families or a slice's address type.
pub(crate) fn family(name: &str) -> Option<Family> {
    match name {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_addresses_are_read_sloppily_and_become_canonical() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.000.001", Some("10.0.0.1")),
            ("0000000010.0.0.08", Some("10.0.0.8")),
            ("0.0.0.0", Some("0.0.0.0")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("::ffff:010.1.02.3", Some("10.1.2.3")),
            ("FD00:0:0:0::00001", Some("fd00::1")),
            ("fd00:00000:0:0:0:0:0:0010", Some("fd00::10")),
            ("::", Some("::")),
            ("::0", Some("::")),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("1.2.3.256", None),
            ("1..2.3", None),
            ("", None),
            ("0", None),
            (" 10.0.0.1", None),
            ("+1.2.3.4", None),
            ("0x10.0.0.1", None),
            ("fe80::1%eth0", None),
            ("example.org", None),
            ("10.0.0.1/32", None),
        ] {
            assert_eq!(address(text).ok().map(|a| a.to_string()).as_deref(), expected, "{text:?}");
        }
        assert!(address(&"0".repeat(5 << 20)).is_err());
    }

    #[test]
    fn r4_ranges_may_have_blanks_zeros_and_host_bits() {
        for (text, expected) in [
            (" 203.0.113.0/25", Some("203.0.113.0/25")),
            ("\t10.1.2.3/8 \n", Some("10.0.0.0/8")),
            ("010.001.0.0/016", Some("10.1.0.0/16")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::1/64", Some("fd00::/64")),
            ("::ffff:192.0.2.7/120", Some("192.0.2.0/24")),
            ("10.0.0.0", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/", None),
            ("/8", None),
            ("", None),
        ] {
            assert_eq!(range(text).ok().map(|r| r.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn addresses_nobody_can_have_are_refused() {
        for (text, service, outside) in [
            ("10.0.0.1", true, true),
            ("169.254.1.1", true, false),
            ("fe80::1", true, false),
            ("255.255.255.255", false, false),
            ("0.0.0.0", false, false),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
        ] {
            assert_eq!(usable_address(text, Use::Service).is_ok(), service, "{text}");
            assert_eq!(usable_address(text, Use::Outside).is_ok(), outside, "{text}");
        }
    }

    #[test]
    fn k23_ports_and_protocols() {
        for (number, good) in [(1, true), (65535, true), (0, false), (-1, false), (70000, false)] {
            assert_eq!(port(number).is_ok(), good, "{number}");
        }
        // R5: no protocol is TCP.
        assert_eq!(protocol(None), Ok(Protocol::Tcp));
        assert_eq!(protocol(Some("SCTP")), Ok(Protocol::Sctp));
        assert!(protocol(Some("tcp")).is_err() && protocol(Some("")).is_err());
    }
}
