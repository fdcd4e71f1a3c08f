//! Owns routes in the tables: path, source, and why one is not used.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::{Attributes, NextHop};
use crate::policy::Tag;

/// Attributes and next hop; shared by all routes of an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// All attributes but the next hop.
    pub attributes: Attributes,
    /// The next hop.
    pub next_hop: NextHop,
}

/// A route that this speaker originates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    /// The prefix.
    pub prefix: IpNet,
    /// Its mark, for policies.
    pub tag: Tag,
    /// What is announced with it, e.g. communities. ORIGIN and AS_PATH are filled in.
    pub attributes: Attributes,
}

/// What the tables know of a peer's session; shared by its routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// The peer's address.
    pub address: IpAddr,
    /// Its identifier.
    pub id: Ipv4Addr,
    /// It is in our AS.
    pub internal: bool,
    /// It is a client of our route reflector.
    pub client: bool,
}

/// Where a route is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This speaker.
    Local(Tag),
    /// A peer.
    Peer(Arc<PeerFacts>),
}

impl Source {
    /// The peer's address; `None` for our own.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Peer(facts) => Some(facts.address),
        }
    }
}

/// Why a received route is not eligible.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// B14
    #[error("our AS is in its AS_PATH")]
    AsLoop,
    /// B14
    #[error("our identifier is its ORIGINATOR_ID")]
    OriginatorLoop,
    /// B14
    #[error("our cluster is in its CLUSTER_LIST")]
    ClusterLoop,
    /// B14
    #[error("its AS_PATH does not begin with the peer's AS")]
    FirstAs,
    /// RFC 4271 6.3
    #[error("its next hop is our own address")]
    OwnNextHop,
    /// B24
    #[error("its next hop is on no link of ours")]
    Unresolved,
    /// B12: fe80::/10 without a global address beside it; which interface it is on is not known.
    #[error("its next hop is a link-local address only")]
    LinkLocal,
    /// B16: the rule's name.
    #[error("import policy: {0}")]
    Policy(Arc<str>),
}

/// A route in the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it is from.
    pub source: Source,
    /// As received.
    pub received: Arc<Path>,
    /// After the import policy.
    pub path: Arc<Path>,
    /// Kept over the peer's restart or a route refresh, not confirmed yet.
    pub stale: bool,
    /// Why it is not used; `None` for eligible ones.
    pub unfit: Option<Unfit>,
}
