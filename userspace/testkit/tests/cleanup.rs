//! `sluice cleanup` as it is typed on a node whose agent has gone: all of it goes, and once only.

use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use sluice_testkit::cluster::{self, Cluster, Options};

/// The agent that was built beside this test.
fn sluice() -> PathBuf {
    let told = std::env::var_os("SLUICE_TEST_AGENT").map(PathBuf::from);
    let testkit = PathBuf::from(env!("CARGO_BIN_EXE_sluice-testkit"));
    told.unwrap_or_else(|| testkit.with_file_name("sluice"))
}

#[test]
fn cleanup_is_refused_beside_an_agent_and_removes_all_that_it_has_left() {
    if let Some(reason) = cluster::missing() {
        return println!("SKIP: {reason}");
    }
    if !sluice().is_file() {
        return println!("SKIP: no agent at {}: cargo build -p sluice-agent", sluice().display());
    }
    let cluster = Cluster::start(Options {
        nodes: 1,
        sluice: Some(sluice()),
        testkit: Some(env!("CARGO_BIN_EXE_sluice-testkit").into()),
        ..Options::default()
    });
    let cluster = cluster.unwrap();
    let node = cluster.node("n1").unwrap();
    let config = node.agent_config().unwrap();
    let cleanup = || -> Output {
        let mut command = Command::new(&config.sluice);
        command.args(["cleanup", "--bpf-dir"]).arg(&config.bpf_dir);
        command.arg("--state-dir").arg(&config.state_dir);
        node.netns().run(|| command.output()).unwrap().unwrap()
    };

    let refused = cleanup();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(config.bpf_dir.exists());

    node.stop_agent(Signal::SIGTERM).unwrap();
    let done = cleanup();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(text.contains("programs and maps pinned in"), "{text}");
    assert!(!config.bpf_dir.exists());
    // What it learned by BGP, and its own pod range, to which unknown addresses do not leave the node.
    assert!(text.contains("the route to 10.244."), "{text}");
    let routes =
        node.netns().run(|| Command::new("ip").args(["route", "show", "proto", "92"]).output());
    assert_eq!(String::from_utf8_lossy(&routes.unwrap().unwrap().stdout), "");

    let again = cleanup();
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && !text.contains("pinned"), "{again:?}");
}
