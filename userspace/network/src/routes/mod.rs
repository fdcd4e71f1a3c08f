//! Owns the kernel's routes of protocol 92: what is wanted, what stands, and the steps between.
//!
//! [`Table`] is pure: it takes in what is wanted and what the kernel shows and yields operations.
//! [`Kernel`] applies them. Routes of others are never touched: all of ours have a protocol and a
//! metric of their own, and the kernel replaces and deletes by both.

mod kernel;
mod table;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

pub use kernel::{Kernel, Links, RouteError, changes};
pub use table::{Op, Table};

/// Number of our routes' protocol, as `ip route show proto 92` knows it.
pub const PROTOCOL: u8 = 92;
/// Metric of our routes. Above what the kernel gives to networks on links (0 and 256) and to
/// routes of administrators and router advertisements (0 and 1024): those win.
pub const METRIC: u32 = 2092;

/// A way to next hops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// The next hops, in equal shares; sorted, without duplicates, at least one.
    pub next_hops: Vec<IpAddr>,
    /// What the node's own packets have as their source, an address of the node (RTA_PREFSRC); the
    /// kernel's choice without. [`Table::set_sources`] sets it.
    pub source: Option<IpAddr>,
    /// Index of the interface, where the next hop is link-local and says nothing by itself.
    pub link: Option<u32>,
}

/// Where packets to a prefix go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// To next hops.
    Via(Way),
    /// Nowhere; the sender is told so. For ranges that others are told to come here for, the node's
    /// own pod range and aggregates: addresses in them that nobody has must not leave by the
    /// default route and come back (B26).
    Unreachable,
}

impl Target {
    /// A target of these next hops; `None` without any.
    #[must_use]
    pub fn via(mut next_hops: Vec<IpAddr>) -> Option<Self> {
        next_hops.sort_unstable();
        next_hops.dedup();
        (!next_hops.is_empty()).then_some(Self::Via(Way { next_hops, source: None, link: None }))
    }
}

impl Target {
    /// The same, for packets of the node's own from this address.
    #[must_use]
    pub fn with_source(self, source: Option<IpAddr>) -> Self {
        match self {
            Self::Via(way) => Self::Via(Way { source, ..way }),
            Self::Unreachable => Self::Unreachable,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Via(Way { next_hops, source, .. }) => {
                let hops: Vec<String> = next_hops.iter().map(ToString::to_string).collect();
                write!(f, "via {}", hops.join(", "))?;
                source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
        }
    }
}

/// What the kernel shows of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Those of ours.
    pub ours: Vec<Installed>,
    /// Where the default routes of others lead, by their first next hop: at most one way of each
    /// family, the one with the lowest metric.
    pub ways_out: Vec<Way>,
}

/// A route of ours as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The prefix.
    pub prefix: IpNet,
    /// Where it goes.
    pub target: Target,
}
