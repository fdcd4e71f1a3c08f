//! IPv4 and IPv6: where addresses stand, and what changing them means.

mod v4;
mod v6;

use core::fmt::Debug;
use core::hash::Hash;

use sluice_abi::{Backend, Config, Flow, Mac, Reason};

use crate::checksum::{apply, fold32};
use crate::packet::Packet;
use crate::wire::Icmp;

/// Time to live, or hop limit, of a packet that begins here.
const HOPS: u8 = 64;

/// The most that an ICMP error quotes: an IPv4 header of all options and what follows it, or an IPv6
/// header with twenty octets of others, and twenty of the transport header.
const MOST: usize = 60 + 20;

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
    /// Where the packet ends, as its header says; from the Ethernet header, as all offsets.
    fn end<P: Packet>(packet: &P) -> Option<usize>;
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
    /// Whether an address never leaves a host (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
    fn is_loopback(address: Self::Addr) -> bool;
    /// Whether a pod network is configured.
    fn has_pods(config: &Config) -> bool;
    /// Whether an address lies in a range of ClusterIPs.
    fn is_service(config: &Config, address: Self::Addr) -> bool;
    /// Turns a packet round: source and destination change places, and it has all its hops before
    /// it. The transport checksum stays right.
    fn turn<P: Packet>(packet: &mut P) -> Option<()>;
    /// Makes of a packet the ICMP error about it (RFC 792, RFC 1191, RFC 4443 section 3), from the node
    /// (without a configuration: from its destination) to its source, with so many octets of its transport
    /// header. The Ethernet addresses are not touched.
    fn complain<P: Packet>(
        packet: &mut P,
        trouble: Trouble,
        config: Option<&Config>,
        transport: usize,
        quoted: usize,
    ) -> Option<()>;
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

/// Why a packet does not reach its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens.
    Closed,
    /// It has used up its hops.
    Expired,
    /// The way on takes no more octets than [`NextHop::mtu`](crate::NextHop).
    TooLong,
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

/// Writes the header of an ICMP error in front of the `quoted` bytes it is about; `sum` is what its
/// checksum covers beside them. The MTU stands at the same place for both families.
#[inline(always)]
fn icmp<P: Packet>(
    packet: &mut P,
    at: usize,
    (kind, code): (u8, u8),
    quoted: usize,
    mut sum: u64,
) -> Option<()> {
    // Of a packet that is not too long there is none.
    let mtu = packet.hop().mtu;
    let body = at + size_of::<Icmp>();
    for offset in (0..MOST).step_by(4) {
        if offset >= quoted {
            break;
        }
        sum += u64::from(packet.load::<u32>(body + offset)?);
    }
    sum += u64::from(u16::from_ne_bytes([kind, code])) + u64::from(mtu.to_be());
    let rest_be = u32::from(mtu).to_be();
    packet.store(at, Icmp { kind, code, check_be: apply(u16::MAX, fold32(sum)), rest_be })
}
