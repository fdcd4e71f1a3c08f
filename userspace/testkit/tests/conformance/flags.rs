//! Flags of the agent that change what clients see. They are given to the agent of n1 only, which
//! afterwards runs as it did.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_testkit::cluster;

use crate::rig::{ALL, Rig, WAYS, Way, patient, rig};

const CLIENT: &str = "client-n1";
const NODE: &str = "n1";

/// Runs `work` while the agent of n1 has these flags.
pub(crate) fn with(rig: &Rig, flags: &[&str], work: impl FnOnce()) {
    restart(rig, flags);
    // Also after a failure: other tests share the cluster.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    restart(rig, &[]);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn restart(rig: &Rig, flags: &[&str]) {
    let node = rig.cluster.node(NODE).unwrap();
    node.stop_agent(Signal::SIGTERM).unwrap();
    node.start_agent_with(flags).unwrap();
    node.wait_agent_ready(patient(Duration::from_secs(60))).unwrap();
}

/// A NodePort Service with all backends, and its port at an address.
pub(crate) fn node_port(rig: &Rig, name: &str) -> impl Fn(&[IpAddr], Way) -> SocketAddr + use<> {
    node_port_to(rig, name, "Cluster", &ALL)
}

/// One with a traffic policy and backends of its own.
pub(crate) fn node_port_to(
    rig: &Rig,
    name: &str,
    policy: &str,
    backends: &[&str],
) -> impl Fn(&[IpAddr], Way) -> SocketAddr + use<> {
    rig.service(name, json!({ "type": "NodePort", "externalTrafficPolicy": policy }));
    rig.endpoints(name, backends);
    let object = rig.cluster.store().get("services", "default", name).unwrap();
    move |addresses, way| {
        let port = object["spec"]["ports"][usize::from(way.udp)]["nodePort"].as_u64().unwrap();
        SocketAddr::new(way.pick(addresses), u16::try_from(port).unwrap())
    }
}

/// Addresses of n1 on the nodes' network and of its bridge.
pub(crate) fn addresses(rig: &Rig) -> ([IpAddr; 2], Vec<IpAddr>) {
    let node = rig.cluster.node(NODE).unwrap();
    let plan = node.plan();
    let bridge = node.pod_cidrs().iter().map(|cidr| cidr.hosts().next().unwrap());
    // The plugin takes a range's first address; of IPv6 that is not the network's own.
    let bridge = bridge.map(|ip| match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) | 1).to_be_bytes()),
    });
    ([plan.v4.into(), plan.v6.into()], bridge.collect())
}

#[test]
fn r11_with_masquerade_all_no_backend_sees_a_client_at_a_cluster_ip() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service("masked", json!({}));
    rig.endpoints("masked", &ALL);
    rig.settle_all(CLIENT, &ips, &ALL);
    let client = rig.cluster.pod(CLIENT).unwrap().addresses;
    let (node, bridge) = addresses(rig);
    let seen = |way: Way| {
        let target = SocketAddr::new(way.pick(&ips), way.port());
        let report = rig.report(CLIENT, target, way, 30);
        assert_eq!((report.answered, report.failed()), (30, 0), "{way:?}: {report:?}");
        report.clients
    };
    for way in WAYS {
        assert!(seen(way).iter().all(|ip| client.contains(ip)), "{way:?}");
    }
    with(rig, &["--masquerade-all"], || {
        for way in WAYS {
            let own = |ip: &IpAddr| node.contains(ip) || bridge.contains(ip);
            assert!(seen(way).iter().all(own), "{way:?}: {:?}", seen(way));
        }
    });
    rig.remove("masked");
}

#[test]
fn r20_node_ports_are_open_at_the_addresses_that_were_told() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, "opened");
    let (node, bridge) = addresses(rig);
    let open = |node_open: [bool; 2], bridge_open: [bool; 2]| {
        for way in WAYS {
            let of_family = |open: [bool; 2]| if way.v4 { open[0] } else { open[1] };
            for (addresses, open) in [(&node[..], node_open), (&bridge[..], bridge_open)] {
                let backends = if of_family(open) { &ALL[..] } else { &[] };
                rig.settle(CLIENT, at(addresses, way), way, backends);
            }
        }
    };
    open([true, true], [false, false]);
    with(rig, &["--nodeport-addresses=all"], || open([true, true], [true, true]));
    // The other family has no range, so no bounds.
    let range = format!("--nodeport-addresses={}/32", bridge[0]);
    with(rig, &[&range], || open([false, true], [true, true]));
    open([true, true], [false, false]);
    rig.remove("opened");
}

#[test]
fn r21_node_ports_are_open_on_loopback_if_it_is_told() {
    let Some(rig) = rig() else { return };
    if !cluster::has_cgroups() {
        println!("SKIP: cgroup v2 is not mounted");
        return;
    }
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, "looped");
    let loopback: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let settle = |backends: &[&str]| {
        for way in WAYS {
            rig.settle(NODE, at(&loopback, way), way, backends);
        }
    };
    settle(&[]);
    let flags = ["--nodeport-addresses=primary", "--nodeport-addresses=localhost"];
    with(rig, &flags, || settle(&ALL));
    settle(&[]);
    rig.remove("looped");
}
