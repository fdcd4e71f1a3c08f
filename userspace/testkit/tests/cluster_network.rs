//! Pods wired by the real plugins reach each other, directly, over both families, and everything
//! is gone afterwards.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sluice_testkit::cluster;
use sluice_testkit::cluster::cni::Cni;
use sluice_testkit::cluster::netns::Netns;
use sluice_testkit::cluster::network::Network;
use sluice_testkit::cluster::process::{Keeper, Spec};
use sluice_testkit::cluster::registry::Claim;
use sluice_testkit::traffic::{self, Load, Plan};

#[test]
fn pods_of_two_nodes_and_the_office_reach_a_pod_and_all_is_removed() {
    if let Some(missing) = cluster::missing() {
        println!("SKIP: {missing}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let claim = Arc::new(Claim::take(root.path()).unwrap());
    let id = claim.id().to_owned();
    let network = Network::build(&claim, 2).unwrap();
    let cidrs = |n: u8| -> Vec<IpNet> {
        vec![
            format!("10.244.{n}.0/24").parse().unwrap(),
            format!("fd00:10:244:{n}::/64").parse().unwrap(),
        ]
    };
    let plans: Vec<_> =
        network.nodes.iter().zip(1..).map(|((plan, _), n)| (plan.clone(), cidrs(n))).collect();
    network.route_pods(&plans).unwrap();

    let mut pods = Vec::new();
    for (n, (plan, node)) in network.nodes.iter().enumerate() {
        let cni = Cni::new(&plans[n].1, &claim.dir().join(&plan.name)).unwrap();
        let pod = Netns::create(&claim.netns(&format!("pod-{}", plan.name))).unwrap();
        let addresses = cni.add(node, &pod, &format!("pod-{}", plan.name)).unwrap();
        pods.push((cni, node.clone(), pod, addresses));
    }
    let (_, _, server, addresses) = &pods[0];
    let keeper = Keeper::start(claim.clone()).unwrap();
    let echo = Spec::new(env!("CARGO_BIN_EXE_sluice-testkit"));
    let echo = echo.args(["echo", "--name", "server", "--tcp", "80", "--udp", "53"]).pipe_stdout();
    let process = keeper.spawn(server, &echo).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(process.take_stdout().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "ready\n");

    let (_, _, client, client_addresses) = &pods[1];
    for (from, sources) in [(client, client_addresses.clone()), (&network.office, office())] {
        for (address, source) in addresses.iter().zip(sources) {
            for (port, load) in
                [(80, Load::Connections { per_s: 200 }), (53, Load::Datagrams { per_s: 200 })]
            {
                let plan = Plan::new(SocketAddr::new(*address, port), load).limit(20);
                let report = traffic::run(from, plan).unwrap();
                assert_eq!(
                    (report.answered, report.failed()),
                    (20, 0),
                    "{address} from {}: {report:?}",
                    from.name()
                );
                assert_eq!(
                    report.clients.iter().collect::<Vec<_>>(),
                    [&source],
                    "the client's address is kept"
                );
                assert!(report.is_uniform_over(["server"]));
            }
        }
    }
    for ((cni, node, pod, _), (plan, _)) in pods.iter().zip(&network.nodes) {
        cni.delete(node, pod, &format!("pod-{}", plan.name)).unwrap();
        let leases = claim.dir().join(&plan.name).join("leases/sluice");
        let lease = |name: &str| name.starts_with("10.") || name.starts_with("fd00");
        let held = std::fs::read_dir(&leases).unwrap().flatten();
        assert_eq!(
            held.filter(|e| lease(&e.file_name().to_string_lossy())).count(),
            0,
            "addresses are given back"
        );
    }
    process.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(process.wait(Duration::from_secs(5)).unwrap().is_some());
    drop((process, keeper));
    drop(claim);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/{id}/netns/")), "{mounts}");
    assert!(!root.path().join(&id).exists());
}

fn office() -> Vec<IpAddr> {
    vec!["192.168.88.10".parse().unwrap(), "fd00:88::10".parse().unwrap()]
}
