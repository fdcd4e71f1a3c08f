//! Owns the second act: things change under traffic. Backends are replaced, agents are killed and
//! started again, endpoints change a thousand times; nobody who asks may notice.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::scene::{PORTS, Scene, WAYS, Way, sorted};
use crate::cluster::{self, PATIENCE, wait_for};
use crate::traffic::{self, Load, Plan, Report, Running};

/// New TCP connections a second, under every change.
const CONNECTIONS_PER_S: u32 = 200;
/// The same for IPv6, and datagrams from new sockets, each.
const OTHERS_PER_S: u32 = 50;
/// Pause in streams and flows.
const PAUSE: Duration = Duration::from_millis(10);
/// Traffic before a change and after it.
const CALM: Duration = Duration::from_secs(1);
/// How long the nodes go without an agent.
const WITHOUT_AGENT: Duration = Duration::from_secs(2);
/// Endpoint changes, and the pause between two.
const CHANGES: usize = 1000;
const CHANGE_PAUSE: Duration = Duration::from_millis(8);

/// Traffic of all kinds from one pod to one service.
struct Mixture(Vec<(String, Running)>);

impl Mixture {
    /// With `lasting`, TCP connections that stay open, too: these can't outlive their backend.
    fn start(scene: &Scene, client: &str, service: &str, lasting: bool) -> Result<Self> {
        let netns = scene.pod(client)?.netns;
        let mut running = Vec::new();
        let mut start = |name: String, way: Way, load: Load| -> Result<()> {
            let plan = Plan::new(scene.service(service, way)?, load);
            running.push((name, traffic::start(&netns, plan)?));
            Ok(())
        };
        for way in WAYS {
            let per_s = if way == WAYS[0] { CONNECTIONS_PER_S } else { OTHERS_PER_S };
            let kind = if way.tcp { "new connections" } else { "datagrams from new ports" };
            start(format!("up to {per_s}/s {kind}, {}", way.name), way, way.load(per_s))?;
            match way.tcp {
                true if lasting => start(
                    format!("an open stream, {}", way.name),
                    way,
                    Load::Stream { pause: PAUSE },
                )?,
                true => {}
                false => start(
                    format!("datagrams from one port, {}", way.name),
                    way,
                    Load::Flow { pause: PAUSE },
                )?,
            }
        }
        Ok(Self(running))
    }

    /// Ends the traffic; each kind of it is an expectation of its own.
    fn finish(self, scene: &Scene, during: &str) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        for (name, running) in self.0 {
            let report = running.stop()?;
            let stream = name.contains("stream");
            let whole = !stream || report.connections == 1;
            let met = report.failed() == 0 && report.answered > 0 && whole;
            scene.console.expect(&format!("{during}: {name}"), met, &report);
            for failure in &report.described {
                scene.console.line(format!("         {failure}"));
            }
            reports.push(report);
        }
        Ok(reports)
    }
}

/// Replaces every backend of `web` by a new one, as a Deployment would: new one ready, old one
/// told to stop.
pub(super) fn rollout(scene: &mut Scene) -> Result<()> {
    let mixture = Mixture::start(scene, "client-n1", "web", false)?;
    sleep(CALM);
    let old = std::mem::take(&mut scene.web);
    for (number, (name, node)) in old.iter().enumerate() {
        let successor = format!("web-new-{}", number + 1);
        scene.add_backend("web", &successor, node)?;
        scene.cluster.wait_for_pod(&successor)?;
        scene.cluster.delete_pod(name)?;
        scene.console.step(&format!("{successor} is ready, {name} on {node} is told to stop"));
        scene.web.push((successor, node.clone()));
    }
    for (name, _) in &old {
        wait_for(&format!("{name} to go"), || Ok(scene.cluster.pod(name).is_none().then_some(())))?;
    }
    sleep(CALM);
    mixture.finish(scene, "rollout")?;
    let names = scene.backends();
    let plan = Plan::new(scene.service("web", WAYS[0])?, WAYS[0].load(600)).limit(300);
    let report = scene.ask("client-n1", plan)?;
    let only_new = report.failed() == 0 && report.backends.keys().eq(sorted(&names).iter());
    scene.console.expect("after the rollout only new backends answer", only_new, &report);
    Ok(())
}

/// Ends all agents and starts them again, under traffic.
pub(super) fn agents(scene: &Scene, signal: Signal) -> Result<()> {
    let mixture = Mixture::start(scene, "client-n1", "web", true)?;
    sleep(CALM);
    for node in scene.cluster.nodes() {
        node.stop_agent(signal)?;
    }
    scene.console.step(&format!(
        "{signal} to the agents of all nodes; nothing runs but the programs in the kernel"
    ));
    sleep(WITHOUT_AGENT);
    for node in scene.cluster.nodes() {
        node.start_agent()?;
    }
    for node in scene.cluster.nodes() {
        node.wait_agent_ready(PATIENCE)?;
    }
    scene.console.step("agents started again and ready");
    sleep(CALM);
    mixture.finish(scene, signal.as_str()).map(drop)
}

/// A service whose slices are written by hand: one backend stays, the others change a thousand
/// times. Whoever is connected to the one that stays, stays connected.
pub(super) fn churn(scene: &Scene) -> Result<()> {
    let cluster = scene.cluster;
    cluster.apply(cluster::service("churn", &Value::Null, &PORTS))?;
    write_slices(scene, "still", &[("near".to_owned(), "n1".to_owned())])?;
    scene.settle("churn", &["near".to_owned()])?;
    let lasting = Mixture::start(scene, "client-n1", "churn", true)?;
    sleep(CALM);
    let start = Instant::now();
    for change in 0..CHANGES {
        // A different set each time: of n backends, those whose bit is set in the number.
        let sets = (1_usize << scene.web.len()) - 1;
        let bits = change % sets + 1;
        let chosen: Vec<_> = scene
            .web
            .iter()
            .enumerate()
            .filter(|(n, _)| bits >> n & 1 == 1)
            .map(|(_, b)| b.clone())
            .collect();
        write_slices(scene, "moving", &chosen)?;
        sleep(CHANGE_PAUSE);
    }
    scene.console.step(&format!(
        "{CHANGES} changes of two slices in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    write_slices(scene, "moving", &[])?;
    scene.settle("churn", &["near".to_owned()])?;
    let reports = lasting.finish(scene, &format!("{CHANGES} endpoint changes"))?;
    let others =
        reports.iter().filter(|r| r.connections == 1).any(|r| !r.backends.keys().eq(["near"]));
    scene.console.expect("streams stay with the untouched backend", !others, "near");
    Ok(())
}

/// Writes one slice for each family.
fn write_slices(scene: &Scene, name: &str, backends: &[(String, String)]) -> Result<()> {
    for v4 in [true, false] {
        let mut endpoints: Vec<(IpAddr, &str)> = Vec::new();
        for (backend, node) in backends {
            let addresses = scene.pod(backend)?.addresses;
            let address =
                addresses.into_iter().find(|ip| ip.is_ipv4() == v4).context("an address")?;
            endpoints.push((address, node));
        }
        let family = if v4 { "v4" } else { "v6" };
        let mut slice =
            cluster::slice(&format!("churn-{name}-{family}"), "churn", &endpoints, &PORTS);
        if let Some(kind) = slice.get_mut("addressType") {
            *kind = json!(if v4 { "IPv4" } else { "IPv6" });
        }
        scene.cluster.apply(slice)?;
    }
    Ok(())
}
