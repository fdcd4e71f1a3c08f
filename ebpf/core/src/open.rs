//! New flows: choose a backend, find a tuple that is free, remember both directions.

use sluice_abi::{
    BackendState, Deliver, Flow, FlowKey, Reason, SNAT_FIRST_PORT, SNAT_PORTS, Service, flags,
    service_flags, tcp,
};

use crate::UDP_TIMEOUT_S;
use crate::checksum::hash_tuple;
use crate::family::Family;
use crate::packet::Packet;
use crate::process::{Hook, idle};
use crate::tables::{FlowTable, Inserted, NodeTables, Tables};
use crate::translate::reverse;
use crate::wire::SOURCE_MAC;

/// Source ports that are tried before a flow is given up.
const PORT_ATTEMPTS: u32 = 8;

/// How a packet came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) hook: Hook,
    pub(crate) now: u32,
    /// UDP, else TCP.
    pub(crate) udp: bool,
    /// TCP: a connection's first packet. UDP: any.
    pub(crate) first: bool,
}

/// Draws one of a frontend's backends, and says how the client's tuple is translated for it.
#[inline(always)]
pub(crate) fn service<F: Family, T: Tables<F>>(
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    service: Service,
    arrival: &Arrival,
    forward: &mut Flow<F::Addr>,
) -> Option<Reason> {
    if service.len == 0 {
        return Some(Reason::NoEndpoints);
    }
    let draw =
        if service.flags & service_flags::HASH != 0 { hash_tuple::<F>(key) } else { node.random() };
    let slot = ((u64::from(draw) * u64::from(service.len)) >> 32) as u32;
    let Some(id) = node.slot(service.offset.wrapping_add(slot)) else {
        return Some(Reason::StaleSlot);
    };
    let Some(backend) = node.backend(id) else { return Some(Reason::StaleSlot) };
    if backend.state == BackendState::Free as u8 {
        return Some(Reason::StaleSlot);
    }
    let dst = F::backend_address(backend);
    let source = if dst == key.src {
        // Hairpin (R46): a pod drops what comes from its own address.
        Some(node.config().and_then(F::gateway))
    } else if arrival.hook == Hook::FromNetwork
        && !node.config().is_some_and(|config| F::is_pod(config, key.src))
    {
        // From outside the pod network (section "masquerade" of docs/datapath.md).
        Some(node.config().and_then(F::node))
    } else {
        None
    };
    let (src, flag) = match source {
        Some(Some(address)) => (address, flags::SNAT),
        Some(None) => return Some(Reason::NoNodeAddress),
        None => (key.src, 0),
    };
    *forward = Flow {
        src,
        dst,
        sport_be: key.sport_be,
        dport_be: backend.port_be,
        flags: flag,
        seen: arrival.now,
        backend: id,
        generation: backend.generation,
        ..F::NO_FLOW
    };
    None
}

/// A connection straight to a pod, whose tuple may be that of a service's translated flow: then it
/// gets a source port of its own, else its answers would be taken for the service's.
#[inline(always)]
pub(crate) fn direct<F: Family, T: Tables<F>>(
    flows: &mut T::Flows,
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
    forward: &mut Flow<F::Addr>,
) -> Option<Reason> {
    *forward = Flow {
        src: key.src,
        dst: key.dst,
        sport_be: key.sport_be,
        dport_be: key.dport_be,
        flags: flags::SNAT | flags::DIRECT,
        seen: arrival.now,
        backend: u32::MAX,
        ..F::NO_FLOW
    };
    let reply_key = reverse(key.protocol, forward);
    let Some(taken) = flows.get(&reply_key) else { return Some(Reason::NotService) };
    if taken.flags & flags::REPLY == 0 {
        return Some(Reason::NotService);
    }
    if is_over::<F, T>(node, taken, arrival) {
        flows.remove(&reply_key);
        return Some(Reason::NotService);
    }
    None
}

/// Whether a flow can be forgotten: its tuple is free for another.
#[inline(always)]
fn is_over<F: Family, T: Tables<F>>(
    node: &T::Node,
    flow: &Flow<F::Addr>,
    arrival: &Arrival,
) -> bool {
    let idle = idle(arrival.now, flow.seen);
    tcp::closed(flow.state) || (arrival.udp && idle > UDP_TIMEOUT_S.wrapping_mul(node.hz()))
}

/// Enters both halves, with another source port where the translated tuple is taken.
///
/// `entry` comes as the forward half without its way; one buffer serves for both halves, since the
/// stack of a program has 512 bytes.
#[inline(always)]
pub(crate) fn remember<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    flows: &mut T::Flows,
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
    entry: &mut Flow<F::Addr>,
) -> Option<Reason> {
    let start = u32::from(u16::from_be(key.sport_be));
    let mut reply_key = reverse(key.protocol, entry);
    if entry.flags & flags::SNAT != 0 {
        reply_key.dport_be = snat_port(start, 0);
    }
    (entry.src, entry.dst) = (key.dst, key.src);
    (entry.sport_be, entry.dport_be) = (key.dport_be, key.sport_be);
    entry.flags |= flags::REPLY;
    learn::<F, P, T>(packet, node, arrival.hook, entry);
    let mut attempt = 1;
    loop {
        match flows.insert(&reply_key, entry) {
            Inserted::Done => break,
            Inserted::Failed => return Some(Reason::FlowTable),
            Inserted::Exists if may_replace::<F, T>(flows, node, &reply_key, entry, arrival) => {
                if !flows.replace(&reply_key, entry) {
                    return Some(Reason::FlowTable);
                }
                break;
            }
            Inserted::Exists => {}
        }
        if attempt > PORT_ATTEMPTS {
            return Some(Reason::NoPort);
        }
        entry.flags |= flags::SNAT;
        reply_key.dport_be = snat_port(start, attempt);
        attempt += 1;
    }
    (entry.src, entry.dst) = (reply_key.dst, reply_key.src);
    (entry.sport_be, entry.dport_be) = (reply_key.dport_be, reply_key.sport_be);
    entry.flags &= !flags::REPLY;
    lead::<F, T>(node, entry);
    if !flows.replace(key, entry) {
        flows.remove(&reply_key);
        return Some(Reason::FlowTable);
    }
    None
}

/// Notes in a forward half the way to its backend, as user space knows it now.
#[inline(always)]
pub(crate) fn lead<F: Family, T: Tables<F>>(node: &T::Node, flow: &mut Flow<F::Addr>) {
    if flow.flags & flags::DIRECT != 0 {
        flow.deliver = Deliver::Stack as u8;
        return;
    }
    if let Some(backend) = node.backend(flow.backend)
        && backend.generation == flow.generation
    {
        flow.deliver = backend.deliver;
        flow.ifindex = backend.ifindex;
        flow.mac = backend.mac;
    }
}

/// Whether the entry under a key is this flow's own from before, or over.
#[inline(always)]
fn may_replace<F: Family, T: Tables<F>>(
    flows: &mut T::Flows,
    node: &T::Node,
    reply_key: &FlowKey<F::Addr>,
    reply: &Flow<F::Addr>,
    arrival: &Arrival,
) -> bool {
    flows.get(reply_key).is_none_or(|taken| {
        is_over::<F, T>(node, taken, arrival)
            || (taken.src == reply.src
                && taken.dst == reply.dst
                && taken.sport_be == reply.sport_be
                && taken.dport_be == reply.dport_be)
    })
}

/// The reserved port of an attempt: a walk of odd stride through the range.
#[inline(always)]
fn snat_port(start: u32, attempt: u32) -> u16 {
    let index = start.wrapping_add(attempt.wrapping_mul(977)) & u32::from(SNAT_PORTS - 1);
    (SNAT_FIRST_PORT + index as u16).to_be()
}

/// Notes in a flow the way back to where this packet came from.
#[inline(always)]
pub(crate) fn learn<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    node: &T::Node,
    hook: Hook,
    flow: &mut Flow<F::Addr>,
) {
    (flow.deliver, flow.ifindex) = (Deliver::Stack as u8, 0);
    match hook {
        Hook::FromNetwork => flow.deliver = Deliver::Route as u8,
        Hook::FromPod => {
            let ifindex = packet.ifindex();
            let bridge = node.config().is_none_or(|config| config.bridge_ifindex == ifindex);
            let Some(head) = packet.load(SOURCE_MAC) else { return };
            let Some(tail) = packet.load(SOURCE_MAC + 4) else { return };
            if !bridge {
                (flow.deliver, flow.ifindex) = (Deliver::Peer as u8, ifindex);
                (flow.mac.head, flow.mac.tail) = (head, tail);
            }
        }
        Hook::ToPods => {}
    }
}
