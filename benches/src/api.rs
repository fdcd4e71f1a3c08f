//! A large cluster through the real API server: how long an agent takes to a complete data plane, what
//! it reads and holds for it, and whether it comes to rest afterwards.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_testkit::api::real::Part;
use sluice_testkit::cluster::topology::UPLINK;
use sluice_testkit::cluster::{self, ApiServer, Cluster, Node, PATIENCE};

use crate::same_node::beside;

/// Port of the Services and of their endpoints.
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// Endpoints' addresses count from here: no pods' of this cluster, so that no address is a node's own.
const ENDPOINTS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Nodes that they are said to run on.
const NODES: usize = 1000;
/// Requests that are made at once while the objects are written.
const WRITERS: usize = 4;
/// Time for the API server to come up with many objects.
const UP: Duration = Duration::from_secs(300);
/// Windows in which the work of an agent at rest is counted, and their length: longer together than the
/// longest period of its own (30 s), and than a watch's bookmarks (a minute).
const WINDOWS: usize = 9;
const WINDOW: Duration = Duration::from_secs(10);

/// Ticks a second in /proc (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Flags of `sluice-bench api`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Config {
    /// Services, of one port each
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of all of them together
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// etcd's snapshot of these objects: used if it is there, else written, since that takes minutes
    #[arg(long)]
    saved: Option<PathBuf>,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
struct Line {
    /// `nothing`, or `pins`: those of the agent before.
    from: &'static str,
    services: usize,
    endpoints: usize,
    /// Until all is written, as `/readyz` tells.
    complete_s: f64,
    /// Syncs until then, and how long the last one took.
    syncs: u64,
    sync_s: f64,
    /// Processor time until then.
    cpu_s: f64,
    /// The most memory it has held so far (VmHWM).
    peak_mb: f64,
    /// What it holds at rest (VmRSS).
    held_mb: f64,
    /// Bytes that came to the node until then.
    received_mb: f64,
    /// Lists of Services and slices so far; one each is all that is needed.
    lists: u64,
    /// Frontends and backends in the maps.
    frontends: u64,
    backends: u64,
    /// Share of a processor that it uses at rest, in percent, by window.
    rest_percent: Vec<f64>,
}

/// Measures a start from nothing and one from what the first has left.
pub(crate) fn run(config: &Config) -> Result<()> {
    let cluster = Cluster::start(cluster::Options {
        nodes: 1,
        api: ApiServer::Kubernetes,
        sluice: Some(beside("sluice")?),
        testkit: Some(beside("sluice-testkit")?),
        progress: |step| eprintln!("{step}"),
        ..cluster::Options::default()
    })?;
    let node = cluster.nodes().first().context("a cluster has a node")?;
    node.stop_agent(Signal::SIGTERM)?;
    cleanup(node)?;
    match config.saved.as_deref().filter(|path| path.is_file()) {
        Some(saved) => restore(&cluster, saved)?,
        None => fill(&cluster, config)?,
    }
    for from in ["nothing", "pins"] {
        println!("{}", serde_json::to_string(&start(node, from, config)?)?);
        node.stop_agent(Signal::SIGKILL)?;
    }
    Ok(())
}

/// Starts an agent and measures it.
fn start(node: &Node, from: &'static str, config: &Config) -> Result<Line> {
    let received = received(node)?;
    let began = Instant::now();
    node.start_agent()?;
    node.wait_agent_ready(PATIENCE)?;
    let complete_s = began.elapsed().as_secs_f64();
    let received = received_since(node, received)?;
    let status = status(node)?;
    let pid = status.get("pid").and_then(Value::as_u64).context("the agent's process id")?;
    let cpu_s = seconds(pid)?;
    let peak_mb = memory_mb(pid, "VmHWM")?;
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let watches = status.get("watches").and_then(Value::as_array).cloned().unwrap_or_default();
    let of = |watch: &Value| watch.get("lists").and_then(Value::as_u64).unwrap_or(0);
    let large = |watch: &&Value| {
        watch.get("objects").and_then(Value::as_u64).unwrap_or(0) >= config.services as u64
    };
    let line = Line {
        from,
        services: config.services,
        endpoints: config.endpoints,
        complete_s,
        syncs: number("/sync/done"),
        sync_s: status.pointer("/sync/last_ms").and_then(Value::as_f64).unwrap_or(0.0) / 1000.0,
        cpu_s,
        peak_mb,
        held_mb: 0.0,
        received_mb: received as f64 / 1e6,
        lists: watches.iter().filter(large).map(of).sum(),
        frontends: number("/dataplane/frontends"),
        backends: number("/dataplane/backends"),
        rest_percent: Vec::new(),
    };
    let all = line.frontends >= config.services as u64 && line.backends >= config.endpoints as u64;
    ensure!(all, "ready, but not complete: {status:#}");
    eprintln!("complete after {complete_s:.1} s; is it at rest?");
    let rest_percent = (0..WINDOWS)
        .map(|_| {
            let (before, from) = (seconds(pid)?, Instant::now());
            sleep(WINDOW);
            Ok(100.0 * (seconds(pid)? - before) / from.elapsed().as_secs_f64())
        })
        .collect::<Result<_>>()?;
    Ok(Line { rest_percent, held_mb: memory_mb(pid, "VmRSS")?, ..line })
}

/// Writes the objects, from a few threads, and saves them if asked to.
fn fill(cluster: &Cluster, config: &Config) -> Result<()> {
    let (server, _, remote) = cluster.api().real().context("the real API server")?;
    let (next, began) = (&AtomicUsize::new(0), Instant::now());
    let write = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= config.services {
                return Ok(());
            }
            if number.is_multiple_of(1000) {
                eprintln!("{number} Services after {} s", began.elapsed().as_secs());
            }
            for object in objects(number, config)? {
                remote.apply(&object)?;
            }
        }
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        let mut ended = writers.into_iter().map(|writer| writer.join());
        ended.try_for_each(|ended| ended.unwrap_or_else(|_| bail!("a writer panicked")))
    })?;
    config.saved.as_deref().map_or(Ok(()), |saved| server.save(saved))
}

/// A Service and its slice.
fn objects(number: usize, config: &Config) -> Result<[Value; 2]> {
    let name = format!("service-{number}");
    let ports = [("TCP", PORT, TARGET_PORT)];
    let mut service = cluster::service(&name, &Value::Null, &ports);
    let spec = service.get_mut("spec").and_then(Value::as_object_mut).context("a spec")?;
    spec.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
    let endpoint = |number: usize| -> Result<(IpAddr, String)> {
        let address = u32::from(ENDPOINTS) + u32::try_from(number)? + 1;
        Ok((Ipv4Addr::from(address).into(), format!("node-{}", number % NODES)))
    };
    let of = |number: usize| number * config.endpoints / config.services.max(1);
    let endpoints = (of(number)..of(number + 1)).map(endpoint).collect::<Result<Vec<_>>>()?;
    let endpoints: Vec<(IpAddr, &str)> =
        endpoints.iter().map(|(ip, node)| (*ip, node.as_str())).collect();
    Ok([service, cluster::slice(&name, &name, &endpoints, &ports)])
}

/// Starts the API anew from saved objects; agents get a token that its keys have signed.
fn restore(cluster: &Cluster, saved: &Path) -> Result<()> {
    let (server, rights, remote) = cluster.api().real().context("the real API server")?;
    for part in Part::ALL.iter().rev() {
        server.stop_part(*part, Signal::SIGKILL)?;
    }
    server.restore(saved, true)?;
    for part in Part::ALL {
        server.start_part(part)?;
    }
    remote.wait_ready(UP, || server.alive())?;
    rights.new_token()
}

fn cleanup(node: &Node) -> Result<()> {
    let config = node.agent_config().context("a cluster with agents")?;
    let mut command = Command::new(&config.sluice);
    command.args(["cleanup", "--bpf-dir"]).arg(&config.bpf_dir);
    command.arg("--state-dir").arg(&config.state_dir);
    let output = node.netns().run(|| command.output())??;
    ensure!(output.status.success(), "cleanup: {output:?}");
    Ok(())
}

/// What the agent says of itself.
pub(crate) fn status(node: &Node) -> Result<Value> {
    let config = node.agent_config().context("a cluster with agents")?;
    let mut command = Command::new(&config.sluice);
    command.args(["status", "--json", "--state-dir"]).arg(&config.state_dir);
    let output = command.output().context("sluice status")?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// Bytes that have come in at the node's uplink.
fn received(node: &Node) -> Result<u64> {
    let text = node.netns().run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let of_uplink =
        text.lines().find_map(|line| line.trim().strip_prefix(UPLINK)?.strip_prefix(':'));
    let bytes = of_uplink.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    bytes.with_context(|| format!("no {UPLINK} in:\n{text}"))
}

fn received_since(node: &Node, before: u64) -> Result<u64> {
    Ok(received(node)?.saturating_sub(before))
}

/// Processor time of a process so far, user's and system's (proc(5), /proc/PID/stat).
pub(crate) fn seconds(pid: u64) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent has ended")?;
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest).context("/proc/PID/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS)
}

/// A line of /proc/PID/status, which has kB of 1024 bytes; in MB of 10^6.
fn memory_mb(pid: u64, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kb = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kb.with_context(|| format!("no {name}"))? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_shared_out_and_none_is_there_twice() {
        let config = Config { services: 7, endpoints: 23, saved: None };
        let mut addresses = Vec::new();
        for number in 0..config.services {
            let [service, slice] = objects(number, &config).unwrap();
            assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
            for endpoint in slice["endpoints"].as_array().unwrap() {
                addresses.push(endpoint["addresses"][0].clone().to_string());
            }
        }
        assert_eq!(addresses.len(), config.endpoints);
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), config.endpoints);
    }

    #[test]
    fn a_process_has_time_and_memory() {
        let pid = u64::from(std::process::id());
        assert!(seconds(pid).unwrap() < 60.0);
        assert!(memory_mb(pid, "VmHWM").unwrap() >= 1.0);
    }
}
