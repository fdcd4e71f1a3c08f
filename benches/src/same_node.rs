//! To a pod on the same node, from a pod and from the node itself: transactions per second directly
//! over the bridge, and through a ClusterIP in each of the ways. Every way has a cluster of its own, so
//! that none inherits another's sockets in TIME_WAIT, conntrack entries or rules.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use sluice_testkit::cluster::process::{Process, Spec};
use sluice_testkit::cluster::{self, Cluster, Node, PATIENCE};

use crate::modes::{Client, Mode};
use crate::transactions::Rates;

/// Port of the server, and of the service in front of it.
const PORT: u16 = 7000;
/// The service, and its pods' label.
const SERVICE: &str = "transactions";
/// The agent's metrics, and how many frontends it serves.
const METRICS: u16 = 20244;
const FRONTENDS: &str = "sluice_frontends ";

/// How long the machine may take to come to rest.
const REST: Duration = Duration::from_secs(60);
/// The share of the time, one part in so many, that processors at rest may be busy.
const MOST_BUSY: u64 = 20;

/// Flags of `sluice-bench same-node`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Config {
    /// Ways to measure, in this order
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,tc,iptables,ipvs,socket,bare"
    )]
    modes: Vec<Mode>,
    /// Other Services there are, each with an endpoint
    #[arg(long, default_value_t = 0)]
    services: usize,
    /// Milliseconds of counting, for each kind of transaction
    #[arg(long, default_value_t = 1000)]
    measure_ms: u64,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    case: String,
    mode: Mode,
    #[serde(flatten)]
    rates: Rates,
    /// To direct; absent where direct was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    rr_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crr_ratio: Option<f64>,
}

/// Measures each mode and prints a line for it as soon as it is known. Whoever asks by some mode also
/// asks directly, first, if that is wanted at all.
pub(crate) fn run(config: &Config) -> Result<()> {
    for client in [Client::Pod, Client::Node] {
        let own = |mode: &&Mode| mode.client().is_none_or(|asks| asks == client);
        let modes: Vec<Mode> = config.modes.iter().filter(own).copied().collect();
        let directly = [Mode::Direct];
        let only_direct = modes == directly && config.modes != directly;
        if only_direct || (client == Client::Node && modes == directly) {
            continue;
        }
        run_case(client, &modes, config)?;
    }
    Ok(())
}

fn run_case(client: Client, modes: &[Mode], config: &Config) -> Result<()> {
    let case = case(client, config.services);
    let mut direct = None;
    for &mode in modes {
        eprintln!("{case} {}: a cluster of one node", mode.name());
        match measure(mode, client, config)? {
            Ok(rates) => {
                if mode == Mode::Direct {
                    direct = Some(rates);
                }
                println!("{}", serde_json::to_string(&line(case.clone(), mode, rates, direct))?);
            }
            Err(reason) => eprintln!("{}: left out: {reason:#}", mode.name()),
        }
    }
    Ok(())
}

/// The name of a case in the report.
fn case(client: Client, services: usize) -> String {
    let name = match client {
        Client::Pod => "pod-to-pod-ipv4",
        Client::Node => "node-to-pod-ipv4",
    };
    if services == 0 { name.to_owned() } else { format!("{name}-{services}-services") }
}

fn line(case: String, mode: Mode, rates: Rates, direct: Option<Rates>) -> Line {
    let ratio = |of: fn(&Rates) -> f64| direct.map(|direct| of(&rates) / of(&direct));
    Line {
        case,
        mode,
        rates,
        rr_ratio: ratio(|rates| rates.rr_per_s),
        crr_ratio: ratio(|rates| rates.crr_per_s),
    }
}

/// One mode in a cluster of its own. The inner error: the node can't do this mode.
fn measure(mode: Mode, client: Client, config: &Config) -> Result<Result<Rates>> {
    if client == Client::Node && !cluster::has_cgroups() {
        return Ok(Err(anyhow::anyhow!("cgroup v2 is not mounted")));
    }
    let cluster = Cluster::start(cluster::Options {
        nodes: 1,
        sluice: if mode.has_agent(client) { Some(beside("sluice")?) } else { None },
        testkit: Some(beside("sluice-testkit")?),
        cgroups: client == Client::Node,
        ..cluster::Options::default()
    })?;
    let node = cluster.nodes().first().context("a cluster has a node")?;
    let label = json!({ "app": SERVICE });
    cluster.apply(cluster::service(SERVICE, &label, &[("TCP", PORT, PORT)]))?;
    cluster.apply(cluster::pod("server", node.name(), "pause", &label, &[]))?;
    cluster.apply(cluster::pod("client", node.name(), "pause", &json!({}), &[]))?;
    let server = cluster.wait_for_pod("server")?;
    let asking = cluster.wait_for_pod("client")?;
    let backend = first_v4(&server.addresses)?;
    let service = first_v4(&cluster.api().cluster_ips(SERVICE)?)?;
    crowd(&cluster, node, backend, config.services, mode.has_agent(client))?;

    let netns = if client == Client::Pod { &asking.netns } else { node.netns() };
    // More ports than a fast machine uses up in a measurement.
    netns.sysctl(&[("ipv4/ip_local_port_range", "1024 65000")], false)?;
    netns.sysctl(&[("ipv4/tcp_tw_reuse", "1")], false)?;
    if let Err(reason) = mode.prepare(node.netns(), service, backend, PORT) {
        return Ok(Err(reason));
    }
    let serving = own(&cluster, &["serve", "--port", &PORT.to_string()])?;
    let serving = cluster.keeper().spawn(&server.netns, &serving)?;
    first_line(&serving).context("the server")?;

    // What the cluster's start and its objects have set off is not what is measured.
    if !rests()? {
        eprintln!("{}: the machine is busy with other things, which counts too", mode.name());
    }
    let target = SocketAddr::new(if mode.has_service() { service } else { backend }, PORT);
    let measure_ms = config.measure_ms.to_string();
    let driving =
        own(&cluster, &["drive", "--to", &target.to_string(), "--measure-ms", &measure_ms])?;
    let driving = match client {
        Client::Pod => cluster.keeper().spawn(netns, &driving)?,
        Client::Node => node.spawn(&driving)?,
    };
    let result = first_line(&driving).with_context(|| {
        let log = std::fs::read_to_string(log(&cluster, "drive")).unwrap_or_default();
        format!("the client, to {target}: {}", log.trim())
    })?;
    Ok(Ok(serde_json::from_str(&result).with_context(|| format!("the client said {result:?}"))?))
}

/// Makes so many other Services with an endpoint each, and waits until the agent serves them.
fn crowd(
    cluster: &Cluster,
    node: &Node,
    backend: IpAddr,
    services: usize,
    agent: bool,
) -> Result<()> {
    for number in 0..services {
        let name = format!("other-{number}");
        let ports = [("TCP", PORT, PORT)];
        cluster.apply(cluster::slice(&name, &name, &[(backend, node.name())], &ports))?;
        cluster.apply(cluster::service(&name, &serde_json::Value::Null, &ports))?;
    }
    let deadline = Instant::now() + PATIENCE;
    while agent && frontends(node)? < services {
        if Instant::now() > deadline {
            bail!(
                "the agent serves {} of {services} Services after {PATIENCE:?}",
                frontends(node)?
            );
        }
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Waits until the processors have had next to nothing to do for two seconds on end; false if they
/// never have.
pub(crate) fn rests() -> Result<bool> {
    let deadline = Instant::now() + REST;
    let mut quiet = 0;
    let (mut busy, mut all) = ticks()?;
    while quiet < 2 && Instant::now() < deadline {
        sleep(Duration::from_secs(1));
        let (busy_now, all_now) = ticks()?;
        let rests = (busy_now - busy) * MOST_BUSY <= all_now - all;
        (quiet, busy, all) = (if rests { quiet + 1 } else { 0 }, busy_now, all_now);
    }
    Ok(quiet == 2)
}

/// Clock ticks of all processors since the start: at work, and in all (proc(5), /proc/stat).
fn ticks() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // Guests' time, the ninth and tenth, is in the first two.
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// How many frontends the node's agent serves, as its metrics say.
fn frontends(node: &Node) -> Result<usize> {
    let text = node.netns().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let found = text.lines().find_map(|line| line.strip_prefix(FRONTENDS)?.trim().parse().ok());
    found.context("the agent's metrics tell no frontends")
}

/// This program, to be run in a pod or on the node.
fn own(cluster: &Cluster, arguments: &[&str]) -> Result<Spec> {
    let own = std::env::current_exe().context("own program")?;
    let name = arguments.first().copied().unwrap_or_default();
    Ok(Spec::new(own).args(arguments).log(log(cluster, name)).pipe_stdout())
}

fn log(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().join(format!("bench-{name}.log"))
}

fn first_line(process: &Process) -> Result<String> {
    let stdout = process.take_stdout().context("its output is not piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        bail!("ended without a word");
    }
    Ok(line)
}

fn first_v4(addresses: &[IpAddr]) -> Result<IpAddr> {
    let found = addresses.iter().copied().find(IpAddr::is_ipv4);
    found.with_context(|| format!("no IPv4 address among {addresses:?}"))
}

/// A binary that was built along with this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("own program")?.with_file_name(name);
    if !path.is_file() {
        bail!("no {}: cargo xtask bench builds it", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_direct() {
        let direct = Rates { rr_per_s: 20_000.0, crr_per_s: 4000.0 };
        let tc = Rates { rr_per_s: 21_000.0, crr_per_s: 3900.0 };
        let found = line(case(Client::Pod, 0), Mode::Tc, tc, Some(direct));
        assert_eq!((found.rr_ratio, found.crr_ratio), (Some(1.05), Some(0.975)));
        let text =
            serde_json::to_string(&line(case(Client::Node, 9), Mode::Socket, tc, None)).unwrap();
        assert_eq!(
            text,
            r#"{"case":"node-to-pod-ipv4-9-services","mode":"socket","rr_per_s":21000.0,"crr_per_s":3900.0}"#
        );
    }
}
