//! Kubernetes Events: what is told, once, and that nothing depends on it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::api::{Fault, Scope, Verb};

use crate::rig::{NODE, Rig, put, service, slice};

fn events(rig: &Rig, reason: &str) -> Vec<Arc<Value>> {
    let events = rig.store().list("events");
    events.into_iter().filter(|event| event["reason"] == reason).collect()
}

/// A Service with an annotation that nobody understands.
fn odd(name: &str) -> Value {
    let mut object = service(name);
    object["metadata"]["annotations"] = json!({"sluice.io/service.scheduler": "fastest"});
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn r52_each_start_is_an_event_on_the_node() {
    let mut rig = Rig::started().await;
    rig.eventually("the first", |rig| (events(rig, "Starting").len() == 1).then_some(())).await;
    rig.stop().await;
    rig.start();
    rig.eventually("the second", |rig| (events(rig, "Starting").len() == 2).then_some(())).await;
    for event in events(&rig, "Starting") {
        let node = json!({"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE});
        assert_eq!(event["involvedObject"], node);
        assert_eq!(event["metadata"]["namespace"], json!("default"), "K29");
        assert_eq!(event["type"], json!("Normal"));
        assert_eq!(event["reportingComponent"], json!("sluice"));
        assert_eq!(event["reportingInstance"], json!(format!("sluice-{NODE}")));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_outside_of_the_operators_ranges_is_an_event_and_the_others_are_served() {
    let mut rig = Rig::new();
    rig.config.external_ranges = vec!["198.51.100.0/24".parse().expect("a range")];
    rig.start();
    rig.eventually("a first sync", |rig| rig.recorder.last()).await;
    let mut object = service("web");
    object["spec"]["externalIPs"] = json!(["198.51.100.7", "192.0.2.7"]);
    put(rig.store(), object);
    rig.eventually("the one within, alone", |rig| {
        let state = rig.recorder.last()?;
        let all = state.ports.values().flat_map(|port| &port.addresses);
        let all: Vec<String> = all.map(|(address, _)| address.to_string()).collect();
        assert!(!all.contains(&"192.0.2.7".to_owned()));
        all.contains(&"198.51.100.7".to_owned()).then_some(())
    })
    .await;
    let found = |rig: &Rig| events(rig, "NotServedAsWritten").pop();
    let event = rig.eventually("the Event", found).await;
    let text = event["message"].as_str().expect("a text");
    assert!(text.contains("192.0.2.7") && text.contains("--service-external-ip-range"), "{text}");
    assert_eq!(event["involvedObject"]["name"], json!("web"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_of_a_service_are_told_once_whoever_sees_them() {
    let mut rig = Rig::started().await;
    put(rig.store(), odd("web"));
    let found = |rig: &Rig| events(rig, "NotServedAsWritten");
    rig.eventually("the Event", |rig| (found(rig).len() == 1).then_some(())).await;
    let event = found(&rig).pop().expect("one");
    let web = rig.store().get("services", "default", "web").expect("there");
    assert_eq!(event["type"], json!("Warning"));
    assert_eq!(event["involvedObject"]["name"], json!("web"));
    assert_eq!(event["involvedObject"]["uid"], web["metadata"]["uid"]);
    let text = event["message"].as_str().expect("a text");
    assert!(text.contains("fastest") && text.contains("rr, lc, sh, mh"), "{text}");

    // The agent of another node sees the same.
    rig.stop().await;
    rig.config.node_name = "n2".to_owned();
    rig.start();
    put(rig.store(), odd("api"));
    rig.eventually("the other Service's", |rig| (found(rig).len() == 2).then_some(())).await;
    let again =
        rig.store().get("events", "default", event["metadata"]["name"].as_str().expect("one"));
    assert_eq!(again.as_ref(), Some(&*event), "it stays as it was");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r42_who_loses_an_address_to_another_is_told_on_its_service() {
    let mut rig = Rig::started().await;
    let web = rig.store().get("services", "default", "web").expect("there");
    let mut rival = service("rival");
    rival["spec"]["externalIPs"] = json!([web["spec"]["clusterIP"]]);
    put(rig.store(), rival);
    let event = rig.eventually("the Event", |rig| events(rig, "NotServedAsWritten").pop()).await;
    assert_eq!(event["involvedObject"]["name"], json!("rival"));
    let text = event["message"].as_str().expect("a text");
    assert!(text.contains("is served for default/web:/TCP"), "{text}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_takes_no_events_harms_nothing() {
    for fault in [Fault::Forbidden, Fault::InternalError, Fault::NoAnswer] {
        let mut rig = Rig::new();
        let scope = Scope::of("events").on(Verb::Write);
        rig.server().faults().inject(fault.clone(), scope);
        rig.start();
        for at in 0..300 {
            put(rig.store(), odd(&format!("odd{at}")));
        }
        put(rig.store(), slice("web", &["10.2.0.1"]));
        rig.converges().await;
        rig.eventually("it struck", |rig| (rig.server().faults().struck(&fault) > 0).then_some(()))
            .await;
        let (code, _, _) = rig.get(rig.config.healthz_addr, "/healthz").await;
        assert_eq!(code, 200, "{fault:?}");
        let mut lost = 0;
        for _ in 0..2000 {
            let (_, _, metrics) = rig.get(rig.config.http_addr, "/metrics").await;
            let line =
                metrics.lines().find_map(|line| line.strip_prefix("sluice_events_lost_total "));
            lost = line.and_then(|number| number.parse().ok()).expect("a number");
            if lost > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(lost, 0, "{fault:?}: what is lost is counted");
        rig.anchor_never_left();
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_got_no_answer_is_written_later() {
    let mut rig = Rig::new();
    let scope = Scope::of("events").on(Verb::Write).times(3);
    rig.server().faults().inject(Fault::InternalError, scope);
    rig.start();
    rig.eventually("written", |rig| (events(rig, "Starting").len() == 1).then_some(())).await;
    assert_eq!(rig.server().faults().struck(&Fault::InternalError), 3);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_problems_is_few_requests() {
    let mut rig = Rig::started().await;
    for at in 0..200 {
        put(rig.store(), odd(&format!("odd{at}")));
    }
    rig.converges().await;
    let requests = |rig: &Rig| rig.server().count("events", Verb::Write);
    rig.eventually("the first", |rig| (requests(rig) >= 20).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(requests(&rig) <= 30, "{} requests", requests(&rig));
    rig.stop().await;
}
