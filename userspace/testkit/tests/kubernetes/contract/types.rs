//! The part of the script about what is not a Service or a slice: Nodes, ServiceCIDRs and Leases, and
//! about objects that finalizers hold.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use super::reads::{brief, names, version};
use super::wire::Wire;
use super::writes::service;
use super::{NAMESPACE, services};

const NODES: &str = "/api/v1/nodes";
const NODE: &str = "contract-1";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// A list by a stream, from now.
const STREAMING: &str = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
                         &resourceVersionMatch=NotOlderThan&resourceVersion=";

/// What agents ask of Nodes, in a cluster that has others: K17, K25, K35.
pub(super) async fn nodes(wire: &mut Wire) {
    let node = json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": NODE, "labels": { "contract": "" } } });
    wire.post("a Node", NODES, &node).await;
    let path = format!("{NODES}/{NODE}");
    // Its ranges come from a controller, a moment later.
    for _ in 0..100 {
        let (_, node) = wire.ask(Method::GET, &path, "json", &Value::Null).await;
        if node["spec"]["podCIDRs"].is_array() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let list = wire.get("Nodes by label", &format!("{NODES}?labelSelector=contract")).await;
    let one = format!("fieldSelector=metadata.name%3D{NODE}");
    wire.get("one Node by name", &format!("{NODES}?{one}")).await;
    wire.get("no Node by name", &format!("{NODES}?fieldSelector=metadata.name%3Dnone")).await;
    wire.get("Nodes have no namespace", &format!("{NODES}?fieldSelector=metadata.namespace%3Dx"))
        .await;
    wire.get("a Node is not watched by its path", &format!("{path}?watch=1&timeoutSeconds=2"))
        .await;
    let at = format!("{one}&resourceVersion={}", version(&list));
    let mut watch = wire
        .watch(&format!("{NODES}?watch=1&allowWatchBookmarks=true&timeoutSeconds=6&{at}"))
        .await;
    let status = json!({ "metadata": { "annotations": { "a": "b" } }, "spec": { "unschedulable": true },
        "status": { "conditions": [{ "type": "Some", "status": "True" }],
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] } });
    let path_status = format!("{path}/status");
    wire.step("a Node's status", Method::PATCH, &path_status, "merge-patch+json", &status).await;
    let ranges = json!({ "spec": { "podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"] } });
    wire.step("a Node's other ranges", Method::PATCH, &path, "merge-patch+json", &ranges).await;
    let events = watch.take(2).await;
    wire.note("a watch of one Node, with its bookmark", json!(events));
    for (name, query) in [
        ("a streaming list of Nodes", format!("{STREAMING}&labelSelector=contract")),
        ("a streaming list of one Node", format!("{STREAMING}&{one}")),
        ("a streaming list of no Node", format!("{STREAMING}&fieldSelector=metadata.name%3Dnone")),
    ] {
        let mut watch = wire.watch(&format!("{NODES}?{query}")).await;
        let count = if name.ends_with("no Node") { 1 } else { 2 };
        let events = watch.take(count).await;
        wire.note(name, json!(events));
    }
    let mut watch = wire.watch(&format!("{NODES}?{STREAMING}&{one}")).await;
    watch.take(2).await;
    wire.delete("a Node goes", &path).await;
    let event = watch.next().await;
    wire.note("it is seen to go", event);
}

/// K33.
pub(super) async fn cidrs(wire: &mut Wire) {
    let list = wire.get("ServiceCIDRs", CIDRS).await;
    wire.note("their names", names(&list));
    wire.get("ServiceCIDRs by field", &format!("{CIDRS}?fieldSelector=spec.cidrs%3Dx")).await;
    let mut watch = wire.watch(&format!("{CIDRS}?{STREAMING}")).await;
    let events = watch.take(2).await;
    wire.note("a streaming list of ServiceCIDRs", json!(events));
    let query = format!("watch=1&resourceVersion={}", version(&list));
    let mut later = wire.watch(&format!("{CIDRS}?{query}")).await;
    for label in [json!("1"), Value::Null] {
        let label = json!({ "metadata": { "labels": { "contract": label } } });
        let path = format!("{CIDRS}/kubernetes");
        wire.step("a label", Method::PATCH, &path, "merge-patch+json", &label).await;
    }
    let events = (watch.take(2).await, later.take(2).await);
    wire.note("a ServiceCIDR changes", json!([brief(&events.0), brief(&events.1)]));
    for (name, cidrs) in [
        ("a range", json!(["10.111.0.0/24"])),
        ("host bits", json!(["10.111.0.1/24"])),
        ("two of one family", json!(["10.111.0.0/24", "10.112.0.0/24"])),
        ("no range", json!([])),
    ] {
        let object = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": "more" }, "spec": { "cidrs": cidrs } });
        wire.post(&format!("ServiceCIDR of {name}"), &format!("{CIDRS}?dryRun=All"), &object).await;
    }
    let other = json!({ "spec": { "cidrs": ["10.112.0.0/24"] } });
    let path = format!("{CIDRS}/kubernetes");
    wire.step("another range", Method::PATCH, &path, "merge-patch+json", &other).await;
}

/// K24, K28.
pub(super) async fn leases(wire: &mut Wire) {
    let folder = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let path = format!("{folder}/one");
    let lease = |time: &str| {
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "one" }, "spec": { "holderIdentity": "n1", "renewTime": time } })
    };
    wire.post("a Lease of whole seconds", &folder, &lease("2026-01-01T00:00:00Z")).await;
    let made = wire.post("a Lease", &folder, &lease("2026-01-01T02:00:00.123456+02:00")).await;
    wire.note("in UTC", made["spec"]["renewTime"].clone());
    let next = "2026-01-01T00:00:01.000000Z";
    wire.put("a Lease without a version", &path, &lease(next)).await;
    let short = json!({ "spec": { "renewTime": "2026-01-01T00:00:01Z" } });
    for kind in ["merge-patch+json", "strategic-merge-patch+json"] {
        wire.step("a patch of whole seconds", Method::PATCH, &path, kind, &short).await;
    }
    let mut object = made.clone();
    object["spec"]["renewTime"] = json!(next);
    wire.put("a Lease with its version", &path, &object).await;
    wire.put("a Lease with that version again", &path, &object).await;
    wire.delete("a Lease goes", &path).await;
}

/// K28: a deletion is marked first, and done when the last finalizer goes.
pub(super) async fn finalizers(wire: &mut Wire) {
    let (_, list) = wire.ask(Method::GET, &services(), "json", &Value::Null).await;
    let query = format!("watch=1&resourceVersion={}", version(&list));
    let mut watch = wire.watch(&format!("{}?{query}", services())).await;
    let mut held = service("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.org/held"]);
    wire.post("held by a finalizer", &services(), &held).await;
    let path = format!("{}/held", services());
    wire.delete("it is to go", &path).await;
    wire.delete("it is to go once more", &path).await;
    let free = json!({ "metadata": { "finalizers": null } });
    wire.step("it is let go", Method::PATCH, &path, "merge-patch+json", &free).await;
    wire.get("it is gone", &path).await;
    let events = watch.take(3).await;
    wire.note("added, marked, deleted", json!(events));
}
