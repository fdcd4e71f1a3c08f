//! Shows peers and routes as metrics. What is shown is set by the router's task.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::network::RouteCounts;
use super::view::NeighborRow;

/// What the router knows, as of its last look.
#[derive(Debug, Default)]
pub struct BgpNumbers {
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    neighbors: Vec<NeighborRow>,
    routes: RouteCounts,
    problems: usize,
}

/// A gauge per peer: name, help, and its value.
type PeerGauge = (&'static str, &'static str, fn(&NeighborRow) -> u64);

const GAUGES: &[PeerGauge] = &[
    ("bgp_peer_up", "Whether the session is established", |row| {
        u64::from(row.state == "Established")
    }),
    ("bgp_peer_received_prefixes", "Prefixes received, before the policy", |row| {
        row.received.iter().sum::<usize>() as u64
    }),
    ("bgp_peer_max_prefixes", "Prefixes of each family that it may send; 0 is no limit", |row| {
        u64::from(row.max_prefixes.unwrap_or_default())
    }),
    ("bgp_peer_near_limit", "Whether three quarters of them are reached in a family", |row| {
        u64::from(row.near_limit)
    }),
    ("bgp_peer_accepted_prefixes", "Prefixes received that may be used", |row| row.accepted as u64),
    ("bgp_peer_stale_prefixes", "Prefixes kept over the peer's restart", |row| row.stale as u64),
    ("bgp_peer_announced_prefixes", "Prefixes announced", |row| row.announced as u64),
];

const COUNTERS: &[PeerGauge] = &[
    ("bgp_peer_sessions", "Sessions that came up", |row| row.established),
    ("bgp_peer_faults", "Malformed attributes that were survived (RFC 7606)", |row| row.faults),
];

impl BgpNumbers {
    /// Sets what is shown.
    pub fn set(&self, neighbors: Vec<NeighborRow>, routes: RouteCounts, problems: usize) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { neighbors, routes, problems };
    }
}

/// The same, for the registry.
#[derive(Clone, Debug)]
pub struct BgpCollector(pub Arc<BgpNumbers>);

impl Collector for BgpCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (list, kind) in [(GAUGES, MetricType::Gauge), (COUNTERS, MetricType::Counter)] {
            for (name, help, value) in list {
                let mut family = encoder.encode_descriptor(name, help, None, kind)?;
                for row in &shown.neighbors {
                    let labels = [("peer", row.address.as_str()), ("kind", row.kind.as_str())];
                    let value = value(row);
                    let to = family.encode_family(&labels)?;
                    match kind {
                        MetricType::Counter => ConstCounter::new(value).encode(to)?,
                        _ => ConstGauge::new(value).encode(to)?,
                    }
                }
            }
        }
        let RouteCounts { standing, adopted, refused } = shown.routes;
        for (name, help, value) in [
            ("bgp_kernel_routes", "Routes by BGP that stand in the kernel", standing),
            ("bgp_kernel_adopted", "Those of an earlier run that are not confirmed yet", adopted),
            ("bgp_kernel_refused", "Routes that the kernel refused", refused),
            (
                "bgp_problems",
                "Settings of peers, Nodes and Services that are not used",
                shown.problems,
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as u64).encode(gauge)?;
        }
        Ok(())
    }
}
