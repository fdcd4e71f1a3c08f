//! What the agent shows: health, metrics, the control socket and the commands that read it.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{NODE, Rig, node, put, service, slice};

/// Runs the real binary.
async fn sluice(rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments);
    if !matches!(arguments, ["agent", ..] | ["doctor", ..]) {
        command.arg("--state-dir").arg(rig.socket_folder());
    }
    command.output().await.expect("it runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn r28_r30_kube_proxys_health_endpoint() {
    let mut rig = Rig::started().await;
    let healthz = rig.config.healthz_addr;
    let (code, head, body) = rig.get(healthz, "/healthz").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &body["nodeEligible"], &body["healthy"]), (200, &json!(true), &json!(true)));
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");

    let mut leaving = node("192.0.2.1");
    leaving["spec"] =
        json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    put(rig.store(), leaving);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.get(healthz, "/healthz").await.0, 503, "R29: a leaving node");
    assert_eq!(rig.get(healthz, "/livez").await.0, 200, "R29: livez ignores it");

    let mut deleted = node("192.0.2.1");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    deleted["metadata"]["finalizers"] = json!(["example.org/slow"]);
    rig.store().apply_unchecked(deleted).expect("stored");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.get(healthz, "/healthz").await.0, 503, "R29: a Node being deleted");

    rig.store().delete("nodes", "", NODE);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.get(healthz, "/healthz").await.0, 503, "R29: no Node, but the agent goes on");
    assert_eq!(rig.get(healthz, "/livez").await.0, 200);
    let mut tainted = node("192.0.2.1");
    tainted["spec"] = json!({"taints": [{"key": "example.org/other", "effect": "NoSchedule"}]});
    put(rig.store(), tainted);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.get(healthz, "/healthz").await.0, 200, "R29: it is back, with another taint");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_endpoints_and_metrics() {
    let mut rig = Rig::started().await;
    let http = rig.config.http_addr;
    rig.eventually("syncs are published", |rig| {
        (rig.recorder.record().maintained > 0).then_some(())
    })
    .await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(rig.get(http, path).await.0, 200, "{path}");
    }
    let (code, _, metrics) = rig.get(http, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "sluice_packets_total{reason=\"no_endpoints\",drop=\"true\"} 7",
        "sluice_frontends 3",
        "sluice_watch_objects{resource=\"endpointslices\"} 3",
        "sluice_watch_lists_total{resource=\"services\"} 1",
        "sluice_attachments 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} not in\n{metrics}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r51_kube_proxys_metrics_address() {
    let mut rig = Rig::started().await;
    let address = rig.config.metrics_addr;
    for (path, expected) in [("/healthz", "ok"), ("/proxyMode", "ebpf")] {
        let (code, _, body) = rig.get(address, path).await;
        assert_eq!((code, body.as_str()), (200, expected), "{path}");
    }
    for (path, expected) in [
        ("/configz", "{\"sluice\":{\"node-name\":\"n1\"}}"),
        ("/flagz", "\nnode-name=n1\n"),
        ("/statusz", "\nBinary version: "),
    ] {
        let (code, _, body) = rig.get(address, path).await;
        assert!(code == 200 && body.contains(expected), "{path}: {code} {body}");
    }
    put(rig.store(), slice("web", &["10.2.0.1"]));
    rig.converges().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (code, _, metrics) = rig.get(address, "/metrics").await;
    assert_eq!(code, 200);
    let host = rig.server().address();
    let get = format!("rest_client_requests_total{{code=\"200\",host=\"{host}\",method=\"GET\"}}");
    assert!(metrics.contains(&get), "{metrics}");
    let count = |kind: &str| {
        let name = format!("kubeproxy_sync_{kind}_proxy_rules_duration_seconds_count");
        let line = metrics.lines().find(|line| line.starts_with(&name))?;
        line.rsplit(' ').next()?.parse::<usize>().ok()
    };
    assert_eq!(count("full"), Some(1), "only the first reads what stands there\n{metrics}");
    assert!(count("partial") >= Some(1), "{metrics}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_show_what_the_agent_knows() {
    let mut rig = Rig::started().await;
    let status = sluice(&rig, &["status", "--json"]).await;
    let view: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!((&view["node"], &view["ready"]), (&json!(NODE), &json!(true)), "{view}");
    assert_eq!(view["dataplane"]["attached"][0]["interface"], json!("veth1"));
    assert_eq!(status.status.code(), Some(0));
    let status = sluice(&rig, &["status"]).await;
    assert!(text(&status).contains("ready      yes"), "{}", text(&status));

    let services = sluice(&rig, &["services", "--json"]).await;
    let rows: Vec<Value> = serde_json::from_slice(&services.stdout).expect("JSON");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["anchor", "api", "web"]);
    let one = sluice(&rig, &["services", "default/web"]).await;
    assert!(text(&one).contains("10.1.0.5:8080 local"), "{}", text(&one));
    let none = sluice(&rig, &["services", "nobody"]).await;
    assert_eq!(none.status.code(), Some(1), "asked for by name, not there");

    let flows = sluice(&rig, &["flows", "--json", "--limit", "2"]).await;
    let rows: Vec<Value> = serde_json::from_slice(&flows.stdout).expect("JSON");
    assert_eq!(rows.len(), 2);
    let drops = sluice(&rig, &["drops"]).await;
    assert!(text(&drops).contains("no_endpoints"), "{}", text(&drops));
    let refused = sluice(&rig, &["cleanup", "--bpf-dir", "/nowhere"]).await;
    assert_eq!(refused.status.code(), Some(1), "an agent runs");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("another agent runs"), "{error}");
    rig.stop().await;

    let gone = sluice(&rig, &["status"]).await;
    assert_eq!(gone.status.code(), Some(1));
    let error = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(error.contains("no agent at"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_looking_after_flows_shows_until_it_is_over() {
    let mut rig = Rig::new();
    rig.recorder.record().fail_upkeep = 2;
    rig.start();
    let upkeep = async |rig: &Rig| {
        let status = sluice(rig, &["status", "--json"]).await;
        let view: Value = serde_json::from_slice(&status.stdout).expect("JSON");
        view["upkeep_error"].clone()
    };
    // The second failure: the first is published by then, the next success a second away.
    rig.eventually("it fails", |rig| (rig.recorder.record().maintained == 2).then_some(())).await;
    assert_eq!(upkeep(&rig).await, json!("maintain: told to fail"));
    rig.eventually("it works", |rig| (rig.recorder.record().maintained > 3).then_some(())).await;
    assert_eq!(upkeep(&rig).await, Value::Null);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_that_changes_nothing_else_is_shown_while_it_lasts() {
    let mut rig = Rig::started().await;
    let problems = async |rig: &Rig| -> Vec<String> {
        let status = sluice(rig, &["status", "--json"]).await;
        let view: Value = serde_json::from_slice(&status.stdout).expect("JSON");
        serde_json::from_value(view["problems"].clone()).expect("texts")
    };
    let next_look = async |rig: &Rig| {
        let looks = rig.recorder.record().maintained;
        rig.eventually("it is looked after", |rig| {
            (rig.recorder.record().maintained > looks + 1).then_some(())
        })
        .await;
    };
    let mut odd = service("web");
    odd["metadata"]["annotations"] = json!({"sluice.io/service.scheduler": "fastest"});
    put(rig.store(), odd);
    next_look(&rig).await;
    let found = problems(&rig).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("default/web") && found[0].contains("fastest"), "{found:?}");
    put(rig.store(), service("web"));
    next_look(&rig).await;
    assert_eq!(problems(&rig).await, Vec::<String>::new());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_what_the_operator_says_of_external_ips_and_node_ports_holds() {
    let mut rig = Rig::new();
    rig.config.external_ips = false;
    rig.config.node_port_range = Some(30000..=30100);
    let mut outside = service("web");
    outside["spec"]["type"] = json!("NodePort");
    outside["spec"]["ports"][0]["nodePort"] = json!(32000);
    outside["spec"]["externalIPs"] = json!(["198.51.100.7"]);
    put(rig.store(), outside);
    rig.start();
    let addresses = rig
        .eventually("it is written", |rig| {
            let state = rig.recorder.last()?;
            let (_, port) = state.ports.iter().find(|(key, _)| key.name == "web")?;
            Some(port.addresses.len())
        })
        .await;
    assert_eq!(addresses, 1, "the ClusterIP alone");
    rig.eventually("it is shown", |rig| (rig.recorder.record().maintained > 2).then_some(())).await;
    let status = text(&sluice(&rig, &["status"]).await);
    assert!(status.contains("node port 32000 is outside"), "{status}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_status_2() {
    let rig = Rig::new();
    for arguments in [&["agent", "--run-firewall"][..], &["doctor"], &["status", "--nonsense"]] {
        let output = sluice(&rig, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
