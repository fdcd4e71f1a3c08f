//! One API server, one agent, one recording data plane, and objects to play with.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_agent::config::Config;
use sluice_agent::nodeports::NodePortAddresses;
use sluice_agent::watch::{ApiAccess, Timing};
use sluice_agent::{AgentError, Ground, run};
use sluice_services::{Index, State};
use sluice_testkit::api::{Options, Server, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::recorder::Recorder;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Name of the agent's node.
pub(crate) const NODE: &str = "n1";

pub(crate) struct Rig {
    pub(crate) server: Option<Server>,
    pub(crate) folder: TempDir,
    pub(crate) recorder: Recorder,
    pub(crate) config: Config,
    pub(crate) links: mpsc::UnboundedSender<()>,
    stop: Option<oneshot::Sender<()>>,
    agent: Option<JoinHandle<Result<(), AgentError>>>,
}

/// A server that answers fast; slices are written by the tests.
pub(crate) fn options() -> Options {
    Options {
        controllers: false,
        bookmark_interval: Duration::from_millis(200),
        progress_interval: Duration::from_millis(100),
        future_wait: Duration::from_millis(100),
        ..Options::default()
    }
}

/// Limits in which tests need not wait.
pub(crate) fn timing() -> Timing {
    Timing {
        watch_min: Duration::from_secs(2),
        watch_max: Duration::from_secs(3),
        slack: Duration::from_millis(500),
        answer: Duration::from_secs(1),
        initial_silence: Duration::from_millis(500),
        pace: 0.02,
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

impl Rig {
    /// An agent that is not started yet, with a Node of its own and a seeded store.
    pub(crate) fn new() -> Self {
        let server = Server::start(options()).expect("the server starts");
        seed(server.store());
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).expect("a kubeconfig");
        let config = Config {
            flags: [("node-name".to_owned(), NODE.to_owned())].into(),
            node_name: NODE.to_owned(),
            api: ApiAccess { kubeconfig: Some(kubeconfig), ..ApiAccess::default() },
            state_dir: folder.path().join("state"),
            http_addr: free_port(),
            healthz_addr: free_port(),
            metrics_addr: free_port(),
            service_ranges: vec![],
            nodeports: NodePortAddresses::default(),
            node_port_range: None,
            pod_cidrs: false,
            external_ips: true,
            external_ranges: vec![],
            load_balancer_ranges: vec![],
            min_sync_period: Duration::from_millis(10),
            node_wait: Duration::from_secs(30),
            ipv6: true,
            bgp: None,
            timing: timing(),
        };
        let (links, _) = mpsc::unbounded_channel();
        Self {
            server: Some(server),
            folder,
            recorder: Recorder::default(),
            config,
            links,
            stop: None,
            agent: None,
        }
    }

    /// Starts the agent.
    pub(crate) fn start(&mut self) {
        let (stop, stopping) = oneshot::channel();
        let (links, events) = mpsc::unbounded_channel::<()>();
        let events = futures::stream::unfold(events, async |mut events| {
            events.recv().await.map(|()| ((), events))
        });
        let ground = Ground { open: self.recorder.opener(), links: events.boxed() };
        let stopped = async move { drop(stopping.await) };
        self.agent = Some(tokio::spawn(run(self.config.clone(), ground, stopped)));
        self.stop = Some(stop);
        self.links = links;
    }

    /// An agent that has written the seeded store.
    pub(crate) async fn started() -> Self {
        let mut rig = Self::new();
        rig.start();
        rig.converges().await;
        rig
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    pub(crate) fn store(&self) -> &Store {
        self.server().store()
    }

    /// Stops the agent as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        let agent = self.agent.take().expect("the agent runs");
        tokio::time::timeout(PATIENCE, agent)
            .await
            .expect("it stops in time")
            .expect("it does not panic")
            .expect("it ends well");
    }

    /// Waits until `probe` gives something.
    pub(crate) async fn eventually<T>(&self, what: &str, probe: impl Fn(&Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the data plane has what follows from the store.
    pub(crate) async fn converges(&self) {
        let expected = expected(self.store());
        let until = Instant::now() + PATIENCE;
        // The ranges may come after the rest (R41).
        let ranges = self.config.service_ranges.is_empty().then(|| service_ranges(self.store()));
        let written = || {
            let record = self.recorder.record();
            record.states.last() == Some(&expected)
                && ranges.as_ref().is_none_or(|ranges| record.cidrs == *ranges)
        };
        while !written() {
            assert!(
                Instant::now() < until,
                "not within {PATIENCE:?}; expected {:#?}\n but wrote {:#?}",
                expected.ports.keys().map(ToString::to_string).collect::<Vec<_>>(),
                self.recorder.last().map(|state| {
                    state.ports.keys().map(ToString::to_string).collect::<Vec<_>>()
                })
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A Service that existed all the time was served in every state that was written (R37).
    pub(crate) fn anchor_never_left(&self) {
        for (at, state) in self.recorder.record().states.iter().enumerate() {
            let anchor = state.ports.iter().find(|(key, _)| key.name == "anchor");
            let backends = anchor.map(|(_, port)| port.cluster.len());
            assert_eq!(backends, Some(2), "in state {at}");
        }
    }

    /// Requests for a type that list it, streaming or not; not those that only ask for a version.
    pub(crate) fn lists_of(&self, resource: &str) -> usize {
        let seen = self.server().seen();
        let lists = seen.iter().filter(|seen| {
            let streaming = seen.query.contains("sendInitialEvents=true");
            let plain = !seen.query.contains("watch=") && !seen.query.ends_with("limit=1");
            seen.resource == resource && (streaming || plain)
        });
        lists.count()
    }

    /// GET over HTTP/1.1: status, head and body.
    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> (u16, String, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (code, head.to_lowercase(), body.to_owned())
    }

    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.config.state_dir.clone()
    }
}

/// The state that follows from all objects of the store together.
pub(crate) fn expected(store: &Store) -> Arc<State> {
    let mut index = Index::new(sluice_services::Config {
        node_name: NODE.to_owned(),
        ..sluice_services::Config::default()
    });
    index.replace_nodes(decoded(store, "nodes"));
    index.replace_services(decoded(store, "services"));
    index.replace_slices(decoded(store, "endpointslices"));
    index.state()
}

/// The ranges of all ServiceCIDR objects, in order.
fn service_ranges(store: &Store) -> Vec<String> {
    let objects: Vec<ServiceCIDR> = decoded(store, "servicecidrs");
    let texts = objects.into_iter().filter_map(|object| object.spec?.cidrs).flatten();
    let mut ranges: Vec<IpNet> = texts.map(|text| text.parse().expect("a range")).collect();
    ranges.sort_unstable();
    ranges.iter().map(ToString::to_string).collect()
}

fn decoded<T: DeserializeOwned>(store: &Store, plural: &str) -> Vec<T> {
    let objects = store.list(plural);
    objects.iter().filter_map(|object| serde_json::from_value((**object).clone()).ok()).collect()
}

/// A Service with one TCP port.
pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}})
}

/// The one slice of a Service.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| {
            json!({"addresses": [address], "nodeName": NODE,
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]})
}

/// The agent's Node with one address.
pub(crate) fn node(address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

pub(crate) fn put(store: &Store, object: Value) {
    store.apply(object).expect("the store takes it");
}

fn seed(store: &Store) {
    put(store, node("192.0.2.1"));
    for (name, addresses) in [
        ("anchor", &["10.1.0.1", "10.1.0.2"][..]),
        ("web", &["10.1.0.3", "10.1.0.4", "10.1.0.5"]),
        ("api", &["10.1.0.6"]),
    ] {
        put(store, service(name));
        put(store, slice(name, addresses));
    }
}

/// Changes of every kind; `round` makes them different each time.
pub(crate) fn change(store: &Store, round: u8) {
    let address = format!("10.1.{round}.7");
    put(store, slice("web", &["10.1.0.3", &address]));
    assert!(store.delete("services", "default", if round == 1 { "api" } else { "fresh1" }));
    let fresh = format!("fresh{round}");
    put(store, service(&fresh));
    put(store, slice(&fresh, &[&address, "10.1.0.9"]));
}
