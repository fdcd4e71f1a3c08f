//! ICMP and ICMPv6 errors about translated packets: they go to who sent the packet, and quote what it
//! sent (RFC 5508 section 4 for both ways). Path MTU discovery and traceroute live on them.

use sluice_abi::{FlowKey, Reason};

use crate::family::Family;
use crate::packet::Packet;
use crate::process::{Action, Hook};
use crate::tables::{FlowTable, Tables};
use crate::translate::{deliver, reason};
use crate::wire::{ETHERNET_LEN, Icmp, SCTP, TCP, UDP};

/// Offset of the checksum in an ICMP header.
const CHECK: usize = 2;

/// Translates an error about a packet of a known flow; `None` for everything else. The reason tells
/// the way ([`way`]).
///
/// A function of its own: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn error<F: Family, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    hook: Hook,
) -> Option<Reason> {
    let Ok(head) = F::parse(packet, ETHERNET_LEN) else { return None };
    let Icmp { kind, .. } = packet.load(head.transport)?;
    let quoted = head.transport + size_of::<Icmp>();
    if !F::is_error(kind) {
        return None;
    }
    let Ok(inner) = F::parse(packet, quoted) else { return None };
    if !matches!(inner.protocol, TCP | UDP | SCTP) {
        return None;
    }
    let [sport_be, dport_be]: [u16; 2] = packet.load(inner.transport)?;
    // Its answer would be a packet of this flow.
    let key = FlowKey {
        src: inner.dst,
        dst: inner.src,
        sport_be: dport_be,
        dport_be: sport_be,
        protocol: inner.protocol.into(),
    };
    let flow = tables.split().0.get(&key)?;
    // An error of the other end comes from whom the sender knows; one of a router from that router.
    let src = if head.src == inner.dst { &flow.src } else { &head.src };
    let (action, hops) = match deliver::<F, P>(packet, &head, flow, hook) {
        Ok(way) => way,
        Err(reason) => return Some(reason),
    };
    let check = head.transport + CHECK;
    let done = (|| {
        let diff = F::rewrite_quoted(packet, quoted, flow)?;
        packet.fix_body(check, diff)?;
        let old: u32 = packet.load(inner.transport)?;
        packet.store(inner.transport, [flow.dport_be, flow.sport_be])?;
        let new: u32 = packet.load(inner.transport)?;
        packet.fix_ports(check, old, new, false)?;
        let diff = F::rewrite(packet, src, &flow.dst, hops)?;
        if F::IPV6 {
            packet.fix_addresses(check, diff, false, true)?;
        }
        Some(())
    })();
    if done.is_none() {
        return Some(Reason::Rewrite);
    }
    if action != Action::Peer {
        packet.mark();
    }
    Some(reason(action, flow))
}

/// What is to be done with a packet that is counted under a reason.
#[inline(always)]
pub(crate) fn way(reason: Reason) -> Action {
    match reason {
        Reason::ForwardPeer | Reason::ReplyPeer => Action::Peer,
        Reason::ForwardRoute | Reason::ReplyRoute => Action::Neighbour,
        reason if reason.is_drop() => Action::Drop,
        _ => Action::Pass,
    }
}
