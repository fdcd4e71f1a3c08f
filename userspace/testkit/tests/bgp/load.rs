//! Traffic that must not lose anything: from the office to pods and to addresses of Services, and
//! from pod to pod. TCP sends again what is lost, so half of it is datagrams, which do not.

use std::net::SocketAddr;

use sluice_testkit::cluster::netns::Netns;
use sluice_testkit::cluster::{Cluster, wait_for};
use sluice_testkit::traffic::{self, Load, Plan};

use crate::{PATIENCE, addresses, hops, router};

/// Questions a second, for each load: a machine that is busy keeps up.
const PER_S: u32 = 20;

/// A load under way.
pub(crate) struct Running {
    name: String,
    running: traffic::Running,
}

impl Running {
    /// Ends it; every question must have had its answer.
    pub(crate) fn lost_nothing(self) {
        let report = self.running.stop().unwrap();
        println!("{}: {report}", self.name);
        assert_eq!(report.failed(), 0, "{}: {report}", self.name);
    }
}

/// Starts all loads, once all that is asked answers.
pub(crate) fn everything(cluster: &Cluster) -> Vec<Running> {
    let vips = addresses(cluster, "web");
    router(cluster)
        .wait("web by three nodes", PATIENCE, |routes| {
            vips.iter().all(|vip| hops(routes, *vip) == 3)
        })
        .unwrap();
    let pod = |name: &str| cluster.pod(name).unwrap();
    let pods = ["web-n1", "web-n2"].map(pod).map(|pod| pod.addresses);
    let office = &cluster.network().office;
    let services = vips.iter().map(|vip| SocketAddr::new(*vip, 80));
    let backends = pods.iter().flatten().map(|address| SocketAddr::new(*address, 8080));
    let client = pod("web-n3").netns;
    let mut loads: Vec<(&str, &Netns, SocketAddr)> =
        services.chain(backends).map(|target| ("office", office, target)).collect();
    loads.extend(pods[0].iter().map(|address| ("pod", &client, SocketAddr::new(*address, 8080))));
    let start = |(from, netns, to): &(&str, &Netns, SocketAddr), load: Load, kind: &str| {
        let running = traffic::start(netns, Plan::new(*to, load)).unwrap();
        Running { name: format!("{kind} from {from} to {to}"), running }
    };
    for (_, netns, target) in &loads {
        // Announced is not yet answered: endpoints come after their Service.
        wait_for(&format!("{target} to answer"), || {
            let plan = Plan::new(*target, Load::Connections { per_s: 100 }).limit(20);
            Ok((traffic::run(netns, plan)?.failed() == 0).then_some(()))
        })
        .unwrap();
    }
    let tcp = loads.iter().map(|load| start(load, Load::Connections { per_s: PER_S }, "TCP"));
    let udp = loads.iter().map(|load| start(load, Load::Datagrams { per_s: PER_S }, "UDP"));
    tcp.chain(udp).collect()
}
