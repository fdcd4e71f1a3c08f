//! What the control loop tells the rest of the agent: published as a whole, read by HTTP and views.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use sluice_services::{HealthChecks, State};

use crate::bgp::announce::AllOverrides;
use crate::health::Health;
use crate::ranges::Source;

/// The agent at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The state that was written last.
    pub state: Arc<State>,
    /// What load balancers are told, as of that state.
    pub health_checks: Arc<HealthChecks>,
    /// Addresses of the own Node, internal ones first.
    pub node_addresses: Arc<Vec<IpAddr>>,
    /// What Services' annotations say about their announcement.
    pub advertise: Arc<AllOverrides>,
    /// How many of these annotations do not parse.
    pub advertise_problems: usize,
    /// The ranges of ClusterIPs, and who says so.
    pub service_ranges: (Arc<Vec<IpNet>>, Source),
    /// What the health answers are made of.
    pub health: Health,
    /// Whether Services and EndpointSlices have both been listed in full (R37).
    pub listed: bool,
    /// Whether the data plane is open.
    pub open: bool,
    /// Why the data plane could not be opened, or what its last operation failed with.
    pub plane_error: Option<String>,
    /// Why flows are not looked after at the moment.
    pub upkeep_error: Option<String>,
    /// Syncs so far.
    pub syncs: Syncs,
    /// Local backends whose interface is not known.
    pub unresolved_pods: usize,
    /// What is wrong with API objects.
    pub problems: Arc<Vec<String>>,
}

/// Numbers about syncs.
#[derive(Clone, Debug, Default)]
pub struct Syncs {
    /// Successful ones.
    pub done: u64,
    /// Failed ones.
    pub failed: u64,
    /// Duration of the last successful one.
    pub last_took: Duration,
    /// Changes written by the last successful one.
    pub last_operations: usize,
    /// When it ended.
    pub last_at: Option<SystemTime>,
    /// What the data plane could not take.
    pub skipped: Arc<Vec<(String, String)>>,
}

impl Snapshot {
    /// Whether the state of the cluster has been written at least once, so that the node serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.open && self.listed && self.syncs.done > 0
    }

    /// Why it is not ready, for whoever asks.
    #[must_use]
    pub fn not_ready_because(&self) -> Option<String> {
        if self.is_ready() {
            return None;
        }
        let because = if !self.open {
            self.plane_error.clone().unwrap_or_else(|| {
                "the data plane is not open: waiting for the addresses of the own Node".to_owned()
            })
        } else if !self.listed {
            "Services and EndpointSlices are not both listed yet".to_owned()
        } else {
            self.plane_error.clone().unwrap_or_else(|| "the first sync is under way".to_owned())
        };
        Some(because)
    }
}
