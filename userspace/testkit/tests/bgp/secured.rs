//! B7, B8: TTL security, and passwords from a mounted Secret, between real agents and BIRD.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::cluster::bgp_router::ROUTER_ASN;
use sluice_testkit::cluster::{Cluster, wait_for};

use crate::{PATIENCE, addresses, ask, cluster, hops, router};

const ROUTER: &str = "192.168.77.1";
/// What BIRD knows of the node.
const NEIGHBOR: &str = "neighbor 192.168.77.11 as 64512;";

/// As kubelet mounts a Secret: its files by way of a link that is replaced at once.
fn mount(folder: &Path, version: &str, password: &str) {
    fs::create_dir(folder.join(version)).unwrap();
    fs::write(folder.join(version).join("site"), password).unwrap();
    symlink(version, folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    if version == "..1" {
        symlink("..data/site", folder.join("site")).unwrap();
    }
}

/// What the first node shows of the router.
fn row(cluster: &Cluster) -> Value {
    let rows = ask(cluster, "n1", &["bgp", "neighbors"]);
    let found = rows.as_array().unwrap().iter().find(|row| row["address"] == ROUTER).cloned();
    found.unwrap_or_default()
}

#[test]
fn b7_b8_a_router_of_the_annotation_has_ttl_security_and_a_password_that_is_followed() {
    let Some(cluster) = cluster() else { return };
    let (node, router) = (cluster.node("n1").unwrap(), router(&cluster));
    let vip = addresses(&cluster, "web")[0];
    router.wait("web by three nodes", PATIENCE, |routes| hops(routes, vip) == 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "..1", "first-secret\n");
    node.stop_agent(Signal::SIGTERM).unwrap();
    node.start_agent_with(&[&format!("--peer-passwords-dir={}", folder.path().display())]).unwrap();
    node.wait_agent_ready(PATIENCE).unwrap();
    let peers = json!([{ "remoteip": ROUTER, "remoteasn": ROUTER_ASN, "passwordfile": "site",
        "ttlsecurity": 1 }]);
    let patch = json!({ "metadata": { "annotations": { "sluice.io/peers": peers.to_string() } } });
    cluster.store().merge("nodes", "", "n1", "", &patch).unwrap();
    wait_for("the router to have a password", || {
        Ok((row(&cluster)["password"] == true).then_some(()))
    })
    .unwrap();
    let secured = format!("{NEIGHBOR} password \"first-secret\"; ttl security on;");
    router.configure(|text| text.replace(NEIGHBOR, &secured)).unwrap();
    let up_after = |sessions: u64| {
        wait_for("a session with the key of now", || {
            let row = row(&cluster);
            let count = row["established"].as_u64().unwrap_or_default();
            Ok((row["state"] == "Established" && count > sessions).then_some(count))
        })
        .unwrap()
    };
    let sessions = up_after(0);
    // Both change; no agent restarts. Nothing says what the passwords are.
    mount(folder.path(), "..2", "second-secret");
    router.configure(|text| text.replace("first-secret", "second-secret")).unwrap();
    up_after(sessions);
    router.wait("web by three nodes again", PATIENCE, |routes| hops(routes, vip) == 3).unwrap();
    let shown = ask(&cluster, "n1", &["bgp", "neighbors"]).to_string();
    assert!(!shown.contains("-secret"), "{shown}");
}
