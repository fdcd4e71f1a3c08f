//! Owns path attributes as values (RFC 4271 5 and its extensions).
//!
//! MP_REACH_NLRI and MP_UNREACH_NLRI are not here: they carry routes, see [`crate::Update`].

mod as_path;
mod decode;
mod encode;
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

pub use as_path::{AsPath, Segment, SegmentKind};
pub use decode::{Action, Fault, Reason};
pub(crate) use decode::{Parsed, decode_all};
pub(crate) use encode::{encode_all, put_header};

/// Attribute type codes (IANA "BGP Path Attributes").
pub(crate) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MED: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXT_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const IPV6_EXT_COMMUNITIES: u8 = 25;
    pub(crate) const AIGP: u8 = 26;
    pub(crate) const LINK_STATE: u8 = 29;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
    pub(crate) const OTC: u8 = 35;
    pub(crate) const PREFIX_SID: u8 = 40;
}

/// Attribute flags (RFC 4271 4.3).
pub(crate) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const PARTIAL: u8 = 0x20;
    pub(crate) const EXTENDED: u8 = 0x10;
}

/// Where a route came from; the lower the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// 0
    #[default]
    Igp,
    /// 1
    Egp,
    /// 2
    Incomplete,
}

/// Who aggregated a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// The aggregating AS, not 0.
    pub asn: u32,
    /// BGP identifier of the aggregating speaker.
    pub id: Ipv4Addr,
}

/// A community (RFC 1997): AS in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// 65535:0 (RFC 8326)
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// 65535:65281 (RFC 1997)
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// 65535:65282 (RFC 1997)
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// 65535:65283 (RFC 1997)
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global administrator, an AS.
    pub global: u32,
    /// First local part.
    pub local1: u32,
    /// Second local part.
    pub local2: u32,
}

/// An attribute whose value this crate does not read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// Flags without the extended length bit.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value.
    pub value: Bytes,
}

impl Opaque {
    /// Whether a speaker that does not know the attribute passes it on.
    #[must_use]
    pub fn is_transitive(&self) -> bool {
        self.flags & flag::TRANSITIVE != 0
    }

    /// Marks that a speaker on the way did not know the attribute (RFC 4271 5).
    pub(crate) fn set_partial(&mut self) {
        self.flags |= flag::PARTIAL;
    }
}

/// Next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, with a link-local one beside it where the peer is on the link (RFC 2545 3).
    V6 {
        /// The address; link-local on links without a global one.
        address: Ipv6Addr,
        /// The link-local address in the second half.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address that resolves the route.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::V4(*address),
            Self::V6 { address, .. } => IpAddr::V6(*address),
        }
    }

    /// Whether no host can have the address: unspecified, loopback, multicast, broadcast, 0/8, 240/4.
    #[must_use]
    pub fn is_martian(&self) -> bool {
        match self {
            Self::V4(a) => {
                let [first, ..] = a.octets();
                first == 0 || a.is_loopback() || first >= 224
            }
            Self::V6 { address: a, .. } => {
                a.is_unspecified() || a.is_loopback() || a.is_multicast()
            }
        }
    }

    /// Whether another host can send packets there for this address alone: a martian is nobody's,
    /// and a link-local one says nothing beyond its link.
    #[must_use]
    pub fn is_of_use_to_others(&self) -> bool {
        let link_local = match self {
            Self::V4(address) => address.is_link_local(),
            Self::V6 { address, .. } => {
                address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
            }
        };
        !link_local && !self.is_martian()
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6 { address, link_local: None },
        }
    }
}

/// All attributes of a route but its next hop; ASes always in four octets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN; mandatory on routes.
    pub origin: Option<Origin>,
    /// AS_PATH, merged with AS4_PATH; mandatory on routes.
    pub as_path: Option<AsPath>,
    /// MULTI_EXIT_DISC
    pub med: Option<u32>,
    /// LOCAL_PREF; never received from or sent to external peers.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE
    pub atomic_aggregate: bool,
    /// AGGREGATOR, merged with AS4_AGGREGATOR
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES
    pub communities: Vec<Community>,
    /// ORIGINATOR_ID (RFC 4456)
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456)
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES (RFC 4360), eight octets each
    pub ext_communities: Vec<[u8; 8]>,
    /// IPv6 address specific extended communities (RFC 5701), twenty octets each
    pub ipv6_ext_communities: Vec<[u8; 20]>,
    /// LARGE_COMMUNITY
    pub large_communities: Vec<LargeCommunity>,
    /// ONLY_TO_CUSTOMER (RFC 9234), an AS
    pub otc: Option<u32>,
    /// Everything else, in the order received, each code once.
    pub opaque: Vec<Opaque>,
}
