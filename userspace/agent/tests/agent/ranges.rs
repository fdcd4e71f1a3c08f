//! The ranges of ClusterIPs (R41).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use sluice_agent::views::{StatusView, ask};
use sluice_agent::watch::{Update, Watch, Watcher, WatcherReport};
use sluice_testkit::api::Ending;
use tokio::sync::mpsc;

use crate::rig::{Rig, put};

async fn shows(rig: &Rig, ranges: &[&str]) -> StatusView {
    for _ in 0..1000 {
        let status: StatusView = ask::get(&rig.socket_folder(), "/status").await.expect("status");
        // Shown, and written by a sync.
        if status.service_ranges == ranges && rig.recorder.record().cidrs == ranges {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {ranges:?}");
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}

/// Those of the embedded server.
fn first(rig: &Rig) -> Vec<String> {
    let object = rig.store().get("servicecidrs", "", "kubernetes").expect("there");
    serde_json::from_value(object["spec"]["cidrs"].clone()).expect("texts")
}

#[tokio::test(flavor = "multi_thread")]
async fn r41_the_objects_are_followed() {
    let mut rig = Rig::started().await;
    let first = first(&rig);
    let mut all: Vec<&str> = first.iter().map(String::as_str).collect();
    let status = shows(&rig, &all).await;
    assert_eq!(status.service_ranges_from, "ServiceCIDR objects");
    put(rig.store(), range("more", "10.200.0.0/24"));
    all.insert(1, "10.200.0.0/24");
    shows(&rig, &all).await;
    rig.server().faults().end_watches(Some("servicecidrs"), Ending::Gone);
    rig.store().delete("servicecidrs", "", "more");
    all.remove(1);
    shows(&rig, &all).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r41_the_flag_overrides_them_and_nobody_asks() {
    let mut rig = Rig::new();
    rig.config.service_ranges = vec!["10.96.0.0/12".parse().expect("a range")];
    rig.start();
    rig.converges().await;
    let status = shows(&rig, &["10.96.0.0/12"]).await;
    assert_eq!(status.service_ranges_from, "--service-cluster-ip-range");
    assert!(!rig.server().seen().iter().any(|seen| seen.resource == "servicecidrs"));
    rig.stop().await;
}

/// A type that the server does not know: an answer, not a fault to be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn r41_a_server_without_the_type_says_so_once() {
    let rig = Rig::new();
    let watch = Watch {
        resource: "servicecidrs",
        path: "/apis/networking.k8s.io/v0/servicecidrs",
        label_selector: "",
        field_selector: String::new(),
        optional: true,
    };
    let (out, mut updates) = mpsc::channel::<Update<ServiceCIDR>>(8);
    let report = Arc::new(WatcherReport::default());
    let access = rig.config.api.clone();
    let timing = rig.config.timing;
    tokio::spawn(Watcher::new(access, watch, timing, out, Arc::clone(&report)).run());
    let update = tokio::time::timeout(Duration::from_secs(5), updates.recv()).await;
    let update = update.expect("in time").expect("an update");
    let expected = Update { listed: true, absent: true, gone: vec![], objects: vec![] };
    assert_eq!(update, expected);
    let again = tokio::time::timeout(Duration::from_millis(500), updates.recv()).await;
    assert!(again.is_err(), "a pause before it is asked again: {again:?}");
    assert_eq!(report.restarts.load(Ordering::Relaxed), 0);
}
