//! What Prometheus reads: Sluice's own metrics, and those of kube-proxy that do not depend on its
//! mode, under kube-proxy's names, because dashboards and SLOs use them (services rule section 13).

mod outside;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::plane::{PlaneStatus, ReasonCount, SyncReport};
use crate::watch::WatcherReport;
use outside::Outside;

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;
/// A histogram per label set.
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
/// A floating-point gauge per label set.
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;

/// Buckets of kube-proxy's sync durations: 0.001 s doubled 14 times.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Buckets of kube-proxy's network programming latency.
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

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<String>,
    sync_duration: Histogram,
    syncs: Family<Labels, Counter>,
    operations: Counter,
    frontends: Gauge,
    backends: Gauge,
    skipped: Gauge,
    problems: Gauge,
    unresolved_pods: Gauge,
    outside: Arc<Outside>,
    kp_sync: Histograms,
    kp_programming: Histograms,
    kp_last: Seconds,
    kp_queued: Seconds,
    kp_service_changes: Counter,
    kp_endpoint_changes: Counter,
    kp_service_pending: Gauge,
    kp_endpoint_pending: Gauge,
    kp_healthz: Family<Labels, Counter>,
    kp_livez: Family<Labels, Counter>,
}

/// Which of kube-proxy's changes is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service.
    Service,
    /// An EndpointSlice.
    Endpoints,
}

impl Metrics {
    /// Registers everything. `ipv6` says whether syncs count for that family, too.
    #[must_use]
    pub fn new(ipv6: bool, watches: Vec<(&'static str, Arc<WatcherReport>)>) -> Self {
        let families = if ipv6 { vec!["IPv4", "IPv6"] } else { vec!["IPv4"] };
        let mut metrics = Self {
            registry: Registry::default(),
            families: families.into_iter().map(str::to_owned).collect(),
            sync_duration: sync_buckets(),
            syncs: Family::default(),
            operations: Counter::default(),
            frontends: Gauge::default(),
            backends: Gauge::default(),
            skipped: Gauge::default(),
            problems: Gauge::default(),
            unresolved_pods: Gauge::default(),
            outside: Arc::new(Outside::new(watches)),
            kp_sync: Family::new_with_constructor(sync_buckets as fn() -> Histogram),
            kp_programming: Family::new_with_constructor(programming_buckets as fn() -> Histogram),
            kp_last: Family::default(),
            kp_queued: Family::default(),
            kp_service_changes: Counter::default(),
            kp_endpoint_changes: Counter::default(),
            kp_service_pending: Gauge::default(),
            kp_endpoint_pending: Gauge::default(),
            kp_healthz: Family::default(),
            kp_livez: Family::default(),
        };
        metrics.register_own();
        metrics.register_kube_proxy();
        metrics
    }

    fn register_own(&mut self) {
        let own = self.registry.sub_registry_with_prefix("sluice");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
        own.register("build", "Version of the agent", build);
        own.register(
            "sync_duration_seconds",
            "Time to write the desired state",
            self.sync_duration.clone(),
        );
        own.register("syncs", "Syncs of the data plane by result", self.syncs.clone());
        own.register("sync_operations", "Changes written to maps", self.operations.clone());
        own.register("frontends", "Frontends served", self.frontends.clone());
        own.register("backends", "Backends in use", self.backends.clone());
        own.register(
            "skipped_objects",
            "Service ports that the data plane could not take",
            self.skipped.clone(),
        );
        own.register(
            "object_problems",
            "Fields of API objects that are not used as they are wrong",
            self.problems.clone(),
        );
        own.register(
            "unresolved_pods",
            "Local backends whose interface is not known",
            self.unresolved_pods.clone(),
        );
        own.register_collector(Box::new(self.outside.clone()));
    }

    fn register_kube_proxy(&mut self) {
        let kp = self.registry.sub_registry_with_prefix("kubeproxy");
        kp.register("sync_proxy_rules_duration_seconds", "Sync duration", self.kp_sync.clone());
        kp.register(
            "network_programming_duration_seconds",
            "From the change of a pod or Service to the sync that wrote it",
            self.kp_programming.clone(),
        );
        kp.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "Last successful sync",
            self.kp_last.clone(),
        );
        kp.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "Last time a sync was queued",
            self.kp_queued.clone(),
        );
        for (name, total, pending) in [
            ("service", &self.kp_service_changes, &self.kp_service_pending),
            ("endpoint", &self.kp_endpoint_changes, &self.kp_endpoint_pending),
        ] {
            let prefix = format!("sync_proxy_rules_{name}_changes");
            kp.register(prefix.clone(), format!("Changes of {name}s"), total.clone());
            kp.register(
                format!("{prefix}_pending"),
                format!("Changes of {name}s not yet written"),
                pending.clone(),
            );
        }
        kp.register("proxy_healthz", "Answers of /healthz by code", self.kp_healthz.clone());
        kp.register("proxy_livez", "Answers of /livez by code", self.kp_livez.clone());
    }

    /// Counts a change that a later sync has to write.
    pub fn changed(&self, what: Change, count: usize, clock: SystemTime) {
        let (total, pending) = match what {
            Change::Service => (&self.kp_service_changes, &self.kp_service_pending),
            Change::Endpoints => (&self.kp_endpoint_changes, &self.kp_endpoint_pending),
        };
        total.inc_by(count as u64);
        pending.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
        for labels in self.family_labels() {
            self.kp_queued.get_or_create(&labels).set(unix_seconds(clock));
        }
    }

    /// A sync has taken over the pending changes.
    pub fn sync_started(&self) {
        self.kp_service_pending.set(0);
        self.kp_endpoint_pending.set(0);
    }

    /// A sync has succeeded; `waited` are the latencies of the changes that it wrote.
    pub fn synced(
        &self,
        report: &SyncReport,
        took: Duration,
        clock: SystemTime,
        waited: &[Duration],
    ) {
        self.sync_duration.observe(took.as_secs_f64());
        self.syncs.get_or_create(&vec![("result", "ok".to_owned())]).inc();
        self.operations.inc_by(report.operations as u64);
        self.frontends.set(count(report.frontends));
        self.backends.set(count(report.backends));
        self.skipped.set(count(report.skipped.len()));
        for labels in self.family_labels() {
            self.kp_sync.get_or_create(&labels).observe(took.as_secs_f64());
            self.kp_last.get_or_create(&labels).set(unix_seconds(clock));
            let programming = self.kp_programming.get_or_create(&labels);
            waited.iter().for_each(|wait| programming.observe(wait.as_secs_f64()));
        }
    }

    /// A sync has failed.
    pub fn sync_failed(&self) {
        self.syncs.get_or_create(&vec![("result", "error".to_owned())]).inc();
    }

    /// Problems found in API objects at this moment.
    pub fn set_problems(&self, problems: usize) {
        self.problems.set(count(problems));
    }

    /// Local backends whose interface is not known at this moment.
    pub fn set_unresolved_pods(&self, pods: usize) {
        self.unresolved_pods.set(count(pods));
    }

    /// kube-proxy's health endpoint answered.
    pub fn health_answered(&self, live: bool, code: u16) {
        let family = if live { &self.kp_livez } else { &self.kp_healthz };
        family.get_or_create(&vec![("code", code.to_string())]).inc();
    }

    /// All metrics in the OpenMetrics text format, with what the data plane counts.
    ///
    /// # Errors
    /// When a metric cannot be written, which its types rule out.
    pub fn render(
        &self,
        counters: Vec<ReasonCount>,
        plane: Option<PlaneStatus>,
    ) -> Result<String, std::fmt::Error> {
        self.outside.set(counters, plane);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn family_labels(&self) -> impl Iterator<Item = Labels> + '_ {
        self.families.iter().map(|family| vec![("ip_family", family.clone())])
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unix_seconds(clock: SystemTime) -> f64 {
    clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    /// Value of the sample that starts with `name`.
    fn sample(text: &str, name: &str) -> Option<f64> {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn rendered_text_has_the_promised_names() {
        let report = Arc::new(WatcherReport::default());
        report.restarts.store(3, Ordering::Relaxed);
        let metrics = Metrics::new(true, vec![("services", report)]);
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        metrics.changed(Change::Endpoints, 2, clock);
        metrics.sync_failed();
        let synced = SyncReport { operations: 7, frontends: 2, backends: 5, skipped: vec![] };
        metrics.synced(&synced, Duration::from_millis(3), clock, &[Duration::from_secs(2)]);
        metrics.health_answered(false, 503);
        let counters = vec![ReasonCount { reason: "no_flow".to_owned(), drop: true, packets: 9 }];
        let plane = PlaneStatus { slots_used: 11, ..PlaneStatus::default() };
        let text = metrics.render(counters, Some(plane)).expect("renders");
        let expected = [
            ("sluice_packets_total{reason=\"no_flow\",drop=\"true\"}", 9.0),
            ("sluice_watch_restarts_total{resource=\"services\"}", 3.0),
            ("sluice_syncs_total{result=\"ok\"}", 1.0),
            ("sluice_syncs_total{result=\"error\"}", 1.0),
            ("sluice_sync_operations_total", 7.0),
            ("sluice_frontends", 2.0),
            ("sluice_slots_used", 11.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 2.0),
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}", 1000.0),
            ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 1.0),
            ("kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"}", 2.0),
            ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(sample(&text, name), Some(value), "{name} in\n{text}");
        }
    }
}
