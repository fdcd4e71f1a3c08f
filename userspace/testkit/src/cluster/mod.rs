//! Owns a cluster in network namespaces of this machine: router, office client, nodes with real
//! kubelets' manners, pods wired by the real CNI plugins, an API server, agents. Used by tests of
//! all crates, benches and the demo.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use serde_json::json;
//! use sluice_testkit::cluster::{Cluster, Options};
//! let cluster = Cluster::start(Options::default())?;
//! cluster.apply(sluice_testkit::cluster::pod("client", "n1", "pause", &json!({}), &[]))?;
//! let client = cluster.wait_for_pod("client")?;
//! client.netns.run(|| println!("this runs in the pod's network"))?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
pub mod bgp_router;
mod cgroup;
pub mod cni;
mod control;
mod kube_proxy;
mod kubelet;
mod life;
pub mod netns;
pub mod network;
mod node;
mod objects;
pub mod process;
pub mod registry;
mod remote;
pub mod rights;
pub mod site;
mod start;
mod status;
pub mod topology;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kube::Client;
use serde_json::Value;

pub use self::control::{ApiServer, Control};
pub use self::life::Pod;
pub use self::node::Node;
pub use self::objects::{pod, service, slice};
pub use self::remote::Remote;

use self::bgp_router::BgpRouter;
use self::kube_proxy::KubeProxies;
use self::life::Pods;
use self::network::Network;
use self::process::{Janitor, Keeper};
use self::registry::Claim;
use self::site::Site;

/// Where clusters keep their state, each in a folder of its own.
pub const STATE_ROOT: &str = "/run/sluice-testkit";
/// How long anything in a cluster may take; generous: on an emulated machine the
/// kernel checks an agent's programs for half a minute.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Who balances services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// `sluice agent` on every node
    Sluice,
    /// The real kube-proxy, in nftables mode, as a second witness
    KubeProxy,
    /// Nobody: what the network does by itself
    None,
}

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, n1, n2, ...
    pub nodes: usize,
    /// The API server.
    pub api: ApiServer,
    /// The agent's binary; without it no agents run, and services lead nowhere.
    pub sluice: Option<PathBuf>,
    /// The real kube-proxy's binary, to run in the agents' place.
    pub kube_proxy: Option<PathBuf>,
    /// The `sluice-testkit` binary, which pods run; `None`: this program, or the one built beside.
    pub testkit: Option<PathBuf>,
    /// Where clusters keep their state.
    pub state_root: PathBuf,
    /// The router learns from the agents where pods and services are, in place of fixed routes.
    pub bgp: bool,
    /// Every node has a cgroup of its own, in which its agent balances at the socket.
    pub cgroups: bool,
    /// Told about each step while the cluster comes up.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            api: ApiServer::default(),
            sluice: None,
            kube_proxy: None,
            testkit: None,
            state_root: STATE_ROOT.into(),
            bgp: false,
            cgroups: false,
            progress: |_| {},
        }
    }
}

/// A cluster that runs. Dropping it removes all of it.
pub struct Cluster {
    // In the order of their end: proxies, agents, kubelets and pods, the API server, the keeper of processes,
    // what names things last.
    proxies: Mutex<Option<KubeProxies>>,
    bgp_router: Option<BgpRouter>,
    nodes: Vec<Node>,
    pods: Pods,
    site: Arc<Site>,
    control: Control,
    network: Network,
    keeper: Arc<Keeper>,
    client: Client,
    entrance: SocketAddr,
    claim: Release,
    program: PathBuf,
    _janitor: Janitor,
}

/// Releases the claim, whoever else still knows it.
#[derive(Debug)]
struct Release(Arc<Claim>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("id", &self.id())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Waits until the router knows the pod ranges of all nodes, and each node those of the others.
    ///
    /// # Errors
    /// When they do not in time, or in a cluster without BGP.
    pub fn wait_for_pod_routes(&self) -> Result<()> {
        let router = self.bgp_router.as_ref().context("the cluster was started without BGP")?;
        let ranges = |but: Option<&str>| -> Vec<String> {
            let others = self.nodes.iter().filter(|node| Some(node.name()) != but);
            others.flat_map(Node::pod_cidrs).map(|cidr| format!("{cidr} via ")).collect()
        };
        let has = |routes: &str, wanted: &[String]| wanted.iter().all(|text| routes.contains(text));
        let all = ranges(None);
        router.wait("pod ranges", PATIENCE, |routes| has(routes, &all))?;
        for node in &self.nodes {
            let wanted = ranges(Some(node.name()));
            wait_for(&format!("{} to know the others' pod ranges", node.name()), || {
                let routes = bgp_router::routes_of(node.netns(), "92")?;
                Ok(has(&routes, &wanted).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The router as a BGP speaker, in a cluster with BGP.
    #[must_use]
    pub fn bgp_router(&self) -> Option<&BgpRouter> {
        self.bgp_router.as_ref()
    }

    /// Who balances services here.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        if self.proxies().is_some() {
            Proxy::KubeProxy
        } else if self.nodes.iter().any(|node| node.agent_config().is_some()) {
            Proxy::Sluice
        } else {
            Proxy::None
        }
    }

    /// Starts the real kube-proxy on every node and waits until all say that they are healthy. What served
    /// before is to be ended by whoever calls.
    ///
    /// # Errors
    /// When one can't be started, or is not healthy in time.
    pub fn start_kube_proxies(&self, program: &Path) -> Result<()> {
        let kubeconfig = self.dir().join("kubeconfig.kube-proxy");
        let cidrs = self.control.cluster_cidrs();
        let proxies = KubeProxies::start(program, &self.nodes, self.dir(), &kubeconfig, &cidrs)?;
        *self.proxies() = Some(proxies);
        Ok(())
    }

    /// Ends the kube-proxies of [`Cluster::start_kube_proxies`]; their rules stay.
    ///
    /// # Errors
    /// When one does not end.
    pub fn end_kube_proxies(&self) -> Result<()> {
        self.proxies().take().context("no kube-proxy runs")?.end()
    }

    fn proxies(&self) -> MutexGuard<'_, Option<KubeProxies>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mark of all that this cluster made: `sl<pid>`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.claim.0.id()
    }

    /// State and logs; gone with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.claim.0.dir()
    }

    /// A kubeconfig that works from the namespace of the caller of [`Cluster::start`].
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.control.outside()
    }

    /// The API server's address for the caller of [`Cluster::start`].
    #[must_use]
    pub fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    /// The API server.
    #[must_use]
    pub fn api(&self) -> &Control {
        &self.control
    }

    /// The objects behind the API server.
    #[must_use]
    pub fn store(&self) -> &Control {
        &self.control
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name}"))
    }

    /// The router and the office client.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The `sluice-testkit` binary that pods run.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The thread that starts processes in namespaces.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Creates or updates an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, object: Value) -> Result<Value> {
        self.control.apply(object)
    }

    /// Asks for the deletion of a pod of namespace `default`, with its own grace.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        control::delete_pod(&self.site, self.client.clone(), name)
    }

    /// Runs work that uses the API over HTTP, in the site.
    ///
    /// # Errors
    /// The work's own.
    pub fn with_client<T, W>(&self, work: impl FnOnce(Client) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.site.run(work(self.client.clone()))?
    }

    /// A pod of namespace `default` that has its network; it may not be ready yet.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<Pod> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(&("default".to_owned(), name.to_owned())).cloned()
    }

    /// Waits for a pod of namespace `default` to be ready.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub fn wait_for_pod(&self, name: &str) -> Result<Pod> {
        wait_for(&format!("pod {name} to be ready"), || {
            Ok(if self.control.is_ready(name) { self.pod(name) } else { None })
        })
    }
}

/// What a cluster needs and this machine does not give, for tests that then say so and skip.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root");
    }
    let plugins = cni::plugin_dir();
    plugins.is_none().then_some("the CNI plugins are not installed (containernetworking-plugins)")
}

/// Whether nodes can have cgroups of their own here: cgroup v2 is mounted.
#[must_use]
pub fn has_cgroups() -> bool {
    cgroup::root().is_some()
}

/// Asks until there is an answer.
///
/// # Errors
/// The question's own, or when there is none within [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} for {what}");
        }
        sleep(Duration::from_millis(20));
    }
}
