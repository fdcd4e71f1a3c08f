//! The part of the script that writes: what is filled in, refused, in conflict, merged, applied.

use axum::http::Method;
use serde_json::{Value, json};

use super::wire::Wire;
use super::{NAMESPACE, services, slices};

/// A namespace that is deleted.
const DYING: &str = "contract-dying";

/// A Service with more fields.
pub(super) fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "ports": [{ "port": 80 }] },
    });
    let own = service["spec"].as_object_mut().unwrap();
    own.extend(spec.as_object().cloned().unwrap_or_default());
    service
}

/// A slice with these endpoints.
pub(super) fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 8080 }],
    })
}

/// What the server fills in.
pub(super) async fn defaults(wire: &mut Wire) {
    let local = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" });
    let families = json!({ "ipFamilyPolicy": "RequireDualStack" });
    for (name, spec) in [
        ("plain", json!({})),
        ("dual", families.clone()),
        ("node-port", json!({ "type": "NodePort" })),
        ("balanced", json!({ "type": "LoadBalancer" })),
        ("balanced-local", local),
        ("sticky", json!({ "sessionAffinity": "ClientIP" })),
        ("headless", json!({ "clusterIP": "None", "selector": { "a": "b" } })),
        ("headless-bare", json!({ "clusterIP": "None" })),
        ("external-ips", json!({ "externalIPs": ["203.0.113.9"] })),
        ("elsewhere", json!({ "type": "ExternalName", "externalName": "example.org" })),
        (
            "near",
            json!({ "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameNode" }),
        ),
    ] {
        wire.post(&format!("Service {name}"), &services(), &service(name, spec)).await;
    }
    let endpoints = [
        ("bare", json!([{ "addresses": ["10.1.2.3"] }])),
        ("empty", json!([])),
        (
            "full",
            json!([{ "addresses": ["10.1.2.4"], "nodeName": "n1", "zone": "z",
            "conditions": { "ready": true }, "hints": { "forZones": [{ "name": "z" }] } }]),
        ),
    ];
    for (name, endpoints) in endpoints {
        wire.post(&format!("slice {name}"), &slices(), &slice(name, "plain", endpoints)).await;
    }
    let mut none = slice("no-ports", "plain", json!([]));
    none["ports"] = json!([]);
    wire.post("slice without ports", &slices(), &none).await;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.7" }] } } });
    let path = format!("{}/balanced/status", services());
    wire.step("ipMode is filled in", Method::PATCH, &path, "merge-patch+json", &status).await;
    let path = format!("{}/plain/status", services());
    wire.step("ingress of a ClusterIP", Method::PATCH, &path, "merge-patch+json", &status).await;
    let change = json!({ "spec": { "type": "ClusterIP" } });
    let path = format!("{}/balanced", services());
    wire.step("to ClusterIP", Method::PATCH, &path, "merge-patch+json", &change).await;
    let change = json!({ "spec": { "type": "ExternalName", "externalName": "example.org",
        "clusterIP": null, "clusterIPs": null } });
    wire.step("to ExternalName", Method::PATCH, &path, "merge-patch+json", &change).await;
    wire.get("ServiceCIDR", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
}

/// What it refuses, and with which code, reason and fields.
pub(super) async fn refusals(wire: &mut Wire) {
    for (what, spec) in [
        ("no ports", json!({ "ports": [] })),
        ("port 0", json!({ "ports": [{ "port": 0 }] })),
        ("a protocol", json!({ "ports": [{ "port": 80, "protocol": "QUIC" }] })),
        ("two ports without names", json!({ "ports": [{ "port": 80 }, { "port": 81 }] })),
        ("a policy", json!({ "type": "NodePort", "externalTrafficPolicy": "Global" })),
        ("an address", json!({ "clusterIP": "10.96.0.300" })),
        ("a range", json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"] })),
        ("a node port", json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] })),
        ("a range of a ClusterIP", json!({ "loadBalancerSourceRanges": ["10.0.0.0/8"] })),
        ("an address of elsewhere", json!({ "clusterIP": "192.0.2.1" })),
        ("two first addresses", json!({ "clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.8"] })),
        ("a protocol's name", json!({ "ports": [{ "port": 80, "appProtocol": "a b" }] })),
    ] {
        wire.post(&format!("refused: {what}"), &services(), &service("refused", spec)).await;
    }
    for (what, address) in
        [("loopback", "127.0.0.1"), ("IPv6", "fd00::1"), ("zeros", "10.0.0.010"), ("words", "web")]
    {
        let slice = slice("refused", "plain", json!([{ "addresses": [address] }]));
        wire.post(&format!("refused: slice of {what}"), &slices(), &slice).await;
    }
    for (what, endpoint) in [
        ("a hostname", json!({ "hostname": "A_b" })),
        ("a node's name", json!({ "nodeName": "A_b" })),
        ("a hint twice", json!({ "hints": { "forZones": [{ "name": "z" }, { "name": "z" }] } })),
    ] {
        let mut endpoint = endpoint;
        endpoint["addresses"] = json!(["10.1.2.3"]);
        let slice = slice("refused", "plain", json!([endpoint]));
        wire.post(&format!("refused: {what}"), &slices(), &slice).await;
    }
    let old = json!([{ "addresses": ["10.1.2.3"], "deprecatedTopology": { "a": "b" } }]);
    let path = format!("{}?dryRun=All", slices());
    wire.post("old topology is dropped", &path, &slice("topology", "plain", old)).await;
    let path = format!("{}/balanced-local/status?dryRun=All", services());
    for ingress in [
        json!({ "ip": "198.51.100.7", "ipMode": "X" }),
        json!({ "ip": "198.51.100.700" }),
        json!({ "hostname": "198.51.100.7" }),
        json!({ "hostname": "a.example.org", "ipMode": "VIP" }),
        json!({ "ip": "fd00::0001" }),
    ] {
        let status = json!({ "status": { "loadBalancer": { "ingress": [ingress] } } });
        let step = format!("ingress {ingress}");
        wire.step(&step, Method::PATCH, &path, "merge-patch+json", &status).await;
    }
    for (name, spec) in [
        ("plain", json!({ "clusterIP": "10.96.5.5" })),
        ("plain", json!({ "clusterIPs": ["10.96.5.5"] })),
        ("plain", json!({ "clusterIP": "None" })),
        ("plain", json!({ "clusterIP": null })),
        ("dual", json!({ "clusterIP": "10.96.5.5" })),
        ("headless", json!({ "clusterIP": "10.96.5.5" })),
        ("plain", json!({ "ports": "x" })),
    ] {
        let (path, step) = (format!("{}/{name}?dryRun=All", services()), format!("{name}: {spec}"));
        let patch = json!({ "spec": spec });
        wire.step(&step, Method::PATCH, &path, "merge-patch+json", &patch).await;
    }
    let mut other = slice("full", "plain", json!([]));
    other["addressType"] = json!("IPv6");
    wire.put("refused: another addressType", &format!("{}/full", slices()), &other).await;
    wire.get("no such Service", &format!("{}/none", services())).await;
    wire.get("no such path", "/apis/example.org/v1/things").await;
    wire.delete("nothing to delete", &format!("{}/none", services())).await;
}

/// Versions.
pub(super) async fn conflicts(wire: &mut Wire) {
    let path = format!("{}/plain", services());
    wire.post("exists", &services(), &service("plain", json!({}))).await;
    let mut object = wire.get("before", &path).await;
    let stale = object["metadata"]["resourceVersion"].clone();
    object["metadata"]["labels"] = json!({ "x": "y" });
    let changed = wire.put("put", &path, &object).await;
    wire.note("put moves the version", json!(changed["metadata"]["resourceVersion"] != stale));
    wire.put("put of a stale version", &path, &object).await;
    let again = wire.put("put of what is there", &path, &changed).await;
    let moved = again["metadata"]["resourceVersion"] != changed["metadata"]["resourceVersion"];
    wire.note("nothing changed, the version stays", json!(!moved));
    let mut bare = object.clone();
    bare["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    wire.put("put without a version", &path, &bare).await;
    let old = json!({ "metadata": { "resourceVersion": stale, "labels": { "x": "z" } } });
    wire.step("patch of a stale version", Method::PATCH, &path, "merge-patch+json", &old).await;
    let uid = json!({ "metadata": { "uid": "another", "labels": { "x": "z" } } });
    wire.step("patch of another uid", Method::PATCH, &path, "merge-patch+json", &uid).await;
    let mut other = bare.clone();
    other["metadata"]["uid"] = json!("another");
    wire.put("put of another uid", &path, &other).await;
    wire.delete("delete a Service", &format!("{}/elsewhere", services())).await;
    wire.delete("delete a slice", &format!("{}/empty", slices())).await;
}

/// Patches of all kinds.
pub(super) async fn patches(wire: &mut Wire) {
    let path = format!("{}/dual", services());
    let ports =
        json!({ "spec": { "ports": [{ "port": 80, "name": "a" }, { "port": 81, "name": "b" }] } });
    wire.step("merge", Method::PATCH, &path, "merge-patch+json", &ports).await;
    let one = json!({ "spec": { "ports": [{ "port": 81, "targetPort": 8081 }] } });
    wire.step("strategic", Method::PATCH, &path, "strategic-merge-patch+json", &one).await;
    let remove = json!([{ "op": "remove", "path": "/spec/ports/0" }]);
    wire.step("JSON", Method::PATCH, &path, "json-patch+json", &remove).await;
    let test = json!([{ "op": "test", "path": "/spec/type", "value": "NodePort" }]);
    wire.step("JSON that fails", Method::PATCH, &path, "json-patch+json", &test).await;
    wire.step("an unknown kind", Method::PATCH, &path, "yaml", &remove).await;
    let path = format!("{}/none", services());
    wire.step("nothing to patch", Method::PATCH, &path, "merge-patch+json", &one).await;
}

/// Server-side apply.
pub(super) async fn applies(wire: &mut Wire) {
    let path = |query: &str| format!("{}/applied?{query}", slices());
    let kind = "apply-patch+yaml";
    let mut object = slice("applied", "plain", json!([{ "addresses": ["10.1.2.5"] }]));
    wire.step("apply without a manager", Method::PATCH, &path(""), kind, &object).await;
    let one = path("fieldManager=one");
    let made = wire.step("apply creates", Method::PATCH, &one, kind, &object).await;
    let again = wire.step("apply again", Method::PATCH, &one, kind, &object).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    wire.note("apply of the same keeps the version", json!(version(&made) == version(&again)));
    object["endpoints"] = json!([{ "addresses": ["10.1.2.6"] }]);
    let two = path("fieldManager=two");
    wire.step("apply in conflict", Method::PATCH, &two, kind, &object).await;
    let forced = path("fieldManager=two&force=true");
    wire.step("apply by force", Method::PATCH, &forced, kind, &object).await;
}

/// Events, as agents write them.
pub(super) async fn events(wire: &mut Wire) {
    let folder = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "plain.1" },
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "sluice",
        "reportingInstance": "sluice-n1", "type": "Warning", "reason": "R", "action": "A", "note": "n",
        "regarding": { "apiVersion": "v1", "kind": "Service", "namespace": NAMESPACE, "name": "plain" },
    });
    wire.post("an Event", &folder, &event).await;
    wire.post("an Event again", &folder, &event).await;
    let path = format!("{folder}/plain.1");
    let series =
        json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } });
    wire.step("its series", Method::PATCH, &path, "merge-patch+json", &series).await;
    let note = json!({ "note": "another" });
    wire.step("its note", Method::PATCH, &path, "merge-patch+json", &note).await;
    for (count, time) in [(1, "2026-01-01T00:00:02.000000Z"), (3, "2026-01-01T00:00:02Z")] {
        let series = json!({ "series": { "count": count, "lastObservedTime": time } });
        let step = format!("a series of {count} at {time}");
        wire.step(&step, Method::PATCH, &path, "merge-patch+json", &series).await;
    }
    let core = format!("/api/v1/namespaces/{NAMESPACE}/events/plain.1");
    wire.get("the same Event of the core group", &core).await;
    let node =
        json!({ "apiVersion": "v1", "kind": "Node", "name": "contract-1", "uid": "contract-1" });
    for namespace in ["default", "kube-system", NAMESPACE, "none-such"] {
        let mut event = event.clone();
        event["metadata"]["name"] = json!("contract.1");
        event["regarding"] = node.clone();
        let folder = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let path = format!("{folder}?dryRun=All");
        wire.post(&format!("an Event about a Node in {namespace}"), &path, &event).await;
    }
    for (field, value) in [
        ("eventTime", Value::Null),
        ("eventTime", json!("2026-01-01T00:00:00Z")),
        ("reportingController", Value::Null),
        ("action", Value::Null),
        ("type", json!("Error")),
        ("note", json!("n".repeat(1025))),
        ("note", json!("\u{e4}".repeat(513))),
        ("reason", json!("r".repeat(129))),
        ("action", json!("a".repeat(129))),
        ("reportingInstance", json!("i".repeat(129))),
        ("reportingController", json!("a b")),
        ("deprecatedCount", json!(3)),
    ] {
        let mut event = event.clone();
        event["metadata"]["name"] = json!("plain.2");
        event[field] = value.clone();
        let short: String = value.to_string().chars().take(24).collect();
        wire.post(&format!("an Event with {field} {short}"), &folder, &event).await;
    }
    let dying = json!({ "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": DYING }, "spec": {} });
    wire.post("a namespace", "/api/v1/namespaces", &dying).await;
    // It stays as long as something of it is held.
    let held = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "held",
        "finalizers": ["example.org/held"] }, "spec": { "ports": [{ "port": 80 }] } });
    let folder = format!("/api/v1/namespaces/{DYING}/services");
    wire.ask(Method::POST, &folder, "json", &held).await;
    wire.ask(Method::DELETE, &format!("/api/v1/namespaces/{DYING}"), "json", &Value::Null).await;
    let late = format!("/apis/events.k8s.io/v1/namespaces/{DYING}/events");
    let mut event = event.clone();
    event["metadata"]["name"] = json!("late");
    event["regarding"]["namespace"] = json!(DYING);
    wire.post("an Event into a namespace that goes", &late, &event).await;
    let free = json!({ "metadata": { "finalizers": null } });
    wire.ask(Method::PATCH, &format!("{folder}/held"), "merge-patch+json", &free).await;
}
