//! What happens to the API server, under traffic that must not notice; the data plane equals the
//! objects afterwards. K numbers are those of the watch's own tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::MutexGuard;
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::api::real::{Part, RealServer};
use sluice_testkit::cluster::topology::api_address;
use sluice_testkit::cluster::{Remote, rights::Rights};
use sluice_testkit::traffic::{Load, Plan, Running, start};

use crate::plane;
use crate::rig::{Rig, WAYS, Way, rig, until};
use crate::rights;

const CLIENT: &str = "client-n1";
/// Time for the API server to come up, and for agents to find it: their longest pause is a minute.
pub(crate) const UP: Duration = Duration::from_secs(180);
/// Variable: how long the API is away in the test of its absence, seconds.
const ABSENCE: &str = "SLUICE_TEST_ABSENCE_S";
/// The usual absence: ten minutes, longer than any watch lasts and than agents ever pause.
const ABSENCE_S: u64 = 600;

/// The real server, the agents' rights, and a way in.
fn real(rig: &Rig) -> (&RealServer, &Rights, &Remote) {
    rig.cluster.api().real().unwrap()
}

/// Questions of all kinds to a Service, none of which may fail.
struct Traffic(Vec<(Way, Running)>);

impl Traffic {
    fn start(rig: &Rig, at: &[IpAddr]) -> Self {
        let mut running = Vec::new();
        for way in WAYS {
            for load in [gentle(way), lasting(way)] {
                let plan = Plan::new(SocketAddr::new(way.pick(at), way.port()), load);
                running.push((way, start(&rig.netns(CLIENT), plan).unwrap()));
            }
        }
        for (way, running) in &running {
            until(&format!("{way:?} to be answered"), UP, || running.report().answered > 0);
        }
        Self(running)
    }

    fn finish(self, during: &str) {
        for (way, running) in self.0 {
            let report = running.stop().unwrap();
            assert_eq!(report.failed(), 0, "{during}, {way:?}: {report:?}");
            println!("{during}, {way:?}: {report}");
        }
    }
}

/// Independent questions, for minutes beside all else that goes on.
fn gentle(way: Way) -> Load {
    let per_s = 50;
    if way.udp { Load::Datagrams { per_s } } else { Load::Connections { per_s } }
}

/// One connection or socket that asks again and again.
fn lasting(way: Way) -> Load {
    let pause = Duration::from_millis(20);
    if way.udp { Load::Flow { pause } } else { Load::Stream { pause } }
}

/// A Service whose slices are written by hand, and that leads to these backends from now on.
fn service(rig: &Rig, name: &str, backends: &[&str]) -> Vec<IpAddr> {
    let addresses = rig.service(name, json!({}));
    rig.endpoints(name, backends);
    settle(rig, &addresses, backends);
    addresses
}

/// Waits, however long agents pause, until exactly these answer in all ways, from two nodes.
fn settle(rig: &Rig, addresses: &[IpAddr], backends: &[&str]) {
    for client in [CLIENT, "client-n3"] {
        for way in WAYS {
            let at = SocketAddr::new(way.pick(addresses), way.port());
            rig.settle_within(client, at, way, backends, UP);
        }
    }
    // And whatever else there is, on all nodes.
    plane::settle(rig, UP);
}

/// How often each agent has been told that the version of a type that it knows has expired (K5).
fn expired(rig: &Rig) -> BTreeMap<(String, &'static str), usize> {
    let mut told = BTreeMap::new();
    for node in rig.cluster.nodes() {
        let log = node.agent_config().unwrap().state_dir.join("agent.log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        for resource in ["services", "endpointslices"] {
            let about = format!("resource=\"{resource}\"");
            let own = |line: &&str| line.contains("version expired") && line.contains(&about);
            told.insert((node.name().to_owned(), resource), log.lines().filter(own).count());
        }
    }
    told
}

/// The server's newest version (K3: decimal in the real one).
fn newest(rig: &Rig) -> u64 {
    let (_, _, remote) = real(rig);
    let list =
        remote.insist(Method::GET, "/api/v1/nodes?limit=1", "application/json", &Value::Null);
    list.unwrap()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// The cluster for a test of survival, which agents come through within their rights.
struct Survival {
    rig: MutexGuard<'static, Option<Rig>>,
    since: usize,
}

impl Survival {
    fn begin() -> Option<Self> {
        let rig = rig()?;
        let since = rights::lines(rig.as_ref().unwrap());
        Some(Self { rig, since })
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().unwrap()
    }

    /// K30: also what agents ask for after restarts, 410s and restores is granted, and nothing else
    /// was asked.
    fn end(self) {
        rights::within_rights(self.rig(), self.since);
    }
}

/// What an agent says of itself.
fn status(rig: &Rig, node: &str) -> Value {
    let config = rig.cluster.node(node).unwrap().agent_config().unwrap();
    let mut command = Command::new(&config.sluice);
    command.args(["status", "--json", "--state-dir"]).arg(&config.state_dir);
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default()
}

/// Lists so far, of all types and by all agents.
fn lists(rig: &Rig) -> Vec<(String, u64)> {
    let mut lists = Vec::new();
    for node in rig.cluster.nodes() {
        for watch in status(rig, node.name())["watches"].as_array().unwrap() {
            let name = format!("{} {}", node.name(), watch["resource"].as_str().unwrap());
            lists.push((name, watch["lists"].as_u64().unwrap()));
        }
    }
    lists
}

/// Stops parts of the API, lets something happen meanwhile, and starts them again.
fn without(rig: &Rig, parts: &[Part], signal: Signal, meanwhile: impl FnOnce(&RealServer)) {
    let (server, _, remote) = real(rig);
    for part in parts.iter().rev() {
        server.stop_part(*part, signal).unwrap();
    }
    meanwhile(server);
    for part in parts {
        server.start_part(*part).unwrap();
    }
    remote.wait_ready(UP, || server.alive()).unwrap();
}

/// Lets the agents hear nothing, as behind a cable that is pulled, while something happens: what the
/// server still sends does not wait for them in their sockets either.
fn deaf(rig: &Rig, meanwhile: impl FnOnce()) {
    let all = |signal| {
        for node in rig.cluster.nodes() {
            node.signal_agent(signal).unwrap();
        }
    };
    all(Signal::SIGSTOP);
    let api = api_address().to_string();
    for node in rig.cluster.nodes() {
        let cut = || Command::new("ss").args(["-K", "dst", &api]).output();
        assert!(node.netns().run(cut).unwrap().unwrap().status.success(), "ss -K");
    }
    meanwhile();
    all(Signal::SIGCONT);
}

#[test]
fn k31_the_server_is_restarted_and_killed() {
    let Some(survival) = Survival::begin() else { return };
    let rig = survival.rig();
    let stays = service(rig, "stays", &["web-3"]);
    // Asked to end, the server keeps watches for a minute (K31).
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let traffic = Traffic::start(rig, &stays);
        let before = lists(rig);
        without(rig, &[Part::Server], signal, |_| {});
        rig.endpoints("stays", &["web-2", "web-3"]);
        settle(rig, &stays, &["web-2", "web-3"]);
        // One new list of each type by each agent is what a restart costs, and not a storm of them.
        for ((name, before), (_, after)) in before.into_iter().zip(lists(rig)) {
            assert!(after - before <= 2, "{signal}: {name} was listed {} times", after - before);
        }
        rig.endpoints("stays", &["web-3"]);
        settle(rig, &stays, &["web-3"]);
        traffic.finish(&format!("restart by {signal}"));
    }
    rig.remove("stays");
    survival.end();
}

#[test]
fn k5_all_that_agents_know_is_compacted_away() {
    let Some(survival) = Survival::begin() else { return };
    let rig = survival.rig();
    let (server, ..) = real(rig);
    let stays = service(rig, "stays", &["web-3"]);
    let goes = service(rig, "goes", &["web-1"]);
    let traffic = Traffic::start(rig, &stays);
    let before = expired(rig);
    let mut comes = Vec::new();
    deaf(rig, || {
        rig.remove("goes");
        comes = rig.service("comes", json!({}));
        rig.endpoints("comes", &["web-1"]);
        rig.endpoints("stays", &["web-3", "web-2"]);
        server.compact().unwrap();
        // Its cache forgets, too.
        without(rig, &[Part::Server], Signal::SIGKILL, |_| {});
    });
    settle(rig, &comes, &["web-1"]);
    settle(rig, &stays, &["web-2", "web-3"]);
    settle(rig, &goes, &[]);
    // Whoever has waited before asking again is told so later.
    until("410 for Services and slices at every agent", UP, || {
        expired(rig).iter().all(|(of, now)| *now > before[of])
    });
    plane::settle(rig, UP);
    traffic.finish("compaction");
    rig.remove("comes");
    rig.remove("stays");
    survival.end();
}

#[test]
fn k19_the_api_is_away_for_long_and_agents_are_started_meanwhile() {
    let Some(survival) = Survival::begin() else { return };
    let rig = survival.rig();
    let told = std::env::var(ABSENCE).ok().and_then(|text| text.parse().ok());
    let absence = Duration::from_secs(told.unwrap_or(ABSENCE_S));
    let stays = service(rig, "stays", &["web-3"]);
    let traffic = Traffic::start(rig, &stays);
    without(rig, &Part::ALL, Signal::SIGKILL, |_| {
        let start = Instant::now();
        sleep(absence / 2);
        let node = rig.cluster.node("n1").unwrap();
        node.stop_agent(Signal::SIGKILL).unwrap();
        node.start_agent().unwrap();
        sleep(absence.saturating_sub(start.elapsed()));
        assert_eq!(status(rig, "n1")["ready"], false, "nothing is known, nothing is removed");
        assert_eq!(status(rig, "n3")["ready"], true);
    });
    rig.endpoints("stays", &["web-2", "web-3"]);
    settle(rig, &stays, &["web-2", "web-3"]);
    traffic.finish(&format!("{absence:?} without the API"));
    rig.remove("stays");
    survival.end();
}

/// How an older state is put back.
#[derive(Clone, Copy, Debug)]
struct Restore {
    /// By the book: revisions go on far above those that were.
    bump: bool,
    /// Revisions pass those that agents saw before agents ask again: they can't tell by the number.
    passed: bool,
}

fn restore(how: Restore) {
    let Some(survival) = Survival::begin() else { return };
    let rig = survival.rig();
    let (server, ..) = real(rig);
    let stays = service(rig, "stays", &["web-3"]);
    let goes = service(rig, "goes", &["web-1"]);
    let traffic = Traffic::start(rig, &stays);
    let saved: PathBuf = rig.cluster.dir().join(format!("saved-{}-{}", how.bump, how.passed));
    server.save(&saved).unwrap();
    // All of this will not have happened.
    rig.remove("goes");
    let comes = service(rig, "comes", &["web-2"]);
    rig.endpoints("stays", &["web-2", "web-3"]);
    settle(rig, &stays, &["web-2", "web-3"]);
    settle(rig, &goes, &[]);
    let known = newest(rig);
    let back = || {
        without(rig, &Part::ALL, Signal::SIGKILL, |server| {
            server.restore(&saved, how.bump).unwrap();
        });
    };
    if how.passed {
        deaf(rig, || {
            back();
            let began = newest(rig);
            assert!(began < known, "version {began} is not one of before {known}");
            let mut change = 0;
            while newest(rig) <= known {
                let label = json!({ "metadata": { "labels": { "change": change.to_string() } } });
                rig.cluster.api().merge("nodes", "", "n3", "", &label).unwrap();
                change += 1;
                assert!(change < 10_000, "version {known} is not passed");
            }
            println!("versions went from {known} back to {began} and past it by {change} changes");
        });
    } else {
        back();
        let now = newest(rig);
        assert_eq!(now > known, how.bump, "version {known} before, {now} after");
    }
    settle(rig, &goes, &["web-1"]);
    settle(rig, &stays, &["web-3"]);
    settle(rig, &comes, &[]);
    // And what comes next is heard.
    rig.endpoints("goes", &["web-2"]);
    settle(rig, &goes, &["web-2"]);
    traffic.finish(&format!("{how:?}"));
    rig.remove("goes");
    rig.remove("stays");
    survival.end();
}

#[test]
fn k5_k20_an_older_state_is_restored_by_the_book() {
    restore(Restore { bump: true, passed: false });
}

#[test]
fn k6_k32_an_older_state_is_restored_and_revisions_go_back() {
    restore(Restore { bump: false, passed: false });
}

#[test]
fn k32_an_older_state_is_restored_and_revisions_pass_those_that_agents_know() {
    restore(Restore { bump: false, passed: true });
}

#[test]
fn k10_the_token_is_rotated_and_the_old_one_worth_nothing() {
    let Some(survival) = Survival::begin() else { return };
    let rig = survival.rig();
    let (_, rights, _) = real(rig);
    let stays = service(rig, "stays", &["web-3"]);
    let traffic = Traffic::start(rig, &stays);
    let old = std::fs::read_to_string(rights.token()).unwrap();
    rights.new_token().unwrap();
    assert_ne!(std::fs::read_to_string(rights.token()).unwrap(), old);
    // The restart makes agents ask anew, and the server forget whom it has let in.
    without(rig, &[Part::Server], Signal::SIGKILL, |_| {});
    rig.endpoints("stays", &["web-2", "web-3"]);
    settle(rig, &stays, &["web-2", "web-3"]);
    traffic.finish("rotation");
    rig.remove("stays");
    survival.end();
}
