//! One packet from arrival to verdict: parse, flow lookup, on a miss service lookup.

use sluice_abi::{Config, Flow, FlowKey, Reason, flags, tcp};

use crate::UDP_TIMEOUT_S;
use crate::error::{error, way};
use crate::family::{Family, Head, Trouble, V4, V6};
use crate::fragment::{self, Known};
use crate::open::{self, Arrival, lead, learn};
use crate::packet::{LOOPBACK, Packet};
use crate::refuse::refuse;
use crate::sctp;
use crate::socket;
use crate::tables::{FlowTable, NodeTables, Tables};
use crate::translate::{reverse, translate};
use crate::wire::{self, ETHERNET_LEN, Sctp, Tcp, Udp};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a pod's host-side veth, or of kube-bridge.
    FromPod,
    /// Ingress of an uplink.
    FromNetwork,
    /// Egress of kube-bridge: replies of this node's own processes and what the stack routes to
    /// pods. Only translates known flows back.
    ToPods,
    /// Egress of an uplink, and of loopback: what this node's own processes send to services.
    ToNetwork,
}

/// What is to be done with the packet, which has been rewritten already where it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Pass,
    /// Drop.
    Drop,
    /// Into the pod behind the host-side veth of [`Packet::hop`].
    Peer,
    /// Out by the veth of [`Packet::hop`] as it is: it has the pod's MAC address already.
    Veth,
    /// To the neighbour of [`Packet::hop`].
    Neighbour,
    /// Back out by the interface it came in by: it has become its own refusal.
    Back,
}

/// Offsets of transport headers have no other bits: behind Ethernet header, network header and at most
/// [`wire::MAX_EXTENSIONS`].
const MOST_HEADERS: usize = 0x1ff;

/// The transport header's part of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) sport_be: u16,
    pub(crate) dport_be: u16,
    /// TCP's flags, or for SCTP those that mean the same; 0 for UDP.
    pub(crate) flags: u8,
}

impl Segment {
    /// What is known of a fragment's datagram. It has no flags: no connection begins or ends so.
    #[inline(always)]
    fn of_fragment(ports: u32) -> Self {
        let [a, b, c, d] = ports.to_ne_bytes();
        let (sport_be, dport_be) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        Self { sport_be, dport_be, flags: 0 }
    }
}

/// Whether the flags are those of a connection's first packet.
#[inline(always)]
fn is_syn(flags: u8) -> bool {
    flags & (wire::SYN | wire::ACK | wire::RST) == wire::SYN
}

/// Decides a packet and rewrites it. Every packet is counted under one [`Reason`].
#[inline(always)]
pub fn process<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &mut T,
    hook: Hook,
) -> Action {
    let (action, reason) = match packet.ether_type() {
        0x0800 => run::<V4, P, T>(packet, tables, hook),
        0x86dd => run::<V6, P, T>(packet, tables, hook),
        _ => (Action::Pass, Reason::NotIp),
    };
    <T as Tables<V4>>::split(tables).1.count(reason);
    action
}

#[inline(always)]
fn run<F: Family, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    hook: Hook,
) -> (Action, Reason) {
    if packet.is_marked() {
        return (Action::Pass, Reason::AlreadyTranslated);
    }
    if hook == Hook::ToNetwork && !packet.is_own() {
        // Forwarded: its ingress has seen to it.
        return (Action::Pass, Reason::NotService);
    }
    let (mut head, found) = match F::parse(packet, ETHERNET_LEN) {
        Ok(head) => (head, segment(packet, head.protocol, head.transport)),
        Err(Reason::Fragment) => {
            let ingress = matches!(hook, Hook::FromPod | Hook::FromNetwork);
            let ports = match fragment::ports::<F, P, T::Node>(packet, tables.split().1, ingress) {
                Known::Ports(ports) => ports,
                Known::Nothing(Reason::Fragment) => return (Action::Pass, Reason::Fragment),
                Known::Nothing(reason) => return (Action::Drop, reason),
            };
            let Some((head, _)) = F::parse_fragment(packet) else {
                return (Action::Pass, Reason::Fragment);
            };
            (head, Some(Segment::of_fragment(ports)))
        }
        Err(reason) => return (Action::Pass, reason),
    };
    if hook == Hook::ToNetwork && F::is_loopback(head.dst) {
        // Its answer could come from nowhere else.
        return (Action::Pass, Reason::NotService);
    }
    let (reason, trouble) = 'away: {
        let Some(segment) = found else {
            if matches!(head.protocol, wire::TCP | wire::UDP | wire::SCTP) {
                return (Action::Pass, Reason::Malformed);
            }
            if head.protocol == F::CONTROL
                && let Some(reason) = error::<F, P, T>(packet, tables, hook)
            {
                return (way(reason), reason);
            }
            let node = tables.split().1;
            match open::stray::<F, T>(node, head.dst) {
                Some(reason) if hook != Hook::ToPods => break 'away (reason, Trouble::Closed),
                _ => return (Action::Pass, Reason::OtherProtocol),
            }
        };
        if hook == Hook::ToPods
            && head.protocol == wire::TCP
            && let node = tables.split().1
            && let Some(veth) =
                socket::veth::<F, T::Node>(node, packet.cookie(), (head.dst, segment.dport_be))
        {
            packet.hop().ifindex = veth;
            return (Action::Veth, Reason::ForwardPeer);
        }
        // However it was found: what follows is the same for all.
        head.protocol = packet.blur(head.protocol.into()) as u8;
        head.transport = packet.blur(head.transport as u32) as usize & MOST_HEADERS;
        let segment = Segment { flags: packet.blur(segment.flags.into()) as u8, ..segment };
        let key = FlowKey {
            src: head.src,
            dst: head.dst,
            sport_be: segment.sport_be,
            dport_be: segment.dport_be,
            protocol: head.protocol.into(),
        };
        let now = tables.split().1.now();
        let itself = hook == Hook::ToNetwork && packet.ifindex() == LOOPBACK;
        let first = head.protocol == wire::UDP || is_syn(segment.flags);
        let arrival = Arrival { hook, now, protocol: head.protocol, first, itself };
        let (flows, node) = tables.split();
        // No loop: old kernels take one only where its last instruction jumps.
        let mut entry = flows.find(&key);
        let step = match entry.and_then(|entry| flows.at(entry)) {
            Some(live) => judge::<F, T>(node, live, head.protocol, segment.flags, now),
            None => Step::Open,
        };
        if step != Step::Use {
            let end = match (step, entry) {
                (Step::Refresh, Some(entry)) => {
                    refresh::<F, P, T>(packet, tables, entry, &key, &arrival)
                }
                // Answers only.
                _ if hook == Hook::ToPods => Some(Reason::NotService),
                _ => open::<F, P, T>(packet, tables, &key, &arrival),
            };
            if let Some(reason) = end {
                break 'away (reason, Trouble::Closed);
            }
            entry = tables.split().0.find(&key);
        }
        let (flows, node) = tables.split();
        let Some(live) = entry.and_then(|entry| flows.at(entry)) else {
            // Evicted as soon as it was entered; the client sends again.
            return (Action::Drop, Reason::FlowTable);
        };
        if hook == Hook::ToNetwork {
            packet.hop().ifindex = node.config().map_or(0, |config| config.bridge_ifindex);
        }
        let (action, reason) = translate::<F, P>(packet, &head, live, hook);
        if reason != Reason::Refused {
            return (action, reason);
        }
        (reason, if head.ttl <= 1 { Trouble::Expired } else { Trouble::TooLong })
    };
    let node = tables.split().1;
    // The node itself takes no packet that comes in from an address of its own.
    let from =
        if trouble == Trouble::Closed || hook == Hook::ToNetwork { None } else { node.config() };
    turn_away::<F, P, T>(packet, node, &head, reason, trouble, from)
}

/// What becomes of a packet that is not sent on.
#[inline(always)]
fn turn_away<F: Family, P: Packet, T: Tables<F>>(
    packet: &mut P,
    node: &T::Node,
    head: &Head<F>,
    reason: Reason,
    trouble: Trouble,
    config: Option<&Config>,
) -> (Action, Reason) {
    if reason == Reason::Refused {
        // Only a single host is answered, and only about a first fragment (RFC 1122 section 3.2.2).
        if F::is_host(head.src)
            && head.transport != 0
            && node.may_refuse(node.now())
            && refuse::<F, P>(packet, trouble, config, head.protocol, head.transport)
        {
            return (Action::Back, Reason::Refused);
        }
        return (Action::Drop, Reason::RefusedSilently);
    }
    (if reason.is_drop() { Action::Drop } else { Action::Pass }, reason)
}

/// Enters a flow for a packet that has none, or returns why there is none to be.
///
/// A function of its own, as [`refresh`]: the stack of a program has 512 bytes.
#[inline(never)]
fn open<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
) -> Option<Reason> {
    let mut forward = F::NO_FLOW;
    let end = open::decide::<F, T>(tables, key, arrival, &mut forward);
    if end.is_some() {
        return end;
    }
    open::remember::<F, P, T>(packet, tables, key, arrival, &mut forward)
}

#[inline(always)]
fn segment<P: Packet>(packet: &P, protocol: u8, offset: usize) -> Option<Segment> {
    if protocol == wire::TCP {
        let Tcp { sport_be, dport_be, flags, .. } = packet.load(offset)?;
        Some(Segment { sport_be, dport_be, flags })
    } else if protocol == wire::UDP {
        let Udp { sport_be, dport_be, .. } = packet.load(offset)?;
        Some(Segment { sport_be, dport_be, flags: 0 })
    } else if protocol == wire::SCTP {
        let header: Sctp = packet.load(offset)?;
        let Sctp { sport_be, dport_be, .. } = header;
        Some(Segment { sport_be, dport_be, flags: sctp::flags(&header) })
    } else {
        None
    }
}

/// What is next for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Translate by the live entry.
    Use,
    /// Translate by it, but bring its other half up to date first.
    Refresh,
    /// There is no entry, or none that may be used.
    Open,
}

/// Whether a live entry may be used; notes in it what the packet changes.
#[inline(always)]
fn judge<F: Family, T: Tables<F>>(
    node: &T::Node,
    live: &mut Flow<F::Addr>,
    protocol: u8,
    flags: u8,
    now: u32,
) -> Step {
    let reply = live.flags & sluice_abi::flags::REPLY != 0;
    let idle = idle(now, live.seen);
    let over = if protocol == wire::UDP {
        !reply && (idle > UDP_TIMEOUT_S.wrapping_mul(node.hz()) || !is_serving::<F, T>(node, live))
    } else {
        is_syn(flags) && (tcp::closed(live.state) || (!reply && !is_serving::<F, T>(node, live)))
    };
    if over {
        return Step::Open;
    }
    if reply && live.state & tcp::REPLIED == 0 {
        live.state |= tcp::REPLIED;
    }
    let news = news(flags, reply);
    // At most once a second, and when both halves have to know.
    if idle <= node.hz() && news & !live.state == 0 {
        return Step::Use;
    }
    if live.flags & sluice_abi::flags::COUNTED != 0
        && !tcp::closed(live.state)
        && tcp::closed(live.state | news)
        && node.backend(live.backend).is_some_and(|it| it.generation == live.generation)
    {
        node.count_connection(live.backend, false);
    }
    live.state |= news;
    live.seen = now;
    Step::Refresh
}

/// Takes over what user space has learned of the backend, and heals the other half.
#[inline(never)]
fn refresh<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    entry: <T::Flows as FlowTable<F>>::Entry,
    key: &FlowKey<F::Addr>,
    arrival: &Arrival,
) -> Option<Reason> {
    let (flows, node) = tables.split();
    // Evicted since `judge` saw it: the client sends again.
    let Some(live) = flows.at(entry) else { return Some(Reason::FlowTable) };
    if live.flags & flags::REPLY == 0 {
        if arrival.protocol == wire::UDP && !still_leads::<F, T>(node, key, live) {
            // Its frontend is gone, or another service's (R54): the next datagram opens anew.
            flows.remove(key);
            return Some(Reason::FlowTable);
        }
        lead::<F, T>(node, live);
    }
    let mut other = Flow {
        src: key.dst,
        dst: key.src,
        sport_be: key.dport_be,
        dport_be: key.sport_be,
        flags: live.flags ^ flags::REPLY,
        ..*live
    };
    let other_key = reverse(key.protocol, live);
    if let Some(half) = flows.get(&other_key) {
        // Not another flow's that has come to stand there since.
        if half.src == other.src
            && half.dst == other.dst
            && half.sport_be == other.sport_be
            && half.dport_be == other.dport_be
        {
            half.state |= other.state;
            half.seen = arrival.now;
        }
        return None;
    }
    learn::<F, P, T>(packet, node, arrival.hook, &mut other);
    // Whoever is first is right; a full table is tried again in a second.
    let _ = flows.insert(&other_key, &other);
    None
}

/// Whether a flow's frontend is there and still of the service port that its backend belongs to.
#[inline(always)]
fn still_leads<F: Family, T: Tables<F>>(
    node: &T::Node,
    key: &FlowKey<F::Addr>,
    flow: &Flow<F::Addr>,
) -> bool {
    if flow.flags & flags::DIRECT != 0 {
        return true;
    }
    let Some(backend) = node.backend(flow.backend) else { return false };
    open::frontend::<F, T::Node>(node, key).is_some_and(|service| service.id == backend.service)
}

/// Jiffies since an entry was refreshed; 0 where another CPU did so after this one read its clock.
#[inline(always)]
pub(crate) fn idle(now: u32, seen: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// Whether a flow's backend may get new connections and datagrams of old flows.
#[inline(always)]
fn is_serving<F: Family, T: Tables<F>>(node: &T::Node, flow: &Flow<F::Addr>) -> bool {
    if flow.flags & flags::DIRECT != 0 {
        return true;
    }
    node.backend(flow.backend).is_some_and(|backend| {
        backend.generation == flow.generation
            && backend.state == sluice_abi::BackendState::Serving as u8
    })
}

/// The state bits that a segment's flags set.
#[inline(always)]
fn news(segment_flags: u8, reply: bool) -> u8 {
    if segment_flags & wire::RST != 0 {
        tcp::RST
    } else if segment_flags & wire::FIN != 0 {
        if reply { tcp::FIN_BACKEND } else { tcp::FIN_CLIENT | tcp::CONFIRMED }
    } else if segment_flags & wire::SYN != 0 {
        0
    } else {
        if reply { 0 } else { tcp::CONFIRMED }
    }
}
