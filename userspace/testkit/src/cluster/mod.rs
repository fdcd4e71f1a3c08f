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
mod cgroup;
pub mod cni;
mod control;
mod kubelet;
mod life;
pub mod netns;
pub mod network;
mod node;
mod objects;
pub mod process;
pub mod registry;
pub mod site;
mod status;
pub mod topology;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use kube::Client;
use serde_json::Value;

pub use self::control::Control;
pub use self::life::Pod;
pub use self::node::Node;
pub use self::objects::{pod, service, slice};

use self::cni::Cni;
use self::kubelet::Kubelet;
use self::life::{NodeParts, Pods};
use self::network::Network;
use self::process::{Janitor, Keeper};
use self::registry::Claim;
use self::site::Site;
use self::topology::NodePlan;
use crate::api::Store;

/// Where clusters keep their state, each in a folder of its own.
pub const STATE_ROOT: &str = "/run/sluice-testkit";
/// How long anything in a cluster may take; generous: on an emulated machine the
/// kernel checks an agent's programs for half a minute.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, n1, n2, ...
    pub nodes: usize,
    /// The agent's binary; without it no agents run, and services lead nowhere.
    pub sluice: Option<PathBuf>,
    /// The `sluice-testkit` binary, which pods run; `None`: this program, or the one built beside.
    pub testkit: Option<PathBuf>,
    /// Where clusters keep their state.
    pub state_root: PathBuf,
    /// Every node has a cgroup of its own, in which its agent balances at the socket.
    pub cgroups: bool,
    /// Told about each step while the cluster comes up.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            sluice: None,
            testkit: None,
            state_root: STATE_ROOT.into(),
            cgroups: false,
            progress: |_| {},
        }
    }
}

/// A cluster that runs. Dropping it removes all of it.
pub struct Cluster {
    // In the order of their end: agents, kubelets and pods, the API server, the keeper of processes,
    // what names things last.
    nodes: Vec<Node>,
    pods: Pods,
    site: Site,
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
    /// Brings a cluster up: namespaces, API server, nodes, kubelets, and agents if there is a
    /// binary of theirs. Sweeps what dead owners left, first.
    ///
    /// # Errors
    /// Without root; when programs are missing; when an agent does not become ready.
    pub fn start(options: Options) -> Result<Self> {
        let say = options.progress;
        let program = program(options.testkit.as_deref())?;
        let claim = Arc::new(Claim::take(&options.state_root)?);
        say(&format!(
            "network namespaces of {}: router, office client, {} nodes",
            claim.id(),
            options.nodes
        ));
        let janitor = Janitor::start(&program, &options.state_root, &claim)?;
        let release = Release(claim.clone());
        let network = Network::build(&claim, options.nodes)?;
        let keeper = Arc::new(Keeper::start(claim.clone())?);
        let site = Site::start(&network.router)?;
        say(&format!("Kubernetes API server at {}", topology::api_address()));
        let control = Control::start(&network.router)?;
        let entrance = site.forward(topology::api_address())?;
        fs::write(claim.dir().join("kubeconfig"), control::kubeconfig(topology::api_address()))?;
        fs::write(claim.dir().join("kubeconfig.outside"), control::kubeconfig(entrance))?;
        let client =
            site.run(async { kubelet::client(&format!("http://{}", topology::api_address())) })??;

        say("nodes join, pods' ranges are routed");
        let plans: Vec<NodePlan> = network.nodes.iter().map(|(plan, _)| plan.clone()).collect();
        for plan in &plans {
            control.apply(status::node(plan))?;
            control.patch_status("nodes", "", &plan.name, &status::node_status(plan))?;
        }
        let ranges: Vec<(NodePlan, Vec<IpNet>)> = plans
            .into_iter()
            .map(|plan| {
                Ok((
                    plan.clone(),
                    wait_for(&format!("podCIDRs of {}", plan.name), || {
                        control.pod_cidrs(&plan.name)
                    })?,
                ))
            })
            .collect::<Result<_>>()?;
        network.route_pods(&ranges)?;

        let pods = Pods::default();
        let mut nodes = Vec::new();
        for ((plan, netns), (_, cidrs)) in network.nodes.iter().zip(&ranges) {
            let cni = Cni::new(cidrs, &claim.dir().join(&plan.name))?;
            let cgroup = options.cgroups.then(|| cgroup::create(&claim.cgroup(&plan.name)));
            let cgroup = cgroup.transpose()?;
            let parts = NodeParts {
                plan: plan.clone(),
                netns: netns.clone(),
                cni,
                wiring: std::sync::Mutex::default(),
                keeper: keeper.clone(),
                claim: claim.clone(),
                cgroup: cgroup.clone(),
                program: program.clone(),
                pods: pods.clone(),
            };
            site.spawn(Kubelet::new(Arc::new(parts), client.clone()).run());
            nodes.push(Node::new(
                plan.clone(),
                netns.clone(),
                cidrs.clone(),
                cgroup,
                keeper.clone(),
                claim.clone(),
            ));
        }
        let mut cluster = Self {
            nodes,
            pods,
            control,
            network,
            site,
            keeper,
            client,
            entrance,
            claim: release,
            program,
            _janitor: janitor,
        };
        if let Some(sluice) = options.sluice {
            cluster.start_agents(&sluice, say)?;
        }
        Ok(cluster)
    }

    fn start_agents(&mut self, sluice: &Path, say: fn(&str)) -> Result<()> {
        say(&format!("{} on every node", sluice.display()));
        let cluster_cidrs = self.control.cluster_cidrs();
        for node in &mut self.nodes {
            node.configure_agent(sluice, &cluster_cidrs);
            node.start_agent()?;
        }
        for node in &self.nodes {
            node.wait_agent_ready(PATIENCE)?;
        }
        Ok(())
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
        self.claim.0.dir().join("kubeconfig.outside")
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

    /// The objects behind the API server, for tests that write them directly.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.control.store()
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

/// The `sluice-testkit` binary: as told, or this program itself, or the one that cargo put beside
/// a test's (`target/debug/deps/test` and `target/debug/sluice-testkit`).
fn program(told: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "sluice-testkit";
    if let Some(path) = told {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("own program")?;
    let beside =
        own.ancestors().skip(1).take(2).map(|dir| dir.join(NAME)).find(|path| path.is_file());
    beside.with_context(|| format!("no {NAME} near {}: cargo build -p {NAME}", own.display()))
}
