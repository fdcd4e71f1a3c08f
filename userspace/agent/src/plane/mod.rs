//! The boundary to the data plane: what the agent asks of it and what it tells.
//!
//! [`Plane`] is implemented for the real data plane in [`ebpf`]; its calls block, so [`thread`]
//! owns one on a thread of its own. The types here are also what the views show.

pub mod ebpf;
pub mod thread;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sluice_services::State;

pub use sluice_dataplane::Walked;
pub use thread::{Gone, PlaneHandle};

/// A failed operation of the data plane, for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlaneError(pub String);

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Changes written.
    pub operations: usize,
    /// Frontends served now.
    pub frontends: usize,
    /// Backends in use now.
    pub backends: usize,
    /// What could not be served: object and reason.
    pub skipped: Vec<(String, String)>,
}

/// What a look at the links did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Interfaces that programs were attached to just now.
    pub attached: Vec<String>,
    /// Interfaces that could not get one, and why.
    pub failed: Vec<(String, String)>,
    /// Local pods in use whose interface is not known yet.
    pub unresolved_pods: usize,
}

/// One place that a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// Program, e.g. `from_pod`.
    pub program: String,
    /// How, e.g. `tcx` or `clsact`.
    pub mode: String,
}

/// State of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneStatus {
    /// Where programs and maps are pinned.
    pub bpf_dir: String,
    /// Attached programs.
    pub attached: Vec<Attachment>,
    /// Frontends in the map.
    pub frontends: u64,
    /// Backends in the map.
    pub backends: u64,
    /// Slots taken by tables.
    pub slots_used: u64,
    /// Slots there are.
    pub slots_capacity: u64,
    /// Flow entries there can be.
    pub flows_capacity: u64,
}

/// One remembered flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// TCP or UDP.
    pub protocol: String,
    /// Client address and port.
    pub client: String,
    /// Service address and port that the client connected to.
    pub frontend: String,
    /// Endpoint that serves it.
    pub backend: String,
    /// The client as the backend sees it.
    pub source: String,
    /// TCP state, e.g. `established`; `-` for UDP.
    pub state: String,
    /// Seconds since the last packet that refreshed the entry.
    pub idle_s: f64,
}

/// A packet counter, summed over CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// Name of the way out of the program.
    pub reason: String,
    /// Whether packets that left this way were dropped.
    pub drop: bool,
    /// Packets since the maps were created.
    pub packets: u64,
}

/// The data plane as the agent needs it. Calls may block.
pub trait Plane: Send {
    /// Makes the maps serve `state`.
    ///
    /// # Errors
    /// When a part could not be written; the same or a newer state is synced again later.
    fn sync(&mut self, state: &Arc<State>) -> Result<SyncReport, PlaneError>;
    /// Sets the ranges of ClusterIPs (R41); counts from the next sync on.
    fn set_service_cidrs(&mut self, cidrs: &[IpNet]);
    /// Follows interfaces that came and went.
    ///
    /// # Errors
    /// When the links cannot be read or attached to.
    fn reconcile_links(&mut self) -> Result<LinkReport, PlaneError>;
    /// Expires flows and frees what is no longer used, looking at `budget` entries at most. Returns the
    /// walks through the flows that came to their end.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    fn maintain(&mut self, budget: usize) -> Result<Vec<Walked>, PlaneError>;
    /// Up to `limit` flows.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn flows(&mut self, limit: usize) -> Result<Vec<FlowRow>, PlaneError>;
    /// Packets per way out of the programs.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&self) -> Result<Vec<ReasonCount>, PlaneError>;
    /// What is attached and how full the tables are.
    fn status(&self) -> PlaneStatus;
}

/// What the own Node says that the data plane is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// Its addresses, internal ones first.
    pub addresses: Vec<IpAddr>,
    /// Its `spec.podCIDRs`, where they matter (R12).
    pub pod_cidrs: Vec<IpNet>,
}

/// Opens a data plane for a node; called again when the Node says something else (R40).
pub type OpenPlane = Box<dyn FnMut(&OwnNode) -> Result<Box<dyn Plane>, PlaneError> + Send>;
