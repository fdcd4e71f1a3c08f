//! The flow table from user space: views, and expiry with a bounded budget.
//!
//! Looking an entry up by system call does not count as a use of it (kernel/bpf/hashtab.c,
//! `htab_lru_map_lookup_elem_sys`, since 5.2), so the kernel's own eviction is left undisturbed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sluice_abi::{Flow, FlowKey, flags, tcp};
use sluice_services::{Family, Protocol};

use crate::Error;
use crate::maps::{Flows, Maps};
use crate::wire::{IntoIp, ends, from_words, protocol};

/// Seconds without packets after which a flow is forgotten, as the kernel's conntrack counts them
/// (Documentation/networking/nf_conntrack-sysctl.rst; R57 for established TCP). SCTP as TCP.
mod timeout_s {
    pub(super) const TCP_ESTABLISHED: u32 = 86_400;
    pub(super) const TCP_OPENING: u32 = 60;
    pub(super) const TCP_HALF_CLOSED: u32 = 3_600;
    pub(super) const TCP_CLOSED: u32 = 10;
    /// A reset may be forged: an end that has not accepted it sends on, and keeps the entry.
    pub(super) const TCP_RESET: u32 = 120;
    pub(super) const UDP: u32 = 120;
    pub(super) const UDP_UNREPLIED: u32 = 30;
}

/// Seconds from the beginning of one walk through a flow table to the next: the shortest time-out
/// of an open flow. Until it is walked a table keeps what is over, and evicts the oldest if full.
const WALK_EVERY_S: u32 = 30;

/// Entries a system call reads.
const BATCH: u32 = 512;

/// Where a TCP connection or SCTP association stands, as far as the flow table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The handshake is not over yet.
    Opening,
    /// Both sides have sent.
    Established,
    /// One side has finished.
    Closing,
    /// Finished by both sides, or reset.
    Closed,
}

/// One flow, as its forward half tells.
#[derive(Clone, Debug)]
pub struct FlowView {
    /// Protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub frontend: SocketAddr,
    /// What it was translated to.
    pub backend: SocketAddr,
    /// The client as the backend sees it.
    pub source: SocketAddr,
    /// Time since the entry was refreshed, which traffic does at most once a second.
    pub idle: Duration,
    /// `None` for UDP.
    pub connection: Option<ConnectionState>,
}

fn replied<A: Copy + 'static>(map: &Flows<A>, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    let other = FlowKey {
        src: flow.dst,
        dst: flow.src,
        sport_be: flow.dport_be,
        dport_be: flow.sport_be,
        ..*key
    };
    // Evicted, it says nothing: the longer time holds.
    flow.state & tcp::REPLIED != 0
        || map.get(&other).is_none_or(|reply| reply.state & tcp::REPLIED != 0)
}

fn connection_state(state: u8, replied: bool) -> ConnectionState {
    if tcp::closed(state) {
        ConnectionState::Closed
    } else if state & (tcp::FIN_CLIENT | tcp::FIN_BACKEND) != 0 {
        ConnectionState::Closing
    } else if replied && state & tcp::CONFIRMED != 0 {
        ConnectionState::Established
    } else {
        ConnectionState::Opening
    }
}

/// Reads at most `limit` flows.
pub(crate) fn view(maps: &Maps, now: u32, hz: u32, limit: usize) -> Result<Vec<FlowView>, Error> {
    let mut found = family("FLOWS4", &maps.flows4, now, hz, limit)?;
    let rest = limit - found.len();
    found.extend(family("FLOWS6", &maps.flows6, now, hz, rest)?);
    Ok(found)
}

fn family<A: IntoIp + Copy + 'static>(
    name: &'static str,
    map: &Flows<A>,
    now: u32,
    hz: u32,
    limit: usize,
) -> Result<Vec<FlowView>, Error> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let (entries, rest) =
            map.batch(cursor, BATCH).map_err(|error| Error::map(name, "read", error))?;
        let flows = entries.iter().filter_map(|(key, flow)| one(map, key, flow, now, hz));
        found.extend(flows.take(limit - found.len()));
        match rest {
            Some(next) if found.len() < limit => cursor = Some(next),
            _ => return Ok(found),
        }
    }
}

/// A flow by its forward half; `None` for the other.
fn one<A: IntoIp + Copy + 'static>(
    map: &Flows<A>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    now: u32,
    hz: u32,
) -> Option<FlowView> {
    let protocol = u8::try_from(key.protocol).ok().and_then(protocol)?;
    if flow.flags & flags::REPLY != 0 {
        return None;
    }
    let (client, frontend) = ends(key);
    let translated = FlowKey {
        src: flow.src,
        dst: flow.dst,
        sport_be: flow.sport_be,
        dport_be: flow.dport_be,
        ..*key
    };
    let (source, backend) = ends(&translated);
    let idle = u64::from(now.wrapping_sub(flow.seen)) * 1_000 / u64::from(hz.max(1));
    let state = connection_state(flow.state, replied(map, key, flow));
    Some(FlowView {
        protocol,
        client,
        frontend,
        backend,
        source,
        idle: Duration::from_millis(idle),
        connection: (protocol != Protocol::Udp).then_some(state),
    })
}

/// Walks both flow tables, a bounded number of entries at a time and with a rest between two walks:
/// a walk looks at every bucket, so that even an empty table costs milliseconds.
pub(crate) struct Expiry {
    hz: u32,
    v4: Walk,
    v6: Walk,
}

/// A walk through the flows of a family that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Whose flows.
    pub family: Family,
    /// Entries that were over and are removed; a flow has two.
    pub removed: u64,
    /// Time at work, rests between its parts not counted.
    pub took: Duration,
}

/// Where the walk through one table is.
#[derive(Default)]
struct Walk {
    /// Where to go on; `None` between two walks.
    next: Option<u32>,
    /// When the latest walk began; before the first, when it was first asked for.
    began: Option<u32>,
    /// Connections that count, by backend and its address, as this walk has met them so far.
    counted: HashMap<(u32, SocketAddr), u64>,
    /// Entries that this walk has removed so far.
    removed: u64,
    /// For how long it has been at work.
    took: Duration,
}

impl Walk {
    /// Whether there is something to do; notes the beginning of a walk.
    fn is_due(&mut self, now: u32, hz: u32) -> bool {
        if self.next.is_some() {
            return true;
        }
        let rest = WALK_EVERY_S.wrapping_mul(hz);
        let began = *self.began.get_or_insert(now);
        let due = now.wrapping_sub(began) >= rest;
        if due {
            self.began = Some(now);
        }
        due
    }
}

impl Walk {
    /// Looks at about `budget` more entries.
    fn go_on<A: IntoIp + Copy + 'static>(
        &mut self,
        name: &'static str,
        map: &mut Flows<A>,
        now: u32,
        hz: u32,
        budget: usize,
    ) -> Result<(), Error> {
        let mut seen = 0;
        while seen < budget {
            let (entries, rest) =
                map.batch(self.next, BATCH).map_err(|error| Error::map(name, "walk", error))?;
            seen += entries.len().max(1);
            for (key, flow) in entries {
                // Read again just before: a program may have opened it anew since the batch was read.
                if is_over(map, &key, &flow, now, hz)
                    && map.get(&key).is_none_or(|flow| is_over(map, &key, &flow, now, hz))
                {
                    map.remove(&key);
                    self.removed += 1;
                } else if flow.flags & (flags::COUNTED | flags::REPLY) == flags::COUNTED
                    && !tcp::closed(flow.state)
                {
                    let to = SocketAddr::new(flow.dst.into_ip(), u16::from_be(flow.dport_be));
                    *self.counted.entry((flow.backend, to)).or_default() += 1;
                }
            }
            self.next = rest;
            if rest.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Looks at about `budget` more entries, if the time has come; what the walk has come to if that was its end.
    fn part<A: IntoIp + Copy + 'static>(
        &mut self,
        family: Family,
        maps: &mut Maps,
        flows: impl FnOnce(&mut Maps) -> &mut Flows<A>,
        (now, hz): (u32, u32),
        budget: usize,
        ids: u32,
    ) -> Result<Option<Walked>, Error> {
        if !self.is_due(now, hz) {
            return Ok(None);
        }
        let start = Instant::now();
        let (name, ip_version) = match family {
            Family::V4 => ("FLOWS4", 4),
            Family::V6 => ("FLOWS6", 6),
        };
        self.go_on(name, flows(maps), now, hz, budget)?;
        let over = self.next.is_none();
        if over {
            self.correct(maps, ip_version, ids);
        }
        self.took += start.elapsed();
        Ok(over.then(|| Walked {
            family,
            removed: std::mem::take(&mut self.removed),
            took: std::mem::take(&mut self.took),
        }))
    }

    /// At the end of a walk, corrects what programs have counted for backends of this family, of the `ids`
    /// that were ever used: entries that were evicted or removed have told nobody, and an id may be
    /// another endpoint's by now. What changed during the walk is put right by the next.
    fn correct(&mut self, maps: &mut Maps, ip_version: u8, ids: u32) {
        let counted = std::mem::take(&mut self.counted);
        for id in 0..ids {
            let Some(backend) = maps.backend(id).filter(|it| it.ip_version == ip_version) else {
                continue;
            };
            let address = from_words(backend.addr, backend.ip_version);
            let at = SocketAddr::new(address, u16::from_be(backend.port_be));
            let number = counted.get(&(id, at)).copied().unwrap_or(0);
            if maps.connections(id) != Some(number) {
                maps.set_connections(id, number);
            }
        }
    }
}

impl Expiry {
    pub(crate) fn new(hz: u32) -> Self {
        Self { hz, v4: Walk::default(), v6: Walk::default() }
    }

    /// Looks at no more than `budget` entries of each family, and removes those that are over; `ids` of
    /// backends were ever used. Returns the walks that came to their end.
    pub(crate) fn run(
        &mut self,
        maps: &mut Maps,
        now: u32,
        budget: usize,
        ids: u32,
    ) -> Result<Vec<Walked>, Error> {
        let at = (now, self.hz);
        let v4 = self.v4.part(Family::V4, maps, |maps| &mut maps.flows4, at, budget, ids)?;
        let v6 = self.v6.part(Family::V6, maps, |maps| &mut maps.flows6, at, budget, ids)?;
        Ok(v4.into_iter().chain(v6).collect())
    }
}

fn is_over<A: Copy + 'static>(
    map: &Flows<A>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    now: u32,
    hz: u32,
) -> bool {
    let replied = if flow.flags & flags::REPLY == 0 {
        replied(map, key, flow)
    } else {
        flow.state & tcp::REPLIED != 0
    };
    let limit_s = if key.protocol != u32::from(Protocol::Udp as u8) {
        match connection_state(flow.state, replied) {
            ConnectionState::Opening => timeout_s::TCP_OPENING,
            ConnectionState::Established => timeout_s::TCP_ESTABLISHED,
            ConnectionState::Closing => timeout_s::TCP_HALF_CLOSED,
            ConnectionState::Closed if flow.state & tcp::RST != 0 => timeout_s::TCP_RESET,
            ConnectionState::Closed => timeout_s::TCP_CLOSED,
        }
    } else if replied {
        timeout_s::UDP
    } else {
        timeout_s::UDP_UNREPLIED
    };
    // A clock that went on between its reading and the entry's is no age.
    let idle = now.wrapping_sub(flow.seen);
    idle < u32::MAX / 2 && u64::from(idle) > u64::from(limit_s) * u64::from(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_on_at_once_and_begins_after_a_rest() {
        let hz = 250;
        let start = u32::MAX - 10;
        let mut walk = Walk::default();
        let after = |s: u32| start.wrapping_add(s * hz);
        assert!(!walk.is_due(start, hz), "a start is busy enough");
        assert!(!walk.is_due(after(WALK_EVERY_S - 1), hz), "at rest");
        assert!(walk.is_due(after(WALK_EVERY_S), hz), "across the clock's end");
        walk.next = Some(7);
        assert!(walk.is_due(after(WALK_EVERY_S + 1), hz), "in the middle");
        walk.next = None;
        assert!(!walk.is_due(after(WALK_EVERY_S + 1), hz));
    }
}
