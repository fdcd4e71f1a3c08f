//! Makes views from what the agent publishes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use sluice_services::{
    AddressKind, Backend, Family, Scheduler, ServicePort, ServicePortKey, State, WhenEmpty,
};

use super::{AddressRow, BackendRow, DropsView, ServiceRow, StatusView, SyncView, WatchView};
use crate::plane::{PlaneStatus, ReasonCount};
use crate::snapshot::Snapshot;
use crate::watch::WatcherReport;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the own Node.
    pub node: String,
    /// When the agent started.
    pub started: Instant,
    /// The flags that it runs by, with their values.
    pub flags: BTreeMap<String, String>,
    /// The watches and their counters.
    pub watches: Vec<(&'static str, Arc<WatcherReport>)>,
}

/// The answer of `sluice status`.
#[must_use]
pub fn status(
    identity: &Identity,
    snapshot: &Snapshot,
    dataplane: Option<PlaneStatus>,
    now: Instant,
    clock: SystemTime,
) -> StatusView {
    let syncs = &snapshot.syncs;
    let skipped = syncs.skipped.iter().map(|(object, reason)| format!("{object}: {reason}"));
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: identity.node.clone(),
        pid: std::process::id(),
        uptime_s: now.duration_since(identity.started).as_secs(),
        ready: snapshot.is_ready(),
        not_ready_because: snapshot.not_ready_because(),
        healthy: snapshot.health.is_proxy_healthy(now),
        watches: identity
            .watches
            .iter()
            .map(|(resource, report)| watch(resource, report))
            .collect(),
        service_ranges: snapshot.service_ranges.0.iter().map(ToString::to_string).collect(),
        service_ranges_from: snapshot.service_ranges.1.name().to_owned(),
        health_checks: snapshot.health_checks.len(),
        sync: SyncView {
            done: syncs.done,
            failed: syncs.failed,
            last_ms: syncs.last_took.as_secs_f64() * 1000.0,
            last_operations: syncs.last_operations,
            last_ago_s: syncs
                .last_at
                .map(|at| clock.duration_since(at).unwrap_or_default().as_secs_f64()),
            pending_s: snapshot
                .health
                .pending_since
                .map(|since| now.duration_since(since).as_secs_f64()),
            error: snapshot.plane_error.clone(),
        },
        dataplane,
        upkeep_error: snapshot.upkeep_error.clone(),
        unresolved_pods: snapshot.unresolved_pods,
        problems: snapshot.problems.iter().cloned().chain(skipped).collect(),
    }
}

fn watch(resource: &str, report: &WatcherReport) -> WatchView {
    let read = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    WatchView {
        resource: resource.to_owned(),
        listed: read(&report.lists) > 0,
        objects: read(&report.objects),
        lists: read(&report.lists),
        restarts: read(&report.restarts),
        unreadable: read(&report.unreadable),
    }
}

/// The rows of `sluice services`: all, or those of one Service, named NAME or NAMESPACE/NAME.
#[must_use]
pub fn services(state: &State, name: Option<&str>) -> Vec<ServiceRow> {
    let wanted = |key: &ServicePortKey| match name.map(|name| name.split_once('/')) {
        None => true,
        Some(Some((namespace, name))) => key.namespace == namespace && key.name == name,
        Some(None) => name == Some(key.name.as_str()),
    };
    state.ports.iter().filter(|(key, _)| wanted(key)).map(|(key, port)| row(key, port)).collect()
}

fn row(key: &ServicePortKey, port: &ServicePort) -> ServiceRow {
    let (backends, when_empty) = port.internal();
    let verdict = match (backends.is_empty(), when_empty) {
        (false, _) => "served",
        (true, WhenEmpty::Reject) => "refused",
        (true, WhenEmpty::Drop) => "dropped",
    };
    ServiceRow {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        port_name: key.port_name.clone(),
        protocol: key.protocol.to_string(),
        family: family(key.family).to_owned(),
        addresses: port
            .addresses
            .iter()
            .map(|(address, kind)| AddressRow {
                address: address.to_string(),
                kind: kind_name(*kind).to_owned(),
            })
            .collect(),
        port: port.port,
        node_port: port.node_port,
        internal_policy: policy(port.internal_local),
        external_policy: policy(port.external_local),
        scheduler: match port.scheduler {
            Scheduler::Random => "random",
            Scheduler::LeastConnections => "least connections",
            Scheduler::SourceHash => "source hash",
            Scheduler::Maglev => "maglev",
        }
        .to_owned(),
        affinity_s: port.affinity_s,
        verdict: verdict.to_owned(),
        backends: backends.iter().map(backend).collect(),
    }
}

fn backend(backend: &Backend) -> BackendRow {
    BackendRow {
        endpoint: std::net::SocketAddr::new(backend.address, backend.port).to_string(),
        local: backend.local,
        serving: backend.serving,
        weight: backend.weight,
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn kind_name(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::ClusterIp => "cluster",
        AddressKind::ExternalIp => "external",
        AddressKind::LoadBalancer => "load-balancer",
    }
}

fn policy(local: bool) -> String {
    if local { "local" } else { "cluster" }.to_owned()
}

/// The answer of `sluice drops`.
#[must_use]
pub fn drops(counters: Vec<ReasonCount>) -> DropsView {
    let (drops, others) = counters.into_iter().partition(|counter| counter.drop);
    DropsView { drops, others }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;
    use sluice_services::{Config, Index};

    fn state() -> Arc<State> {
        let mut index = Index::new(Config { node_name: "n1".to_owned(), ..Config::default() });
        for (namespace, name, ip) in [("a", "web", "10.96.0.1"), ("b", "web", "10.96.0.2")] {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
                    "ports": [{"port": 80, "protocol": "TCP"}]}}))
            .expect("a Service");
            index.apply_service(&service);
        }
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.0.5"], "conditions": {}, "nodeName": "n1"}]}))
        .expect("a slice");
        index.apply_slice(&slice);
        index.state()
    }

    #[test]
    fn services_by_name_with_and_without_namespace() {
        let state = state();
        let names = |name| {
            let rows = services(&state, name);
            rows.into_iter().map(|row| row.namespace + "/" + &row.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["a/web", "b/web"]);
        assert_eq!(names(Some("web")), ["a/web", "b/web"]);
        assert_eq!(names(Some("b/web")), ["b/web"]);
        assert!(names(Some("c/web")).is_empty() && names(Some("we")).is_empty());
    }

    #[test]
    fn a_row_says_what_a_connection_meets() {
        let rows = services(&state(), None);
        assert_eq!(rows[0].verdict, "served");
        let expected = BackendRow {
            endpoint: "10.1.0.5:8080".to_owned(),
            local: true,
            serving: true,
            weight: 1,
        };
        assert_eq!(rows[0].backends, [expected]);
        assert_eq!((rows[1].verdict.as_str(), rows[1].backends.len()), ("refused", 0));
    }

    #[test]
    fn status_of_an_agent_that_has_not_listed_anything() {
        let identity = Identity {
            node: "n1".to_owned(),
            started: Instant::now(),
            flags: BTreeMap::new(),
            watches: vec![],
        };
        let snapshot = Snapshot { open: true, ..Snapshot::default() };
        let view = status(&identity, &snapshot, None, Instant::now(), SystemTime::now());
        assert!(!view.ready && view.healthy);
        assert!(view.not_ready_because.expect("a reason").contains("not both listed"));
    }
}
