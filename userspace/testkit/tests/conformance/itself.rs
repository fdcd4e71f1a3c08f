//! Services at addresses that are the node's own, asked by the node itself: its packets go by loopback.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::cluster;
use sluice_testkit::traffic::Failure;

use crate::flags::{addresses, node_port, with};
use crate::rig::{ALL, End, Rig, SOON, WAYS, Way, rig, until};

const NODE: &str = "n1";
/// Addresses that services have and that are on the node as well, as kube-router leaves them, or load
/// balancers that run on nodes.
const BOUND: [&str; 2] = ["203.0.113.77", "fd00:113::77"];

/// While these addresses are on the loopback interface of n1.
fn bound(rig: &Rig, work: impl FnOnce()) {
    let netns = rig.netns(NODE);
    let each = |verb: &str| {
        let [v4, v6] = BOUND;
        netns.ip(&format!("address {verb} {v4}/32 dev lo\naddress {verb} {v6}/128 dev lo\n"))
    };
    each("add").unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    each("del").unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn settle(rig: &Rig, at: impl Fn(Way) -> SocketAddr, backends: &[&str]) {
    for way in WAYS {
        rig.settle(NODE, at(way), way, backends);
    }
}

/// Whatever the address: also from one that others take for a service's, since a packet to an own address
/// comes from there.
#[test]
fn r19_an_external_address_that_is_the_nodes_own_is_served() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (own, _) = addresses(rig);
    let bound_ips: [IpAddr; 2] = BOUND.map(|ip| ip.parse().unwrap());
    let external: Vec<IpAddr> = own.into_iter().chain(bound_ips).collect();
    rig.service("mine", json!({ "externalIPs": external }));
    rig.endpoints("mine", &ALL);
    bound(rig, || {
        for addresses in [&own, &bound_ips] {
            let at = |way: Way| SocketAddr::new(way.pick(addresses), way.port());
            settle(rig, at, &ALL);
            with(rig, &["--cgroup=none"], || settle(rig, at, &ALL));
            // A backend on another node alone: its answers come from outside.
            rig.endpoints("mine", &["web-3"]);
            settle(rig, at, &["web-3"]);
            rig.endpoints("mine", &ALL);
        }
    });
    rig.remove("mine");
}

/// Without balancing at the socket packets do it, and refuse.
#[test]
fn r21_a_node_without_cgroups_reaches_its_own_node_ports() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, "itself");
    let (own, _) = addresses(rig);
    with(rig, &["--cgroup=none"], || {
        settle(rig, |way| at(&own, way), &ALL);
        rig.endpoints("itself", &[]);
        for way in WAYS {
            let refused = || rig.ask(NODE, at(&own, way), way) == End::Not(Failure::Refused);
            until(&format!("{way:?} to be refused"), SOON, refused);
        }
    });
    rig.remove("itself");
}

/// A UDP socket that was refused is answered as soon as there is an endpoint.
#[test]
fn r33_a_socket_at_a_node_port_without_endpoints_is_served_later() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, "later");
    let (own, _) = addresses(rig);
    let node = rig.cluster.node(NODE).unwrap();
    for way in WAYS.into_iter().filter(|way| way.udp) {
        rig.endpoints("later", &[]);
        let target = at(&own, way);
        until(&format!("{target} to be refused"), SOON, || {
            rig.ask(NODE, target, way) == End::Not(Failure::Refused)
        });
        let asking = rig.own_flow(node, target, 5);
        sleep(Duration::from_secs(1));
        rig.endpoints("later", &ALL);
        let report = asking.report();
        // One that was ended would be another.
        assert!(report.failures.keys().eq([&Failure::Refused]), "{report:?}");
        assert!(report.answered > 0, "{report:?}");
    }
    rig.remove("later");
}

/// Packets that the bridge of n1 has sent.
fn bridged(rig: &Rig) -> u64 {
    let shown = rig.netns(NODE).run(|| {
        let args = ["-json", "-statistics", "link", "show", "dev", "kube-bridge"];
        Command::new("ip").args(args).output().unwrap().stdout
    });
    let links: Value = serde_json::from_slice(&shown.unwrap()).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// A connection that was given a pod of the node instead of a service goes past the bridge; one to
/// the pod itself does not.
#[test]
fn connections_of_the_node_to_a_service_go_past_the_bridge() {
    const CONNECTIONS: u64 = 100;
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    if !cluster::has_cgroups() {
        println!("SKIP: cgroup v2 is not mounted");
        return;
    }
    let ips = rig.service("past", json!({}));
    rig.endpoints("past", &["web-1"]);
    let pod = rig.cluster.pod("web-1").unwrap().addresses;
    for way in WAYS.into_iter().filter(|way| !way.udp) {
        let service = SocketAddr::new(way.pick(&ips), way.port());
        rig.settle(NODE, service, way, &["web-1"]);
        let sent = |target| {
            let before = bridged(rig);
            let report = rig.report(NODE, target, way, CONNECTIONS);
            assert_eq!((report.answered, report.failed()), (CONNECTIONS, 0), "{report:?}");
            bridged(rig) - before
        };
        let past = sent(service);
        let direct = sent(SocketAddr::new(way.pick(&pod), 8080));
        println!("{way:?}: the bridge sent {past} packets to the service, {direct} to the pod");
        assert!(past < CONNECTIONS && direct > 3 * CONNECTIONS, "{way:?}: {past}, {direct}");
    }
    rig.remove("past");
}
