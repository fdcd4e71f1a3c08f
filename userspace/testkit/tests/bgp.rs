//! BGP in a cluster: real agents, BIRD as the site's router, an office client. Assertions are on
//! what clients see, what the router has learned, and what stands in the kernels.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::cluster::bgp_router::{self, BgpRouter, routes_of};
use sluice_testkit::cluster::{self, Cluster, Options, wait_for};
use sluice_testkit::traffic::{self, Load, Plan};

const SECOND: Duration = Duration::from_secs(1);
const PORTS: [(&str, u16, u16); 1] = [("TCP", 80, 8080)];
const TARGETS: [(&str, u16); 1] = [("TCP", 8080)];

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

#[test]
fn contract_the_office_reaches_pods_and_services_by_learned_routes() {
    let Some(cluster) = cluster() else { return };
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
    let Some(cluster) = cluster() else { return };
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
fn b18_agents_killed_and_ended_under_traffic_from_the_office_lose_nothing() {
    let Some(cluster) = cluster() else { return };
    let vips = addresses(&cluster, "web");
    router(&cluster)
        .wait("web by three nodes", SECOND * 10, |routes| {
            vips.iter().all(|vip| hops(routes, *vip) == 3)
        })
        .unwrap();
    let office = &cluster.network().office;
    let pods = ["web-n1", "web-n2"].map(|name| cluster.pod(name).unwrap());
    let mut targets: Vec<SocketAddr> = vips.iter().map(|vip| SocketAddr::new(*vip, 80)).collect();
    targets.extend(pods.iter().flat_map(|pod| &pod.addresses).map(|ip| SocketAddr::new(*ip, 8080)));
    // Announced is not yet answered: endpoints come after their Service.
    for target in &targets {
        wait_for(&format!("{target} to answer"), || {
            let plan = Plan::new(*target, Load::Connections { per_s: 200 }).limit(40);
            Ok((traffic::run(office, plan)?.failed() == 0).then_some(()))
        })
        .unwrap();
    }
    let client = &cluster.pod("web-n3").unwrap().netns;
    let other = SocketAddr::new(pods[0].addresses[0], 8080);
    let mut running: Vec<_> = targets
        .iter()
        .map(|target| {
            let plan = Plan::new(*target, Load::Connections { per_s: 50 });
            (format!("office to {target}"), traffic::start(office, plan).unwrap())
        })
        .collect();
    let plan = Plan::new(other, Load::Connections { per_s: 50 });
    running.push((format!("pod to {other}"), traffic::start(client, plan).unwrap()));
    sleep(SECOND);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        for node in cluster.nodes() {
            node.stop_agent(signal).unwrap();
        }
        sleep(SECOND * 3);
        for node in cluster.nodes() {
            node.start_agent().unwrap();
        }
        for node in cluster.nodes() {
            node.wait_agent_ready(Duration::from_secs(60)).unwrap();
        }
        wait_for("all sessions", || {
            let up = ["n1", "n2", "n3"].iter().all(|node| {
                let rows = ask(&cluster, node, &["bgp", "neighbors"]);
                rows.as_array().is_some_and(|rows| {
                    rows.len() == 3 && rows.iter().all(|row| row["state"] == "Established")
                })
            });
            Ok(up.then_some(()))
        })
        .unwrap();
        sleep(SECOND * 2);
        cluster.wait_for_pod_routes().unwrap();
    }
    for (name, running) in running {
        let report = running.stop().unwrap();
        println!("{name}: {report}");
        assert_eq!(report.failed(), 0, "{name}: {report}");
    }
}

#[test]
fn enable_ibgp_off_and_on_again_leaves_every_node_as_it_was() {
    let Some(cluster) = cluster() else { return };
    let tables = || -> Vec<String> {
        cluster
            .nodes()
            .iter()
            .map(|node| {
                let show = |family: &'static str| {
                    let run = move || Command::new("ip").args([family, "route"]).output();
                    let output = node.netns().run(run).unwrap().unwrap();
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let mut lines: Vec<String> = text
                        .lines()
                        .filter(|line| !line.contains("proto kernel"))
                        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                        .collect();
                    lines.sort();
                    lines.join("\n")
                };
                show("-4") + "\n" + &show("-6")
            })
            .collect()
    };
    let before = tables();
    let client = &cluster.pod("web-n1").unwrap().netns;
    let target = SocketAddr::new(cluster.pod("web-n2").unwrap().addresses[0], 8080);
    let plan = Plan::new(target, Load::Connections { per_s: 100 });
    let running = traffic::start(client, plan).unwrap();
    sleep(SECOND);
    for flags in [&["--enable-ibgp=false"][..], &[]] {
        for node in cluster.nodes() {
            node.stop_agent(Signal::SIGTERM).unwrap();
            node.start_agent_with(flags).unwrap();
            node.wait_agent_ready(Duration::from_secs(60)).unwrap();
        }
        if flags.is_empty() {
            cluster.wait_for_pod_routes().unwrap();
        } else {
            let started = Instant::now();
            wait_for("routes to other nodes' pods to go", || {
                let some = cluster
                    .nodes()
                    .iter()
                    .any(|node| routes_of(node.netns(), "92").unwrap().contains(" via "));
                Ok((!some).then_some(()))
            })
            .unwrap();
            println!("leftovers gone after {:?}", started.elapsed());
        }
        sleep(SECOND);
    }
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "by the router while there is no other way: {report}");
    assert_eq!(tables(), before);
}
