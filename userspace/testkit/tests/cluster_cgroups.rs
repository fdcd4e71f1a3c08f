//! Nodes with cgroups of their own: processes of a node and of its pods are in it, those of others
//! are not, and it goes with the cluster.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use serde_json::json;
use sluice_testkit::cluster::process::Spec;
use sluice_testkit::cluster::{self, Cluster, Options};

fn processes(cgroup: &Path) -> Vec<String> {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    list.lines().map(str::to_owned).collect()
}

#[test]
fn a_nodes_cgroup_holds_its_processes_and_goes_with_the_cluster() {
    let unmounted = (!cluster::has_cgroups()).then_some("cgroup v2 is not mounted");
    if let Some(reason) = cluster::missing().or(unmounted) {
        println!("SKIP: {reason}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let options = Options {
        nodes: 2,
        testkit: Some(env!("CARGO_BIN_EXE_sluice-testkit").into()),
        state_root: root.path().to_owned(),
        cgroups: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).unwrap();
    let ports = [("TCP", 8080)];
    cluster.apply(cluster::pod("web", "n1", "echo", &json!({}), &ports)).unwrap();
    cluster.wait_for_pod("web").unwrap();
    let cgroup = |node: &str| cluster.node(node).unwrap().cgroup().unwrap().to_owned();
    let (first, second) = (cgroup("n1"), cgroup("n2"));
    assert_eq!(processes(&first).len(), 1, "the pod's");
    assert_eq!(processes(&second), Vec::<String>::new());
    let sleep = cluster.node("n2").unwrap().spawn(&Spec::new("sleep").args(["60"])).unwrap();
    cluster::wait_for("the process to join", || {
        Ok((processes(&second) == [sleep.pid().to_string()]).then_some(()))
    })
    .unwrap();
    drop((sleep, cluster));
    assert!(!first.exists() && !second.exists());
}
