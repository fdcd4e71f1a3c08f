//! kube-proxy's metrics that do not depend on its mode, under kube-proxy's names and with its
//! buckets, because dashboards and SLOs use them (services rules, section 13).

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sluice_dataplane::Walked;
use sluice_services::{Family as IpFamily, ServicePort, State};

use super::{Change, Labels, count, unix_seconds};
use crate::cluster::Trigger;

/// A histogram per label set.
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
/// A floating-point gauge per label set.
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;

/// Buckets of sync durations: 0.001 s doubled 14 times.
pub(super) fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Buckets of the network programming latency.
fn programming_buckets() -> Histogram {
    let steps = |from: u32, to: u32, by: u32| (from..=to).step_by(by as usize).map(f64::from);
    Histogram::new(
        std::iter::once(0.25)
            .chain(std::iter::once(0.5))
            .chain(steps(1, 59, 1))
            .chain(steps(60, 115, 5))
            .chain(steps(120, 300, 30)),
    )
}

fn histograms() -> Histograms {
    Family::new_with_constructor(sync_buckets as fn() -> Histogram)
}

/// The metrics.
#[derive(Debug)]
pub(super) struct KubeProxy {
    families: Vec<IpFamily>,
    sync: Histograms,
    full_sync: Histograms,
    partial_sync: Histograms,
    programming: Histograms,
    last: Seconds,
    queued: Seconds,
    service_changes: Counter,
    endpoint_changes: Counter,
    service_pending: Gauge,
    endpoint_pending: Gauge,
    no_local_endpoints: Family<Labels, Gauge>,
    walks: Histograms,
    removed: Family<Labels, Counter>,
    healthz: Family<Labels, Counter>,
    livez: Family<Labels, Counter>,
}

impl KubeProxy {
    pub(super) fn new(ipv6: bool, registry: &mut Registry) -> Self {
        let metrics = Self {
            families: if ipv6 { vec![IpFamily::V4, IpFamily::V6] } else { vec![IpFamily::V4] },
            sync: histograms(),
            full_sync: histograms(),
            partial_sync: histograms(),
            programming: Family::new_with_constructor(programming_buckets as fn() -> Histogram),
            last: Family::default(),
            queued: Family::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            service_pending: Gauge::default(),
            endpoint_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            walks: histograms(),
            removed: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("kubeproxy"));
        metrics
    }

    fn register(&self, kp: &mut Registry) {
        for (kind, help, metric) in [
            ("", "Sync duration", &self.sync),
            ("full_", "Duration of syncs at start and after a failure", &self.full_sync),
            ("partial_", "Duration of other syncs", &self.partial_sync),
        ] {
            let name = format!("sync_{kind}proxy_rules_duration_seconds");
            kp.register(name, help, metric.clone());
        }
        kp.register(
            "network_programming_duration_seconds",
            "From the change of a pod or Service to the sync that wrote it",
            self.programming.clone(),
        );
        kp.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "Last successful sync",
            self.last.clone(),
        );
        kp.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "Last time a sync was queued",
            self.queued.clone(),
        );
        for (name, total, pending) in [
            ("service", &self.service_changes, &self.service_pending),
            ("endpoint", &self.endpoint_changes, &self.endpoint_pending),
        ] {
            let prefix = format!("sync_proxy_rules_{name}_changes");
            kp.register(prefix.clone(), format!("Changes of {name}s"), total.clone());
            kp.register(
                format!("{prefix}_pending"),
                format!("Changes of {name}s not yet written"),
                pending.clone(),
            );
        }
        kp.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy and endpoints on other nodes only",
            self.no_local_endpoints.clone(),
        );
        kp.register(
            "conntrack_reconciler_sync_duration_seconds",
            "Duration of walks through the flows",
            self.walks.clone(),
        );
        kp.register(
            "conntrack_reconciler_deleted_entries",
            "Flow entries that walks removed since they were over",
            self.removed.clone(),
        );
        kp.register("proxy_healthz", "Answers of /healthz by code", self.healthz.clone());
        kp.register("proxy_livez", "Answers of /livez by code", self.livez.clone());
    }

    pub(super) fn changed(&self, what: Change, objects: usize, clock: SystemTime) {
        let (total, pending) = match what {
            Change::Service => (&self.service_changes, &self.service_pending),
            Change::Endpoints => (&self.endpoint_changes, &self.endpoint_pending),
        };
        total.inc_by(objects as u64);
        pending.inc_by(count(objects));
        for family in &self.families {
            self.queued.get_or_create(&label(*family)).set(unix_seconds(clock));
        }
    }

    pub(super) fn sync_started(&self) {
        self.service_pending.set(0);
        self.endpoint_pending.set(0);
    }

    pub(super) fn synced(&self, took: Duration, full: bool, clock: SystemTime, new: &[Trigger]) {
        let kind = if full { &self.full_sync } else { &self.partial_sync };
        for family in &self.families {
            let labels = label(*family);
            self.sync.get_or_create(&labels).observe(took.as_secs_f64());
            kind.get_or_create(&labels).observe(took.as_secs_f64());
            self.last.get_or_create(&labels).set(unix_seconds(clock));
        }
        for trigger in new {
            let programming = self.programming.get_or_create(&label(trigger.family));
            programming.observe(trigger.waited(clock).as_secs_f64());
        }
    }

    pub(super) fn walked(&self, walks: &[Walked]) {
        for walk in walks {
            let labels = label(walk.family);
            self.walks.get_or_create(&labels).observe(walk.took.as_secs_f64());
            self.removed.get_or_create(&labels).inc_by(walk.removed);
        }
    }

    /// Counts the service ports whose policy lets a new connection be dropped here (section 5).
    pub(super) fn set_no_local_endpoints(&self, state: &State) {
        for family in &self.families {
            for (policy, drops) in [
                ("internal", drops_internal as fn(&ServicePort) -> bool),
                ("external", drops_external),
            ] {
                let ports = state.ports.iter().filter(|(key, _)| key.family == *family);
                let number = ports.filter(|(_, port)| drops(port)).count();
                let mut labels = label(*family);
                labels.push(("traffic_policy", policy.to_owned()));
                self.no_local_endpoints.get_or_create(&labels).set(count(number));
            }
        }
    }

    pub(super) fn health_answered(&self, live: bool, code: u16) {
        let family = if live { &self.livez } else { &self.healthz };
        family.get_or_create(&vec![("code", code.to_string())]).inc();
    }
}

fn drops_internal(port: &ServicePort) -> bool {
    port.internal_local && port.local.is_empty() && port.has_any_endpoint
}

/// Only where there is an address or node port that the policy applies to.
fn drops_external(port: &ServicePort) -> bool {
    let reachable = port.node_port != 0
        || port.addresses.iter().any(|(_, kind)| *kind != sluice_services::AddressKind::ClusterIp);
    reachable && port.external_local && port.local.is_empty() && port.has_any_endpoint
}

fn label(family: IpFamily) -> Labels {
    let name = match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    };
    vec![("ip_family", name.to_owned())]
}
