//! Sockets that are translated when they connect or send, not packet by packet.

use crate::MapData;

/// A socket and a peer of it: what it asked for, or what it was given instead.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey<A> {
    /// The socket's cookie, low half first.
    pub cookie: [u32; 2],
    /// Address of the peer.
    pub addr: A,
    /// Port of the peer, network byte order, as a whole word.
    pub port_be: u32,
}

/// The other one of the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<A> {
    /// Address.
    pub addr: A,
    /// Port, network byte order, as a whole word.
    pub port_be: u32,
    /// Backend id.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

/// A TCP socket that was connected to a backend, and what it asked for. It stands at its cookie's
/// place, until a socket that is [`crate::MAX_SOCKETS`] younger takes that: a write costs a tenth of an
/// entry in a hash table, and each of the node's own connections makes one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected<A> {
    /// The socket's cookie, low half first.
    pub cookie: [u32; 2],
    /// Address of the backend.
    pub given: A,
    /// Address it asked for.
    pub asked: A,
    /// Port of the backend, network byte order.
    pub given_port_be: u16,
    /// Port it asked for, network byte order.
    pub asked_port_be: u16,
    /// Id of the backend; 0 where an older program wrote the entry.
    pub backend: u32,
}

impl<A> Connected<A> {
    /// The place of a cookie.
    #[inline(always)]
    #[must_use]
    pub fn index([low, _]: [u32; 2]) -> u32 {
        low & (crate::MAX_SOCKETS as u32 - 1)
    }
}

/// The node's network namespace: other sockets are left alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its cookie; 0 until it is known.
    pub cookie: u64,
    /// While the cookie is not known: the address of 240.0.0.0/4, network byte order, to which the
    /// agent connects a UDP socket to tell it. 0 is none.
    pub token: u32,
    /// Always zero.
    pub pad: u32,
}

impl<A: Copy + 'static> MapData for SocketKey<A> {}
impl<A: Copy + 'static> MapData for Peer<A> {}
impl<A: Copy + 'static> MapData for Connected<A> {}
impl MapData for Namespace {}
