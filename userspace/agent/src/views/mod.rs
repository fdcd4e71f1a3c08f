//! What the control socket answers and the commands show: the same types on both ends, as JSON.

pub mod ask;
pub mod build;
pub mod show;

use serde::{Deserialize, Serialize};

use crate::plane::{PlaneStatus, ReasonCount};

/// Answer of `sluice status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the agent.
    pub version: String,
    /// Name of the own Node.
    pub node: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Whether the cluster's state has been written at least once.
    pub ready: bool,
    /// Why not, when it is not.
    pub not_ready_because: Option<String>,
    /// Whether updates are written in time (R28).
    pub healthy: bool,
    /// Types of objects that are watched.
    pub watches: Vec<WatchView>,
    /// Ranges of ClusterIPs.
    pub service_ranges: Vec<String>,
    /// Who says so.
    pub service_ranges_from: String,
    /// Health checks of load balancers that this node answers.
    pub health_checks: usize,
    /// Writing of the state.
    pub sync: SyncView,
    /// The data plane; missing while it is not open.
    pub dataplane: Option<PlaneStatus>,
    /// Why flows are not looked after, when they are not.
    pub upkeep_error: Option<String>,
    /// Local backends whose interface is not known.
    pub unresolved_pods: usize,
    /// What is wrong with API objects, or could not be served.
    pub problems: Vec<String>,
}

/// One watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchView {
    /// Type of objects.
    pub resource: String,
    /// Whether they have been listed in full.
    pub listed: bool,
    /// Objects that exist.
    pub objects: u64,
    /// Complete lists so far.
    pub lists: u64,
    /// Requests made again after something went wrong.
    pub restarts: u64,
    /// Objects that could not be decoded.
    pub unreadable: u64,
}

/// Syncs so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncView {
    /// Successful ones.
    pub done: u64,
    /// Failed ones.
    pub failed: u64,
    /// Duration of the last successful one, in milliseconds.
    pub last_ms: f64,
    /// Changes written by it.
    pub last_operations: usize,
    /// Seconds since it ended.
    pub last_ago_s: Option<f64>,
    /// Seconds for which the oldest unwritten change has been waiting.
    pub pending_s: Option<f64>,
    /// What the last operation failed with.
    pub error: Option<String>,
}

/// One service port in one address family, in `sluice services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, "" for the unnamed one.
    pub port_name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// IPv4 or IPv6.
    pub family: String,
    /// Service addresses and what they are.
    pub addresses: Vec<AddressRow>,
    /// Service port.
    pub port: u16,
    /// Node port, 0 for none.
    pub node_port: u16,
    /// `cluster` or `local` (internalTrafficPolicy).
    pub internal_policy: String,
    /// `cluster` or `local` (externalTrafficPolicy).
    pub external_policy: String,
    /// `random`, `least connections`, `source hash` or `maglev`.
    pub scheduler: String,
    /// Session affinity in seconds.
    pub affinity_s: Option<u32>,
    /// What a new connection to the ClusterIP meets: `served`, `refused` or `dropped`.
    pub verdict: String,
    /// Endpoints that new connections to the ClusterIP go to.
    pub backends: Vec<BackendRow>,
}

/// A service address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub address: String,
    /// `cluster`, `external` or `load-balancer`.
    pub kind: String,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    /// Address and port.
    pub endpoint: String,
    /// Whether it runs on this node.
    pub local: bool,
    /// Whether it is serving.
    pub serving: bool,
    /// Its share of the new connections, relative to the others'.
    pub weight: u8,
}

/// Answer of `sluice drops`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsView {
    /// Packets that were dropped, by reason; reasons without packets, too.
    pub drops: Vec<ReasonCount>,
    /// Packets that left the programs in other ways.
    pub others: Vec<ReasonCount>,
}
