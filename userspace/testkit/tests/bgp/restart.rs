//! B18: agents that go and come back, under traffic from the office and from pods.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sluice_testkit::cluster::bgp_router::routes_of;
use sluice_testkit::cluster::{Cluster, Node, wait_for};

use crate::load::{Running, everything};
use crate::{PATIENCE, SECOND, addresses, ask, cluster, hops, router};

/// How often agents are killed.
const ROUNDS: usize = 10;
/// How long nobody is there, each time.
const AWAY: Duration = SECOND;

/// Ends agents and starts them again; returns once all sessions are up.
fn restart(cluster: &Cluster, nodes: &[&Node], signal: Signal) {
    for node in nodes {
        node.stop_agent(signal).unwrap();
    }
    std::thread::sleep(AWAY);
    for node in nodes {
        node.start_agent().unwrap();
    }
    for node in nodes {
        node.wait_agent_ready(PATIENCE).unwrap();
    }
    wait_for("all sessions", || {
        let up = cluster.nodes().iter().all(|node| {
            let rows = ask(cluster, node.name(), &["bgp", "neighbors"]);
            rows.as_array().is_some_and(|rows| {
                rows.len() == 3 && rows.iter().all(|row| row["state"] == "Established")
            })
        });
        Ok(up.then_some(()))
    })
    .unwrap();
    cluster.wait_for_pod_routes().unwrap();
}

#[test]
fn b18_agents_killed_ten_times_under_traffic_from_the_office_lose_nothing() {
    let Some(cluster) = cluster() else { return };
    let running = everything(&cluster);
    let all: Vec<&Node> = cluster.nodes().iter().collect();
    for round in 0..ROUNDS {
        // One node alone, and all at once, by turns.
        let one = [all[round / 2 % all.len()]];
        restart(&cluster, if round % 2 == 0 { &one } else { &all }, Signal::SIGKILL);
    }
    restart(&cluster, &all, Signal::SIGTERM);
    running.into_iter().for_each(Running::lost_nothing);
}

#[test]
fn b18_without_graceful_restart_nothing_is_held_back() {
    let Some(cluster) = cluster() else { return };
    let router = router(&cluster);
    let vip = addresses(&cluster, "web")[0];
    router
        .configure(|text| text.replace("graceful restart aware", "graceful restart off"))
        .unwrap();
    router.wait("web by three nodes", PATIENCE, |routes| hops(routes, vip) == 3).unwrap();
    let node = cluster.node("n1").unwrap();
    node.stop_agent(Signal::SIGKILL).unwrap();
    router.wait("web by the others", PATIENCE, |routes| hops(routes, vip) == 2).unwrap();
    // A route of the former run that nobody will tell of again.
    node.netns().ip("route add 10.250.0.0/24 via 192.168.77.12 proto 92 metric 2092\n").unwrap();
    let started = Instant::now();
    node.start_agent().unwrap();
    node.wait_agent_ready(PATIENCE).unwrap();
    let ready = started.elapsed();
    router.wait("web by three nodes again", PATIENCE, |routes| hops(routes, vip) == 3).unwrap();
    let announced = started.elapsed();
    wait_for("the leftover to go", || {
        Ok((!routes_of(node.netns(), "92")?.contains("10.250.0.0/24")).then_some(()))
    })
    .unwrap();
    let swept = started.elapsed();
    println!(
        "ready after {ready:?}, announced after {announced:?}, leftovers gone after {swept:?}"
    );
    // The time that peers with graceful restart would be given is six minutes.
    let most = ready + SECOND * 120;
    assert!(announced < most && swept < most, "held back");
}
