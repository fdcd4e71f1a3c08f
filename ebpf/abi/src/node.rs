//! Backends, and what the programs know of the node they run on.

use crate::{Mac, MapData};

/// One endpoint. The array index is the backend's id; `state` 0 is an unused id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address as on the wire; an IPv4 address is the first word, the others are zero.
    pub addr: [u32; 4],
    /// Port, network byte order.
    pub port_be: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// A [`BackendState`] value.
    pub state: u8,
    /// Counts the uses of this id, so that an old UDP flow is never taken for a new one.
    pub generation: u32,
    /// Host-side veth for [`crate::Deliver::Peer`].
    pub ifindex: u32,
    /// The pod's MAC for [`crate::Deliver::Peer`].
    pub mac: Mac,
    /// A [`crate::Deliver`] value.
    pub deliver: u8,
    /// 4 or 6: the family of `addr`.
    pub ip_version: u8,
    /// Which of its service port's lists it is in: [`lists`].
    pub lists: u8,
    /// Always zero.
    pub pad: u8,
    /// [`crate::Service::id`] of the service port it belongs to: one endpoint of two service ports
    /// is two backends, since each may lose it alone.
    pub service: u32,
}

impl MapData for Backend {}

impl Backend {
    /// An unused id.
    pub const FREE: Self = Self {
        addr: [0; 4],
        port_be: 0,
        protocol: 0,
        state: BackendState::Free as u8,
        generation: 0,
        ifindex: 0,
        mac: Mac { head: 0, tail: 0, pad: 0 },
        deliver: 0,
        ip_version: 0,
        lists: 0,
        pad: 0,
        service: 0,
    };
}

/// Bits of [`Backend::lists`]. Session affinity holds while the client's backend is in the list that
/// applies.
pub mod lists {
    /// The list of traffic policy Cluster.
    pub const CLUSTER: u8 = 1;
    /// That of traffic policy Local.
    pub const LOCAL: u8 = 2;
}

/// Whether a backend may be used.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// The id is unused.
    Free = 0,
    /// New flows and old ones.
    Serving = 1,
    /// Established TCP goes on (R36); UDP flows choose anew (R31).
    Retired = 2,
}

/// Ranges of service addresses that the programs know of, per family.
pub const SERVICE_RANGES: usize = 4;

/// What the programs know of the node. One entry, rewritten in place when addresses change.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// kube-bridge's address: a hairpin's source.
    pub gateway4: u32,
    /// The node's address: the source of masqueraded flows.
    pub node4: u32,
    /// Pod network: address and mask, network byte order. A zero mask: no detector (R12).
    pub pods4: [u32; 2],
    /// As `gateway4`.
    pub gateway6: [u32; 4],
    /// As `node4`.
    pub node6: [u32; 4],
    /// As `pods4`: address, then mask.
    pub pods6: [[u32; 4]; 2],
    /// kube-bridge's interface.
    pub bridge_ifindex: u32,
    /// Not 0: clients of ClusterIPs are masqueraded wherever they are (`--masquerade-all`).
    pub masquerade_all: u32,
    /// Not 0: who comes by an interface to a pod is a pod, whatever its address, and nobody else.
    pub pods_by_interface: u32,
    /// Ranges of ClusterIPs as address and mask, network byte order; none where the mask is zero.
    pub services4: [[u32; 2]; SERVICE_RANGES],
    /// As `services4`.
    pub services6: [[[u32; 4]; 2]; SERVICE_RANGES],
}

impl MapData for Config {}

impl Config {
    /// Nothing known yet.
    pub const EMPTY: Self = Self {
        gateway4: 0,
        node4: 0,
        pods4: [0; 2],
        gateway6: [0; 4],
        node6: [0; 4],
        pods6: [[0; 4]; 2],
        bridge_ifindex: 0,
        masquerade_all: 0,
        pods_by_interface: 0,
        services4: [[0; 2]; SERVICE_RANGES],
        services6: [[[0; 4]; 2]; SERVICE_RANGES],
    };
}
