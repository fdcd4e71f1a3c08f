//! Pod to pod on one node: transactions per second directly over the bridge, and through a ClusterIP
//! in each of the ways. Every way has a cluster of its own, so that none inherits another's sockets
//! in TIME_WAIT, conntrack entries or rules.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use sluice_testkit::cluster::process::{Process, Spec};
use sluice_testkit::cluster::{self, Cluster, Pod};

use crate::modes::Mode;
use crate::transactions::Rates;

/// Port of the server, and of the service in front of it.
const PORT: u16 = 7000;
/// The service, its pods' label and the case's name in the report.
const SERVICE: &str = "transactions";
const CASE: &str = "pod-to-pod-ipv4";

/// Flags of `sluice-bench same-node`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Config {
    /// Ways to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,tc,iptables,ipvs")]
    modes: Vec<Mode>,
    /// Milliseconds of counting, for each kind of transaction
    #[arg(long, default_value_t = 1000)]
    measure_ms: u64,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    case: &'static str,
    mode: Mode,
    #[serde(flatten)]
    rates: Rates,
    /// To direct; absent where direct was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    rr_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crr_ratio: Option<f64>,
}

/// Measures each mode and prints a line for it as soon as it is known.
pub(crate) fn run(config: &Config) -> Result<()> {
    let mut direct = None;
    for &mode in &config.modes {
        eprintln!("{}: a cluster of one node", mode.name());
        match measure(mode, config.measure_ms)? {
            Ok(rates) => {
                if mode == Mode::Direct {
                    direct = Some(rates);
                }
                println!("{}", serde_json::to_string(&line(mode, rates, direct))?);
            }
            Err(reason) => eprintln!("{}: left out: {reason:#}", mode.name()),
        }
    }
    Ok(())
}

fn line(mode: Mode, rates: Rates, direct: Option<Rates>) -> Line {
    let ratio = |of: fn(&Rates) -> f64| direct.map(|direct| of(&rates) / of(&direct));
    Line {
        case: CASE,
        mode,
        rates,
        rr_ratio: ratio(|rates| rates.rr_per_s),
        crr_ratio: ratio(|rates| rates.crr_per_s),
    }
}

/// One mode in a cluster of its own. The inner error: the node can't do this mode.
fn measure(mode: Mode, measure_ms: u64) -> Result<Result<Rates>> {
    let cluster = Cluster::start(cluster::Options {
        nodes: 1,
        sluice: if mode.has_agent() { Some(beside("sluice")?) } else { None },
        testkit: Some(beside("sluice-testkit")?),
        ..cluster::Options::default()
    })?;
    let node = cluster.nodes().first().context("a cluster has a node")?;
    let label = json!({ "app": SERVICE });
    cluster.apply(cluster::service(SERVICE, &label, &[("TCP", PORT, PORT)]))?;
    cluster.apply(cluster::pod("server", node.name(), "pause", &label, &[]))?;
    cluster.apply(cluster::pod("client", node.name(), "pause", &json!({}), &[]))?;
    let server = cluster.wait_for_pod("server")?;
    let client = cluster.wait_for_pod("client")?;
    let backend = first_v4(&server.addresses)?;
    let service = first_v4(&cluster.api().cluster_ips(SERVICE)?)?;

    // More ports than a fast machine uses up in a measurement.
    client.netns.sysctl(&[("ipv4/ip_local_port_range", "1024 65000")], false)?;
    client.netns.sysctl(&[("ipv4/tcp_tw_reuse", "1")], false)?;
    if let Err(reason) = mode.prepare(node.netns(), service, backend, PORT) {
        return Ok(Err(reason));
    }
    let serving = start(&cluster, &server, &["serve", "--port", &PORT.to_string()])?;
    first_line(&serving).context("the server")?;

    let target = SocketAddr::new(if mode == Mode::Direct { backend } else { service }, PORT);
    let arguments = ["drive", "--to", &target.to_string(), "--measure-ms", &measure_ms.to_string()];
    let driving = start(&cluster, &client, &arguments)?;
    let result = first_line(&driving).with_context(|| {
        let log = std::fs::read_to_string(log(&cluster, "drive")).unwrap_or_default();
        format!("the client, to {target}: {}", log.trim())
    })?;
    Ok(Ok(serde_json::from_str(&result).with_context(|| format!("the client said {result:?}"))?))
}

/// Runs this program in a pod.
fn start(cluster: &Cluster, pod: &Pod, arguments: &[&str]) -> Result<Process> {
    let own = std::env::current_exe().context("own program")?;
    let name = arguments.first().copied().unwrap_or_default();
    let spec = Spec::new(own).args(arguments).log(log(cluster, name)).pipe_stdout();
    cluster.keeper().spawn(&pod.netns, &spec)
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
fn beside(name: &str) -> Result<PathBuf> {
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
        let found = line(Mode::Tc, tc, Some(direct));
        assert_eq!((found.rr_ratio, found.crr_ratio), (Some(1.05), Some(0.975)));
        let text = serde_json::to_string(&line(Mode::Ipvs, tc, None)).unwrap();
        assert_eq!(
            text,
            r#"{"case":"pod-to-pod-ipv4","mode":"ipvs","rr_per_s":21000.0,"crr_per_s":3900.0}"#
        );
    }
}
