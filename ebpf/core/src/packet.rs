//! What the logic asks of a packet.

use sluice_abi::Held;

use crate::wire::Wire;

/// The loopback interface's index, in every network namespace (linux, `LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// Where a packet leaves to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Interface to leave by; at [`LOOPBACK`] the neighbour is this node: the packet comes in there.
    pub ifindex: u32,
    /// Address of the neighbour; an IPv4 address in the first word.
    pub address: [u32; 4],
    /// Whether that address is IPv6 (RFC 8950 allows it for IPv4 packets, too).
    pub ipv6: bool,
    /// Octets of a packet that the way takes, where it is known to take less than this one's; else 0.
    pub mtu: u16,
}

/// A packet with an Ethernet header. Offsets count from that header.
pub trait Packet {
    /// The EtherType, host byte order.
    fn ether_type(&self) -> u16;
    /// The interface it came in by (or leaves by, at egress).
    fn ifindex(&self) -> u32;
    /// Whether a socket of this network namespace sent it.
    fn is_own(&self) -> bool;
    /// The cookie of the socket that sent it, in whatever namespace; 0 if none is known.
    fn cookie(&self) -> u64;
    /// The value itself, of which the verifier then knows nothing. It follows every path to a place by
    /// what is known there of all values; where nothing is, one path does for all.
    fn blur(&self, value: u32) -> u32 {
        value
    }
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
    /// Fixes a TCP or UDP checksum for a changed word, as both ports are. `None` if refused.
    fn fix_ports(&mut self, check: usize, old: u32, new: u32, udp: bool) -> Option<()>;
    /// Fixes a checksum for changes of what it covers, by their folded difference. `None` if refused.
    fn fix_body(&mut self, check: usize, diff: u32) -> Option<()>;
    /// Cuts the packet behind `keep` bytes and opens `room` bytes behind the Ethernet header, of any
    /// content. `None` if refused; the packet is then good for nothing.
    fn make_room(&mut self, keep: usize, room: usize) -> Option<()>;
    /// Copies the packet; `None` if it is too long to be held.
    fn copy(&self, to: &mut Held) -> Option<()>;
    /// Becomes what was copied; `None` if refused, the packet is then good for nothing.
    fn become_copy(&mut self, of: &Held) -> Option<()>;
    /// A copy of the packet comes in by an interface as if from its wire.
    fn again(&mut self, ifindex: u32);
    /// The way out. Kept with the packet and not in a verdict: the stack of a program is small.
    fn hop(&mut self) -> &mut NextHop;
    /// Asks the kernel's routes for the way from `src` to the address in [`Packet::hop`], and puts
    /// the neighbour there. `class_be` is IPv4's type of service, or traffic class and flow label;
    /// `transport` is the transport protocol and its header's offset. False where there is no route, or the packet
    /// (its segments, if it is yet to be segmented) exceeds the MTU, which is put there then.
    fn route(&mut self, src: &[u32; 4], class_be: u32, transport: (u8, usize)) -> bool;
}
