//! The ranges of ClusterIPs (R41).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use sluice_agent::views::{StatusView, ask};
use sluice_agent::watch::{ApiAccess, Update, Watch, Watcher, WatcherReport};
use sluice_testkit::api::Ending;
use tokio::sync::mpsc;

use crate::rig::{Rig, put, timing};

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

/// A 404 after objects were listed comes from something in between.
#[tokio::test(flavor = "multi_thread")]
async fn r41_ranges_that_are_known_do_not_become_unknown() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let answer = move || {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if !first {
                return Err(axum::http::StatusCode::NOT_FOUND);
            }
            let mut object = range("kubernetes", "10.96.0.0/12");
            object["metadata"]["resourceVersion"] = json!("5");
            let end = json!({"metadata": {"resourceVersion": "6",
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            let added = json!({"type": "ADDED", "object": object});
            Ok(format!("{added}\n{}\n", json!({"type": "BOOKMARK", "object": end})))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let master = Some(format!("http://{}", listener.local_addr().expect("an address")));
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let access = ApiAccess { master, ..ApiAccess::default() };
    let (mut updates, _) = watch(access, "/apis/networking.k8s.io/v1/servicecidrs");
    let listed = updates.recv().await.expect("an update");
    assert_eq!((listed.absent, listed.objects.len()), (false, 1));
    while asked.load(Ordering::Relaxed) < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let next = updates.try_recv();
    assert!(next.is_err(), "{next:?}");
}

fn watch(
    access: ApiAccess,
    path: &'static str,
) -> (mpsc::Receiver<Update<ServiceCIDR>>, Arc<WatcherReport>) {
    let watch = Watch {
        resource: "servicecidrs",
        path,
        label_selector: "",
        field_selector: String::new(),
        optional: true,
    };
    let (out, updates) = mpsc::channel(8);
    let report = Arc::new(WatcherReport::default());
    let watcher = Watcher::new(access, watch, timing(), out, Arc::clone(&report));
    tokio::spawn(watcher.run());
    (updates, report)
}

/// A type that the server does not know: an answer, not a fault to be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn r41_a_server_without_the_type_says_so_once() {
    let rig = Rig::new();
    let path = "/apis/networking.k8s.io/v0/servicecidrs";
    let (mut updates, report) = watch(rig.config.api.clone(), path);
    let update = tokio::time::timeout(Duration::from_secs(5), updates.recv()).await;
    let update = update.expect("in time").expect("an update");
    let expected = Update { listed: true, absent: true, gone: vec![], objects: vec![] };
    assert_eq!(update, expected);
    let again = tokio::time::timeout(Duration::from_millis(500), updates.recv()).await;
    assert!(again.is_err(), "a pause before it is asked again: {again:?}");
    assert_eq!(report.restarts.load(Ordering::Relaxed), 0);
}
