//! Datagrams in fragments: the first one's ports hold for all others, which come in any order.
//!
//! One that comes before the first is held, as a copy, and comes in again when the first has come by.

use core::hint::black_box;

use sluice_abi::{FragmentKey, HeldKey, MAX_HELD_OF_ONE, Ports, Reason};

use crate::family::Family;
use crate::packet::Packet;
use crate::process::idle;
use crate::tables::{Lookup, NodeTables};
use crate::wire::{TCP, UDP};

/// Seconds between the fragments of a datagram at the most. Less than the kernel waits (30, RFC 8200
/// section 4.5 asks for 60): a sender's identifications come round sooner.
const TIMEOUT_S: u32 = 5;

/// What is known of a fragment's datagram.
pub(crate) enum Known {
    /// Both ports, as one word as on the wire.
    Ports(u32),
    /// Nothing: this becomes of the fragment.
    Nothing(Reason),
}

/// The ports of a fragment's datagram. At an ingress, one whose first fragment has not come by is held.
///
/// A function of its own, as those that follow: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn ports<F: Family, P: Packet, N: NodeTables + Lookup<F>>(
    packet: &mut P,
    node: &N,
    ingress: bool,
) -> Known {
    // Of what is only read the compiler would pass the contents: packet pointers, as plain numbers.
    let packet = black_box(packet);
    let Some((head, id)) = F::parse_fragment(packet) else {
        return Known::Nothing(Reason::Fragment);
    };
    if head.protocol != TCP && head.protocol != UDP {
        return Known::Nothing(Reason::Fragment);
    }
    let key = FragmentKey { src: head.src, dst: head.dst, id, protocol: head.protocol.into() };
    if head.transport != 0 {
        // As much of the transport header as a refusal quotes.
        let Some([ports, _]) = packet.load::<[u32; 2]>(head.transport) else {
            return Known::Nothing(Reason::Fragment);
        };
        node.remember_fragment(&key, &Ports { ports, seen: node.now() });
        return if ingress && !let_in::<F, P, N>(packet, node, &key, 0) {
            Known::Nothing(Reason::Rewrite)
        } else {
            Known::Ports(ports)
        };
    }
    if let Some(ports) = known::<F, N>(node, &key) {
        return Known::Ports(ports);
    }
    if !ingress {
        return Known::Nothing(Reason::Fragment);
    }
    let index = hold::<F, P, N>(packet, node, &key);
    if index == MAX_HELD_OF_ONE {
        return Known::Nothing(Reason::Fragment);
    }
    // It may have come by meanwhile, and have looked at this place before.
    if known::<F, N>(node, &key).is_some() && !let_in::<F, P, N>(packet, node, &key, index) {
        return Known::Nothing(Reason::Rewrite);
    }
    Known::Nothing(Reason::FragmentHeld)
}

/// The ports of a datagram whose first fragment has come by.
#[inline(always)]
fn known<F: Family, N: NodeTables + Lookup<F>>(
    node: &N,
    key: &FragmentKey<F::Addr>,
) -> Option<u32> {
    node.fragment(key).filter(|found| is_young(node, found.seen)).map(|found| found.ports)
}

/// Whether what came then can be of one datagram with what comes now.
#[inline(always)]
fn is_young<N: NodeTables>(node: &N, seen: u32) -> bool {
    idle(node.now(), seen) <= TIMEOUT_S.wrapping_mul(node.hz())
}

/// Holds a fragment; at which place, past the last one where there is no room for it.
#[inline(never)]
fn hold<F: Family, P: Packet, N: NodeTables + Lookup<F>>(
    packet: &mut P,
    node: &N,
    datagram: &FragmentKey<F::Addr>,
) -> u32 {
    let packet = black_box(packet);
    let mut key = HeldKey { datagram: *datagram, index: 0 };
    let place = node.buffer(|buffer| {
        packet.copy(buffer)?;
        buffer.seen = node.now();
        for index in 0..MAX_HELD_OF_ONE {
            key.index = index;
            match node.held(&key, |held| is_young(node, held.seen)) {
                Some(true) => continue,
                // Of a datagram of before.
                Some(false) => node.release(&key),
                None => {}
            }
            if node.hold(&key, buffer) {
                return Some(index);
            }
        }
        None
    });
    place.flatten().unwrap_or(MAX_HELD_OF_ONE)
}

/// The held fragments of a datagram from this place on come in again, if there is one there. False if
/// this packet got lost over it.
#[inline(never)]
fn let_in<F: Family, P: Packet, N: NodeTables + Lookup<F>>(
    packet: &mut P,
    node: &N,
    datagram: &FragmentKey<F::Addr>,
    first: u32,
) -> bool {
    let packet = black_box(packet);
    let mut key = HeldKey { datagram: *datagram, index: first };
    if node.held(&key, |_| ()).is_none() {
        return true;
    }
    node.buffer(|own| {
        if packet.copy(own).is_none() {
            // Too long to be put aside: what is held is lost, this is not.
            return Some(());
        }
        for index in 0..MAX_HELD_OF_ONE {
            if index < first {
                continue;
            }
            key.index = index;
            let found = node.held(&key, |held| {
                if is_young(node, held.seen) && packet.become_copy(held).is_some() {
                    packet.again(held.ifindex);
                }
            });
            if found.is_some() {
                node.release(&key);
            }
        }
        packet.become_copy(own)
    })
    .flatten()
    .is_some()
}
