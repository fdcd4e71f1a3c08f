//! IPv4 (RFC 791).

use sluice_abi::{Addr4, Backend, Config, Flow, Reason};

use super::{Family, HOPS, Head, Trouble, V4, icmp, no_flow};
use crate::checksum::{apply, change, fold32};
use crate::packet::Packet;
use crate::wire::{ETHERNET_LEN, ICMP, IPV4_TAIL, Icmp, Ipv4, Ipv4Tail};

impl Family for V4 {
    type Addr = Addr4;
    const IPV6: bool = false;
    const CONTROL: u8 = ICMP;
    const NO_FLOW: Flow<Addr4> = no_flow(Addr4(0));

    #[inline(always)]
    fn parse_fragment<P: Packet>(packet: &P) -> Option<(Head<Self>, u32)> {
        let header: Ipv4 = packet.load(ETHERNET_LEN)?;
        let ihl = usize::from(header.version_ihl & 0x0f);
        if header.version_ihl >> 4 != 4 || ihl < 5 {
            return None;
        }
        let first = header.fragment_be & 0x1fff_u16.to_be() == 0;
        let head = Head {
            src: Addr4(header.src),
            dst: Addr4(header.dst),
            protocol: header.protocol,
            transport: if first { ETHERNET_LEN + ihl * 4 } else { 0 },
            ttl: header.ttl,
            class_be: header.tos.into(),
        };
        Some((head, header.id_be.into()))
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> Option<usize> {
        let len_be: u16 = packet.load(ETHERNET_LEN + 2)?;
        Some(ETHERNET_LEN + usize::from(u16::from_be(len_be)))
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem (RFC 792).
        kind == 3 || kind == 11 || kind == 12
    }

    #[inline(always)]
    fn rewrite_quoted<P: Packet>(packet: &mut P, at: usize, flow: &Flow<Addr4>) -> Option<u32> {
        let mut tail: Ipv4Tail = packet.load(at + IPV4_TAIL)?;
        let diff = fold32(change(change(0, tail.src, flow.dst.0), tail.dst, flow.src.0));
        (tail.src, tail.dst) = (flow.dst.0, flow.src.0);
        tail.check_be = apply(tail.check_be, diff);
        packet.store(at + IPV4_TAIL, tail)?;
        // What its own checksum takes up, the error's does not see.
        Some(0)
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Head<Self>, Reason> {
        let header: Ipv4 = packet.load(at).ok_or(Reason::Malformed)?;
        let ihl = usize::from(header.version_ihl & 0x0f);
        if header.version_ihl >> 4 != 4 || ihl < 5 {
            return Err(Reason::Malformed);
        }
        let len = usize::from(u16::from_be(header.total_len_be));
        // 0: an aggregate that is yet to be segmented, longer than the field can say (Linux' BIG TCP).
        if len != 0 && len < ihl * 4 {
            return Err(Reason::Malformed);
        }
        // More fragments, or an offset.
        if header.fragment_be & 0x3fff_u16.to_be() != 0 {
            return Err(Reason::Fragment);
        }
        Ok(Head {
            src: Addr4(header.src),
            dst: Addr4(header.dst),
            protocol: header.protocol,
            transport: at + ihl * 4,
            ttl: header.ttl,
            class_be: header.tos.into(),
        })
    }

    #[inline(always)]
    fn rewrite<P: Packet>(packet: &mut P, src: &Addr4, dst: &Addr4, route: bool) -> Option<u32> {
        let mut tail: Ipv4Tail = packet.load(ETHERNET_LEN + IPV4_TAIL)?;
        let diff = fold32(change(change(0, tail.src, src.0), tail.dst, dst.0));
        (tail.src, tail.dst) = (src.0, dst.0);
        tail.check_be = apply(tail.check_be, diff);
        if route {
            // The word of TTL and protocol, as it lies in memory.
            let old = u16::from_ne_bytes([tail.ttl, tail.protocol]);
            tail.ttl = tail.ttl.wrapping_sub(1);
            let new = u16::from_ne_bytes([tail.ttl, tail.protocol]);
            tail.check_be = apply(tail.check_be, u32::from(!old) + u32::from(new));
        }
        packet.store(ETHERNET_LEN + IPV4_TAIL, tail)?;
        Some(diff)
    }

    #[inline(always)]
    fn route<P: Packet>(packet: &mut P, head: &Head<Self>, flow: &Flow<Addr4>) -> bool {
        if head.ttl <= 1 {
            return false;
        }
        let hop = packet.hop();
        (hop.address, hop.ipv6) = ([flow.dst.0, 0, 0, 0], false);
        packet.route(&[flow.src.0, 0, 0, 0], head.class_be, (head.protocol, head.transport))
    }

    #[inline(always)]
    fn to_pod<P: Packet>(packet: &mut P, flow: &Flow<Addr4>) {
        let hop = packet.hop();
        (hop.address, hop.ipv6) = ([flow.dst.0, 0, 0, 0], false);
    }

    #[inline(always)]
    fn backend_address(backend: &Backend) -> Addr4 {
        let [word, ..] = backend.addr;
        Addr4(word)
    }

    #[inline(always)]
    fn is_pod(config: &Config, address: Addr4) -> bool {
        let [net, mask] = config.pods4;
        address.0 & mask == net
    }

    #[inline(always)]
    fn is_host(address: Addr4) -> bool {
        let first = u32::from_be(address.0) >> 24;
        first != 0 && first < 224
    }

    #[inline(always)]
    fn is_loopback(address: Addr4) -> bool {
        u32::from_be(address.0) >> 24 == 127
    }

    #[inline(always)]
    fn has_pods(config: &Config) -> bool {
        let [_, mask] = config.pods4;
        mask != 0
    }

    #[inline(always)]
    fn is_service(config: &Config, address: Addr4) -> bool {
        config.services4.iter().any(|[net, mask]| *mask != 0 && address.0 & mask == *net)
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P) -> Option<()> {
        let mut tail: Ipv4Tail = packet.load(ETHERNET_LEN + IPV4_TAIL)?;
        (tail.src, tail.dst) = (tail.dst, tail.src);
        let old = u16::from_ne_bytes([tail.ttl, tail.protocol]);
        tail.ttl = HOPS;
        let new = u16::from_ne_bytes([tail.ttl, tail.protocol]);
        tail.check_be = apply(tail.check_be, u32::from(!old) + u32::from(new));
        packet.store(ETHERNET_LEN + IPV4_TAIL, tail)
    }

    #[inline(always)]
    fn complain<P: Packet>(
        packet: &mut P,
        trouble: Trouble,
        config: Option<&Config>,
        transport: usize,
        quoted: usize,
    ) -> Option<()> {
        const HEADER: usize = size_of::<Ipv4>();
        let kind = match trouble {
            Trouble::Closed => (3, 3),
            Trouble::Expired => (11, 0),
            Trouble::TooLong => (3, 4),
        };
        let old: Ipv4Tail = packet.load(ETHERNET_LEN + IPV4_TAIL)?;
        let keep = transport + quoted;
        let quoted = keep - ETHERNET_LEN;
        packet.make_room(keep, HEADER + size_of::<Icmp>())?;
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0xc0,
            total_len_be: ((HEADER + size_of::<Icmp>() + quoted) as u16).to_be(),
            id_be: 0,
            fragment_be: 0,
            ttl: HOPS,
            protocol: ICMP,
            check_be: 0,
            src: config.and_then(Self::node).map_or(old.dst, |node| node.0),
            dst: old.src,
        };
        let halves = |word: u32| u64::from(word & 0xffff) + u64::from(word >> 16);
        let sum = u64::from(u16::from_ne_bytes([ip.version_ihl, ip.tos]))
            + u64::from(ip.total_len_be)
            + u64::from(u16::from_ne_bytes([ip.ttl, ip.protocol]))
            + halves(ip.src)
            + halves(ip.dst);
        ip.check_be = apply(u16::MAX, fold32(sum));
        packet.store(ETHERNET_LEN, ip)?;
        icmp(packet, ETHERNET_LEN + HEADER, kind, quoted, 0)
    }

    #[inline(always)]
    fn gateway(config: &Config) -> Option<Addr4> {
        (config.gateway4 != 0).then_some(Addr4(config.gateway4))
    }

    #[inline(always)]
    fn is_node(config: &Config, address: Addr4) -> bool {
        address.0 == config.node4
    }

    #[inline(always)]
    fn node(config: &Config) -> Option<Addr4> {
        (config.node4 != 0).then_some(Addr4(config.node4))
    }

    #[inline(always)]
    fn word(address: Addr4) -> u64 {
        u64::from(address.0)
    }
}
