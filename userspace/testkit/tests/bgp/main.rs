//! BGP in a cluster: real agents, BIRD as the site's router, an office client. Assertions are on
//! what clients see, what the router has learned, and what stands in the kernels.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod aggregates;
mod annotations;
mod contract;
mod flood;
mod hostile;
mod ibgp;
mod load;
mod restart;
mod secured;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::cluster::bgp_router::{self, BgpRouter};
use sluice_testkit::cluster::{self, Cluster, Options};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);
const PORTS: [(&str, u16, u16); 2] = [("TCP", 80, 8080), ("UDP", 80, 8080)];
const TARGETS: [(&str, u16); 2] = [("TCP", 8080), ("UDP", 8080)];

/// The agent that was built beside this test.
fn sluice() -> PathBuf {
    let told = std::env::var_os("SLUICE_TEST_AGENT").map(PathBuf::from);
    let testkit = PathBuf::from(env!("CARGO_BIN_EXE_sluice-testkit"));
    told.unwrap_or_else(|| testkit.with_file_name("sluice"))
}

/// A cluster with BGP, and one echo pod per node behind service `web`.
fn cluster() -> Option<Cluster> {
    let reason = match (cluster::missing(), sluice().is_file(), bgp_router::is_installed()) {
        (Some(missing), _, _) => missing.to_owned(),
        (None, false, _) => format!("no agent at {}", sluice().display()),
        (None, true, false) => "bird is not installed (cargo xtask setup)".to_owned(),
        (None, true, true) => String::new(),
    };
    if !reason.is_empty() {
        println!("SKIP: {reason}");
        return None;
    }
    let cluster = Cluster::start(Options {
        sluice: Some(sluice()),
        testkit: Some(env!("CARGO_BIN_EXE_sluice-testkit").into()),
        bgp: true,
        ..Options::default()
    })
    .expect("a cluster");
    cluster.apply(cluster::service("web", &json!({ "app": "web" }), &PORTS)).unwrap();
    let names = ["n1", "n2", "n3"].map(|node| (format!("web-{node}"), node));
    for (name, node) in &names {
        cluster
            .apply(cluster::pod(name, node, "echo", &json!({ "app": "web" }), &TARGETS))
            .unwrap();
    }
    for (name, _) in &names {
        cluster.wait_for_pod(name).unwrap();
    }
    Some(cluster)
}

fn router(cluster: &Cluster) -> &BgpRouter {
    cluster.bgp_router().expect("a router")
}

/// Cluster addresses of a service, IPv4 and IPv6.
fn addresses(cluster: &Cluster, service: &str) -> Vec<IpAddr> {
    cluster.api().cluster_ips(service).unwrap()
}

/// What a view of an agent says.
fn ask(cluster: &Cluster, node: &str, words: &[&str]) -> Value {
    let config = cluster.node(node).unwrap().agent_config().unwrap();
    let output = Command::new(&config.sluice)
        .args(words)
        .arg("--json")
        .arg("--state-dir")
        .arg(&config.state_dir)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Next hops of the router for an address.
fn hops(routes: &str, address: IpAddr) -> usize {
    let mut lines = routes.lines().skip_while(|line| {
        line.split_whitespace().next().is_none_or(|word| word != address.to_string())
    });
    let Some(first) = lines.next() else { return 0 };
    if first.contains(" via ") {
        return 1;
    }
    lines.take_while(|line| line.trim_start().starts_with("nexthop")).count()
}
