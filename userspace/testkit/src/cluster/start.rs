//! Owns the coming up of a cluster: what is made in which order, and what is waited for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::bgp_router::{self, BgpRouter};
use super::cni::Cni;
use super::control::Control;
use super::kubelet::Kubelet;
use super::life::{NodeParts, Pods};
use super::network::Network;
use super::node::Node;
use super::process::{Janitor, Keeper};
use super::registry::Claim;
use super::site::Site;
use super::topology::{self, NodePlan};
use super::{Cluster, Options, PATIENCE, Release, cgroup, status, wait_for};

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
        let site = Arc::new(Site::start(&network.router)?);
        say(&format!("Kubernetes API server ({:?}) at {}", options.api, topology::api_address()));
        let control = Control::start(options.api, &network.router, claim.dir(), &keeper, &site)?;
        let entrance = site.forward(topology::api_address())?;
        control.admit(entrance)?;
        let client = control.client(&site)?;

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
        if !options.bgp {
            network.route_pods(&ranges)?;
        }

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
                wiring: Mutex::default(),
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
            proxies: Mutex::default(),
            bgp_router: None,
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
        if options.bgp {
            say("BIRD on the router");
            cluster.start_bgp_router()?;
        }
        if let Some(sluice) = options.sluice {
            cluster.start_agents(&sluice, say)?;
        }
        if let Some(kube_proxy) = options.kube_proxy {
            say(&format!("{} on every node", kube_proxy.display()));
            cluster.start_kube_proxies(&kube_proxy)?;
        }
        Ok(cluster)
    }

    fn start_agents(&mut self, sluice: &Path, say: fn(&str)) -> Result<()> {
        say(&format!("{} on every node", sluice.display()));
        let cluster_cidrs = self.control.cluster_cidrs();
        for node in &mut self.nodes {
            let flags = match self.bgp_router {
                Some(_) => bgp_router::agent_flags(),
                None => Vec::new(),
            };
            node.configure_agent(sluice, &cluster_cidrs, flags);
            node.start_agent()?;
        }
        for node in &self.nodes {
            node.wait_agent_ready(PATIENCE)?;
        }
        if self.bgp_router.is_some() {
            say("nodes and router learn where pods are");
            self.wait_for_pod_routes()?;
        }
        Ok(())
    }

    fn start_bgp_router(&mut self) -> Result<()> {
        let plans: Vec<NodePlan> = self.nodes.iter().map(|node| node.plan().clone()).collect();
        let dir = self.dir().to_owned();
        let router = BgpRouter::start(&self.network.router, &plans, &dir, &self.keeper)?;
        self.bgp_router = Some(router);
        Ok(())
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
