//! The node agent: watches Services, EndpointSlices and Nodes, keeps the data plane and BGP in step
//! with them, and tells how that goes. The binary `sluice` is a thin shell around this library.
//!
//! An API event goes `watch` -> `cluster` (the index) -> `control` (pace, barrier) -> `plane`.

#![forbid(unsafe_code)]

pub mod bgp;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod detector;
pub mod events;
pub mod flags;
pub mod foreign;
pub mod health;
pub mod http;
pub mod metrics;
pub mod nodeports;
pub mod pace;
pub mod plane;
pub mod ranges;
pub mod snapshot;
pub mod views;
pub mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use cluster::{Cluster, Rules};
use config::Config;
use control::{Control, Sources};
use events::Events;
use events::recorder::Recorder;
use http::Shown;
use http::service_health::ServiceHealth;
use http::socket::{StateDir, StateDirError};
use metrics::Metrics;
use plane::OpenPlane;
use snapshot::Snapshot;
use views::build::Identity;
use watch::{Update, Watch, Watcher, WatcherReport};

/// Updates that may wait for the control loop, per type of objects. When they pile up the watch
/// is read more slowly, and the server ends it in order (K7).
const UPDATE_QUEUE: usize = 1024;
/// Health ports that cannot be opened may wait for the control loop; the rest is told next time.
const REFUSED_QUEUE: usize = 64;

/// How long sessions may take to end.
const ROUTER_STOP: std::time::Duration = std::time::Duration::from_secs(5);

/// What the agent runs on besides its configuration.
pub struct Ground {
    /// Opens the data plane.
    pub open: OpenPlane,
    /// Fires when links or addresses of this network namespace change.
    pub links: BoxStream<'static, ()>,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").finish_non_exhaustive()
    }
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The system gave no thread.
    #[error("start the data plane's thread: {0}")]
    Thread(std::io::Error),
}

/// Runs the agent until `stop` is done. The data plane keeps forwarding after that.
///
/// # Errors
/// When it cannot start; once it runs, faults are logged, shown, and tried again.
pub async fn run(
    config: Config,
    ground: Ground,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let state_dir = StateDir::take(&config.state_dir)?;
    let socket = state_dir.listen()?;
    let (plane, thread) = plane::thread::start(ground.open).map_err(AgentError::Thread)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name,
        state_dir = %config.state_dir.display(),
        "agent starts"
    );

    let mut tasks = JoinSet::new();
    let mut watches = Vec::new();
    let (tell_refused, refused) = mpsc::channel(REFUSED_QUEUE);
    let sources = Sources {
        services: watch_for(&config, services_watch(), &mut tasks, &mut watches),
        slices: watch_for(&config, slices_watch(), &mut tasks, &mut watches),
        node: watch_for(&config, node_watch(&config.node_name), &mut tasks, &mut watches),
        ranges: if config.service_ranges.is_empty() {
            watch_for(&config, ranges_watch(), &mut tasks, &mut watches)
        } else {
            mpsc::channel(1).1
        },
        refused,
        links: ground.links,
    };

    let (events, notes, event_counts) = Events::new(&config.node_name);
    let (api, node, pace) = (config.api.clone(), config.node_name.clone(), config.timing.pace);
    tasks.spawn(Recorder::new(api, node, notes, Arc::clone(&event_counts), pace).run());
    events.starting(SystemTime::now());

    let numbers = Arc::new(bgp::metrics::BgpNumbers::default());
    let all_nodes = config
        .bgp
        .is_some()
        .then(|| watch_for(&config, all_nodes_watch(), &mut tasks, &mut watches));
    let metrics = Arc::new(Metrics::new(
        config.ipv6,
        watches.clone(),
        event_counts,
        config.api.requests.clone(),
        config.bgp.is_some().then(|| Arc::clone(&numbers)),
    ));
    let first = Snapshot {
        health: health::Health { ipv6: config.ipv6, ..health::Health::default() },
        ..Snapshot::default()
    };
    let (publish, snapshot) = tokio::sync::watch::channel(first);
    let identity = Identity {
        node: config.node_name.clone(),
        started: Instant::now(),
        flags: config.flags.clone(),
        watches,
    };
    let (stop_router, router_stops) = oneshot::channel::<()>();
    let mut router = None;
    let mut bgp = None;
    if let (Some(settings), Some(nodes)) = (config.bgp.clone(), all_nodes) {
        let name = config.node_name.clone();
        let (snapshot, events) = (snapshot.clone(), events.clone());
        let (task, handle) =
            bgp::Router::new(settings, name, nodes, snapshot, events, Arc::clone(&numbers));
        bgp = Some(handle);
        router = Some(tokio::spawn(task.run(async move { drop(router_stops.await) })));
    }
    let shown = Shown {
        bgp,
        snapshot,
        plane: plane.clone(),
        metrics: Arc::clone(&metrics),
        identity: Arc::new(identity),
    };
    tasks.spawn(http::serve("http", config.http_addr, http::own::router(shown.clone())));
    let kube_proxy = http::kube_proxy::router(shown.clone());
    tasks.spawn(http::serve("kube-proxy health", config.healthz_addr, kube_proxy));
    let kube_proxy = http::kube_proxy::metrics_router(shown.clone());
    tasks.spawn(http::serve("kube-proxy metrics", config.metrics_addr, kube_proxy));
    let balancers =
        ServiceHealth::new(shown.snapshot.clone(), config.nodeports.clone(), tell_refused);
    tasks.spawn(balancers.run());
    let control_socket = axum::serve(socket, http::socket::router(shown));
    tasks.spawn(async move {
        if let Err(fault) = control_socket.await {
            error!(%fault, "the control socket ended");
        }
    });

    let cluster = Cluster::new(rules(&config), SystemTime::now());
    let (period, wait) = (config.min_sync_period, config.node_wait);
    Control::new(cluster, plane, metrics, events, publish, period, wait).run(sources, stop).await;

    drop(stop_router);
    if let Some(router) = router
        && tokio::time::timeout(ROUTER_STOP, router).await.is_err()
    {
        warn!("the router is still busy; leaving it");
    }
    // The handles of the servers end with them, and the thread with the last handle.
    tasks.shutdown().await;
    let ended = tokio::task::spawn_blocking(move || thread.join());
    match tokio::time::timeout(std::time::Duration::from_secs(5), ended).await {
        Ok(Ok(Ok(()))) => {}
        Ok(_) => warn!("the data plane's thread failed"),
        Err(_) => warn!("the data plane's thread is still busy; leaving it"),
    }
    drop(state_dir);
    Ok(())
}

fn rules(config: &Config) -> Rules {
    Rules {
        index: sluice_services::Config {
            node_name: config.node_name.clone(),
            ipv6: config.ipv6,
            external_ips: config.external_ips,
            external_ranges: config.external_ranges.clone(),
            load_balancer_ranges: config.load_balancer_ranges.clone(),
        },
        service_ranges: config.service_ranges.clone(),
        node_ports: config.node_port_range.clone(),
        pod_cidrs: config.pod_cidrs,
    }
}

fn watch_for<T: DeserializeOwned + Send + Sync + 'static>(
    config: &Config,
    watch: Watch,
    tasks: &mut JoinSet<()>,
    watches: &mut Vec<(&'static str, Arc<WatcherReport>)>,
) -> mpsc::Receiver<Update<T>> {
    let (out, updates) = mpsc::channel(UPDATE_QUEUE);
    let report = Arc::new(WatcherReport::default());
    watches.push((watch.resource, Arc::clone(&report)));
    tasks.spawn(Watcher::new(config.api.clone(), watch, config.timing, out, report).run());
    updates
}

/// Services that this proxy serves (R1).
fn services_watch() -> Watch {
    Watch {
        resource: "services",
        path: "/api/v1/services",
        label_selector: "!service.kubernetes.io/service-proxy-name",
        field_selector: "spec.clusterIP!=None".to_owned(),
        optional: false,
    }
}

/// Slices of Services with an address (R1). Slices have no field selectors (K34).
fn slices_watch() -> Watch {
    Watch {
        resource: "endpointslices",
        path: "/apis/discovery.k8s.io/v1/endpointslices",
        label_selector: "!service.kubernetes.io/headless",
        field_selector: String::new(),
        optional: false,
    }
}

/// The ranges of ClusterIPs (R41); servers before 1.31 have no such objects.
fn ranges_watch() -> Watch {
    Watch {
        resource: "servicecidrs",
        path: "/apis/networking.k8s.io/v1/servicecidrs",
        label_selector: "",
        field_selector: String::new(),
        optional: true,
    }
}

/// All Nodes, for their addresses and pod ranges.
fn all_nodes_watch() -> Watch {
    Watch {
        resource: "nodes",
        path: "/api/v1/nodes",
        label_selector: "",
        field_selector: String::new(),
        optional: false,
    }
}

/// The own Node only (R40).
fn node_watch(name: &str) -> Watch {
    Watch {
        resource: "nodes",
        path: "/api/v1/nodes",
        label_selector: "",
        field_selector: format!("metadata.name={name}"),
        optional: false,
    }
}
