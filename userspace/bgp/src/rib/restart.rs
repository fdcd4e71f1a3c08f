//! Owns graceful restart in the tables (B18, RFC 4724): routes kept while their peer restarts,
//! sweeping what it did not confirm, and when this speaker, restarted itself, knows enough for
//! sweeping what its former run left in the kernel.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Rib;
use super::peer::PeerTable;
use crate::family::{Families, Family};
use crate::fsm::{Negotiated, Time};

/// How long a restarted speaker waits for the End-of-RIBs of its peers (RFC 4724 4.1: the
/// Selection_Deferral_Timer, longer than their sessions take to come back).
pub const DEFERRAL: Duration = Duration::from_secs(60);
/// How long a peer without graceful restart is waited for, which may send no End-of-RIB at all (RFC
/// 4724 4.1 does not wait for such peers, but what it tells first is soon there).
const WITHOUT_END: Duration = Duration::from_secs(10);
/// How long routes stay stale at most that a peer, which is up, has still to send again: after its
/// restart (RFC 4724 4.2; FRR's stalepath-time), or after the begin of a refresh. It may be busy
/// for longer than its restart time, which is about the session.
const STALE_TIME: Duration = Duration::from_secs(360);

/// Routes that stay while their peer restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Families that the peer restarts gracefully.
    pub families: Families,
    /// For how long.
    pub time: Duration,
}

/// How far a restarted speaker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convergence {
    /// Nobody to wait for is known; the time to wait once there is.
    PeersUnknown(Duration),
    /// Until then at most.
    Waiting(Time),
    Done,
}

/// Until when a peer's End-of-RIB is waited for, if not for as long as any.
pub(super) fn end_due(negotiated: &Negotiated, now: Time) -> Option<Time> {
    negotiated.graceful_restart.is_none().then(|| now + WITHOUT_END)
}

impl Rib {
    /// Something is due: routes that were stale too long, the wait for others.
    pub fn tick(&mut self, now: Time) {
        let due: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.stale_until.is_some_and(|at| at <= now))
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            self.drop_routes(address, |route| route.stale);
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.stale_until = None;
            }
        }
        for session in self.peers.values_mut().filter_map(|peer| peer.session.as_mut()) {
            if session.end_due.is_some_and(|due| due <= now) {
                (session.awaits_end, session.end_due) = (Families::default(), None);
            }
        }
        if matches!(self.convergence, Convergence::Waiting(until) if until <= now) {
            self.convergence = Convergence::Done;
        }
    }

    /// Whether our End-of-RIB is still to come because of others'. A route reflector that has just
    /// started tells of what others tell it: a mark before that would make its clients drop each
    /// other's routes, which they kept over its restart (RFC 4724 4.1). Peers without clients tell
    /// of their own routes only.
    pub(super) fn waits_for_others(&self) -> bool {
        let waits = |peer: &PeerTable| match &peer.session {
            None => true,
            // RFC 4724 4.1: a peer that has restarted itself is not waited for, as it may wait for
            // us; a client does not.
            Some(session) => {
                session.awaits_end != Families::default()
                    && (peer.policies.client || !session.restarted)
            }
        };
        self.convergence != Convergence::Done
            && self.peers.values().any(|peer| peer.policies.client)
            && self.peers.values().any(waits)
    }

    /// When [`Rib::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let stale = self.peers.values().filter_map(|peer| peer.stale_until);
        let converges = match self.convergence {
            Convergence::Waiting(until) => Some(until),
            _ => None,
        };
        let sessions = self.peers.values().filter_map(|peer| peer.session.as_ref());
        stale.chain(converges).chain(sessions.filter_map(|session| session.end_due)).min()
    }

    /// All peers are known that there are for now: their End-of-RIBs are what is waited for.
    pub fn peers_known(&mut self, now: Time) {
        if let Convergence::PeersUnknown(deferral) = self.convergence {
            self.convergence = Convergence::Waiting(now + deferral);
        }
    }

    /// Whether what the kernel has beyond the tables is of no use any more: every peer has sent all
    /// it has, or the time is over. Once true, stays so.
    pub fn is_converged(&mut self, now: Time) -> bool {
        if let Convergence::Waiting(until) = self.convergence {
            let waits = self.peers.values().any(|peer| match &peer.session {
                // Not up yet: who knows.
                None => true,
                Some(session) => session.awaits_end != Families::default(),
            });
            if !waits || until <= now {
                self.convergence = Convergence::Done;
            }
        }
        self.convergence == Convergence::Done
    }

    pub(super) fn end_of_rib(&mut self, address: IpAddr, family: Family) {
        let Some(peer) = self.peers.get_mut(&address) else { return };
        if let Some(session) = &mut peer.session {
            let left = session.awaits_end.iter().filter(|other| *other != family);
            session.awaits_end = left.collect();
        }
        self.sweep(address, family);
    }

    /// RFC 7313 4: everything is stale until the peer sends it again.
    pub(super) fn begin_refresh(&mut self, address: IpAddr, family: Family, now: Time) {
        self.mark_stale(address, |of| of == family);
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.stale_until = Some(now + STALE_TIME);
        }
    }

    pub(super) fn sweep(&mut self, address: IpAddr, family: Family) {
        let Some(peer) = self.peers.get(&address) else { return };
        if peer.stale_until.is_none() {
            return;
        }
        let stale = self.stale_prefixes(address);
        let (of_family, rest): (Vec<IpNet>, Vec<IpNet>) =
            stale.into_iter().partition(|prefix| Family::of(prefix) == family);
        for prefix in of_family {
            self.remove(address, prefix);
        }
        if let Some(peer) = self.peers.get_mut(&address).filter(|_| rest.is_empty()) {
            peer.stale_until = None;
        }
    }

    /// The session is lost: routes of the families that its peer restarts gracefully stay.
    pub(super) fn keep_stale(&mut self, address: IpAddr, keep: Keep, now: Time) {
        let Some(peer) = self.peers.get(&address) else { return };
        let gone: Vec<IpNet> = peer
            .prefixes
            .iter()
            .filter(|prefix| !keep.families.contains(Family::of(prefix)))
            .copied()
            .collect();
        for prefix in gone {
            self.remove(address, prefix);
        }
        self.mark_stale(address, |_| true);
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.kept = peer.prefixes.clone();
            // A second loss starts the time anew (B18).
            peer.stale_until = Some(now + keep.time);
        }
    }

    /// The peer is back: stale routes of families that it did not keep forwarding go at once, and
    /// the rest waits for End-of-RIB.
    pub(super) fn drop_stale_except(&mut self, address: IpAddr, kept: Families, now: Time) {
        for prefix in self.stale_prefixes(address) {
            if !kept.contains(Family::of(&prefix)) {
                self.remove(address, prefix);
            }
        }
        let left = !self.stale_prefixes(address).is_empty();
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.stale_until = left.then(|| now + STALE_TIME);
        }
    }

    fn mark_stale(&mut self, address: IpAddr, which: impl Fn(Family) -> bool) {
        let Some(peer) = self.peers.get(&address) else { return };
        let prefixes: Vec<IpNet> =
            peer.prefixes.iter().filter(|prefix| which(Family::of(prefix))).copied().collect();
        for prefix in prefixes {
            self.change(prefix, |routes| {
                for route in routes.iter_mut().filter(|r| r.source.peer() == Some(address)) {
                    route.stale = true;
                }
            });
        }
    }

    fn stale_prefixes(&self, address: IpAddr) -> Vec<IpNet> {
        let Some(peer) = self.peers.get(&address) else { return Vec::new() };
        if peer.stale_until.is_none() {
            return Vec::new();
        }
        let is_stale = |prefix: &&IpNet| {
            self.table.get(*prefix).is_some_and(|entry| {
                entry.routes.iter().any(|r| r.source.peer() == Some(address) && r.stale)
            })
        };
        peer.prefixes.iter().filter(is_stale).copied().collect()
    }
}
