//! What Prometheus reads: Sluice's own metrics, and those of kube-proxy that do not depend on its
//! mode, under kube-proxy's names, because dashboards and SLOs use them (services rule section 13).

mod kube_proxy;
mod outside;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use sluice_services::State;

use crate::bgp::metrics::{BgpCollector, BgpNumbers};
use crate::cluster::Trigger;
use crate::events::EventCounts;
use crate::plane::{PlaneStatus, ReasonCount, SyncReport, Walked};
use crate::watch::{Requests, WatcherReport};
use kube_proxy::{KubeProxy, sync_buckets};
use outside::Outside;

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;
/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sync_duration: Histogram,
    syncs: Family<Labels, Counter>,
    operations: Counter,
    frontends: Gauge,
    backends: Gauge,
    skipped: Gauge,
    problems: Gauge,
    unresolved_pods: Gauge,
    outside: Arc<Outside>,
    kube_proxy: KubeProxy,
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
    pub fn new(
        ipv6: bool,
        watches: Vec<(&'static str, Arc<WatcherReport>)>,
        events: Arc<EventCounts>,
        requests: Requests,
        bgp: Option<Arc<BgpNumbers>>,
    ) -> Self {
        let mut registry = Registry::default();
        let help = "Requests to the API server by code, method and host";
        registry.register("rest_client_requests", help, requests);
        let kube_proxy = KubeProxy::new(ipv6, &mut registry);
        let mut metrics = Self {
            registry,
            sync_duration: sync_buckets(),
            syncs: Family::default(),
            operations: Counter::default(),
            frontends: Gauge::default(),
            backends: Gauge::default(),
            skipped: Gauge::default(),
            problems: Gauge::default(),
            unresolved_pods: Gauge::default(),
            outside: Arc::new(Outside::new(watches, events)),
            kube_proxy,
        };
        metrics.register_own();
        if let Some(bgp) = bgp {
            let own = metrics.registry.sub_registry_with_prefix("sluice");
            own.register_collector(Box::new(BgpCollector(bgp)));
        }
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

    /// Counts a change that a later sync has to write.
    pub fn changed(&self, what: Change, objects: usize, clock: SystemTime) {
        self.kube_proxy.changed(what, objects, clock);
    }

    /// A sync has taken over the pending changes.
    pub fn sync_started(&self) {
        self.kube_proxy.sync_started();
    }

    /// A sync has succeeded that wrote the changes behind `triggers`; a full one is the first
    /// after the start or a failure.
    pub fn synced(
        &self,
        report: &SyncReport,
        took: Duration,
        full: bool,
        clock: SystemTime,
        triggers: &[Trigger],
    ) {
        self.sync_duration.observe(took.as_secs_f64());
        self.syncs.get_or_create(&vec![("result", "ok".to_owned())]).inc();
        self.operations.inc_by(report.operations as u64);
        self.frontends.set(count(report.frontends));
        self.backends.set(count(report.backends));
        self.skipped.set(count(report.skipped.len()));
        self.kube_proxy.synced(took, full, clock, triggers);
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

    /// The state that is written at this moment.
    pub fn set_state(&self, state: &State) {
        self.kube_proxy.set_no_local_endpoints(state);
    }

    /// Walks through the flows have come to their end.
    pub fn walked(&self, walks: &[Walked]) {
        self.kube_proxy.walked(walks);
    }

    /// kube-proxy's health endpoint answered.
    pub fn health_answered(&self, live: bool, code: u16) {
        self.kube_proxy.health_answered(live, code);
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
        let events = Arc::new(EventCounts::default());
        events.lost.store(4, Ordering::Relaxed);
        let metrics =
            Metrics::new(true, vec![("services", report)], events, Requests::default(), None);
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        metrics.changed(Change::Endpoints, 2, clock);
        metrics.sync_failed();
        let synced = SyncReport { operations: 7, frontends: 2, backends: 5, skipped: vec![] };
        let at = clock - Duration::from_secs(2);
        let trigger = Trigger { family: sluice_services::Family::V6, at };
        metrics.synced(&synced, Duration::from_millis(3), true, clock, &[trigger]);
        metrics.synced(&synced, Duration::from_millis(3), false, clock, &[]);
        metrics.health_answered(false, 503);
        let counters = vec![ReasonCount { reason: "no_flow".to_owned(), drop: true, packets: 9 }];
        let plane = PlaneStatus { slots_used: 11, ..PlaneStatus::default() };
        let text = metrics.render(counters, Some(plane)).expect("renders");
        let expected = [
            ("sluice_packets_total{reason=\"no_flow\",drop=\"true\"}", 9.0),
            ("sluice_watch_restarts_total{resource=\"services\"}", 3.0),
            ("sluice_syncs_total{result=\"ok\"}", 2.0),
            ("sluice_syncs_total{result=\"error\"}", 1.0),
            ("sluice_sync_operations_total", 14.0),
            ("sluice_events_lost_total", 4.0),
            ("sluice_frontends", 2.0),
            ("sluice_slots_used", 11.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 2.0),
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}", 1000.0),
            ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 2.0),
            ("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 1.0),
            ("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
            // Of the slice's family only.
            ("kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"}", 2.0),
            ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(sample(&text, name), Some(value), "{name} in\n{text}");
        }
        assert!(!text.contains("programming_duration_seconds_sum{ip_family=\"IPv4\"}"), "{text}");
    }

    #[test]
    fn walks_through_the_flows_are_counted_by_family() {
        let metrics = Metrics::new(true, vec![], Arc::default(), Requests::default(), None);
        let family = sluice_services::Family::V6;
        let walk = Walked { family, removed: 3, took: Duration::from_millis(1_500) };
        metrics.walked(&[walk, Walked { removed: 4, ..walk }]);
        let text = metrics.render(vec![], None).expect("renders");
        for (name, value) in [("deleted_entries_total", 7.0), ("sync_duration_seconds_sum", 3.0)] {
            let name = format!("kubeproxy_conntrack_reconciler_{name}{{ip_family=\"IPv6\"}}");
            assert_eq!(sample(&text, &name), Some(value), "{text}");
        }
    }

    #[test]
    fn no_local_endpoints_counts_ports_by_the_policy_that_drops() {
        let mut index = sluice_services::Index::new(sluice_services::Config {
            node_name: "n1".to_owned(),
            ..sluice_services::Config::default()
        });
        // Name, internal and external policy, node port, node of the endpoint.
        for (name, internal, external, node_port, node) in [
            ("both", "Local", "Local", 30001, Some("n2")),
            ("internal", "Local", "Cluster", 30002, Some("n2")),
            ("external", "Cluster", "Local", 30003, Some("n2")),
            ("unreachable", "Cluster", "Local", 0, Some("n2")),
            ("here", "Local", "Local", 30004, Some("n1")),
            ("empty", "Local", "Local", 30005, None),
        ] {
            let service = serde_json::json!({
                "metadata": {"namespace": "d", "name": name}, "spec": {"type": "NodePort",
                "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"],
                "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                "ports": [{"port": 80, "nodePort": node_port}]}});
            index.apply_service(&serde_json::from_value(service).expect("a Service"));
            let endpoint = node.map(|node| {
                serde_json::json!({"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {}})
            });
            let slice = serde_json::json!({"metadata": {"namespace": "d", "name": name,
                "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "endpoints": endpoint.into_iter().collect::<Vec<_>>(),
                "ports": [{"name": "", "port": 8080}]});
            index.apply_slice(&serde_json::from_value(slice).expect("a slice"));
        }
        let metrics = Metrics::new(false, vec![], Arc::default(), Requests::default(), None);
        metrics.set_state(&index.state());
        let text = metrics.render(vec![], None).expect("renders");
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        for policy in ["internal", "external"] {
            let name = format!("{name}{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}}");
            assert_eq!(sample(&text, &name), Some(2.0), "{text}");
        }
    }
}
