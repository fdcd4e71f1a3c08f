//! A whole cluster without agents: pods come, are found by the EndpointSlice controller, are
//! asked, and go with grace; all is removed afterwards, after a crash too.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sluice_testkit::cluster::{self, Cluster, Options, wait_for};
use sluice_testkit::traffic::{self, Load, Plan};

const CRASH: &str = "SLUICE_TEST_CRASH";

fn options(root: &Path) -> Options {
    Options {
        nodes: 2,
        testkit: Some(env!("CARGO_BIN_EXE_sluice-testkit").into()),
        state_root: root.to_owned(),
        ..Options::default()
    }
}

/// What carries the mark: mounted namespaces, and the janitor.
fn marked(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let namespaces = mounts.lines().filter(|line| line.contains(&format!("/{id}/netns/")));
    found.extend(namespaces.map(str::to_owned));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("--after {id} ")) {
            found.push(line);
        }
    }
    found
}

#[test]
fn pods_come_into_slices_are_asked_and_go_with_grace() {
    if let Some(missing) = cluster::missing() {
        println!("SKIP: {missing}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(root.path())).unwrap();
    let labels = json!({ "app": "web" });
    let ports = [("TCP", 8080), ("UDP", 5353)];
    cluster
        .apply(cluster::service("web", &labels, &[("TCP", 80, 8080), ("UDP", 53, 5353)]))
        .unwrap();
    cluster.apply(cluster::pod("web-1", "n1", "echo", &labels, &ports)).unwrap();
    cluster.apply(cluster::pod("web-2", "n2", "echo", &labels, &ports)).unwrap();
    cluster.apply(cluster::pod("client", "n1", "pause", &json!({}), &[])).unwrap();
    let client = cluster.wait_for_pod("client").unwrap();
    let far = cluster.wait_for_pod("web-2").unwrap();
    cluster.wait_for_pod("web-1").unwrap();
    wait_for("two ready endpoints", || {
        Ok((cluster.api().ready_endpoints("web") == 2).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.api().cluster_ips("web").unwrap().len(), 2);

    // Nobody balances here: were a service to answer, the demo would show nothing.
    let ip = cluster.api().cluster_ips("web").unwrap()[0];
    let plan = Plan::new(SocketAddr::new(ip, 80), Load::Connections { per_s: 10 }).limit(3);
    let report =
        traffic::run(&client.netns, Plan { timeout: Duration::from_secs(1), ..plan }).unwrap();
    assert_eq!((report.answered, report.failed()), (0, 3), "{report:?}");

    let pause = Duration::from_millis(2);
    let mut streams = Vec::new();
    for address in &far.addresses {
        let target = SocketAddr::new(*address, 8080);
        let report =
            traffic::run(&client.netns, Plan::new(target, Load::Stream { pause }).limit(100))
                .unwrap();
        assert_eq!(
            (report.answered, report.failed(), report.connections),
            (100, 0, 1),
            "{report:?}"
        );
        streams.push(
            traffic::start(&client.netns, Plan::new(target, Load::Connections { per_s: 100 }))
                .unwrap(),
        );
    }

    // Deletion: not ready at once, served for a while yet, then gone from API, node and registry.
    cluster.delete_pod("web-2").unwrap();
    wait_for(
        "the endpoint to go",
        || Ok((cluster.api().ready_endpoints("web") == 1).then_some(())),
    )
    .unwrap();
    assert!(cluster.store().get("pods", "default", "web-2").is_some(), "it still drains");
    for running in streams {
        let report = running.stop().unwrap();
        assert!(report.answered > 0 && report.failed() == 0, "{report:?}");
    }
    wait_for("the pod to go", || {
        Ok(cluster.store().get("pods", "default", "web-2").is_none().then_some(()))
    })
    .unwrap();
    assert!(cluster.pod("web-2").is_none());
    assert!(!cluster.dir().join("netns/pod-web-2").exists());
    // The name is free again.
    cluster.apply(cluster::pod("web-2", "n2", "echo", &labels, &ports)).unwrap();
    cluster.wait_for_pod("web-2").unwrap();

    let id = cluster.id().to_owned();
    assert!(!marked(&id).is_empty());
    drop(cluster);
    assert_eq!(marked(&id), Vec::<String>::new());
    assert!(!root.path().join(&id).exists());
}

/// Not a test of its own: what the next one runs as a process that will be killed.
#[test]
#[ignore = "run by after_a_crash_everything_is_removed_too"]
fn a_cluster_until_killed() {
    let Some(root) = std::env::var_os(CRASH) else { return };
    let cluster = Cluster::start(options(Path::new(&root))).unwrap();
    cluster.apply(cluster::pod("web", "n1", "echo", &json!({}), &[("TCP", 8080)])).unwrap();
    cluster.wait_for_pod("web").unwrap();
    println!("UP {}", cluster.id());
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn after_a_crash_everything_is_removed_too() {
    if let Some(missing) = cluster::missing() {
        println!("SKIP: {missing}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_cluster_until_killed", "--ignored", "--nocapture"])
        .env(CRASH, root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let up = lines.find_map(|line| line.unwrap().split_once("UP ").map(|(_, id)| id.to_owned()));
    let id = up.expect("the cluster comes up");
    let processes = std::fs::read_to_string(root.path().join(&id).join("processes")).unwrap();
    let pids: Vec<&str> = processes.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(!pids.is_empty() && !marked(&id).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the janitor", || Ok(marked(&id).is_empty().then_some(()))).unwrap();
    assert!(!root.path().join(&id).exists());
    for pid in pids {
        // One that is only waited for by process 1 has an empty command line.
        let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        assert!(line.is_empty(), "process {pid}: {}", String::from_utf8_lossy(&line));
    }
}
