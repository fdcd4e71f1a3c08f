//! Where node ports are open: `--nodeport-addresses` and `--service-node-port-range`, read and
//! resolved (R20). Pure; what addresses there are is a parameter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sluice_services::Family;

/// One word of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The Node's first internal, else first external address, per family.
    Primary,
    /// 127.0.0.0/8 and ::1/128.
    Localhost,
    /// Every local address of both families.
    All,
    /// The local addresses in this range.
    Range(IpNet),
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            _ => text.parse::<IpNet>().map(|range| Self::Range(range.trunc())).map_err(|_| {
                "expected a range such as 192.0.2.0/24 or 2001:db8::/64, \
                 or one of primary, localhost, all"
                    .to_owned()
            }),
        }
    }
}

/// Where node ports are open in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// On whatever address is local at the moment.
    Everywhere,
    /// On these addresses, possibly none; sorted.
    On(Vec<IpAddr>),
}

/// The value of `--nodeport-addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses(Vec<Word>);

impl NodePortAddresses {
    /// From the words given; none is the same as `primary`, as in kube-proxy's nftables mode.
    #[must_use]
    pub fn new(words: Vec<Word>) -> Self {
        Self(words)
    }

    /// Whether the operator said anything.
    #[must_use]
    pub fn is_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// The ranges whose local addresses node ports of a family are open on. `node` are the own
    /// Node's addresses, internal ones first.
    ///
    /// Ranges of the other family alone leave this one open everywhere, as in kube-proxy; `primary`
    /// on a Node without an address of this family opens nothing.
    #[must_use]
    pub fn ranges_of(&self, family: Family, node: &[IpAddr]) -> Vec<IpNet> {
        let words = if self.is_given() { self.0.as_slice() } else { &[Word::Primary] };
        let mut ranges = Vec::new();
        let mut said = false;
        for word in words {
            match word {
                Word::All => ranges.push(everything(family)),
                Word::Localhost => ranges.push(loopback(family)),
                Word::Range(range) if Family::of(range.addr()) == family => ranges.push(*range),
                Word::Range(_) => continue,
                Word::Primary => {
                    let usable = |a: &&IpAddr| !a.is_loopback() && Family::of(**a) == family;
                    ranges.extend(node.iter().find(usable).map(|address| IpNet::from(*address)));
                }
            }
            said = true;
        }
        if !said || ranges.iter().any(|range| range.prefix_len() == 0) {
            return vec![everything(family)];
        }
        ranges
    }

    /// The same for both families.
    #[must_use]
    pub fn ranges(&self, node: &[IpAddr]) -> Vec<IpNet> {
        [Family::V4, Family::V6].iter().flat_map(|family| self.ranges_of(*family, node)).collect()
    }

    /// Where in one family to listen, among the addresses of all interfaces.
    #[must_use]
    pub fn opening(&self, family: Family, node: &[IpAddr], local: &[IpAddr]) -> Opening {
        let ranges = self.ranges_of(family, node);
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return Opening::Everywhere;
        }
        let within = |address: &&IpAddr| ranges.iter().any(|range| range.contains(*address));
        let mut addresses: Vec<IpAddr> = local.iter().filter(within).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Opening::On(addresses)
    }

    /// Whether loopback addresses were asked for by name or range.
    #[must_use]
    pub fn names_loopback(&self) -> bool {
        let is_loopback = |range: &IpNet| loopback(Family::of(range.addr())).contains(range);
        self.0.iter().any(|word| match word {
            Word::Localhost => true,
            Word::Range(range) => is_loopback(range),
            Word::All | Word::Primary => false,
        })
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::default().into(),
        Family::V6 => Ipv6Net::default().into(),
    }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    }
}

/// Reads `--service-node-port-range`: `30000-32767`, both ends included.
///
/// # Errors
/// When it is no range of port numbers.
pub fn parse_port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ends = text.split_once(['-', ':']);
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match ends.and_then(|(first, last)| Some((port(first)?, port(last)?))) {
        Some((first, last)) if first <= last => Ok(first..=last),
        _ => Err("expected two port numbers, the lower one first, such as 30000-32767".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|address| address.parse().expect("an address")).collect()
    }

    fn on(text: &str) -> Opening {
        Opening::On(addresses(text))
    }

    #[test]
    fn r20_words_and_ranges_per_family() {
        let local = addresses(
            "127.0.0.1 10.0.0.5 192.0.2.1 192.0.2.9 ::1 2001:db8::1 fe80::1 2001:db8:1::1",
        );
        let everywhere = Opening::Everywhere;
        let dual = addresses("192.0.2.9 2001:db8::1 10.0.0.5");
        let v4_only = addresses("192.0.2.9");
        let cases = [
            (vec![], &dual, on("192.0.2.9"), on("2001:db8::1")),
            (vec!["primary"], &dual, on("192.0.2.9"), on("2001:db8::1")),
            // kube-proxy opens these on every IPv6 address.
            (vec!["primary"], &v4_only, on("192.0.2.9"), on("")),
            (vec!["all"], &dual, everywhere.clone(), everywhere.clone()),
            (vec!["localhost"], &dual, on("127.0.0.1"), on("::1")),
            (vec!["primary", "localhost"], &v4_only, on("127.0.0.1 192.0.2.9"), on("::1")),
            (vec!["192.0.2.7/24"], &dual, on("192.0.2.1 192.0.2.9"), everywhere.clone()),
            (vec!["198.51.100.0/24", "2001:db8::/64"], &dual, on(""), on("2001:db8::1")),
            (vec!["192.0.2.1/32", "primary"], &dual, on("192.0.2.1 192.0.2.9"), on("2001:db8::1")),
            (vec!["0.0.0.0/0", "10.0.0.0/8"], &dual, everywhere.clone(), everywhere.clone()),
            (vec!["::/0", "10.0.0.0/8"], &dual, on("10.0.0.5"), everywhere),
        ];
        for (words, node, v4, v6) in cases {
            let parsed = words.iter().map(|word| word.parse().expect("a word")).collect();
            let given = NodePortAddresses::new(parsed);
            assert_eq!(given.opening(Family::V4, node, &local), v4, "{words:?}");
            assert_eq!(given.opening(Family::V6, node, &local), v6, "{words:?}");
        }
    }

    #[test]
    fn r20_a_loopback_address_is_never_the_primary_one() {
        let given = NodePortAddresses::default();
        let node = addresses("127.0.0.1 10.0.0.5");
        assert_eq!(given.opening(Family::V4, &node, &node), on("10.0.0.5"));
        let ranges: Vec<String> = given.ranges(&node).iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.0.0.5/32"], "what the data plane is told");
    }

    #[test]
    fn r21_loopback_is_named_by_word_or_range() {
        for (word, expected) in [
            ("localhost", true),
            ("127.0.0.0/8", true),
            ("127.0.0.1/32", true),
            ("::1/128", true),
            ("all", false),
            ("0.0.0.0/0", false),
            ("primary", false),
        ] {
            let given = NodePortAddresses::new(vec![word.parse().expect("a word")]);
            assert_eq!(given.names_loopback(), expected, "{word}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(parse_port_range("30000-32767"), Ok(30000..=32767));
        assert_eq!(parse_port_range("30000:30000"), Ok(30000..=30000));
        for bad in ["", "30000", "32767-30000", "0-10", "1-70000", "a-b", "1-2-3"] {
            assert!(parse_port_range(bad).is_err(), "{bad}");
        }
    }
}
