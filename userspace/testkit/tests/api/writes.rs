//! Writes: conflicts, patches, server-side apply, deletion, times, events of both groups.

use std::time::Duration;

use serde_json::{Value, json};

use crate::raw::{
    Next, PODS, SERVICES, SLICES, delete, get, patch, post, put, request, service, slice,
    still_server, watch,
};

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

#[test]
fn k28_stale_versions_conflict_and_equal_writes_are_none() {
    let server = still_server();
    let created = post(&server, SERVICES, &service("a")).body;
    assert_eq!(post(&server, SERVICES, &service("a")).body["reason"], "AlreadyExists");
    let path = format!("{SERVICES}/a");
    let mut stream =
        watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={}", server.store().version()));
    let same = put(&server, &path, &created);
    assert_eq!(
        (same.code, &same.body["metadata"]["resourceVersion"]),
        (200, &created["metadata"]["resourceVersion"])
    );
    assert_eq!(
        stream.next_within(Duration::from_millis(50)),
        Next::Quiet,
        "no event for a write that changes nothing"
    );
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(patch(&server, &path, "merge-patch+json", &labels).code, 200);
    assert_eq!(stream.brief().0, "MODIFIED");
    let stale = put(&server, &path, &created);
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    let stale = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"], "labels": {"x": "z"}}});
    assert_eq!(patch(&server, &path, "merge-patch+json", &stale).code, 409);
    assert_eq!(put(&server, &path, &service("a")).code, 200, "without a version it overwrites");
    assert_eq!(put(&server, &format!("{SERVICES}/new"), &service("new")).code, 201, "and creates");
    let other = json!({"metadata": {"uid": "another", "labels": {"x": "w"}}});
    assert_eq!(patch(&server, &path, "merge-patch+json", &other).code, 422, "another uid");
}

#[test]
fn k28_a_lease_needs_its_version_and_k24_exact_micro_times() {
    let server = still_server();
    let lease = |time: &str| json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "n", "renewTime": time}});
    assert_eq!(post(&server, LEASES, &lease("2026-01-01T00:00:00Z")).code, 400);
    assert_eq!(post(&server, LEASES, &lease("2026-01-01T00:00:00.123Z")).code, 400);
    let created = post(&server, LEASES, &lease("2026-01-01T02:00:00.123456+02:00"));
    assert_eq!(
        (created.code, &created.body["spec"]["renewTime"]),
        (201, &json!("2026-01-01T00:00:00.123456Z"))
    );
    let path = format!("{LEASES}/n");
    assert_eq!(put(&server, &path, &lease("2026-01-01T00:00:01.000000Z")).code, 422);
    let mut next = created.body;
    next["spec"]["renewTime"] = "2026-01-01T00:00:01.000000Z".into();
    assert_eq!(put(&server, &path, &next).code, 200);
}

#[test]
fn k25_node_status_takes_status_and_metadata_but_not_spec() {
    let server = still_server();
    post(&server, NODES, &json!({"metadata": {"name": "n"}}));
    let change = json!({
        "metadata": {"labels": {"zone": "a"}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk", "status": "True"}]},
    });
    let path = format!("{NODES}/n");
    let body =
        patch(&server, &format!("{path}/status"), "strategic-merge-patch+json", &change).body;
    assert_eq!(
        (&body["metadata"]["labels"]["zone"], body["spec"].get("unschedulable")),
        (&json!("a"), None)
    );
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let body = patch(&server, &format!("{path}/status"), "strategic-merge-patch+json", &ready).body;
    let states: Vec<(&Value, &Value)> = body["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .map(|c| (&c["type"], &c["status"]))
        .collect();
    assert_eq!(states, [(&json!("Ready"), &json!("True")), (&json!("Disk"), &json!("True"))]);
    let body = patch(
        &server,
        &path,
        "merge-patch+json",
        &json!({"spec": {"unschedulable": true}, "status": {"conditions": null}}),
    )
    .body;
    assert_eq!(
        (&body["spec"]["unschedulable"], body["status"]["conditions"].as_array().map(Vec::len)),
        (&json!(true), Some(2))
    );
    let ranges = |v: &str| {
        patch(&server, &path, "merge-patch+json", &json!({"spec": {"podCIDRs": [v], "podCIDR": v}}))
            .code
    };
    assert_eq!((ranges("10.1.0.0/24"), ranges("10.2.0.0/24")), (200, 422), "once");
}

#[test]
fn patches_strategic_merge_by_key_and_json_patch_by_path() {
    let server = still_server();
    let mut object = service("a");
    object["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    post(&server, SERVICES, &object);
    let path = format!("{SERVICES}/a");
    let strategic = json!({"spec": {
        "$setElementOrder/ports": [{"port": 82}, {"port": 81}],
        "ports": [{"port": 82, "name": "c"}, {"port": 81, "targetPort": 8081}, {"$patch": "delete", "port": 80}],
    }});
    let body = patch(&server, &path, "strategic-merge-patch+json", &strategic).body;
    let ports: Vec<(&Value, &Value)> = body["spec"]["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|p| (&p["name"], &p["targetPort"]))
        .collect();
    assert_eq!(ports, [(&json!("c"), &json!(82)), (&json!("b"), &json!(8081))]);
    let steps = json!([
        {"op": "test", "path": "/spec/ports/0/name", "value": "c"},
        {"op": "remove", "path": "/spec/ports/0"},
        {"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}},
        {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "d"},
    ]);
    let body = patch(&server, &path, "json-patch+json", &steps).body;
    assert_eq!(
        (body["spec"]["ports"].as_array().map(Vec::len), &body["metadata"]["annotations"]["a/b"]),
        (Some(1), &json!("d"))
    );
    let failing = json!([{"op": "test", "path": "/spec/type", "value": "x"}]);
    assert_eq!(patch(&server, &path, "json-patch+json", &failing).code, 422);
    assert_eq!(patch(&server, &path, "unheard-of", &json!({})).code, 415);
    assert_eq!(
        patch(&server, &format!("{SERVICES}/none"), "merge-patch+json", &json!({})).code,
        404
    );
}

fn apply(
    server: &sluice_testkit::api::Server,
    manager: &str,
    options: &str,
    object: &Value,
) -> crate::raw::Reply {
    let name = object["metadata"]["name"].as_str().expect("name");
    patch(
        server,
        &format!("{SERVICES}/{name}?fieldManager={manager}{options}"),
        "apply-patch+yaml",
        object,
    )
}

#[test]
fn k27_apply_creates_owns_conflicts_and_removes_what_is_left_out() {
    let server = still_server();
    let mut object = service("a");
    object["metadata"]["labels"] = json!({"one": "1", "two": "2"});
    assert_eq!(apply(&server, "", "", &object).code, 422, "a manager is needed");
    let created = apply(&server, "ours", "", &object);
    assert_eq!(created.code, 201, "{}", created.text);
    let again = apply(&server, "ours", "", &object);
    assert_eq!(
        again.body["metadata"]["resourceVersion"], created.body["metadata"]["resourceVersion"],
        "an equal apply is no write"
    );
    // What we leave out goes, defaults and others' fields stay.
    let theirs = json!({"metadata": {"labels": {"three": "3"}}});
    patch(&server, &format!("{SERVICES}/a?fieldManager=theirs"), "merge-patch+json", &theirs);
    object["metadata"]["labels"] = json!({"one": "1"});
    let body = apply(&server, "ours", "", &object).body;
    assert_eq!(body["metadata"]["labels"], json!({"one": "1", "three": "3"}));
    assert_eq!(body["spec"]["ports"][0]["targetPort"], 80, "a default is nobody's");
    // Another's field with another value conflicts, unless forced.
    object["metadata"]["labels"] = json!({"one": "1", "three": "drei"});
    let conflict = apply(&server, "ours", "", &object);
    assert_eq!((conflict.code, &conflict.body["reason"]), (409, &json!("Conflict")));
    let cause = &conflict.body["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldManagerConflict"), &json!(".metadata.labels.three"))
    );
    let forced = apply(&server, "ours", "&force=true", &object);
    assert_eq!((forced.code, &forced.body["metadata"]["labels"]["three"]), (200, &json!("drei")));
    // The list of ports is one by port and protocol.
    object["spec"]["ports"] = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]);
    assert_eq!(
        apply(&server, "ours", "", &object).body["spec"]["ports"].as_array().map(Vec::len),
        Some(2)
    );
    object["spec"]["ports"] = json!([{"port": 81, "name": "b"}]);
    let body = apply(&server, "ours", "", &object).body;
    assert_eq!(
        body["spec"]["ports"],
        json!([{"name": "b", "port": 81, "protocol": "TCP", "targetPort": 81}])
    );
    object["metadata"]["managedFields"] = json!([]);
    assert_eq!(apply(&server, "ours", "", &object).code, 400);
}

#[test]
fn k27_apply_to_a_status_of_nothing_is_404_and_dry_runs_store_nothing() {
    let server = still_server();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}});
    let status = format!("{NODES}/n/status?fieldManager=agent");
    assert_eq!(patch(&server, &status, "apply-patch+yaml", &node).code, 404);
    assert_eq!(
        patch(&server, &format!("{NODES}/n?fieldManager=agent"), "apply-patch+yaml", &node).code,
        201,
        "without it, a Node appears"
    );
    let reply = patch(&server, &status, "apply-patch+yaml", &node);
    assert_eq!(
        (reply.code, &reply.body["status"]["conditions"][0]["type"]),
        (200, &json!("NetworkUnavailable"))
    );
    let version = server.store().version();
    let reply =
        request(&server, "POST", &format!("{SERVICES}?dryRun=All"), &[], Some(&service("dry")));
    assert_eq!(reply.code, 201);
    assert!(reply.body["spec"]["clusterIP"].is_string());
    assert_eq!(
        (get(&server, &format!("{SERVICES}/dry")).code, server.store().version()),
        (404, version)
    );
}

#[test]
fn k28_delete_answers_with_the_object_or_a_status_and_knows_preconditions() {
    let server = still_server();
    post(&server, SERVICES, &service("a"));
    post(&server, SLICES, &slice("s", "a", &["10.0.0.1"]));
    let wrong = json!({"preconditions": {"uid": "another"}});
    assert_eq!(request(&server, "DELETE", &format!("{SERVICES}/a"), &[], Some(&wrong)).code, 409);
    assert_eq!(delete(&server, &format!("{SERVICES}/a")).body["kind"], "Service");
    let status = delete(&server, &format!("{SLICES}/s")).body;
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    let gone = delete(&server, &format!("{SERVICES}/a"));
    assert_eq!(
        (gone.code, &gone.body["details"]),
        (404, &json!({"name": "a", "kind": "services"}))
    );
}

#[test]
fn k28_finalizers_hold_an_object_and_deleted_still_shows_them() {
    let server = still_server();
    let mut object = service("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    post(&server, SERVICES, &object);
    let mut stream =
        watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={}", server.store().version()));
    delete(&server, &format!("{SERVICES}/a"));
    let (kind, shown) = stream.event();
    assert_eq!(kind, "MODIFIED");
    assert!(shown["metadata"]["deletionTimestamp"].is_string());
    patch(
        &server,
        &format!("{SERVICES}/a"),
        "merge-patch+json",
        &json!({"metadata": {"finalizers": null}}),
    );
    let (kind, shown) = stream.event();
    assert_eq!(
        (kind.as_str(), &shown["metadata"]["finalizers"]),
        ("DELETED", &json!(["example.com/hold"]))
    );
    assert_eq!(get(&server, &format!("{SERVICES}/a")).code, 404);
}

#[test]
fn a_pod_on_a_node_goes_gracefully_and_its_kubelet_ends_it() {
    let server = still_server();
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    for (name, node) in [("placed", "n1"), ("free", "")] {
        post(&server, PODS, &pod(name, node));
    }
    delete(&server, &format!("{PODS}/free"));
    assert_eq!(get(&server, &format!("{PODS}/free")).code, 404, "no node, no grace");
    let going = delete(&server, &format!("{PODS}/placed")).body;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(get(&server, &format!("{PODS}/placed")).code, 200);
    delete(&server, &format!("{PODS}/placed?gracePeriodSeconds=0"));
    assert_eq!(get(&server, &format!("{PODS}/placed")).code, 404);
}

#[test]
fn deleting_a_collection_looks_at_the_selector() {
    let server = still_server();
    for name in ["a", "b", "c"] {
        let mut object = service(name);
        object["metadata"]["labels"] = json!({"name": name});
        post(&server, SERVICES, &object);
    }
    let reply = delete(&server, &format!("{SERVICES}?labelSelector=name%20in%20(a,b)"));
    assert_eq!(reply.body["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(server.store().list("services").len(), 1);
}

#[test]
fn k29_events_of_both_groups_are_one() {
    let server = still_server();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let mut event = json!({
        "metadata": {"generateName": "node-"}, "regarding": {"kind": "Node", "name": "n1"}, "note": "text",
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Started", "action": "Start",
        "reportingController": "sluice.io/agent", "reportingInstance": "n1",
    });
    let created = post(&server, events, &event);
    assert_eq!(created.code, 201, "{}", created.text);
    assert_eq!(
        (&created.body["note"], &created.body["regarding"]["name"]),
        (&json!("text"), &json!("n1"))
    );
    let name = created.body["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("node-") && name.len() == 10, "{name}");
    let core =
        get(&server, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dn1")
            .body;
    assert_eq!(
        (&core["items"][0]["message"], &core["items"][0]["reportingComponent"]),
        (&json!("text"), &json!("sluice.io/agent"))
    );
    assert_eq!(core["items"][0]["firstTimestamp"], Value::Null);
    event["action"] = Value::Null;
    assert_eq!(post(&server, events, &event).code, 422);
    event["metadata"]["generateName"] = "node.".into();
    event["action"] = "Start".into();
    assert_eq!(
        post(&server, events, &event).code,
        422,
        "a name must not be made of a prefix with a dot at its end"
    );
}

#[test]
fn k36_unknown_fields_are_dropped_with_a_warning_or_refused_if_asked() {
    let server = still_server();
    let mut object = service("a");
    object["spec"]["selectr"] = json!({"a": "b"});
    let strict =
        request(&server, "POST", &format!("{SERVICES}?fieldValidation=Strict"), &[], Some(&object));
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("unknown field \"spec.selectr\""), "{}", strict.message());
    let reply = post(&server, SERVICES, &object);
    assert_eq!((reply.code, reply.body["spec"].get("selectr")), (201, None));
    assert!(reply.header("warning").contains("spec.selectr"), "{}", reply.header("warning"));
    let mut external = service("b");
    external["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    assert!(post(&server, SERVICES, &external).header("warning").contains("externalIPs"));
}
