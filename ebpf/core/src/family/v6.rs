//! IPv6 (RFC 8200).

use sluice_abi::{Addr6, Backend, Config, Flow, Reason};

use super::{Family, HOPS, Head, MOST, Trouble, V6, icmp, no_flow};
use crate::checksum::{change, fold32, mix};
use crate::packet::Packet;
use crate::wire::{ETHERNET_LEN, ICMPV6, IPV6_ADDRESSES, Icmp, Ipv6, Ipv6Fragment, MAX_EXTENSIONS};

/// Extension headers (RFC 8200 section 4): options for each hop, routing, fragment, options for the
/// destination; by IANA protocol number.
const HOPS_OPTIONS: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
/// Those whose content is not ours to know: ESP (RFC 4303), authentication (RFC 4302), mobility (RFC
/// 6275), host identity (RFC 7401), shim6 (RFC 5533).
const OPAQUE: [u8; 5] = [50, 51, 135, 139, 140];

/// What stands behind the fixed header.
#[derive(Clone, Copy)]
struct Behind {
    protocol: u8,
    at: usize,
}

impl Behind {
    /// Passes over one extension header; false where none is left to pass over.
    #[inline(always)]
    fn next<P: Packet>(&mut self, packet: &P, end: usize) -> Result<bool, Reason> {
        if !matches!(self.protocol, HOPS_OPTIONS | ROUTING | OPTIONS) {
            return Ok(false);
        }
        let [next, len, _, left]: [u8; 4] = packet.load(self.at).ok_or(Reason::Malformed)?;
        if self.protocol == ROUTING && left != 0 {
            // Not at its destination, for which its checksum is: another segment of its way decides.
            return Err(Reason::OtherProtocol);
        }
        self.protocol = next;
        self.at += 8 + usize::from(len) * 8;
        if self.at > end { Err(Reason::OtherProtocol) } else { Ok(true) }
    }
}

/// Finds what stands behind extension headers.
///
/// A function of its own, as few packets have any. Written out: 5.10 refuses a loop that is closed by
/// falling through.
#[inline(never)]
fn behind_extensions<P: Packet>(packet: &P, mut behind: Behind) -> Result<Behind, Reason> {
    let end = behind.at + MAX_EXTENSIONS;
    let _ = behind.next(packet, end)?
        && behind.next(packet, end)?
        && behind.next(packet, end)?
        && behind.next(packet, end)?;
    Ok(behind)
}

/// Finds what stands behind the header that begins `at`.
#[inline(always)]
fn behind<P: Packet>(packet: &P, header: &Ipv6, at: usize) -> Result<Behind, Reason> {
    let behind = Behind { protocol: header.next_header, at: at + size_of::<Ipv6>() };
    if matches!(behind.protocol, HOPS_OPTIONS | ROUTING | OPTIONS) {
        return behind_extensions(packet, behind);
    }
    Ok(behind)
}

impl Family for V6 {
    type Addr = Addr6;
    const IPV6: bool = true;
    const CONTROL: u8 = ICMPV6;
    const NO_FLOW: Flow<Addr6> = no_flow(Addr6([0; 4]));

    #[inline(always)]
    fn parse_fragment<P: Packet>(packet: &P) -> Option<(Head<Self>, u32)> {
        let header: Ipv6 = packet.load(ETHERNET_LEN)?;
        let Ok(Behind { at, .. }) = behind(packet, &header, ETHERNET_LEN) else { return None };
        let part: Ipv6Fragment = packet.load(at)?;
        let first = part.fragment_be & 0xfff8_u16.to_be() == 0;
        let head = Head {
            src: Addr6(header.src),
            dst: Addr6(header.dst),
            protocol: part.next_header,
            transport: if first { at + size_of::<Ipv6Fragment>() } else { 0 },
            ttl: header.hop_limit,
            class_be: header.version_flow_be,
        };
        Some((head, part.id))
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> Option<usize> {
        let len_be: u16 = packet.load(ETHERNET_LEN + 4)?;
        Some(ETHERNET_LEN + size_of::<Ipv6>() + usize::from(u16::from_be(len_be)))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // RFC 4443 section 2.1: errors are below 128; from 5 on none is defined.
        (1..=4).contains(&kind)
    }

    #[inline(always)]
    fn rewrite_quoted<P: Packet>(packet: &mut P, at: usize, flow: &Flow<Addr6>) -> Option<u32> {
        let [src, dst]: [[u32; 4]; 2] = packet.load(at + IPV6_ADDRESSES)?;
        let old = fold32(sum(src) + sum(dst));
        let new = fold32(sum(flow.dst.0) + sum(flow.src.0));
        packet.store(at + IPV6_ADDRESSES, [flow.dst.0, flow.src.0])?;
        Some(fold32(change(0, old, new)))
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Head<Self>, Reason> {
        let header: Ipv6 = packet.load(at).ok_or(Reason::Malformed)?;
        if u32::from_be(header.version_flow_be) >> 28 != 6 {
            return Err(Reason::Malformed);
        }
        let Behind { protocol, at } = behind(packet, &header, at)?;
        if protocol == FRAGMENT {
            return Err(Reason::Fragment);
        }
        if OPAQUE.contains(&protocol) || matches!(protocol, HOPS_OPTIONS | ROUTING | OPTIONS) {
            // What it is about stands behind: not to be judged by this.
            return Err(Reason::OtherProtocol);
        }
        Ok(Head {
            src: Addr6(header.src),
            dst: Addr6(header.dst),
            protocol,
            transport: at,
            ttl: header.hop_limit,
            class_be: header.version_flow_be,
        })
    }

    #[inline(always)]
    fn rewrite<P: Packet>(packet: &mut P, src: &Addr6, dst: &Addr6, route: bool) -> Option<u32> {
        let mut diff = 0;
        rewrite6(packet, src, dst, route, &mut diff).then_some(diff)
    }

    #[inline(always)]
    fn route<P: Packet>(packet: &mut P, head: &Head<Self>, flow: &Flow<Addr6>) -> bool {
        if head.ttl <= 1 {
            return false;
        }
        let hop = packet.hop();
        (hop.address, hop.ipv6) = (flow.dst.0, true);
        packet.route(&flow.src.0, head.class_be, (head.protocol, head.transport))
    }

    #[inline(always)]
    fn to_pod<P: Packet>(packet: &mut P, flow: &Flow<Addr6>) {
        let hop = packet.hop();
        (hop.address, hop.ipv6) = (flow.dst.0, true);
    }

    #[inline(always)]
    fn backend_address(backend: &Backend) -> Addr6 {
        Addr6(backend.addr)
    }

    #[inline(always)]
    fn is_pod(config: &Config, address: Addr6) -> bool {
        let [net, mask] = config.pods6;
        let [a, b, c, d] = address.0;
        let [ma, mb, mc, md] = mask;
        Addr6([a & ma, b & mb, c & mc, d & md]) == Addr6(net)
    }

    #[inline(always)]
    fn is_host(address: Addr6) -> bool {
        let [first, ..] = address.0;
        u32::from_be(first) >> 24 != 0xff && address != Addr6([0; 4])
    }

    #[inline(always)]
    fn is_loopback(address: Addr6) -> bool {
        address == Addr6([0, 0, 0, 1_u32.to_be()])
    }

    #[inline(always)]
    fn has_pods(config: &Config) -> bool {
        let [_, [mask, ..]] = config.pods6;
        mask != 0
    }

    #[inline(always)]
    fn is_service(config: &Config, address: Addr6) -> bool {
        let [a, b, c, d] = address.0;
        config.services6.iter().any(|[net, [ma, mb, mc, md]]| {
            *ma != 0 && Addr6([a & ma, b & mb, c & mc, d & md]) == Addr6(*net)
        })
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P) -> Option<()> {
        let [src, dst]: [[u32; 4]; 2] = packet.load(ETHERNET_LEN + IPV6_ADDRESSES)?;
        packet.store(ETHERNET_LEN + IPV6_ADDRESSES, [dst, src])?;
        packet.store(ETHERNET_LEN + IPV6_ADDRESSES - 1, HOPS)
    }

    #[inline(always)]
    fn complain<P: Packet>(
        packet: &mut P,
        trouble: Trouble,
        config: Option<&Config>,
        transport: usize,
        quoted: usize,
    ) -> Option<()> {
        const HEADER: usize = size_of::<Ipv6>();
        let kind = match trouble {
            Trouble::Closed => (1, 4),
            Trouble::Expired => (3, 0),
            Trouble::TooLong => (2, 0),
        };
        let keep = transport + quoted;
        let quoted = keep - ETHERNET_LEN;
        if quoted > MOST {
            return None;
        }
        packet.make_room(keep, HEADER + size_of::<Icmp>())?;
        let old = ETHERNET_LEN + HEADER + size_of::<Icmp>() + IPV6_ADDRESSES;
        let [src, mut dst]: [[u32; 4]; 2] = packet.load(old)?;
        if let Some(node) = config.and_then(Self::node) {
            dst = node.0;
        }
        packet.store(ETHERNET_LEN + IPV6_ADDRESSES, [dst, src])?;
        packet.store(ETHERNET_LEN, 0x6000_0000_u32.to_be())?;
        let len = (size_of::<Icmp>() + quoted) as u16;
        let [a, b] = len.to_be_bytes();
        packet.store(ETHERNET_LEN + 4, [a, b, ICMPV6, HOPS])?;
        let pseudo = u64::from(u32::from(len).to_be())
            + u64::from(u32::from(ICMPV6).to_be())
            + sum(src)
            + sum(dst);
        icmp(packet, ETHERNET_LEN + HEADER, kind, quoted, pseudo)
    }

    #[inline(always)]
    fn gateway(config: &Config) -> Option<Addr6> {
        Some(Addr6(config.gateway6)).filter(|address| *address != Addr6([0; 4]))
    }

    #[inline(always)]
    fn is_node(config: &Config, address: Addr6) -> bool {
        address == Addr6(config.node6)
    }

    #[inline(always)]
    fn node(config: &Config) -> Option<Addr6> {
        Some(Addr6(config.node6)).filter(|address| *address != Addr6([0; 4]))
    }

    #[inline(always)]
    fn word(address: Addr6) -> u64 {
        let [a, b, c, d] = address.0;
        let high = (u64::from(a) << 32) | u64::from(b);
        let low = (u64::from(c) << 32) | u64::from(d);
        mix(high).wrapping_add(low)
    }
}

/// The sum of an address's words. Written out: 5.10 refuses a loop that is closed by falling through.
#[inline(always)]
fn sum([a, b, c, d]: [u32; 4]) -> u64 {
    u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
}

/// A function of its own, since sixteen words in flight are more than a program's registers, and
/// what does not fit there goes to its stack of 512 bytes.
#[inline(never)]
fn rewrite6<P: Packet>(
    packet: &mut P,
    new_src: &Addr6,
    new_dst: &Addr6,
    route: bool,
    out: &mut u32,
) -> bool {
    const HOP_LIMIT: usize = ETHERNET_LEN + IPV6_ADDRESSES - 1;
    let Some(old) = packet.load::<[[u32; 4]; 2]>(ETHERNET_LEN + IPV6_ADDRESSES) else {
        return false;
    };
    let [src, dst] = old;
    let mut diff = 0;
    for (old, new) in src.into_iter().zip(new_src.0) {
        diff = change(diff, old, new);
    }
    for (old, new) in dst.into_iter().zip(new_dst.0) {
        diff = change(diff, old, new);
    }
    *out = fold32(diff);
    if packet.store(ETHERNET_LEN + IPV6_ADDRESSES, [new_src.0, new_dst.0]).is_none() {
        return false;
    }
    if !route {
        return true;
    }
    let Some(hop_limit) = packet.load::<u8>(HOP_LIMIT) else { return false };
    packet.store(HOP_LIMIT, hop_limit.wrapping_sub(1)).is_some()
}
