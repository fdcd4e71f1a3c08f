//! The agent's life: what it waits for, what it tries again, how it starts and stops.

use std::time::Duration;

use serde_json::json;
use sluice_agent::AgentError;
use sluice_agent::http::socket::StateDirError;
use sluice_testkit::api::{Fault, Scope, Verb};

use crate::rig::{NODE, Rig, change, node, put, service, slice};

#[tokio::test(flavor = "multi_thread")]
async fn r37_nothing_is_written_before_services_and_slices_are_both_listed() {
    for late in ["services", "endpointslices"] {
        let mut rig = Rig::new();
        let scope = Scope::of(late).on(Verb::Watch).on(Verb::List);
        rig.server().faults().inject(Fault::InternalError, scope);
        rig.start();
        rig.eventually("the data plane is open and looked after", |rig| {
            let record = rig.recorder.record();
            (record.opened.len() == 1 && record.maintained > 0).then_some(())
        })
        .await;
        // The other type changes, too: still no reason to write.
        change(rig.store(), 1);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(rig.recorder.record().states.len(), 0, "{late} are missing");
        let (code, _, why) = rig.get(rig.config.http_addr, "/readyz").await;
        assert_eq!((code, why.contains("not both listed")), (503, true), "{why}");
        rig.server().faults().clear();
        rig.converges().await;
        rig.anchor_never_left();
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r37_an_empty_cluster_is_written_too() {
    let mut rig = Rig::new();
    for name in ["anchor", "web", "api"] {
        rig.store().delete("services", "default", name);
    }
    rig.start();
    rig.converges().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r37_without_a_node_object_the_agent_goes_on_after_a_while() {
    let mut rig = Rig::new();
    rig.store().delete("nodes", "", NODE);
    rig.config.node_wait = Duration::from_millis(400);
    rig.start();
    rig.converges().await;
    assert_eq!(rig.recorder.record().opened, [Vec::<std::net::IpAddr>::new()]);
    put(rig.store(), node("192.0.2.7"));
    rig.eventually("opened anew for the address", |rig| {
        let record = rig.recorder.record();
        (record.opened.len() == 2 && record.closed == 1).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r40_new_addresses_of_the_node_need_no_restart() {
    let mut rig = Rig::started().await;
    put(rig.store(), node("192.0.2.9"));
    let before = rig.recorder.record().states.len();
    rig.eventually("opened and synced anew", |rig| {
        let record = rig.recorder.record();
        let opened = record
            .opened
            .last()
            .is_some_and(|last| last.iter().map(ToString::to_string).eq(["192.0.2.9".to_owned()]));
        (opened && record.states.len() > before).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r38_a_failed_sync_is_tried_again_and_loses_nothing() {
    let mut rig = Rig::started().await;
    rig.recorder.record().fail_syncs = 1;
    put(rig.store(), slice("web", &["10.6.0.1"]));
    rig.eventually("the failure shows", |rig| {
        (rig.recorder.record().fail_syncs == 0).then_some(())
    })
    .await;
    // No other change comes: the retry brings it.
    rig.converges().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r38_a_burst_of_changes_is_a_few_syncs() {
    let mut rig = Rig::started().await;
    rig.recorder.record().sync_takes = Duration::from_millis(50);
    let before = rig.recorder.record().states.len();
    for at in 0..200 {
        put(rig.store(), slice("web", &[&format!("10.7.0.{at}")]));
    }
    rig.converges().await;
    let syncs = rig.recorder.record().states.len() - before;
    assert!(syncs < 50, "{syncs} syncs for 200 changes");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_that_cannot_be_opened_is_tried_again() {
    let mut rig = Rig::new();
    rig.recorder.record().fail_opens = 1;
    rig.start();
    rig.eventually("the failure is shown", |rig| {
        (rig.recorder.record().fail_opens == 0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (code, _, why) = rig.get(rig.config.http_addr, "/readyz").await;
    assert_eq!((code, why.trim()), (503, "open: told to fail"));
    rig.converges().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_events_in_a_burst_are_looked_at_once_and_unresolved_pods_again() {
    let mut rig = Rig::started().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = rig.recorder.record().links;
    for _ in 0..50 {
        rig.links.send(()).expect("the agent listens");
    }
    rig.eventually("a look", |rig| (rig.recorder.record().links > before).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let looks = rig.recorder.record().links - before;
    assert!(looks <= 3, "{looks} looks for one burst");
    rig.recorder.record().unresolved = 1;
    rig.links.send(()).expect("the agent listens");
    rig.eventually("looks without events", |rig| {
        (rig.recorder.record().links >= before + looks + 2).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_cleanly_and_starts_again_in_the_same_place() {
    let mut rig = Rig::started().await;
    let socket = rig.socket_folder().join("agent.sock");
    assert!(socket.exists());

    let (_, links) = tokio::sync::mpsc::unbounded_channel::<()>();
    drop(links);
    let ground = sluice_agent::Ground {
        open: rig.recorder.opener(),
        links: Box::pin(futures::stream::pending()),
    };
    let second = sluice_agent::run(rig.config.clone(), ground, std::future::pending()).await;
    assert!(
        matches!(second, Err(AgentError::StateDir(StateDirError::Taken(_)))),
        "one agent per state folder: {second:?}"
    );

    rig.stop().await;
    assert!(!socket.exists());
    assert_eq!(rig.recorder.record().closed, 1, "its thread has ended");
    let last = rig.recorder.last();
    let syncs = rig.recorder.record().states.len();
    rig.start();
    rig.eventually("the same state again", |rig| {
        (rig.recorder.record().states.len() > syncs).then_some(())
    })
    .await;
    assert_eq!(rig.recorder.last(), last);
    rig.anchor_never_left();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_objects_change_nothing_for_the_others() {
    let mut rig = Rig::started().await;
    let store = rig.store();
    let big = "x".repeat(5 << 20);
    let meta = |name: &str| json!({"namespace": "default", "name": name});
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("portless"),
            "spec": {"clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1"]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("port0"),
            "spec": {"clusterIP": "010.096.200.002", "ports": [{"port": 0}, {"port": 70000}]}}),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "huge", "annotations": {"a": big}},
            "spec": {"clusterIP": "10.96.200.3", "clusterIPs": ["10.96.200.3"],
                "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("nonsense"),
            "spec": {"ports": "none"}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": "fqdn",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}],
            "ports": [{"name": "", "port": 80}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": "odd",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3"]}, {"addresses": []}],
            "ports": [{"name": "", "port": 0}, {"port": null}]}),
    ] {
        store.apply_unchecked(object).expect("stored as it is");
    }
    put(store, service("after"));
    put(store, slice("after", &["10.8.0.1"]));
    rig.converges().await;
    rig.anchor_never_left();
    let state = rig.recorder.last().expect("written");
    let backends = |name: &str| {
        let found = state.ports.iter().find(|(key, _)| key.name == name);
        found.map(|(_, port)| port.cluster.len())
    };
    assert_eq!((backends("web"), backends("huge")), (Some(3), Some(0)));
    rig.stop().await;
}
