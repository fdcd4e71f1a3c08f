//! Owns the site's router as a BGP speaker: BIRD from Debian in the router's namespace, which
//! learns from the nodes where pods and services are, in place of fixed routes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::netns::Netns;
use super::process::{Keeper, Process, Spec, log_tail};
use super::topology::{NodePlan, ROUTER_V4};

/// AS of the router.
pub const ROUTER_ASN: u32 = 65001;
/// AS of the nodes (`--cluster-asn`'s default).
pub const NODES_ASN: u32 = 64512;
/// Where Debian has it.
const BIRD: &str = "/usr/sbin/bird";

/// Flags of agents that peer with the router and announce everything to it.
#[must_use]
pub fn agent_flags() -> Vec<String> {
    vec![
        format!("--peer-router-ips={ROUTER_V4}"),
        format!("--peer-router-asns={ROUTER_ASN}"),
        "--advertise-cluster-ip".to_owned(),
        "--advertise-external-ip".to_owned(),
        "--advertise-loadbalancer-ip".to_owned(),
    ]
}

/// Whether the router can speak BGP here.
#[must_use]
pub fn is_installed() -> bool {
    Path::new(BIRD).is_file()
}

/// A BIRD that runs. It ends when dropped.
#[derive(Debug)]
pub struct BgpRouter {
    _process: Process,
    netns: Netns,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl BgpRouter {
    /// Starts BIRD in the router's namespace, with all nodes for peers.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) fn start(
        netns: &Netns,
        nodes: &[NodePlan],
        dir: &Path,
        keeper: &Keeper,
    ) -> Result<Self> {
        let dir = dir.join("router");
        fs::create_dir_all(&dir)?;
        let path = dir.join("bird.conf");
        fs::write(&path, config(nodes))?;
        let (socket, pid, log) = (dir.join("bird.ctl"), dir.join("bird.pid"), dir.join("bird.log"));
        let text = |path: &Path| path.display().to_string();
        let args = ["-f", "-c", &text(&path), "-s", &text(&socket), "-P", &text(&pid)];
        let spec = Spec::new(BIRD).args(args).log(&log);
        let process = keeper.spawn(netns, &spec).context("start bird")?;
        Ok(Self { _process: process, netns: netns.clone(), config: path, socket, log })
    }

    /// What `birdc` answers.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn ask(&self, question: &str) -> Result<String> {
        let output = Command::new("birdc").arg("-s").arg(&self.socket).arg(question).output();
        let output = output.context("run birdc")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Changes its configuration while it runs.
    ///
    /// # Errors
    /// When BIRD does not take it.
    pub fn configure(&self, edit: impl FnOnce(&str) -> String) -> Result<()> {
        let text = edit(&fs::read_to_string(&self.config)?);
        fs::write(&self.config, text)?;
        let answer = self.ask("configure")?;
        if !answer.contains("Reconfigur") {
            bail!("bird does not take its configuration: {answer}");
        }
        Ok(())
    }

    /// The router's routes that it learned by BGP, as `ip route` shows them, of both families.
    ///
    /// # Errors
    /// When `ip` can't be run.
    pub fn routes(&self) -> Result<String> {
        routes_of(&self.netns, "bird")
    }

    /// Waits until something holds for what the router has learned.
    ///
    /// # Errors
    /// When it does not in time; with what there is, and the end of BIRD's log.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&str) -> bool,
    ) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let routes = self.routes()?;
            if holds(&routes) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > limit {
                let (log, peers) = (log_tail(&self.log), self.ask("show protocols")?);
                bail!("router: {what}: not within {limit:?}; it has\n{routes}\n{peers}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Routes of one protocol in a namespace, of both families.
///
/// # Errors
/// When `ip` can't be run.
pub fn routes_of(netns: &Netns, protocol: &str) -> Result<String> {
    let show = |family: &'static str| {
        let protocol = protocol.to_owned();
        netns.run(move || {
            Command::new("ip").args([family, "route", "show", "proto", &protocol]).output()
        })
    };
    let (v4, v6) = (show("-4")??, show("-6")??);
    Ok(String::from_utf8_lossy(&v4.stdout).into_owned() + &String::from_utf8_lossy(&v6.stdout))
}

fn config(nodes: &[NodePlan]) -> String {
    let mut text = format!(
        "router id {ROUTER_V4};
protocol device {{ }}
protocol kernel kernel4 {{ ipv4 {{ import none; export all; }}; merge paths on; }}
protocol kernel kernel6 {{ ipv6 {{ import none; export all; }}; merge paths on; }}
template bgp node {{
    local {ROUTER_V4} as {ROUTER_ASN};
    hold time 9;
    connect retry time 1;
    connect delay time 1;
    error wait time 1, 4;
    graceful restart aware;
    ipv4 {{ import all; export none; }};
    ipv6 {{ import all; export none; }};
}}
"
    );
    for node in nodes {
        let (name, address) = (&node.name, node.v4);
        let _ = writeln!(
            text,
            "protocol bgp {name} from node {{ neighbor {address} as {NODES_ASN}; }}"
        );
    }
    text
}
