//! Every key and value of the maps that the kernel programs and user space share.
//!
//! Layouts only, no logic. All types are `#[repr(C)]` without padding (asserted below), so that the
//! kernel may compare keys byte by byte. Fields named `_be` hold bytes as they stand on the wire.
//! Changing anything here is a new [`LAYOUT`]: user space then fills new maps instead of adopting.
#![no_std]

mod flow;
mod node;
mod reason;
mod service;
mod socket;

pub use flow::{Deliver, Flow, FlowKey, FragmentKey, Held, HeldKey, Mac, Ports, flags, tcp};
pub use node::{Backend, BackendState, Config, SERVICE_RANGES, lists};
pub use reason::Reason;
pub use service::{
    Affinity, AffinityKey, Range, RangeKey, Service, ServiceKey, Table, service_flags,
};

pub use socket::{Connected, Namespace, Peer, SocketKey};

/// Version of the layout of all maps together; part of the path of the pins.
pub const LAYOUT: u32 = 3;

/// Most frontends (service address, port and protocol) of one address family.
pub const MAX_SERVICES: usize = 131_072;
/// Most backends, both families together. An id is an index below this.
pub const MAX_BACKENDS: usize = 262_144;
/// Slots of all balancing tables together: 16 MiB, since an array element takes 8 bytes at least.
pub const MAX_SLOTS: usize = 2_097_152;
/// Clients that session affinity remembers, per family; the longest unused are forgotten first.
pub const MAX_AFFINITIES: usize = 65_536;
/// Sockets whose peers were translated, per family and protocol; of UDP the longest unused are forgotten
/// first, of TCP the oldest. A power of two.
pub const MAX_SOCKETS: usize = 65_536;
/// Datagrams in fragments whose ports are remembered, per family.
pub const MAX_FRAGMENTS: usize = 16_384;
/// Fragments that are held until the first of their datagram comes, per family; the oldest are lost.
pub const MAX_HELD: usize = 256;
/// Fragments that are held of one datagram: 9,000 octets by an MTU of 1,280 are eight.
pub const MAX_HELD_OF_ONE: u32 = 8;
/// Longest packet that is held: a jumbo frame (MTU 9,000 and up).
pub const MAX_HELD_BYTES: usize = 9_216;
/// Source ranges of all service ports together, per family.
pub const MAX_RANGES: usize = 65_536;
/// Refusals a processor sends in a second; beyond it there is silence.
pub const MAX_REFUSALS: u32 = 1_000;
/// Entries of a flow table (per family) unless user space asks for another size.
pub const DEFAULT_FLOWS: usize = 262_144;

/// First port for translated sources. Above the kernel's default ephemeral range
/// (32768-60999); user space also puts the range into `ip_local_reserved_ports`.
pub const SNAT_FIRST_PORT: u16 = 61_000;
/// Number of ports from [`SNAT_FIRST_PORT`], a power of two: no division in the program.
pub const SNAT_PORTS: u16 = 4_096;

/// Bit of `skb->mark` that says: translated already, let it through. Chosen apart from
/// kube-proxy's (0x4000, 0x8000) and Cilium's (0x0f00).
pub const MARK_TRANSLATED: u32 = 0x0010_0000;

/// A type that goes into a map as it is: plain bytes, no padding, every bit pattern valid.
pub trait MapData: Copy + 'static {}

impl MapData for u32 {}
impl MapData for u64 {}

/// An IPv4 address as it stands on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr4(pub u32);

/// An IPv6 address as it stands on the wire, in four words.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord)]
pub struct Addr6(pub [u32; 4]);

impl PartialEq for Addr6 {
    /// Word by word: the derived one calls `bcmp`, a function with a stack frame of its own.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl core::hash::Hash for Addr6 {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Addr4 {
    /// The address 0.0.0.0.
    pub const ANY: Self = Self(0);

    /// From four octets in the order of the wire.
    #[must_use]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// Four octets in the order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Addr6 {
    /// From sixteen octets in the order of the wire.
    #[must_use]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, p, q] = o;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, p, q]),
        ])
    }

    /// Sixteen octets in the order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let [w, x, y, z] = self.0;
        let ([a, b, c, d], [e, f, g, h]) = (w.to_ne_bytes(), x.to_ne_bytes());
        let ([i, j, k, l], [m, n, p, q]) = (y.to_ne_bytes(), z.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, p, q]
    }
}

const _: () = {
    assert!(size_of::<FlowKey<Addr4>>() == 16);
    assert!(size_of::<FlowKey<Addr6>>() == 40);
    assert!(size_of::<FragmentKey<Addr4>>() == 16);
    assert!(size_of::<FragmentKey<Addr6>>() == 40);
    assert!(size_of::<HeldKey<Addr4>>() == 20);
    assert!(size_of::<HeldKey<Addr6>>() == 44);
    assert!(size_of::<Held>() == 9_228);
    assert!(size_of::<Flow<Addr4>>() == 40);
    assert!(size_of::<Flow<Addr6>>() == 64);
    assert!(size_of::<ServiceKey<Addr4>>() == 8);
    assert!(size_of::<ServiceKey<Addr6>>() == 20);
    assert!(size_of::<Service>() == 28);
    assert!(size_of::<AffinityKey<Addr4>>() == 8);
    assert!(size_of::<AffinityKey<Addr6>>() == 20);
    assert!(size_of::<RangeKey<Addr4>>() == 12);
    assert!(size_of::<RangeKey<Addr6>>() == 24);
    assert!(size_of::<SocketKey<Addr4>>() == 16);
    assert!(size_of::<SocketKey<Addr6>>() == 28);
    assert!(size_of::<Peer<Addr4>>() == 16);
    assert!(size_of::<Peer<Addr6>>() == 28);
    assert!(size_of::<Connected<Addr4>>() == 24);
    assert!(size_of::<Connected<Addr6>>() == 48);
    assert!(MAX_SOCKETS.is_power_of_two());
    assert!(size_of::<Namespace>() == 16);
    assert!(size_of::<Backend>() == 44);
    assert!(size_of::<Config>() == 252);
};
