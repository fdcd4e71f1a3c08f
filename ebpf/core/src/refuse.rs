//! Refusals: a packet becomes the answer that its sender would get from a closed port, or from a router
//! that can't send it on.

use sluice_abi::Config;

use crate::checksum::{apply, fold32};
use crate::family::{Family, Trouble};
use crate::packet::Packet;
use crate::wire::{
    ACK, ECHO, ECHO6, ICMP, ICMPV6, RST, SCTP, SOURCE_MAC, SYN, TCP, TCP_CHECK, Tcp, UDP, UDP_CHECK,
};

/// Offset of data offset, flags and window in a TCP header.
const TCP_FLAGS: usize = 12;
/// Offset of sequence and acknowledgement number in a TCP header.
const TCP_NUMBERS: usize = 4;

/// Makes of a packet what tells its sender of the trouble: a reset for TCP that nobody listens to, else
/// an ICMP error (from the node, if `config` is given). False where none is due; the packet is then to be
/// dropped.
///
/// A function of its own: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn refuse<F: Family, P: Packet>(
    packet: &mut P,
    trouble: Trouble,
    config: Option<&Config>,
    protocol: u8,
    transport: usize,
) -> bool {
    let done = if protocol == TCP && trouble == Trouble::Closed {
        reset::<F, P>(packet, transport)
    } else if is_error(packet, protocol, transport) {
        None
    } else {
        // No packet is cut before a checksum that its device is yet to make (`__bpf_skb_min_len`).
        let (quoted, check) = match protocol {
            TCP => (20, TCP_CHECK),
            SCTP => (12, 0),
            UDP => (8, UDP_CHECK),
            _ => (8, 0),
        };
        let settled = check == 0 || settle(packet, transport, quoted, transport + check).is_some();
        if settled { F::complain(packet, trouble, config, transport, quoted) } else { None }
    };
    done.is_some() && turn_frame(packet).is_some()
}

/// Gives what will be quoted of a transport header a checksum that completing does not change: a device
/// that still has to make one would make it of these octets, after the error's own checksum covers them.
/// With the sum R of all others that is c = ~(R + c), or -R / 2: one's complement is modulo 0xffff,
/// where halving is a rotation, in any order of octets. Nobody holds a quoted header to its checksum.
#[inline(always)]
fn settle<P: Packet>(packet: &mut P, transport: usize, quoted: usize, check: usize) -> Option<()> {
    packet.store(check, 0_u16)?;
    let mut sum = 0;
    for offset in (0..size_of::<Tcp>()).step_by(4) {
        if offset < quoted {
            sum += u64::from(packet.load::<u32>(transport + offset)?);
        }
    }
    packet.store(check, apply(u16::MAX, fold32(sum)).rotate_right(1))
}

/// An error is never answered with another (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
#[inline(always)]
fn is_error<P: Packet>(packet: &P, protocol: u8, transport: usize) -> bool {
    let request = if protocol == ICMP {
        ECHO
    } else if protocol == ICMPV6 {
        ECHO6
    } else {
        return false;
    };
    // Type and code: the verifier sees no bound in a check for a single octet.
    let Some([kind, _]) = packet.load::<[u8; 2]>(transport) else { return true };
    kind != request
}

/// A reset for a connection's first segment (RFC 9293 section 3.10.7.1). It keeps the segment's
/// length and options, so that the checksum follows from the words that change, in whatever state
/// of offloading it is.
#[inline(always)]
fn reset<F: Family, P: Packet>(packet: &mut P, transport: usize) -> Option<()> {
    let Tcp { sport_be, dport_be, seq_be, ack_be, flags, .. } = packet.load(transport)?;
    if flags & (SYN | ACK | RST) != SYN {
        return None;
    }
    let check = transport + TCP_CHECK;
    packet.store(transport, [dport_be, sport_be])?;
    let ack = u32::from_be(seq_be).wrapping_add(1).to_be();
    packet.store(transport + TCP_NUMBERS, [0, ack])?;
    let old: [u8; 4] = packet.load(transport + TCP_FLAGS)?;
    let [offset, _, window @ ..] = old;
    let [a, b] = window;
    let new = [offset, RST | ACK, a, b];
    packet.store(transport + TCP_FLAGS, new)?;
    F::turn(packet)?;
    // Turning the packet round changes no sum: only what is new counts.
    packet.fix_ports(check, seq_be, 0, false)?;
    packet.fix_ports(check, ack_be, ack, false)?;
    packet.fix_ports(check, u32::from_ne_bytes(old), u32::from_ne_bytes(new), false)
}

#[inline(always)]
fn turn_frame<P: Packet>(packet: &mut P) -> Option<()> {
    let (head, tail): (u32, u16) = (packet.load(0)?, packet.load(4)?);
    let (from_head, from_tail): (u32, u16) =
        (packet.load(SOURCE_MAC)?, packet.load(SOURCE_MAC + 4)?);
    packet.store(0, from_head)?;
    packet.store(4, from_tail)?;
    packet.store(SOURCE_MAC, head)?;
    packet.store(SOURCE_MAC + 4, tail)
}
