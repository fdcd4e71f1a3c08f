//! Between Rust's addresses and the maps' words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{Addr4, Addr6, FlowKey, ServiceKey};
use sluice_services::{Frontend, Protocol};

/// An address of either family, as the maps' key types want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addr {
    V4(Addr4),
    V6(Addr6),
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Addr4::from_octets(address.octets())),
            IpAddr::V6(address) => Self::V6(Addr6::from_octets(address.octets())),
        }
    }
}

/// An address as four words, an IPv4 address in the first.
pub(crate) fn words(address: IpAddr) -> [u32; 4] {
    match Addr::from(address) {
        Addr::V4(address) => [address.0, 0, 0, 0],
        Addr::V6(address) => address.0,
    }
}

/// The address in four words of a backend with this IP version.
pub(crate) fn from_words(words: [u32; 4], ip_version: u8) -> IpAddr {
    let [word, ..] = words;
    if ip_version == 4 { Addr4(word).into_ip() } else { Addr6(words).into_ip() }
}

/// An address of the maps that has a Rust equal.
pub(crate) trait IntoIp {
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for Addr4 {
    fn into_ip(self) -> IpAddr {
        Ipv4Addr::from(self.octets()).into()
    }
}

impl IntoIp for Addr6 {
    fn into_ip(self) -> IpAddr {
        Ipv6Addr::from(self.octets()).into()
    }
}

/// The protocol of an IANA number that Sluice serves.
pub(crate) fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| *p as u8 == number)
}

/// A key of the frontends' maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    /// All ports of a ClusterIP that are not frontends: refused.
    Address(IpAddr),
    /// A frontend.
    Port(Frontend),
}

impl Front {
    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Address(address) => address,
            Self::Port(frontend) => frontend.address,
        }
    }
}

/// A frontend as the maps' key.
pub(crate) fn key<A>(addr: A, front: Front) -> ServiceKey<A> {
    let (port, protocol) = match front {
        Front::Address(_) => (0, 0),
        Front::Port(frontend) => (frontend.port, frontend.protocol as u8),
    };
    ServiceKey { addr, port_be: port.to_be(), protocol, pad: 0 }
}

/// The frontend of a map's key; `None` for a protocol number that no frontend has.
pub(crate) fn front<A: IntoIp + Copy>(key: &ServiceKey<A>) -> Option<Front> {
    let (address, port) = (key.addr.into_ip(), u16::from_be(key.port_be));
    if key.protocol == 0 && port == 0 {
        return Some(Front::Address(address));
    }
    Some(Front::Port(Frontend { address, port, protocol: protocol(key.protocol)? }))
}

/// Source and destination of a flow's key.
pub(crate) fn ends<A: IntoIp + Copy>(
    key: &FlowKey<A>,
) -> (std::net::SocketAddr, std::net::SocketAddr) {
    (
        (key.src.into_ip(), u16::from_be(key.sport_be)).into(),
        (key.dst.into_ip(), u16::from_be(key.dport_be)).into(),
    )
}
