//! Owns the act at the office: a client outside of the cluster reaches pods and ClusterIPs by
//! routes that the router learned from the nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::console::Console;
use super::scene::{Scene, WAYS};
use crate::cluster::{self, bgp_router};
use crate::traffic::{self, Plan};

/// A route that is not there any more must be gone this soon.
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn office(scene: &Scene<'_>) -> Result<()> {
    let (cluster, console): (_, &Console) = (scene.cluster, scene.console);
    let Some(router) = cluster.bgp_router() else {
        console
            .line("SKIP: the router has fixed routes: BIRD is not installed (cargo xtask setup)");
        return Ok(());
    };
    let office = &cluster.network().office;
    for way in WAYS {
        for (what, target) in
            [("a pod", scene.direct("web-1", way)?), ("web", scene.service("web", way)?)]
        {
            let report = traffic::run(office, Plan::new(target, way.load(200)).limit(60))?;
            let seen = format!("{} of 60 answered", 60 - report.failed().min(60));
            let what = format!("the office reaches {what} at {target} by {}", way.name);
            console.expect(&what, report.failed() == 0, seen);
        }
    }
    let ports = [("TCP", 80, 8080)];
    cluster.apply(cluster::service("passing", &json!({ "app": "passing" }), &ports))?;
    let addresses = cluster.api().cluster_ips("passing")?;
    let address = addresses.iter().find(|ip| ip.is_ipv4()).context("no IPv4 address")?.to_string();
    let has = |routes: &str| routes.lines().any(|line| line.starts_with(&address));
    let came = router.wait("a new ClusterIP", SECOND * 5, has)?;
    ensure!(cluster.store().delete("services", "default", "passing"), "no service passing");
    let went = router.wait("a ClusterIP that is gone", SECOND * 5, |routes| !has(routes))?;
    console.expect(
        "the router follows Services",
        came < SECOND && went < SECOND,
        format!("{address} came after {} ms, went after {} ms", came.as_millis(), went.as_millis()),
    );
    for node in cluster.nodes() {
        let learned = bgp_router::routes_of(node.netns(), "92")?;
        let others = learned.lines().filter(|line| line.contains(" via ")).count();
        let expected = 2 * (cluster.nodes().len() - 1);
        let what = format!("{} has the others' pod ranges by BGP, and nothing else", node.name());
        console.expect(&what, others == expected, format!("{others} routes"));
    }
    Ok(())
}
