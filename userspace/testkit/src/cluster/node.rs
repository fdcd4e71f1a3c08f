//! Owns a node: its namespace, processes in it, and its agent's coming and going.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;

use super::agent::{self, Agent, AgentConfig};
use super::netns::Netns;
use super::process::{Keeper, Process, Spec};
use super::registry::Claim;
use super::topology::NodePlan;

/// Time for an agent to end.
const END: Duration = Duration::from_secs(20);

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    netns: Netns,
    pod_cidrs: Vec<IpNet>,
    cgroup: Option<PathBuf>,
    config: Option<AgentConfig>,
    agent: Mutex<Option<Agent>>,
    keeper: Arc<Keeper>,
    claim: Arc<Claim>,
}

impl Node {
    pub(super) fn new(
        plan: NodePlan,
        netns: Netns,
        pod_cidrs: Vec<IpNet>,
        cgroup: Option<PathBuf>,
        keeper: Arc<Keeper>,
        claim: Arc<Claim>,
    ) -> Self {
        let agent = Mutex::new(None);
        Self { plan, netns, pod_cidrs, cgroup, config: None, agent, keeper, claim }
    }

    /// Name of the Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Addresses and zone.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// The network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its pods' ranges, IPv4 first.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// The cgroup of all its processes, in a cluster with cgroups.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// Starts a process in the node's namespace and cgroup; it ends with the cluster, or when dropped.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, spec: &Spec) -> Result<Process> {
        self.keeper.spawn(&self.netns, &spec.clone().cgroup(self.cgroup()))
    }

    pub(super) fn configure_agent(
        &mut self,
        sluice: &Path,
        cluster_cidrs: &[String],
        flags: Vec<String>,
    ) {
        self.config = Some(AgentConfig {
            sluice: sluice.to_owned(),
            node: self.plan.name.clone(),
            kubeconfig: self.claim.dir().join("kubeconfig"),
            state_dir: agent::state_dir(&self.claim, &self.plan.name),
            bpf_dir: self.claim.bpf_dir(&self.plan.name),
            cluster_cidrs: cluster_cidrs.to_vec(),
            flags,
            cgroup: self.cgroup.clone(),
        });
    }

    /// How its agent runs; `None` in a cluster without agents.
    #[must_use]
    pub fn agent_config(&self) -> Option<&AgentConfig> {
        self.config.as_ref()
    }

    /// Starts the agent, which must not be running.
    ///
    /// # Errors
    /// In a cluster without agents, or when it can't be started.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// Starts the agent with more flags than usual; it must not be running.
    ///
    /// # Errors
    /// As [`Node::start_agent`].
    pub fn start_agent_with(&self, flags: &[&str]) -> Result<()> {
        let config =
            self.config.as_ref().context("the cluster was started without an agent's binary")?;
        let mut agent = self.agent();
        ensure!(agent.is_none(), "the agent of {} runs already", self.name());
        *agent = Some(Agent::start(config, flags, &self.netns, &self.keeper)?);
        Ok(())
    }

    /// Waits until the agent says that it is ready.
    ///
    /// # Errors
    /// When it has ended or is not ready in time; with the end of its log.
    pub fn wait_agent_ready(&self, timeout: Duration) -> Result<()> {
        let agent = self.agent();
        let agent = agent.as_ref().with_context(|| format!("no agent runs on {}", self.name()))?;
        agent.wait_ready(timeout).with_context(|| format!("node {}", self.name()))
    }

    /// Ends the agent (SIGTERM: gently; SIGKILL: as in a crash) and waits for its end.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_agent(&self, signal: Signal) -> Result<()> {
        let agent =
            self.agent().take().with_context(|| format!("no agent runs on {}", self.name()))?;
        agent.end(signal, END).with_context(|| format!("node {}", self.name()))
    }

    /// Sends a signal to the agent, and does not wait for anything.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent();
        let agent = agent.as_ref().with_context(|| format!("no agent runs on {}", self.name()))?;
        agent.process().signal(signal)
    }

    fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
