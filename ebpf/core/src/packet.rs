//! What the logic asks of a packet.

use crate::wire::Wire;

/// The next hop that the kernel's routes name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface to leave by.
    pub ifindex: u32,
    /// Address of the neighbour; an IPv4 address in the first word.
    pub address: [u32; 4],
    /// Whether that address is IPv6 (RFC 8950 allows it for IPv4 packets, too).
    pub ipv6: bool,
}

/// A packet with an Ethernet header. Offsets count from that header.
pub trait Packet {
    /// The EtherType, host byte order.
    fn ether_type(&self) -> u16;
    /// The interface it came in by (or leaves by, at egress).
    fn ifindex(&self) -> u32;
    /// Whether an earlier hook has set [`sluice_abi::MARK_TRANSLATED`].
    fn is_marked(&self) -> bool;
    /// Sets that mark for later hooks.
    fn mark(&mut self);
    /// Reads a value; `None` beyond the end.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;
    /// Writes a value; `None` beyond the end.
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()>;
    /// Fixes a TCP or UDP checksum for changed addresses. `diff` is the folded difference of the
    /// pseudo header. A UDP checksum of zero stays (RFC 768). `None` if refused.
    fn fix_addresses(&mut self, check: usize, diff: u32, udp: bool, ipv6: bool) -> Option<()>;
    /// Fixes a TCP or UDP checksum for changed ports, both as one word. `None` if refused.
    fn fix_ports(&mut self, check: usize, old: u32, new: u32, udp: bool) -> Option<()>;
    /// Asks the kernel's routes for the way between IPv4 addresses as on the wire; `hop` holds the
    /// destination before and the neighbour after. False where the stack must decide: no route, no
    /// neighbour yet, or the packet (its segments, if it is yet to be segmented) exceeds the MTU.
    fn route4(&mut self, src: u32, tos: u8, hop: &mut NextHop) -> bool;
    /// The same for IPv6; `flow_be` has traffic class and flow label.
    fn route6(&mut self, src: &[u32; 4], flow_be: u32, hop: &mut NextHop) -> bool;
}
