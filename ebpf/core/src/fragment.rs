//! Datagrams in fragments: the first one's ports hold for those that follow it.

use core::hint::black_box;

use sluice_abi::FragmentKey;

use crate::family::Family;
use crate::packet::Packet;
use crate::tables::{Lookup, NodeTables};
use crate::wire::{TCP, UDP};

/// The ports of a fragment's datagram, both as one word as on the wire; `None` where its first fragment
/// has not come by.
///
/// A function of its own: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn ports<F: Family, P: Packet, N: NodeTables + Lookup<F>>(
    packet: &mut P,
    node: &N,
) -> Option<u32> {
    // Of what is only read the compiler would pass the contents: packet pointers, as plain numbers.
    let packet = black_box(packet);
    let (head, id) = F::parse_fragment(packet)?;
    if head.protocol != TCP && head.protocol != UDP {
        return None;
    }
    let key = FragmentKey { src: head.src, dst: head.dst, id, protocol: head.protocol.into() };
    if head.transport == 0 {
        return node.fragment(&key);
    }
    // As much of the transport header as a refusal quotes.
    let [ports, _]: [u32; 2] = packet.load(head.transport)?;
    node.remember_fragment(&key, ports);
    Some(ports)
}
