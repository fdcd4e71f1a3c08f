//! Owns the ways to service addresses outside the nodes: by which node the office's questions come
//! into the cluster, and who answers what no node serves.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

use super::cases::{WITH, WITHOUT};
use super::grid::{OTHER_PORT, PORTS, Pair, Site};
use super::rules::{LISTENER, WORLD};
use super::scene::{EXTERNAL, LOAD_BALANCER};
use crate::cluster::Cluster;
use crate::cluster::netns::Netns;
use crate::cluster::process::{Process, Spec};
use crate::cluster::topology::{OFFICE_V4, OFFICE_V6, UPLINK};

/// The office's second address, which the router sends to the other node.
const OFFICE_TOO: (&str, &str) = ("192.168.88.11", "fd00:88::11");
/// Routing tables of the router for the office's first and second address.
const TABLES: [(&str, &str); 2] = [(WITH, "101"), (WITHOUT, "103")];
/// The router and the world on the link between them, with prefix length.
const ROUTER: [&str; 2] = ["192.168.99.1/24", "fd00:99::1/64"];
const OUTSIDE: [&str; 2] = ["192.168.99.2", "fd00:99::2"];
/// Kinds of ICMP messages that are held back when there are many: none that is ever sent. All who
/// are refused on purpose are to be told.
const ICMP: [(&str, &str); 2] = [("ipv4/icmp_ratemask", "0"), ("ipv6/icmp/ratemask", "127")];

/// Addresses of the office, by the node to which the router sends what comes from them.
pub(super) fn office() -> Result<BTreeMap<String, Pair>> {
    let too = [OFFICE_TOO.0.parse()?, OFFICE_TOO.1.parse()?];
    let pairs = [(WITH, [OFFICE_V4.into(), OFFICE_V6.into()]), (WITHOUT, too)];
    Ok(pairs.map(|(node, pair)| (node.to_owned(), pair)).into())
}

/// Leads the office's questions to a node, and all that nodes let pass to a server outside, so
/// that nobody takes the one for the other, or for silence. The server ends when dropped.
pub(super) fn world(cluster: &Cluster, site: &Site) -> Result<Process> {
    let ranges = ranges(cluster)?;
    let router = &cluster.network().router;
    for netns in cluster.nodes().iter().map(|node| node.netns()).chain([router]) {
        netns.sysctl(&ICMP, false)?;
    }
    office_routes(cluster, site, &ranges)?;
    let path = cluster.dir().join("netns").join(WORLD);
    let world = if path.exists() {
        Netns::open(&path)?
    } else {
        let world = Netns::create(&path)?;
        join(router, &world, &ranges)?;
        world
    };
    let ports = PORTS.map(|(_, port, _)| port).into_iter().chain([OTHER_PORT]);
    let ports: Vec<(&str, u16)> =
        ports.flat_map(|port| [("--tcp", port), ("--sctp", port)]).collect();
    echo(WORLD, &ports, cluster.program(), |spec| cluster.keeper().spawn(&world, spec))
}

/// Servers of the nodes themselves at these node ports (as [`PORTS`]), which must not be heard where
/// a node port is open. They end when dropped.
pub(super) fn listeners(cluster: &Cluster, node_ports: &[[u16; 3]]) -> Result<Vec<Process>> {
    let ports = node_ports
        .iter()
        .flat_map(|[tcp, udp, sctp]| [("--tcp", *tcp), ("--udp", *udp), ("--sctp", *sctp)]);
    let ports: Vec<(&str, u16)> = ports.collect();
    let nodes = [WITH, WITHOUT].into_iter();
    let start = |node: &str| {
        let node = cluster.node(node)?;
        echo(LISTENER, &ports, cluster.program(), |spec| node.spawn(spec))
    };
    nodes.map(start).collect()
}

/// Servers of the world at these node ports, which no node serves at addresses out there. They end
/// when dropped.
pub(super) fn outside(cluster: &Cluster, node_ports: &[[u16; 3]]) -> Result<Process> {
    let world = Netns::open(&cluster.dir().join("netns").join(WORLD))?;
    let ports = node_ports.iter().flat_map(|[tcp, _, sctp]| [("--tcp", *tcp), ("--sctp", *sctp)]);
    let ports: Vec<(&str, u16)> = ports.collect();
    echo(WORLD, &ports, cluster.program(), |spec| cluster.keeper().spawn(&world, spec))
}

/// Starts an echo server and waits until it listens; ports are its flags and their values.
fn echo(
    name: &str,
    ports: &[(&str, u16)],
    program: &Path,
    spawn: impl FnOnce(&Spec) -> Result<Process>,
) -> Result<Process> {
    let args = ["echo", "--name", name].map(str::to_owned).into_iter();
    let ports = ports.iter().flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]);
    let process = spawn(&Spec::new(program).args(args.chain(ports)).pipe_stdout())?;
    let mut line = String::new();
    let stdout = process.take_stdout().context("standard output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "ready\n", "server {name} does not listen");
    Ok(process)
}

/// Servers of SCTP choose the address they answer from; the world has its own by routes only.
const ANY_SOURCE: [(&str, &str); 1] = [("ipv6/ip_nonlocal_bind", "1")];

/// The namespace of the world has all service addresses; the router sends there what has no other
/// way.
fn join(router: &Netns, world: &Netns, ranges: &[String]) -> Result<()> {
    world.sysctl(&ICMP, false)?;
    world.sysctl(&ANY_SOURCE, false)?;
    let [v4, v6] = ROUTER;
    router.ip(&format!(
        "link add {WORLD} type veth peer name {UPLINK} netns {}\nlink set {WORLD} up\n\
         address add {v4} dev {WORLD}\naddress add {v6} dev {WORLD} nodad\n",
        world.path().display()
    ))?;
    let [v4, v6] = OUTSIDE;
    world.ip(&format!(
        "link set {UPLINK} up\naddress add {v4}/24 dev {UPLINK}\n\
         address add {v6}/64 dev {UPLINK} nodad\n\
         route add default via 192.168.99.1\nroute add default via fd00:99::1\n"
    ))?;
    for range in ranges {
        let (family, via) = if range.contains(':') { ("-6", v6) } else { ("-4", v4) };
        ip(world, &[family, "route", "add", "local", range, "dev", "lo"])?;
        ip(router, &[family, "route", "replace", range, "via", via])?;
    }
    Ok(())
}

/// The office gets a second address; what comes from it for service addresses goes to another node
/// than what comes from the first.
fn office_routes(cluster: &Cluster, site: &Site, ranges: &[String]) -> Result<()> {
    let network = cluster.network();
    let (v4, v6) = OFFICE_TOO;
    network.office.ip(&format!(
        "address replace {v4}/24 dev {UPLINK}\naddress replace {v6}/64 dev {UPLINK} nodad preferred_lft 0\n"
    ))?;
    for (node, table) in TABLES {
        let via = site.nodes.get(node).with_context(|| format!("addresses of {node}"))?;
        let from = site.office.get(node).with_context(|| format!("the office via {node}"))?;
        for ((family, via), from) in ["-4", "-6"].into_iter().zip(via).zip(from) {
            let from = from.to_string();
            // Away first: a matrix may run twice in one cluster.
            let _ = ip(&network.router, &[family, "rule", "del", "lookup", table]);
            let rule = [family, "rule", "add", "from", &from, "iif", "office", "lookup", table];
            ip(&network.router, &rule)?;
            for range in ranges.iter().filter(|range| range.contains(':') == via.is_ipv6()) {
                let via = via.to_string();
                let route = [family, "route", "replace", range, "via", &via, "table", table];
                ip(&network.router, &route)?;
            }
        }
    }
    Ok(())
}

/// All addresses that Services of the matrix may have.
fn ranges(cluster: &Cluster) -> Result<Vec<String>> {
    let external = [EXTERNAL, LOAD_BALANCER]
        .map(|(v4, v6)| [format!("{v4}.0/24"), format!("{v6}:/64")])
        .into_iter()
        .flatten();
    Ok(external.chain(service_ranges(cluster)?.iter().map(IpNet::to_string)).collect())
}

/// The ranges of ClusterIPs.
pub(super) fn service_ranges(cluster: &Cluster) -> Result<Vec<IpNet>> {
    let mut ranges = Vec::new();
    for object in cluster.store().list("servicecidrs") {
        let cidrs = object.pointer("/spec/cidrs").and_then(Value::as_array).cloned();
        for cidr in cidrs.unwrap_or_default() {
            ranges.push(cidr.as_str().unwrap_or_default().parse().context("a ServiceCIDR")?);
        }
    }
    Ok(ranges)
}

/// Unlike a batch, this takes the family as an option, which rules need.
fn ip(netns: &Netns, args: &[&str]) -> Result<()> {
    let output = netns.run(|| Command::new("ip").args(args).output())??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {} in {}: {}", args.join(" "), netns.name(), said.trim());
    }
    Ok(())
}
