//! New flows: choose a backend, find a tuple that is free, remember both directions.

use sluice_abi::{
    Affinity, AffinityKey, BackendState, Deliver, Flow, FlowKey, Range, Reason, SNAT_FIRST_PORT,
    SNAT_PORTS, Service, ServiceKey, Table, flags, lists, service_flags, tcp,
};

use crate::UDP_TIMEOUT_S;
use crate::checksum::{hash_source, hash_tuple};
use crate::family::Family;
use crate::packet::{LOOPBACK, Packet};
use crate::process::{Hook, idle};
use crate::tables::{FlowTable, Inserted, Lookup, NodeTables, Tables};
use crate::translate::reverse;
use crate::wire::{SOURCE_MAC, UDP};

/// Source ports that are tried before a flow is given up.
const PORT_ATTEMPTS: u32 = 8;

/// Seconds after which the port of a connection is free whose client has sent nothing but its first
/// segment.
const HANDSHAKE_S: u32 = 5;

/// How a packet came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) hook: Hook,
    pub(crate) now: u32,
    /// IANA protocol number.
    pub(crate) protocol: u8,
    /// TCP: a connection's first packet. UDP: any.
    pub(crate) first: bool,
    /// From the node to an own address of its own.
    pub(crate) itself: bool,
}

/// Whether a packet without a flow gets one, and how it then translates; else why not.
///
/// A function of its own, as those that follow: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn decide<F: Family, T: Tables<F>>(
    tables: &mut T,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
    forward: &mut Flow<F::Addr>,
) -> Option<Reason> {
    let (flows, node) = tables.split();
    match (frontend::<F, T::Node>(node, key), arrival.first) {
        // Perhaps of a connection to the node's own server, from before the port was a service's.
        (Some(found), false) if found.flags & service_flags::NODE_PORT != 0 => {
            Some(Reason::NotService)
        }
        (Some(_), false) => Some(Reason::NoFlow),
        (Some(found), true) => service::<F, T>(node, key, found, arrival, forward),
        (None, true) => direct::<F, T>(flows, node, key, arrival, forward),
        (None, false) => {
            stray::<F, T>(node, key.dst).map_or(Some(Reason::NotService), |_| Some(Reason::NoFlow))
        }
    }
}

/// Chooses one of a frontend's backends, and says how the client's tuple is translated for it.
#[inline(always)]
fn service<F: Family, T: Tables<F>>(
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    service: &Service,
    arrival: &Arrival,
    forward: &mut Flow<F::Addr>,
) -> Option<Reason> {
    if service.flags & service_flags::RANGES != 0
        && !is_allowed::<F, T::Node>(node, key, service.id)
    {
        return Some(Reason::SourceRange);
    }
    let Some(config) = node.config() else { return Some(Reason::NoNodeAddress) };
    let external = service.flags & service_flags::EXTERNAL != 0;
    let local = service.flags & service_flags::LOCAL != 0;
    let came_by_pod = arrival.hook == Hook::FromPod;
    let by_interface = config.pods_by_interface != 0;
    let pod = if by_interface { came_by_pod } else { F::is_pod(config, key.src) };
    // The node and its pods are not outside of an external address: for them all endpoints are
    // (section "which list" of docs/datapath.md). Pods of other nodes are: what another node's pod
    // is sent to on a third node would answer past this one.
    let from_node = arrival.hook == Hook::ToNetwork;
    let from_pod = came_by_pod && pod && (by_interface || F::has_pods(config));
    let inside = external && (from_node || from_pod);
    let local_only = local && !inside;
    if list(service, local_only).len == 0 {
        let refused = service.flags & service_flags::REJECT != 0;
        return Some(if refused { Reason::Refused } else { Reason::NoEndpoints });
    }
    let id = pick::<F, T::Node>(node, key, service, local_only, arrival.now);
    let Some(backend) = node.backend(id) else { return Some(Reason::StaleSlot) };
    if backend.state == BackendState::Free as u8 {
        return Some(Reason::StaleSlot);
    }
    let dst = F::backend_address(backend);
    let outside = if external { !local } else { !pod || config.masquerade_all != 0 };
    // The node's own address is what others are masqueraded as; to the node itself nobody is, since
    // its answers pass here anyway.
    // What it sends to an address of its own has that as its source, which others may know as a service's.
    let masquerade = if from_node {
        arrival.itself && !F::is_node(config, key.src)
    } else {
        outside && !F::is_node(config, dst)
    };
    let source = if dst == key.src && !from_node {
        // Hairpin (R46): a pod drops what comes from its own address. A node does not.
        Some(F::gateway(config))
    } else if masquerade {
        Some(F::node(config))
    } else {
        None
    };
    let (src, mut flag) = match source {
        Some(Some(address)) => (address, flags::SNAT),
        Some(None) => return Some(Reason::NoNodeAddress),
        None => (key.src, 0),
    };
    if service.flags & service_flags::LEAST != 0 {
        flag |= flags::COUNTED;
    }
    // Field by field: a whole one would be put together on the stack first.
    (forward.src, forward.dst) = (src, dst);
    (forward.sport_be, forward.dport_be) = (key.sport_be, backend.port_be);
    forward.flags = flag;
    forward.seen = arrival.now;
    (forward.backend, forward.generation) = (id, backend.generation);
    None
}

/// The frontend that a packet is for.
#[inline(never)]
pub(crate) fn frontend<'a, F: Family, N: Lookup<F>>(
    node: &'a N,
    key: &FlowKey<F::Addr>,
) -> Option<&'a Service> {
    let FlowKey { dst: addr, dport_be: port_be, protocol, .. } = *key;
    node.service(&ServiceKey { addr, port_be, protocol: protocol as u8, pad: 0 })
}

/// Whether a client is in the source ranges of a service port.
#[inline(never)]
fn is_allowed<F: Family, N: Lookup<F>>(node: &N, key: &FlowKey<F::Addr>, service: u32) -> bool {
    node.allows(&Range { service, addr: key.src })
}

/// The list of a service port that applies.
#[inline(always)]
pub(crate) fn list(service: &Service, local_only: bool) -> Table {
    if local_only { service.local } else { service.cluster }
}

/// The backend of a new flow: the client's last one where affinity holds (R22, R23), else as the
/// scheduler says; an id that no backend has if there is none.
#[inline(never)]
pub(crate) fn pick<F: Family, N: NodeTables + Lookup<F>>(
    node: &N,
    key: &FlowKey<F::Addr>,
    service: &Service,
    local_only: bool,
    now: u32,
) -> u32 {
    if service.affinity_s == 0 {
        return draw::<F, N>(node, key, service, local_only);
    }
    let client = AffinityKey { client: key.src, service: service.id };
    let bit = if local_only { lists::LOCAL } else { lists::CLUSTER };
    if let Some(last) = node.affinity(&client)
        && u64::from(idle(now, last.seen)) <= u64::from(service.affinity_s) * u64::from(node.hz())
        && node
            .backend(last.backend)
            .is_some_and(|it| it.generation == last.generation && it.lists & bit != 0)
    {
        node.bind(&client, &Affinity { seen: now, ..last });
        return last.backend;
    }
    let backend = draw::<F, N>(node, key, service, local_only);
    if let Some(drawn) = node.backend(backend) {
        node.bind(&client, &Affinity { backend, generation: drawn.generation, seen: now });
    }
    backend
}

/// A backend as the scheduler says. For `lc` of two that are drawn the one with fewer connections:
/// nearly as even as the fewest of all, without looking at all (Mitzenmacher 2001, "The power of two
/// choices in randomized load balancing").
#[inline(always)]
fn draw<F: Family, N: NodeTables + Lookup<F>>(
    node: &N,
    key: &FlowKey<F::Addr>,
    service: &Service,
    local_only: bool,
) -> u32 {
    let table = list(service, local_only);
    let chance = if service.flags & service_flags::HASH != 0 {
        hash_tuple::<F>(key)
    } else if service.flags & service_flags::SOURCE != 0 {
        hash_source::<F>(key.src)
    } else {
        node.random()
    };
    let one = in_table(node, table, chance);
    if service.flags & service_flags::LEAST == 0 {
        return one;
    }
    let other = in_table(node, table, node.random());
    if node.connections(other) < node.connections(one) { other } else { one }
}

/// The backend in the slot that 32 bits of chance lead to.
#[inline(always)]
fn in_table<N: NodeTables>(node: &N, table: Table, chance: u32) -> u32 {
    let slot = ((u64::from(chance) * u64::from(table.len)) >> 32) as u32;
    node.slot(table.offset.wrapping_add(slot)).unwrap_or(u32::MAX)
}

/// What to do with a packet to a service address that no frontend is for (R41): refuse it where a
/// service has the address, drop it where none has; `None` for all other addresses.
#[inline(always)]
pub(crate) fn stray<F: Family, T: Tables<F>>(node: &T::Node, dst: F::Addr) -> Option<Reason> {
    if !F::is_service(node.config()?, dst) {
        return None;
    }
    let any_port = ServiceKey { addr: dst, port_be: 0, protocol: 0, pad: 0 };
    Some(if node.service(&any_port).is_some() { Reason::Refused } else { Reason::NoService })
}

/// A connection straight to a pod, whose tuple may be that of a service's translated flow: then it
/// gets a source port of its own, else its answers would be taken for the service's.
#[inline(never)]
fn direct<F: Family, T: Tables<F>>(
    flows: &mut T::Flows,
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
    forward: &mut Flow<F::Addr>,
) -> Option<Reason> {
    (forward.src, forward.dst) = (key.src, key.dst);
    (forward.sport_be, forward.dport_be) = (key.sport_be, key.dport_be);
    forward.flags = flags::SNAT | flags::DIRECT;
    forward.seen = arrival.now;
    forward.backend = u32::MAX;
    let reply_key = reverse(key.protocol, forward);
    let Some(taken) = flows.get(&reply_key) else {
        return stray::<F, T>(node, key.dst).or(Some(Reason::NotService));
    };
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
    let limit_s = if arrival.protocol == UDP {
        UDP_TIMEOUT_S
    } else if flow.state & tcp::CONFIRMED == 0 {
        // A handshake that nobody finishes holds its port no longer, or forged ones would hold all.
        HANDSHAKE_S
    } else {
        return tcp::closed(flow.state);
    };
    tcp::closed(flow.state) || idle > limit_s.wrapping_mul(node.hz())
}

/// Enters both halves, with another source port where the translated tuple is taken.
///
/// `entry` comes as the forward half without its way; one buffer serves for both halves, since the
/// stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn remember<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
    entry: &mut Flow<F::Addr>,
) -> Option<Reason> {
    let (flows, node) = tables.split();
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
    if entry.flags & flags::COUNTED != 0 {
        node.count_connection(entry.backend, true);
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
        Hook::ToNetwork if packet.ifindex() == LOOPBACK => flow.deliver = Deliver::Loop as u8,
        Hook::ToPods | Hook::ToNetwork => {}
    }
}
