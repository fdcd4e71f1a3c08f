//! The nodes' services go from Sluice to the real kube-proxy and back (R56): each removes its own and
//! nothing else, and the other then does what it does where it has always been alone. In a cluster of its
//! own, since others' agents must not go.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_testkit::cluster::{Node, PATIENCE, Proxy};
use sluice_testkit::kubernetes;
use sluice_testkit::matrix::{self, Options};

use crate::rig::{ALL, Rig, WAYS, agent, missing};
use crate::survival::UP;

/// Questions in each way that must all be answered.
const QUESTIONS: u64 = 100;

fn run(node: &Node, command: &mut Command) -> Output {
    let output = node.netns().run(|| command.output()).unwrap().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// `sluice cleanup`, once the agent has ended.
fn sluice_goes(node: &Node) {
    node.stop_agent(Signal::SIGTERM).unwrap();
    let config = node.agent_config().unwrap();
    let mut command = Command::new(&config.sluice);
    command.args(["cleanup", "--bpf-dir"]).arg(&config.bpf_dir);
    command.arg("--state-dir").arg(&config.state_dir);
    run(node, &mut command);
}

/// kube-proxy's tables on a node.
fn tables(node: &Node) -> String {
    let listed = run(node, Command::new("nft").args(["list", "tables"]));
    String::from_utf8(listed.stdout).unwrap()
}

/// All ask in all ways, and nobody is left without an answer.
fn served(rig: &Rig, addresses: &[std::net::IpAddr]) {
    for client in ["client-n1", "client-n3", "n1", "n3"] {
        for way in WAYS {
            let at = SocketAddr::new(way.pick(addresses), way.port());
            rig.settle_within(client, at, way, &ALL, UP);
            let report = rig.report(client, at, way, QUESTIONS);
            assert_eq!(report.failed(), 0, "{client} {way:?}: {report:?}");
        }
    }
}

/// Every kind of Service from everywhere, as if whoever serves had always been alone.
fn matrix(rig: &Rig, proxy: Proxy) {
    assert_eq!(rig.cluster.proxy(), proxy);
    let outcome =
        matrix::run(&rig.cluster, &Options::default(), |step| println!("{step}")).unwrap();
    assert!(outcome.total > 2900, "{}", outcome.total);
    // What the real kube-proxy is known to do otherwise it does also where it is alone.
    let known: usize = outcome.known.iter().map(|(_, cells)| cells).sum();
    assert_eq!(known > 0, proxy == Proxy::KubeProxy, "somebody else has answered");
    assert_eq!(outcome.met + known, outcome.total, "{proxy:?}: {}", outcome.differing.join("\n"));
    println!("{proxy:?}: {} of {} cells, {known} known", outcome.met, outcome.total);
}

fn kube_proxy_goes(rig: &Rig, program: &Path) {
    rig.cluster.end_kube_proxies().unwrap();
    for node in rig.cluster.nodes() {
        assert!(tables(node).contains("kube-proxy"), "a plain end leaves its rules");
        run(node, Command::new(program).arg("--cleanup"));
        assert!(!tables(node).contains("kube-proxy"));
    }
}

#[test]
fn r56_what_sluice_leaves_is_kube_proxys_and_the_reverse() {
    if let Some(reason) = missing().or_else(|| kubernetes::missing(&[kubernetes::PROXY])) {
        return println!("SKIP: {reason}");
    }
    let program = kubernetes::find(kubernetes::PROXY).unwrap();
    let rig = Rig::build(agent());
    let addresses = rig.service("web", json!({ "type": "NodePort" }));
    rig.endpoints("web", &ALL);
    served(&rig, &addresses);

    rig.cluster.nodes().iter().for_each(sluice_goes);
    for client in ["client-n1", "client-n3"] {
        for way in WAYS {
            let at = SocketAddr::new(way.pick(&addresses), way.port());
            rig.settle_within(client, at, way, &[], UP);
        }
    }
    rig.cluster.start_kube_proxies(&program).unwrap();
    served(&rig, &addresses);
    matrix(&rig, Proxy::KubeProxy);

    // The other way nobody is without a service: Sluice serves before kube-proxy goes.
    for node in rig.cluster.nodes() {
        node.start_agent().unwrap();
        node.wait_agent_ready(PATIENCE).unwrap();
    }
    served(&rig, &addresses);
    kube_proxy_goes(&rig, &program);
    served(&rig, &addresses);
    matrix(&rig, Proxy::Sluice);
}
