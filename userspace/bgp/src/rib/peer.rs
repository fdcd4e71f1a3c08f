//! Owns what the tables hold per peer: its policies, its session, what it sent (by prefix), what
//! it has been sent, and what it has to be sent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::route::{Path, PeerFacts};
use crate::family::{Families, Family};
use crate::fsm::Time;
use crate::message::Params;
use crate::policy::Policy;

/// Settings of a peer that only the tables need; changes count at once, without a reset (B17).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Which received routes are used.
    pub import: Policy,
    /// Which chosen routes are announced.
    pub export: Policy,
    /// Our addresses to name as next hop, before the session's own: at most one per family.
    pub next_hops: Vec<IpAddr>,
    /// Name ourselves also as the next hop of routes passed on to internal peers.
    pub next_hop_self: bool,
    /// The peer is a client of our route reflector (RFC 4456).
    pub client: bool,
    /// Most prefixes it may send per family, counted as received, before the policy (B22); a
    /// warning is given at three quarters. `None` is no limit.
    pub max_prefixes: Option<u32>,
    /// Refuse routes whose AS_PATH does not begin with the peer's AS (B14).
    pub enforce_first_as: bool,
}

/// A session as the tables see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) facts: Arc<PeerFacts>,
    pub(super) params: Params,
    pub(super) local_address: IpAddr,
    /// Families whose End-of-RIB the peer still owes.
    pub(super) awaits_end: Families,
    /// They are waited for until then, if not for longer (a peer without graceful restart).
    pub(super) end_due: Option<Time>,
    /// It said that it has just restarted.
    pub(super) restarted: bool,
}

/// Something that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) path: Arc<Path>,
    /// To be sent again although nothing changed (route refresh).
    pub(super) again: bool,
}

/// A peer's part of the tables.
#[derive(Clone, Debug)]
pub(super) struct PeerTable {
    pub(super) local_asn: u32,
    pub(super) peer_asn: u32,
    pub(super) policies: Policies,
    pub(super) own_addresses: Vec<IpAddr>,
    pub(super) session: Option<Session>,
    /// Prefixes with a route from it.
    pub(super) prefixes: HashSet<IpNet>,
    /// Those of IPv4 among them.
    pub(super) v4_count: usize,
    /// Stale routes go then.
    pub(super) stale_until: Option<Time>,
    /// Families whose warning of the limit was given.
    pub(super) warned: Vec<Family>,
    pub(super) out: Out,
}

/// Adj-RIB-Out.
#[derive(Clone, Debug, Default)]
pub(super) struct Out {
    pub(super) sent: HashMap<IpNet, Sent>,
    /// Prefixes whose route may differ from what was sent.
    pub(super) dirty: BTreeSet<IpNet>,
    /// Families whose End-of-RIB is owed.
    pub(super) owes_end: Vec<Family>,
    /// Families whose refresh is to begin, and those under way (RFC 7313).
    pub(super) refresh_begins: Vec<Family>,
    pub(super) refresh_ends: Vec<Family>,
}

impl PeerTable {
    pub(super) fn count(&self, family: Family) -> usize {
        match family {
            Family::Ipv4Unicast => self.v4_count,
            Family::Ipv6Unicast => self.prefixes.len() - self.v4_count,
        }
    }

    /// B22: three quarters of the limit, or more.
    pub(super) fn is_near_limit(&self, family: Family) -> bool {
        let limit = self.policies.max_prefixes;
        limit.is_some_and(|limit| self.count(family) * 4 >= limit as usize * 3)
    }

    pub(super) fn note(&mut self, prefix: IpNet) {
        if self.prefixes.insert(prefix) && Family::of(&prefix) == Family::Ipv4Unicast {
            self.v4_count += 1;
        }
    }

    pub(super) fn forget(&mut self, prefix: &IpNet) {
        if self.prefixes.remove(prefix) && Family::of(prefix) == Family::Ipv4Unicast {
            self.v4_count -= 1;
        }
    }
}
