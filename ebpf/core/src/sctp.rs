//! SCTP without the kernel's module (RFC 9260): what its chunks mean for a flow, and its checksum.
//!
//! The checksum is a CRC32c of header and chunks. CRCs are linear: what a change of the ports adds to it
//! depends on that change and on the number of octets behind it, not on what they hold.

use crate::family::Family;
use crate::packet::Packet;
use crate::wire::{ACK, FIN, RST, SCTP_CHECK, SYN, Sctp};

/// The polynomial of CRC32c, its coefficients in reverse order (RFC 9260 appendix A).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1, likewise.
const ONE: u32 = 1 << 31;
/// The polynomial x to the power of 8: one octet of zeros.
const OCTET: u32 = ONE >> 8;

/// x to the power of 8·n.
static LOW: [u32; 256] = powers(OCTET);
/// x to the power of 8·256·n.
static HIGH: [u32; 256] = powers(product(LOW[255], OCTET));

const fn powers(step: u32) -> [u32; 256] {
    let mut table = [ONE; 256];
    let (mut n, mut power) = (1, product(ONE, step));
    while n < table.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated when it is compiled")]
        {
            table[n] = power;
        }
        power = product(power, step);
        n += 1;
    }
    table
}

/// The product of two polynomials, modulo that of CRC32c.
const fn product(mut a: u32, mut b: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < u32::BITS {
        // Without branches: each would double what a verifier has to look at.
        sum ^= b & 0_u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        bit += 1;
    }
    sum
}

/// What a packet's first chunk is to its association, as the TCP flags that mean the same for a flow.
#[inline(always)]
pub(crate) fn flags(header: &Sctp) -> u8 {
    match header.kind {
        INIT => SYN,
        INIT_ACK => SYN | ACK,
        ABORT => RST,
        SHUTDOWN | SHUTDOWN_ACK | SHUTDOWN_COMPLETE => FIN,
        _ => ACK,
    }
}

/// Chunk types (RFC 9260 section 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Replaces the ports at `transport`, and corrects the checksum. `None` where the packet ends before its
/// header says.
///
/// A function of its own: the stack of a program has 512 bytes.
#[inline(never)]
pub(crate) fn set_ports<F: Family, P: Packet>(
    packet: &mut P,
    transport: usize,
    ports: u32,
) -> Option<()> {
    let old: u32 = packet.load(transport)?;
    let behind = F::end(packet)?.checked_sub(transport)? as u32;
    // The change is of the first word: x to the power of 32, and of all that follows.
    let low = *LOW.get((behind & 0xff) as usize)?;
    let high = *HIGH.get((behind >> 8) as usize)?;
    let change = product(product(low, high), u32::from_le(old ^ ports));
    let check: u32 = packet.load(transport + SCTP_CHECK)?;
    packet.store(transport, ports)?;
    if check == 0 {
        // Not yet made: the device, or the kernel in its place, sums over the field as it is
        // (net/core/dev.c, `skb_crc32c_csum_help`).
        return Some(());
    }
    packet.store(transport + SCTP_CHECK, check ^ change.to_le())
}
