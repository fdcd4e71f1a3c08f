//! Peering between nodes switched off and on again, by restart and live, under traffic from pods and from
//! the office: every packet has a path, by the other node or by the router.

use std::process::Command;
use std::thread::sleep;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::cluster::bgp_router::routes_of;
use sluice_testkit::cluster::{Cluster, wait_for};

use crate::load::{Running, everything};
use crate::{PATIENCE, SECOND, ask, cluster};

/// Each node's routes, without what the kernel makes for links.
pub(crate) fn tables(cluster: &Cluster) -> Vec<String> {
    let show = |netns: &sluice_testkit::cluster::netns::Netns, family: &'static str| {
        let run = move || Command::new("ip").args([family, "route"]).output();
        let output = netns.run(run).unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.contains("proto kernel"));
        let mut lines: Vec<String> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines.join("\n")
    };
    let nodes = cluster.nodes().iter();
    nodes.map(|node| show(node.netns(), "-4") + "\n" + &show(node.netns(), "-6")).collect()
}

/// Waits until no node has a route to another's pods.
fn wait_for_no_routes(cluster: &Cluster) {
    wait_for("routes to other nodes' pods to go", || {
        let mut some = false;
        for node in cluster.nodes() {
            some |= routes_of(node.netns(), "92")?.contains(" via ");
        }
        Ok((!some).then_some(()))
    })
    .unwrap();
}

/// Waits until the routing tables are what they were.
fn wait_for_tables(cluster: &Cluster, before: &[String]) {
    cluster.wait_for_pod_routes().unwrap();
    let same =
        wait_for("the routing tables of before", || Ok((tables(cluster) == before).then_some(())));
    same.unwrap_or_else(|fault| panic!("{fault:#}: {:#?}, before {before:#?}", tables(cluster)));
}

/// Whether some node ended its session with a router because of a setting: 6/3 or 6/6.
fn routers_were_touched(cluster: &Cluster) -> bool {
    cluster.nodes().iter().any(|node| {
        let rows = ask(cluster, node.name(), &["bgp", "neighbors"]);
        let rows = rows.as_array().cloned().unwrap_or_default();
        let ends = rows.iter().filter(|row| row["kind"] == "router").map(|row| &row["last_end"]);
        ends.filter_map(Value::as_str).any(|end| end.contains("6/3") || end.contains("6/6"))
    })
}

#[test]
fn enable_ibgp_off_and_on_again_by_restart_leaves_every_node_as_it_was() {
    let Some(cluster) = cluster() else { return };
    let before = tables(&cluster);
    let running = everything(&cluster);
    for flags in [&["--enable-ibgp=false"][..], &[]] {
        sleep(SECOND);
        for node in cluster.nodes() {
            node.stop_agent(Signal::SIGTERM).unwrap();
            node.start_agent_with(flags).unwrap();
            node.wait_agent_ready(PATIENCE).unwrap();
        }
        match flags.is_empty() {
            true => wait_for_tables(&cluster, &before),
            false => wait_for_no_routes(&cluster),
        }
    }
    running.into_iter().for_each(Running::lost_nothing);
}

#[test]
fn enable_ibgp_off_and_on_again_live_leaves_every_node_as_it_was() {
    let Some(cluster) = cluster() else { return };
    let before = tables(&cluster);
    let running = everything(&cluster);
    // The annotation goes before the flag; without it the flag counts again.
    let off = || json!("false");
    for wanted in [off(), json!("true"), off(), Value::Null, off(), json!("true")] {
        // Traffic by the way there is.
        sleep(SECOND);
        for node in cluster.nodes() {
            let patch =
                json!({ "metadata": { "annotations": { "sluice.io/enable-ibgp": wanted } } });
            cluster.store().merge("nodes", "", node.name(), "", &patch).unwrap();
        }
        match wanted != off() {
            true => wait_for_tables(&cluster, &before),
            false => {
                wait_for_no_routes(&cluster);
                for node in cluster.nodes() {
                    let peers = ask(&cluster, node.name(), &["bgp", "neighbors"]);
                    assert_eq!(peers.as_array().map(Vec::len), Some(1), "the router: {peers:#}");
                }
            }
        }
    }
    sleep(SECOND);
    assert!(!routers_were_touched(&cluster));
    running.into_iter().for_each(Running::lost_nothing);
}
