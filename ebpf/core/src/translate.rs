//! Rewrites a packet as its flow says, and chooses the way to its destination.

use sluice_abi::{Deliver, Flow, FlowKey, Reason, flags};

use crate::family::{Family, Head};
use crate::packet::{LOOPBACK, Packet};
use crate::process::{Action, Hook};
use crate::{sctp, wire};

/// The key under which a flow's other half stands: the translated tuple, turned round.
#[inline(always)]
pub(crate) fn reverse<A: Copy>(protocol: u32, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        src: flow.dst,
        dst: flow.src,
        sport_be: flow.dport_be,
        dport_be: flow.sport_be,
        protocol,
    }
}

/// Rewrites and sends a packet on its way. [`Reason::Refused`]: it has none, since it is too long or has
/// used up its hops, and its sender is to be told so.
#[inline(always)]
pub(crate) fn translate<F: Family, P: Packet>(
    packet: &mut P,
    head: &Head<F>,
    flow: &Flow<F::Addr>,
    hook: Hook,
) -> (Action, Reason) {
    let (action, hops) = match deliver::<F, P>(packet, head, flow, hook) {
        // Into a pod: nothing of what follows is asked there.
        Ok(way @ (Action::Peer, _)) => way,
        way if is_lost::<F, P>(packet, head, flow, hook, way) => {
            return (Action::Drop, Reason::Refused);
        }
        Ok(way) => way,
        Err(reason) => return (Action::Drop, reason),
    };
    if rewrite::<F, P>(packet, head, flow, hops).is_none() {
        return (Action::Drop, Reason::Rewrite);
    }
    if action != Action::Peer {
        // Other hooks on its way have nothing to do with it any more.
        packet.mark();
    }
    (action, reason(action, flow))
}

/// Under which reason a translated packet is counted.
#[inline(always)]
pub(crate) fn reason<A>(action: Action, flow: &Flow<A>) -> Reason {
    let reply = flow.flags & flags::REPLY != 0;
    match (action, reply) {
        (Action::Peer, false) => Reason::ForwardPeer,
        (Action::Peer, true) => Reason::ReplyPeer,
        (Action::Neighbour, false) => Reason::ForwardRoute,
        (Action::Neighbour, true) => Reason::ReplyRoute,
        (_, false) => Reason::ForwardStack,
        (_, true) => Reason::ReplyStack,
    }
}

/// Prepares the way of a flow's packet to its destination, and whether it is that of a router, which
/// takes a hop.
#[inline(always)]
pub(crate) fn deliver<F: Family, P: Packet>(
    packet: &mut P,
    head: &Head<F>,
    flow: &Flow<F::Addr>,
    hook: Hook,
) -> Result<(Action, bool), Reason> {
    if hook == Hook::ToPods {
        // Egress: the packet is on its way already.
        return Ok((Action::Pass, false));
    }
    if hook == Hook::ToNetwork {
        // The stack has routed it already, to where the service's address seems to be.
        if flow.deliver == Deliver::Peer as u8 {
            F::to_pod(packet, flow);
            return Ok((Action::Neighbour, false));
        }
        // The node to itself: an answer stays, and so does what is for a backend that is the node.
        let here = packet.ifindex() == LOOPBACK;
        if here && flow.deliver == Deliver::Loop as u8 {
            return Ok((Action::Pass, false));
        }
        return if F::route(packet, head, flow) {
            Ok((Action::Neighbour, true))
        } else if here && flow.deliver == Deliver::Stack as u8 {
            Ok((Action::Pass, false))
        } else {
            Err(Reason::NoRoute)
        };
    }
    if flow.deliver == Deliver::Peer as u8 {
        if packet.store(0, flow.mac.head).is_none() || packet.store(4, flow.mac.tail).is_none() {
            return Err(Reason::Rewrite);
        }
        packet.hop().ifindex = flow.ifindex;
        return Ok((Action::Peer, false));
    }
    if flow.deliver == Deliver::Loop as u8 {
        // Its interface has no address, and takes what is sent to that.
        if packet.store(0, 0_u32).is_none() || packet.store(4, 0_u16).is_none() {
            return Err(Reason::Rewrite);
        }
        packet.hop().ifindex = LOOPBACK;
        return Ok((Action::Neighbour, false));
    }
    let routed = flow.deliver == Deliver::Route as u8 && F::route(packet, head, flow);
    Ok(if routed { (Action::Neighbour, true) } else { (Action::Pass, false) })
}

/// Whether the sender of a packet that has no way, or that the stack would not take, is to be told why.
#[inline(always)]
fn is_lost<F: Family, P: Packet>(
    packet: &mut P,
    head: &Head<F>,
    flow: &Flow<F::Addr>,
    hook: Hook,
    way: Result<(Action, bool), Reason>,
) -> bool {
    match (hook, way) {
        (Hook::ToPods, _) => false,
        (Hook::ToNetwork, Err(Reason::NoRoute)) => is_too_long(packet),
        // Loopback takes longer packets than others do.
        (Hook::ToNetwork, Ok((Action::Neighbour, false))) if packet.ifindex() == LOOPBACK => {
            let bridge = packet.hop().ifindex;
            let lost = !F::route(packet, head, flow) && is_too_long(packet);
            packet.hop().ifindex = bridge;
            F::to_pod(packet, flow);
            lost
        }
        // From an address of the node itself, as where it is masqueraded and where a node port answers,
        // the stack takes nothing that comes from elsewhere.
        (_, Ok((Action::Pass, _))) if flow.deliver == Deliver::Route as u8 => {
            flow.src != head.src && (head.ttl <= 1 || is_too_long(packet))
        }
        _ => false,
    }
}

/// Nobody cuts it: the stack does not get it, and who sends learns the MTU whatever IPv4's DF says.
#[inline(always)]
fn is_too_long<P: Packet>(packet: &mut P) -> bool {
    packet.hop().mtu != 0
}

/// Addresses, then ports. Old values are read from the packet again and used at once: keeping them
/// costs more stack than a program has.
#[inline(always)]
fn rewrite<F: Family, P: Packet>(
    packet: &mut P,
    head: &Head<F>,
    flow: &Flow<F::Addr>,
    routed: bool,
) -> Option<()> {
    let udp = head.protocol == wire::UDP;
    let check = head.transport + if udp { wire::UDP_CHECK } else { wire::TCP_CHECK };
    let diff = F::rewrite(packet, &flow.src, &flow.dst, routed)?;
    if head.transport == 0 {
        // Ports and checksum are in the datagram's first fragment.
        return Some(());
    }
    let ([a, b], [c, d]) = (flow.sport_be.to_ne_bytes(), flow.dport_be.to_ne_bytes());
    let new = u32::from_ne_bytes([a, b, c, d]);
    if head.protocol == wire::SCTP {
        // Its checksum does not cover addresses.
        return sctp::set_ports::<F, P>(packet, head.transport, new);
    }
    packet.fix_addresses(check, diff, udp, F::IPV6)?;
    let old: u32 = packet.load(head.transport)?;
    if old != new {
        packet.store(head.transport, new)?;
        packet.fix_ports(check, old, new, udp)?;
    }
    Some(())
}
