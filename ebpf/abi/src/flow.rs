//! The flow table: one entry per direction, each the inverse of the other.
//!
//! The entry under key `K` rewrites a packet's tuple to `X`. The other half stands under
//! `reverse(X)` and rewrites to `reverse(K)`, so either half is enough to make the other again.

use crate::MapData;

/// A packet's tuple as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, network byte order.
    pub sport_be: u16,
    /// Destination port, network byte order.
    pub dport_be: u16,
    /// IANA protocol number, as a whole word: octets of padding would be written one by one.
    pub protocol: u32,
}

/// What becomes of a packet of this flow and direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Source address after translation.
    pub src: A,
    /// Destination address after translation.
    pub dst: A,
    /// Source port after translation, network byte order.
    pub sport_be: u16,
    /// Destination port after translation, network byte order.
    pub dport_be: u16,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Bits of [`tcp`].
    pub state: u8,
    /// A [`Deliver`] value.
    pub deliver: u8,
    /// Always zero.
    pub pad: u8,
    /// Low 32 bits of jiffies when the entry was last refreshed (at most once a second).
    pub seen: u32,
    /// Backend id; an index of the backend array.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Interface for [`Deliver::Peer`].
    pub ifindex: u32,
    /// Destination for [`Deliver::Peer`].
    pub mac: Mac,
}

/// A MAC as it stands on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac {
    /// The first four octets.
    pub head: u32,
    /// The last two octets.
    pub tail: u16,
    /// Always zero.
    pub pad: u16,
}

impl Mac {
    /// From six octets in the order of the wire.
    #[must_use]
    pub const fn from_octets([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self { head: u32::from_ne_bytes([a, b, c, d]), tail: u16::from_ne_bytes([e, f]), pad: 0 }
    }
}

/// A datagram in fragments: only the first has the ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification, as on the wire.
    pub id: u32,
    /// IANA protocol number.
    pub protocol: u32,
}

/// What the first fragment tells of its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Both ports, as one word as on the wire.
    pub ports: u32,
    /// Low 32 bits of jiffies when it came.
    pub seen: u32,
}

/// A fragment that came before the first of its datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldKey<A> {
    /// Its datagram.
    pub datagram: FragmentKey<A>,
    /// Which of those that are held of it: below [`crate::MAX_HELD_OF_ONE`].
    pub index: u32,
}

/// What is held of it: the whole packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Octets of the packet.
    pub len: u32,
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Low 32 bits of jiffies when it came.
    pub seen: u32,
    /// The packet from its Ethernet header on; what is behind `len` is of no meaning.
    pub bytes: [u8; crate::MAX_HELD_BYTES],
}

impl<A: Copy + 'static> MapData for HeldKey<A> {}
impl MapData for Ports {}
impl MapData for Held {}
impl<A: Copy + 'static> MapData for FlowKey<A> {}
impl<A: Copy + 'static> MapData for FragmentKey<A> {}
impl<A: Copy + 'static> MapData for Flow<A> {}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The entry translates packets from the backend.
    pub const REPLY: u8 = 1;
    /// Addresses or ports of this client were translated, too (hairpin, masquerade, or collision).
    pub const SNAT: u8 = 2;
    /// Not a service: a direct connection whose tuple collided with a service's flow.
    pub const DIRECT: u8 = 4;
    /// The connection counts as one of its backend's until it is closed.
    pub const COUNTED: u8 = 8;
}

/// Bits of [`Flow::state`]. FIN and RST bits are kept the same in both halves.
pub mod tcp {
    /// A FIN came from the client.
    pub const FIN_CLIENT: u8 = 1;
    /// A FIN came from the backend.
    pub const FIN_BACKEND: u8 = 2;
    /// A RST came from either side.
    pub const RST: u8 = 4;
    /// Any protocol: the backend has answered. In the forward half from its next refresh on.
    pub const REPLIED: u8 = 8;

    /// The client has sent more than its first segment: it is there, and not a forged source.
    pub const CONFIRMED: u8 = 16;

    /// Whether the connection is over: reset, or finished by both sides (RFC 9293 section 3.6).
    #[must_use]
    pub const fn closed(state: u8) -> bool {
        state & RST != 0 || state & (FIN_CLIENT | FIN_BACKEND) == FIN_CLIENT | FIN_BACKEND
    }
}

/// How a translated packet reaches its destination.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// Go on in the kernel's stack.
    Stack = 0,
    /// Straight into the pod behind a host-side veth (`bpf_redirect_peer`).
    Peer = 1,
    /// By the kernel's routes (`bpf_fib_lookup`, `bpf_redirect_neigh`).
    Route = 2,
    /// In by the loopback interface: an answer to a process of the node that asked the node's own
    /// address. It comes from an own address, too, which the stack takes from nowhere else.
    Loop = 3,
}
