//! Section 0 of the contract: what the router learns, what nodes learn, what the office can reach.

use std::net::SocketAddr;
use std::thread::sleep;

use serde_json::json;
use sluice_testkit::cluster::bgp_router::routes_of;
use sluice_testkit::cluster::{self, wait_for};
use sluice_testkit::traffic::{self, Load, Plan};

use crate::{PATIENCE, PORTS, SECOND, TARGETS, addresses, ask, hops, router};

#[test]
fn contract_the_office_reaches_pods_and_services_by_learned_routes() {
    let Some(cluster) = crate::cluster() else { return };
    let router = router(&cluster);
    let office = &cluster.network().office;
    let vips = addresses(&cluster, "web");
    router
        .wait("web by three nodes", SECOND * 10, |routes| {
            vips.iter().all(|vip| hops(routes, *vip) == 3)
        })
        .unwrap();
    let pods = ["web-n1", "web-n2", "web-n3"].map(|name| cluster.pod(name).unwrap());
    let pods =
        pods.iter().flat_map(|pod| pod.addresses.iter().map(|ip| SocketAddr::new(*ip, 8080)));
    let services = vips.iter().map(|vip| SocketAddr::new(*vip, 80));
    for target in pods.chain(services) {
        wait_for(&format!("{target} to answer"), || {
            let plan = Plan::new(target, Load::Connections { per_s: 200 }).limit(20);
            Ok((traffic::run(office, plan)?.failed() == 0).then_some(()))
        })
        .unwrap();
        let plan = Plan::new(target, Load::Connections { per_s: 100 }).limit(50);
        let report = traffic::run(office, plan).unwrap();
        assert_eq!(report.failed(), 0, "{target}: {report}");
    }
    // Only what the contract says: pod ranges and addresses of Services to the router, pod ranges
    // to nodes, nothing of the router's in a node's kernel.
    let learned = router.routes().unwrap();
    let ranges: Vec<String> = cluster
        .nodes()
        .iter()
        .flat_map(|node| node.pod_cidrs().iter().map(ToString::to_string))
        .collect();
    let services: Vec<String> = cluster
        .store()
        .list("services")
        .iter()
        .flat_map(|service| {
            let ips = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
            ips.into_iter().filter_map(|ip| ip.as_str().map(str::to_owned))
        })
        .collect();
    for line in learned.lines().filter(|line| !line.trim_start().starts_with("nexthop")) {
        let prefix = line.split_whitespace().next().unwrap().to_owned();
        assert!(ranges.contains(&prefix) || services.contains(&prefix), "{line}");
    }
    for node in cluster.nodes() {
        let routes = routes_of(node.netns(), "92").unwrap();
        let others = routes.lines().filter(|line| line.contains(" via "));
        let foreign = |line: &&str| {
            let prefix = line.split_whitespace().next().unwrap();
            !ranges.contains(&prefix.to_owned())
                || node.pod_cidrs().iter().any(|own| own.to_string() == prefix)
        };
        assert_eq!(others.clone().filter(foreign).collect::<Vec<_>>(), Vec::<&str>::new());
        assert_eq!(others.count(), 4, "{routes}");
    }
    let neighbors = ask(&cluster, "n1", &["bgp", "neighbors"]);
    let rows = neighbors.as_array().unwrap();
    assert_eq!(rows.len(), 3, "{neighbors:#}");
    assert!(rows.iter().all(|row| row["state"] == "Established"), "{neighbors:#}");
    let vip = vips[0].to_string() + "/32";
    let routes = ask(&cluster, "n1", &["bgp", "routes", &vip]);
    assert_eq!(routes[0]["announced_to"], json!(["192.168.77.1"]), "{routes:#}");
    let withheld: Vec<&str> = routes[0]["withheld_from"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[1].as_str().unwrap())
        .collect();
    assert_eq!(withheld, ["export policy: no rule accepts it"; 2], "nodes get no VIPs");
}

#[test]
fn contract_the_router_follows_services_and_local_endpoints() {
    let Some(cluster) = crate::cluster() else { return };
    let router = router(&cluster);
    let local = |policy: &str| {
        let mut service = cluster::service("near", &json!({ "app": "near" }), &PORTS);
        service["spec"]["internalTrafficPolicy"] = json!(policy);
        cluster.apply(service).unwrap();
    };
    local("Local");
    let vip = addresses(&cluster, "near")[0];
    sleep(SECOND / 2);
    assert_eq!(hops(&router.routes().unwrap(), vip), 0, "no local endpoint anywhere");
    cluster.apply(cluster::pod("near", "n2", "echo", &json!({ "app": "near" }), &TARGETS)).unwrap();
    cluster.wait_for_pod("near").unwrap();
    let only = |routes: &str| hops(routes, vip) == 1 && routes.contains("192.168.77.12");
    router.wait("near by the node of its endpoint", SECOND * 5, only).unwrap();
    local("Cluster");
    router.wait("near by all nodes", SECOND * 5, |routes| hops(routes, vip) == 3).unwrap();
    local("Local");
    router.wait("near by one node again", SECOND * 5, |routes| hops(routes, vip) == 1).unwrap();
    cluster.delete_pod("near").unwrap();
    router.wait("near by nobody", SECOND * 40, |routes| hops(routes, vip) == 0).unwrap();
    // How long a change takes to the router's kernel.
    let mut times = Vec::new();
    for n in 0..20 {
        let name = format!("quick-{n}");
        cluster.apply(cluster::service(&name, &json!({ "app": "web" }), &PORTS)).unwrap();
        let vip = addresses(&cluster, &name)[0];
        let came = router.wait("a new service", SECOND * 5, |routes| hops(routes, vip) > 0);
        times.push(came.unwrap());
        assert!(cluster.store().delete("services", "default", &name));
        let went =
            router.wait("a service that is gone", SECOND * 5, |routes| hops(routes, vip) == 0);
        assert!(went.unwrap() < SECOND, "withdrawn within a second");
    }
    times.sort_unstable();
    println!("a new ClusterIP at the router: median {:?}, longest {:?}", times[10], times[19]);
}

#[test]
fn b10_a_cordoned_node_asks_the_router_to_prefer_others() {
    let Some(cluster) = crate::cluster() else { return };
    let vip = addresses(&cluster, "web")[0];
    let router = router(&cluster);
    router.wait("web by three nodes", PATIENCE, |routes| hops(routes, vip) == 3).unwrap();
    // Paths that BIRD shows with GRACEFUL_SHUTDOWN, 65535:0, by the node they are from.
    let marked = || -> Vec<String> {
        let text = router.ask(&format!("show route for {vip} all")).unwrap();
        let mut from = String::new();
        let mut marked = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.split("unicast [").nth(1) {
                from = rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            if line.contains("BGP.community") && line.contains("(65535,0)") {
                marked.push(from.clone());
            }
        }
        marked
    };
    assert_eq!(marked(), Vec::<String>::new());
    for (cordoned, expected) in [(true, vec!["n1".to_owned()]), (false, vec![])] {
        let patch = json!({ "spec": { "unschedulable": cordoned } });
        cluster.store().merge("nodes", "", "n1", "", &patch).unwrap();
        wait_for(&format!("marked: {expected:?}"), || Ok((marked() == expected).then_some(())))
            .unwrap();
        assert_eq!(hops(&router.routes().unwrap(), vip), 3, "still announced");
    }
}
