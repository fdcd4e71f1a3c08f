//! Owns the agents: `sluice agent` as a process in a node's namespace, started, asked whether it
//! is ready, ended gently or not, started again.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::netns::Netns;
use super::process::{Keeper, Process, Spec, log_tail};
use super::registry::Claim;
use super::topology::UPLINK;

/// Port of `/readyz` (the agent's default).
const HTTP_PORT: u16 = 20244;

/// How to run an agent for one node.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The `sluice` binary.
    pub sluice: PathBuf,
    /// Own Node object.
    pub node: String,
    /// Ways to the API server.
    pub kubeconfig: PathBuf,
    /// Below it: control socket, log.
    pub state_dir: PathBuf,
    /// Where it pins.
    pub bpf_dir: PathBuf,
    /// The pods' ranges of the whole cluster.
    pub cluster_cidrs: Vec<String>,
    /// What every agent of the cluster is told besides.
    pub flags: Vec<String>,
    /// The node's cgroup, where it balances at the socket; `None`: nowhere.
    pub cgroup: Option<PathBuf>,
}

/// An agent that runs (or has run). Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    netns: Netns,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent, with `flags` (`--name=value`) besides its configuration, or in the place of what
    /// is there; it may not be ready yet.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn start(
        config: &AgentConfig,
        flags: &[&str],
        netns: &Netns,
        keeper: &Keeper,
    ) -> Result<Self> {
        ensure!(
            config.sluice.exists(),
            "no agent at {}: cargo xtask build",
            config.sluice.display()
        );
        fs::create_dir_all(&config.state_dir)?;
        let log = config.state_dir.join("agent.log");
        let path = |path: &Path| path.display().to_string();
        let mut args = vec!["agent".to_owned()];
        for (flag, value) in [
            ("--node-name", config.node.clone()),
            ("--kubeconfig", path(&config.kubeconfig)),
            ("--state-dir", path(&config.state_dir)),
            ("--bpf-dir", path(&config.bpf_dir)),
            ("--cgroup", config.cgroup.as_deref().map_or_else(|| "none".to_owned(), path)),
            ("--uplink", UPLINK.to_owned()),
            ("--http-addr", format!("0.0.0.0:{HTTP_PORT}")),
        ] {
            let is_told =
                |given: &&str| given.strip_prefix(flag).is_some_and(|it| it.starts_with('='));
            if !flags.iter().any(is_told) {
                args.extend([flag.to_owned(), value]);
            }
        }
        for cidr in &config.cluster_cidrs {
            args.extend(["--cluster-cidr".to_owned(), cidr.clone()]);
        }
        args.extend(config.flags.iter().cloned());
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let spec = Spec::new(&config.sluice).args(args).log(&log).cgroup(config.cgroup.as_deref());
        let process = keeper.spawn(netns, &spec)?;
        Ok(Self { process, netns: netns.clone(), log })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it logs to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for 200 from `/readyz`.
    ///
    /// # Errors
    /// With the end of its log, when it has ended or is not ready in time.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.process.status()? {
                bail!(
                    "agent has ended ({status}); its log {}:\n{}",
                    self.log.display(),
                    log_tail(&self.log)
                );
            }
            let answer = self.netns.run(|| get(HTTP_PORT, "/readyz"))?;
            match answer {
                Ok(200) => return Ok(()),
                _ if Instant::now() < deadline => sleep(Duration::from_millis(20)),
                answer => {
                    let log = log_tail(&self.log);
                    bail!(
                        "agent is not ready after {timeout:?} ({answer:?}); its log {}:\n{log}",
                        self.log.display()
                    );
                }
            }
        }
    }

    /// Ends it and waits until it is gone; the data plane stays.
    ///
    /// # Errors
    /// When it has ended before, or does not end within `timeout`.
    pub fn end(self, signal: Signal, timeout: Duration) -> Result<()> {
        self.process.signal(signal)?;
        ensure!(
            self.process.wait(timeout)?.is_some(),
            "agent still runs {timeout:?} after {signal}"
        );
        Ok(())
    }
}

/// The folders of a node's agent.
pub(super) fn state_dir(claim: &Claim, node: &str) -> PathBuf {
    claim.dir().join(node)
}

/// Status of GET on loopback.
pub(super) fn get(port: u16, path: &str) -> Result<u16> {
    let limit = Duration::from_secs(2);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).context("no HTTP answer")?;
    status.parse().context("no HTTP status")
}
