//! Frontends: what a client connects to.

use crate::MapData;

/// A service address, port and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey<A> {
    /// Service address.
    pub addr: A,
    /// Service port, network byte order.
    pub port_be: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}

/// Where a frontend's balancing table lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// First slot of its table.
    pub offset: u32,
    /// Slots of its table; 0 when the list that applies is empty.
    pub len: u32,
    /// Bits of [`service_flags`].
    pub flags: u32,
}

impl<A: Copy + 'static> MapData for ServiceKey<A> {}
impl MapData for Service {}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// The slot is chosen by the hash of the client's tuple, not at random.
    pub const HASH: u32 = 1;
    /// With an empty table: refuse (no endpoint anywhere) rather than stay silent.
    pub const REJECT: u32 = 2;
}
