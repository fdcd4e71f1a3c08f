//! B26: an announced aggregate. What is served in it answers whoever asks from wherever; what nobody has
//! ends at the node, and does not go to and fro between node and router until its TTL is used up.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_testkit::cluster::bgp_router::routes_of;
use sluice_testkit::cluster::netns::Netns;
use sluice_testkit::cluster::{self, Cluster, wait_for};
use sluice_testkit::traffic::{self, Load, Plan};

use crate::{PATIENCE, PORTS, SECOND, router};

const AGGREGATES: [&str; 2] = ["198.18.60.0/24", "2001:db8:60::/64"];
const SERVED: [&str; 2] = ["198.18.60.1", "2001:db8:60::1"];
const NOBODY: [&str; 2] = ["198.18.60.9", "2001:db8:60::9"];
/// Datagrams to an address that nobody has.
const SENT: u64 = 5;

/// Packets that the nodes have forwarded.
fn forwarded(cluster: &Cluster) -> u64 {
    let of = |netns: &Netns| {
        netns.run(|| {
            let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            let (v4, v6) = (read("snmp").unwrap(), read("snmp6").unwrap());
            // Two lines `Ip:`, names and numbers.
            let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
            let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
            let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
            let v4 = pairs.find(|(name, _)| *name == "ForwDatagrams").unwrap().1;
            let v6 = v6.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).unwrap();
            let v6 = v6.split_whitespace().nth(1).unwrap();
            v4.parse::<u64>().unwrap() + v6.parse::<u64>().unwrap()
        })
    };
    cluster.nodes().iter().map(|node| of(node.netns()).unwrap()).sum()
}

#[test]
fn b26_an_aggregate_answers_where_it_is_served_and_ends_at_the_node_where_it_is_not() {
    let Some(cluster) = crate::cluster() else { return };
    let flags = AGGREGATES.map(|range| format!("--advertise-aggregate={range}"));
    for node in cluster.nodes() {
        node.stop_agent(Signal::SIGTERM).unwrap();
        node.start_agent_with(&[&flags[0], &flags[1]]).unwrap();
    }
    for node in cluster.nodes() {
        node.wait_agent_ready(PATIENCE).unwrap();
    }
    let mut service = cluster::service("balanced", &json!({ "app": "web" }), &PORTS);
    service["spec"]["type"] = json!("LoadBalancer");
    cluster.apply(service).unwrap();
    let ingress = json!({ "loadBalancer": { "ingress": SERVED.map(|ip| json!({ "ip": ip })) } });
    cluster.api().patch_status("services", "default", "balanced", &ingress).unwrap();
    let all = |routes: &str| AGGREGATES.iter().all(|range| routes.contains(range));
    router(&cluster).wait("the aggregates", PATIENCE, all).unwrap();
    let learned = router(&cluster).routes().unwrap();
    assert!(SERVED.iter().all(|ip| !learned.contains(&format!("{ip} "))), "{learned}");
    for node in cluster.nodes() {
        wait_for(&format!("the aggregates to end at {}", node.name()), || {
            let shown = routes_of(node.netns(), "92")?;
            let all =
                AGGREGATES.iter().all(|range| shown.contains(&format!("unreachable {range}")));
            Ok(all.then_some(()))
        })
        .unwrap();
    }

    // From outside, from a pod, and packets of the node itself (no cgroup of a node is ours here).
    let pod = cluster.pod("web-n1").unwrap().netns;
    let node = cluster.node("n1").unwrap().netns();
    for (name, from) in [("office", &cluster.network().office), ("pod", &pod), ("node", node)] {
        for address in SERVED {
            let target = SocketAddr::new(address.parse().unwrap(), 80);
            for load in [Load::Connections { per_s: 200 }, Load::Datagrams { per_s: 200 }] {
                wait_for(&format!("{target} to answer {name} {load:?}"), || {
                    let report = traffic::run(from, Plan::new(target, load).limit(20))?;
                    Ok((report.failed() == 0).then_some(()))
                })
                .unwrap();
            }
        }
    }

    for address in NOBODY {
        let target = SocketAddr::new(address.parse().unwrap(), 80);
        let any = |ip: IpAddr| if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let before = forwarded(&cluster);
        let send = || {
            let socket = UdpSocket::bind(any(target.ip())).unwrap();
            (0..SENT).for_each(|_| drop(socket.send_to(b"nobody", target)));
        };
        cluster.network().office.run(send).unwrap();
        std::thread::sleep(SECOND);
        // Each would be forwarded about thirty times.
        let more = forwarded(&cluster) - before;
        assert!(more < SENT * 10, "{target}: forwarded {more} times");
    }

    // With the Service all of it goes.
    assert!(cluster.store().delete("services", "default", "balanced"));
    router(&cluster)
        .wait("no aggregates", PATIENCE, |routes| {
            !AGGREGATES.iter().any(|net| routes.contains(net))
        })
        .unwrap();
    for node in cluster.nodes() {
        wait_for("the node's own routes to go", || {
            let shown = routes_of(node.netns(), "92")?;
            Ok((!shown.contains("198.18.60.") && !shown.contains("db8:60:")).then_some(()))
        })
        .unwrap();
    }
}
