//! `sluice-testkit api` as a process: flags, kubeconfig, loaded objects, signals.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, Config};
use serde_json::json;

use crate::raw::{eventually, service};

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice-testkit"))
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn it_serves_what_was_loaded_to_whom_has_the_kubeconfig_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().expect("folder");
    let (kubeconfig, objects) =
        (folder.path().join("kubeconfig"), folder.path().join("objects.json"));
    let list = json!({"kind": "List", "items": [
        service("loaded"),
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}},
    ]});
    std::fs::write(&objects, list.to_string()).expect("write");
    let child = command()
        .args(["api", "--listen", "127.0.0.1:0", "--token", "secret"])
        .args(["--pod-cidr-v4", "172.20.0.0/16", "--service-cidr", "172.30.0.0/16"])
        .arg("--kubeconfig-out")
        .arg(&kubeconfig)
        .arg("--load")
        .arg(&objects)
        .stdout(Stdio::null())
        .spawn()
        .expect("spawn");
    let mut running = Running(child);
    let text = eventually("a kubeconfig", || {
        std::fs::read_to_string(&kubeconfig).ok().filter(|t| t.ends_with("}\n"))
    });
    let parsed: kube::config::Kubeconfig = serde_json::from_str(&text).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(parsed, &Default::default()).await.expect("config");
    let client = Client::try_from(config).expect("client");
    let loaded =
        Api::<Service>::default_namespaced(client.clone()).get("loaded").await.expect("loaded");
    let address = loaded.spec.and_then(|s| s.cluster_ip).expect("an address");
    assert!(address.starts_with("172.30."), "{address}");
    let range = Api::<ServiceCIDR>::all(client.clone()).get("kubernetes").await.expect("range");
    assert_eq!(range.spec.and_then(|s| s.cidrs), Some(vec!["172.30.0.0/16".to_owned()]));
    let nodes = Api::<Node>::all(client);
    let start = Instant::now();
    let ranges = loop {
        let node = nodes.get("n1").await.expect("node");
        if let Some(ranges) = node.spec.and_then(|s| s.pod_cidrs) {
            break ranges;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "no ranges for the node");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(ranges, ["172.20.0.0/24", "fd00:10:244::/64"]);
    let pid = nix::unistd::Pid::from_raw(running.0.id().try_into().expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal");
    let status = eventually("its end", || running.0.try_wait().expect("wait"));
    assert!(status.success(), "{status}");
}

#[test]
fn wrong_flags_say_what_is_expected() {
    for (arguments, expected) in [
        (
            ["--pod-cidr-v4", "fd00::/56"],
            "--pod-cidr-v4 fd00::/56: expected an IPv4 range of /24 or larger",
        ),
        (
            ["--pod-cidr-v6", "fd00::/112"],
            "--pod-cidr-v6 fd00::/112: expected an IPv6 range of /64 or larger",
        ),
        (["--load", "/nonexistent"], "read /nonexistent"),
    ] {
        let output = command()
            .args(["api", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .output()
            .expect("run");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
}
