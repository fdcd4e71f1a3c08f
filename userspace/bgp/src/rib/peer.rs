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
    /// Most prefixes it may send per family in a session, counted as received, before the policy
    /// (B22); a warning is given at three quarters. `None` is no limit.
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
    pub(super) prefixes: Prefixes,
    /// Those among them that stay from a session before, until it sends them again.
    pub(super) kept: Prefixes,
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
    /// Families that were asked for again since something was last taken from here.
    pub(super) asked: Vec<Family>,
    /// Families whose End-of-RIB is owed.
    pub(super) owes_end: Vec<Family>,
    /// Families whose refresh is to begin, and those under way (RFC 7313).
    pub(super) refresh_begins: Vec<Family>,
    pub(super) refresh_ends: Vec<Family>,
}

/// Prefixes, counted by family.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    all: HashSet<IpNet>,
    v4: usize,
}

impl Prefixes {
    pub(super) fn insert(&mut self, prefix: IpNet) {
        if self.all.insert(prefix) && Family::of(&prefix) == Family::Ipv4Unicast {
            self.v4 += 1;
        }
    }

    pub(super) fn remove(&mut self, prefix: &IpNet) {
        if self.all.remove(prefix) && Family::of(prefix) == Family::Ipv4Unicast {
            self.v4 -= 1;
        }
    }

    pub(super) fn contains(&self, prefix: &IpNet) -> bool {
        self.all.contains(prefix)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.all.iter()
    }

    fn count(&self, family: Family) -> usize {
        match family {
            Family::Ipv4Unicast => self.v4,
            Family::Ipv6Unicast => self.all.len() - self.v4,
        }
    }
}

impl PeerTable {
    pub(super) fn new(asns: (u32, u32), policies: Policies, own_addresses: Vec<IpAddr>) -> Self {
        let (local_asn, peer_asn) = asns;
        Self {
            local_asn,
            peer_asn,
            policies,
            own_addresses,
            session: None,
            prefixes: Prefixes::default(),
            kept: Prefixes::default(),
            stale_until: None,
            warned: Vec::new(),
            out: Out::default(),
        }
    }

    /// All prefixes that it has routes to.
    pub(super) fn count(&self, family: Family) -> usize {
        self.prefixes.count(family)
    }

    /// Those that it has sent in this session: what its limit is about.
    pub(super) fn count_sent(&self, family: Family) -> usize {
        self.prefixes.count(family) - self.kept.count(family)
    }

    /// B22: three quarters of the limit, or more.
    pub(super) fn is_near_limit(&self, family: Family) -> bool {
        let limit = self.policies.max_prefixes;
        limit.is_some_and(|limit| self.count_sent(family) * 4 >= limit as usize * 3)
    }

    /// B22: the limit, if one more prefix from it passes that. What is kept over its restart counts
    /// only once it is sent again, or a peer that comes back with others would be refused; but all
    /// together are never more than twice the limit, however often it restarts.
    pub(super) fn limit_passed_by(&self, prefix: &IpNet) -> Option<u32> {
        let (limit, family) = (self.policies.max_prefixes?, Family::of(prefix));
        let known = self.prefixes.contains(prefix);
        let sent = known && !self.kept.contains(prefix);
        let too_many = self.count_sent(family) >= limit as usize;
        let too_many_kept = !known && self.count(family) / 2 >= limit as usize;
        (!sent && (too_many || too_many_kept)).then_some(limit)
    }

    /// The peer has sent it.
    pub(super) fn note(&mut self, prefix: IpNet) {
        self.prefixes.insert(prefix);
        self.kept.remove(&prefix);
    }

    pub(super) fn forget(&mut self, prefix: &IpNet) {
        self.prefixes.remove(prefix);
        self.kept.remove(prefix);
    }
}
