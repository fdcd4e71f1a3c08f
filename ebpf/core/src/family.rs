//! IPv4 and IPv6: where addresses stand, and what changing them means.

use core::fmt::Debug;
use core::hash::Hash;

use sluice_abi::{Addr4, Addr6, Backend, Config, Flow, Mac, Reason};

use crate::checksum::{apply, change, fold32, mix};
use crate::packet::Packet;
use crate::wire::{
    ETHERNET_LEN, ICMP, ICMPV6, IPV4_TAIL, IPV6_ADDRESSES, Icmp, Ipv4, Ipv4Tail, Ipv6, Ipv6Fragment,
};

/// IANA protocol number of IPv6's fragment header (RFC 8200 section 4.5).
const FRAGMENT_HEADER: u8 = 44;

/// Time to live, or hop limit, of a packet that begins here.
const HOPS: u8 = 64;
/// Octets of the transport header that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;

/// IANA protocol numbers of IPv6's other extension headers (RFC 8200 section 4, RFC 4302, RFC 4303,
/// RFC 6275).
const EXTENSION_HEADERS: [u8; 6] = [0, 43, 50, 51, 60, 135];

/// An address family.
pub trait Family: Copy + 'static {
    /// An address as on the wire.
    type Addr: Copy + Eq + Hash + Debug + 'static;
    /// Whether this is IPv6.
    const IPV6: bool;
    /// All zero, to be filled in.
    const NO_FLOW: Flow<Self::Addr>;

    /// IANA protocol number of its control messages.
    const CONTROL: u8;
    /// Reads the header that begins `at`, and finds the transport header.
    ///
    /// # Errors
    /// The reason for which the packet is not ours to translate.
    fn parse<P: Packet>(packet: &P, at: usize) -> Result<Head<Self>, Reason>;
    /// Reads the header of a fragment, whose transport header is then at 0 unless it is the first of its
    /// datagram, and the identification that all of them share, as on the wire.
    fn parse_fragment<P: Packet>(packet: &P) -> Option<(Head<Self>, u32)>;
    /// Whether a control message of this type quotes the packet that it is about.
    fn is_error(kind: u8) -> bool;
    /// Turns the addresses of a header that an error quotes `at` into those that the sender used;
    /// returns the folded difference for the checksum of the error.
    fn rewrite_quoted<P: Packet>(packet: &mut P, at: usize, flow: &Flow<Self::Addr>)
    -> Option<u32>;
    /// Writes addresses into the header (and decrements its hop limit for a router), with its
    /// checksum; returns the folded difference for the transport checksum.
    fn rewrite<P: Packet>(
        packet: &mut P,
        src: &Self::Addr,
        dst: &Self::Addr,
        route: bool,
    ) -> Option<u32>;
    /// Asks the kernel's routes for the next hop; false where the stack must decide, also when the
    /// hop limit ends here.
    fn route<P: Packet>(packet: &mut P, head: &Head<Self>, flow: &Flow<Self::Addr>) -> bool;
    /// Notes the destination of a flow as the neighbour to send to; its interface is known.
    fn to_pod<P: Packet>(packet: &mut P, flow: &Flow<Self::Addr>);
    /// A backend's address.
    fn backend_address(backend: &Backend) -> Self::Addr;
    /// Whether an address lies in the pod network; true where none is configured (R12).
    fn is_pod(config: &Config, address: Self::Addr) -> bool;
    /// Whether an address is a single host's, and so may be answered.
    fn is_host(address: Self::Addr) -> bool;
    /// Whether a pod network is configured.
    fn has_pods(config: &Config) -> bool;
    /// Whether an address lies in a range of ClusterIPs.
    fn is_service(config: &Config, address: Self::Addr) -> bool;
    /// Turns a packet round: source and destination change places, and it has all its hops before
    /// it. The transport checksum stays right.
    fn turn<P: Packet>(packet: &mut P) -> Option<()>;
    /// Makes of a packet the ICMP error "port unreachable" about it, from its destination to its
    /// source (RFC 792, RFC 4443 section 3.1). The Ethernet addresses are not touched.
    fn unreachable<P: Packet>(packet: &mut P, transport: usize) -> Option<()>;
    /// kube-bridge's address, if known.
    fn gateway(config: &Config) -> Option<Self::Addr>;
    /// Whether an address is the node's own.
    fn is_node(config: &Config, address: Self::Addr) -> bool;
    /// The node's address, if known.
    fn node(config: &Config) -> Option<Self::Addr>;
    /// An address as 64 bits for hashing.
    fn word(address: Self::Addr) -> u64;
}

/// A parsed network header.
#[derive(Clone, Copy, Debug)]
pub struct Head<F: Family> {
    /// Source.
    pub src: F::Addr,
    /// Destination.
    pub dst: F::Addr,
    /// Transport protocol.
    pub protocol: u8,
    /// Offset of the transport header from the Ethernet header; 0 in a fragment that has none.
    pub transport: usize,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv4: type of service. IPv6: version, traffic class and flow label as on the wire.
    pub class_be: u32,
}

/// A flow of zeros around a family's zero address.
const fn no_flow<A: Copy>(zero: A) -> Flow<A> {
    Flow {
        src: zero,
        dst: zero,
        sport_be: 0,
        dport_be: 0,
        flags: 0,
        state: 0,
        deliver: 0,
        pad: 0,
        seen: 0,
        backend: 0,
        generation: 0,
        ifindex: 0,
        mac: Mac { head: 0, tail: 0, pad: 0 },
    }
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;
/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

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
        if usize::from(u16::from_be(header.total_len_be)) < ihl * 4 {
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
        packet.route(&[flow.src.0, 0, 0, 0], head.class_be)
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
    fn unreachable<P: Packet>(packet: &mut P, transport: usize) -> Option<()> {
        const HEADER: usize = size_of::<Ipv4>();
        let old: Ipv4Tail = packet.load(ETHERNET_LEN + IPV4_TAIL)?;
        let quoted = transport - ETHERNET_LEN + QUOTED;
        packet.make_room(transport + QUOTED, HEADER + size_of::<Icmp>())?;
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0xc0,
            total_len_be: ((HEADER + size_of::<Icmp>() + quoted) as u16).to_be(),
            id_be: 0,
            fragment_be: 0,
            ttl: HOPS,
            protocol: ICMP,
            check_be: 0,
            src: old.dst,
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
        icmp(packet, ETHERNET_LEN + HEADER, (3, 3), quoted, 0)
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

impl Family for V6 {
    type Addr = Addr6;
    const IPV6: bool = true;
    const CONTROL: u8 = ICMPV6;
    const NO_FLOW: Flow<Addr6> = no_flow(Addr6([0; 4]));

    #[inline(always)]
    fn parse_fragment<P: Packet>(packet: &P) -> Option<(Head<Self>, u32)> {
        let at = ETHERNET_LEN + size_of::<Ipv6>();
        let header: Ipv6 = packet.load(ETHERNET_LEN)?;
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
        if header.next_header == FRAGMENT_HEADER {
            return Err(Reason::Fragment);
        }
        if EXTENSION_HEADERS.contains(&header.next_header) {
            // What it is about stands behind: not to be judged by this.
            return Err(Reason::OtherProtocol);
        }
        Ok(Head {
            src: Addr6(header.src),
            dst: Addr6(header.dst),
            protocol: header.next_header,
            transport: at + size_of::<Ipv6>(),
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
        packet.route(&flow.src.0, head.class_be)
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
    fn unreachable<P: Packet>(packet: &mut P, transport: usize) -> Option<()> {
        const HEADER: usize = size_of::<Ipv6>();
        let quoted = transport - ETHERNET_LEN + QUOTED;
        packet.make_room(transport + QUOTED, HEADER + size_of::<Icmp>())?;
        let old = ETHERNET_LEN + HEADER + size_of::<Icmp>() + IPV6_ADDRESSES;
        let [src, dst]: [[u32; 4]; 2] = packet.load(old)?;
        packet.store(ETHERNET_LEN + IPV6_ADDRESSES, [dst, src])?;
        packet.store(ETHERNET_LEN, 0x6000_0000_u32.to_be())?;
        let len = (size_of::<Icmp>() + quoted) as u16;
        let [a, b] = len.to_be_bytes();
        packet.store(ETHERNET_LEN + 4, [a, b, ICMPV6, HOPS])?;
        let pseudo = u64::from(u32::from(len).to_be())
            + u64::from(u32::from(ICMPV6).to_be())
            + sum(src)
            + sum(dst);
        icmp(packet, ETHERNET_LEN + HEADER, (1, 4), quoted, pseudo)
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

/// Writes the header of an ICMP error in front of the `quoted` bytes it is about; `sum` is what its
/// checksum covers beside them.
#[inline(always)]
fn icmp<P: Packet>(
    packet: &mut P,
    at: usize,
    (kind, code): (u8, u8),
    quoted: usize,
    mut sum: u64,
) -> Option<()> {
    /// An IPv4 header of all options and what follows it: the most that is quoted.
    const MOST: usize = 60 + QUOTED;
    let body = at + size_of::<Icmp>();
    for offset in (0..MOST).step_by(4) {
        if offset >= quoted {
            break;
        }
        sum += u64::from(packet.load::<u32>(body + offset)?);
    }
    sum += u64::from(u16::from_ne_bytes([kind, code]));
    packet.store(at, Icmp { kind, code, check_be: apply(u16::MAX, fold32(sum)), unused: 0 })
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
