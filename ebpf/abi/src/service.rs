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

/// A balancing table: a run of slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// First slot.
    pub offset: u32,
    /// Number of slots; 0 when the list is empty.
    pub len: u32,
}

/// What a frontend leads to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The list for traffic policy Cluster.
    pub cluster: Table,
    /// The list for traffic policy Local.
    pub local: Table,
    /// Bits of [`service_flags`].
    pub flags: u32,
    /// Seconds of session affinity by client address; 0 is none.
    pub affinity_s: u32,
    /// The service port, whatever its frontends: key of affinity and of source ranges.
    pub id: u32,
}

/// Key of a client's session affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey<A> {
    /// The client before masquerade.
    pub client: A,
    /// [`Service::id`].
    pub service: u32,
}

/// Where a client's last new connection to a service port went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub generation: u32,
    /// Low 32 bits of jiffies at that connection.
    pub seen: u32,
}

/// A source range: what a longest-prefix match compares, in this order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range<A> {
    /// [`Service::id`].
    pub service: u32,
    /// Source address.
    pub addr: A,
}

/// A key of the map of source ranges (`struct bpf_lpm_trie_key`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RangeKey<A> {
    /// Bits of `range` that count: 32 for the service and those of the prefix.
    pub prefix_len: u32,
    /// What they are compared with.
    pub range: Range<A>,
}

impl<A: Copy + 'static> MapData for ServiceKey<A> {}
impl<A: Copy + 'static> MapData for AffinityKey<A> {}
impl<A: Copy + 'static> MapData for Range<A> {}
impl<A: Copy + 'static> MapData for RangeKey<A> {}
impl MapData for Service {}
impl MapData for Affinity {}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// The slot is chosen by the hash of the client's tuple, not at random.
    pub const HASH: u32 = 1;
    /// No endpoint anywhere: an empty list refuses rather than stays silent.
    pub const REJECT: u32 = 2;
    /// Not a ClusterIP: an external or load-balancer address, or a node port.
    pub const EXTERNAL: u32 = 4;
    /// The traffic policy of this frontend is Local.
    pub const LOCAL: u32 = 8;
    /// Only clients within the source ranges may connect.
    pub const RANGES: u32 = 16;
    /// A node port: an address of the node itself.
    pub const NODE_PORT: u32 = 32;
    /// Some backend is the node itself, or beyond the pod network: the node's own packets don't get
    /// there translated, its sockets do.
    pub const STACK: u32 = 64;
    /// The slot is chosen by the hash of the client's address.
    pub const SOURCE: u32 = 128;
    /// Of two slots that are drawn, the one whose backend has fewer connections. Its flows are
    /// [`crate::flags::COUNTED`]. Never with affinity.
    pub const LEAST: u32 = 256;
}
