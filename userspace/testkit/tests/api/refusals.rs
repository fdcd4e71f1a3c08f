//! What is refused, with which code and cause, what is only warned of, and what is dropped: held to
//! kube-apiserver 1.37 side by side.

use serde_json::{Value, json};
use sluice_testkit::api::Server;

use crate::raw::{
    Reply, SERVICES, SLICES, delete, get, patch, post, request, service, slice, still_server, watch,
};

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn events(namespace: &str) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")
}

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "sluice",
        "reportingInstance": "sluice-n1", "type": "Warning", "reason": "R", "action": "A", "note": "n",
        "regarding": {"kind": "Service", "namespace": "default", "name": "a"},
    })
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

/// The fields that a 422 names.
fn fields(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.code, 422, "{}", reply.text);
    let causes = reply.body["details"]["causes"].as_array().expect("causes");
    causes.iter().map(|cause| cause["field"].as_str().expect("a field").to_owned()).collect()
}

fn spec(name: &str, spec: Value) -> Value {
    let mut object = service(name);
    object["spec"].as_object_mut().expect("a spec").extend(spec.as_object().cloned().expect("one"));
    object
}

#[test]
fn k29_an_events_words_are_short_its_reporter_a_qualified_name_and_its_series_of_two() {
    let server = still_server();
    let path = events("default");
    let long = || json!("x".repeat(129));
    for (key, value, field) in [
        ("reason", long(), "reason"),
        ("action", long(), "action"),
        ("reportingInstance", long(), "reportingInstance"),
        ("reportingController", json!("a b"), "reportingController"),
        ("reportingController", json!("a/b/c"), "reportingController"),
        ("note", json!("ä".repeat(513)), "message"),
        ("deprecatedCount", json!(3), "count"),
        (
            "series",
            json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}),
            "series.count",
        ),
    ] {
        let reply = post(&server, &path, &with(event("a"), key, value));
        assert_eq!(fields(&reply), [field]);
        assert!(reply.body["details"].get("group").is_none(), "judged as those of the core group");
    }
    let most = with(event("a"), "reason", json!("x".repeat(128)));
    assert_eq!(post(&server, &path, &with(most, "reportingController", json!("x.io/y"))).code, 201);
    let series =
        |count: u64, time: &str| json!({"series": {"count": count, "lastObservedTime": time}});
    let one = series(1, "2026-01-01T00:00:01.000000Z");
    let path = format!("{path}/a");
    assert_eq!(fields(&patch(&server, &path, "merge-patch+json", &one)), ["series.count"]);
    // K24: in a patch it is the patch that makes no Event.
    let short = series(2, "2026-01-01T00:00:01Z");
    assert_eq!(fields(&patch(&server, &path, "merge-patch+json", &short)), ["patch"]);
    assert_eq!(patch(&server, &path, "apply-patch+yaml", &short).code, 422, "no manager");
}

#[test]
fn k29_an_event_lies_where_its_object_lies_and_in_no_namespace_that_goes_away() {
    let server = still_server();
    server
        .store()
        .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}))
        .expect("apply");
    let of_node = with(event("n"), "regarding", json!({"kind": "Node", "name": "n1"}));
    assert_eq!(post(&server, &events("default"), &of_node).code, 201);
    assert_eq!(post(&server, &events("kube-system"), &of_node).code, 201);
    let reply = post(&server, &events("c"), &of_node);
    assert_eq!(fields(&reply), ["involvedObject.namespace"]);
    delete(&server, "/api/v1/namespaces/c");
    let reply = post(&server, &events("c"), &event("late"));
    assert_eq!((reply.code, &reply.body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(reply.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

#[test]
fn k10_a_403_names_the_verb_and_leaves_out_what_is_empty() {
    let server = still_server();
    server.set_token(Some("right"));
    for (method, path, verb, details) in [
        ("GET", "/api/v1/services", "list", json!({"kind": "services"})),
        ("GET", "/api/v1/services?watch=1", "watch", json!({"kind": "services"})),
        ("GET", "/api/v1/nodes/n1", "get", json!({"kind": "nodes", "name": "n1"})),
        (
            "GET",
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
            "list",
            json!({"kind": "nodes", "name": "n1"}),
        ),
        (
            "DELETE",
            SLICES,
            "deletecollection",
            json!({"kind": "endpointslices", "group": "discovery.k8s.io"}),
        ),
    ] {
        let reply = request(&server, method, path, &[], None);
        assert_eq!((reply.code, &reply.body["details"]), (403, &details));
        assert!(
            reply.message().contains(&format!("cannot {verb} resource")),
            "{}",
            reply.message()
        );
    }
    let reply = patch(&server, "/api/v1/nodes/n1/status", "merge-patch+json", &json!({}));
    assert_eq!(
        reply.message(),
        "nodes \"n1\" is forbidden: User \"system:anonymous\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope"
    );
    let reply = get(&server, &format!("{SERVICES}/a"));
    assert!(reply.message().ends_with("in the namespace \"default\""), "{}", reply.message());
    assert_eq!(get(&server, "/readyz").code, 200, "everybody may ask whether it lives");
}

#[test]
fn a_known_group_says_itself_what_it_does_not_have() {
    let server = still_server();
    for path in [
        "/apis/networking.k8s.io/v1/things",
        "/apis/networking.k8s.io/v9/servicecidrs",
        "/api/v1/things",
        "/api/v1/nodes/n1/things",
    ] {
        let reply = get(&server, path);
        assert_eq!((reply.code, &reply.body["reason"]), (404, &json!("NotFound")), "{path}");
    }
    let reply = get(&server, "/apis/example.org/v1/things");
    assert_eq!((reply.code, reply.text.as_str()), (404, "404 page not found\n"));
}

#[test]
fn k17_a_watch_is_of_a_collection_and_its_version_a_number() {
    let server = still_server();
    server
        .store()
        .apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))
        .expect("apply");
    let one = get(&server, "/api/v1/nodes/n1?watch=1");
    assert_eq!((one.code, &one.body["kind"]), (200, &json!("Node")), "the object, no stream");
    let garbage = get(&server, "/api/v1/nodes?watch=1&resourceVersion=soon");
    assert_eq!((garbage.code, garbage.body.get("reason")), (500, None));
    assert_eq!(get(&server, "/api/v1/nodes?resourceVersion=soon").code, 400);
}

/// From the cache, whose version may be that of the type's last change; bookmarks tell that it moved.
#[test]
fn k17_k4_a_watch_from_any_version_gets_its_bookmark_when_the_cache_moves_on() {
    let server = still_server();
    server.store().apply(slice("s", "a", &["10.0.0.1"])).expect("apply");
    for at in 0..3 {
        server.store().apply(service(&format!("s{at}"))).expect("apply");
    }
    let mut stream = watch(
        &server,
        &format!("{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion=0&timeoutSeconds=2"),
    );
    assert_eq!(stream.event().0, "ADDED");
    let (kind, end) = stream.event();
    assert_eq!(
        (kind.as_str(), &end["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        ("BOOKMARK", &json!("true"))
    );
    server.store().apply(service("later")).expect("apply");
    let (kind, mark) = stream.event();
    assert_eq!(kind, "BOOKMARK");
    assert!(mark["metadata"].get("annotations").is_none(), "{mark}");
    assert_ne!(mark["metadata"]["resourceVersion"], end["metadata"]["resourceVersion"]);
}

#[test]
fn label_selectors_know_numbers_and_the_form_of_keys_and_values() {
    let server = still_server();
    for (name, size) in [("small", "3"), ("large", "7")] {
        let mut object = service(name);
        object["metadata"]["labels"] = json!({"size": size});
        server.store().apply(object).expect("apply");
    }
    for (selector, name) in [("size%3E5", "large"), ("size%3C5", "small")] {
        let body = get(&server, &format!("{SERVICES}?labelSelector={selector}")).body;
        let items = body["items"].as_array().expect("items");
        assert_eq!((items.len(), &items[0]["metadata"]["name"]), (1, &json!(name)), "{selector}");
    }
    let long = "a".repeat(64);
    for selector in
        ["a%3Eb", "a/b/c", "A/b", "-a", "a-", "a,", "a=-b", "a%20in%20(b/c)", long.as_str()]
    {
        let reply = get(&server, &format!("{SERVICES}?labelSelector={selector}"));
        assert_eq!(reply.code, 400, "{selector}");
    }
}

#[test]
fn a_cluster_ip_that_is_named_alone_is_not_dropped_in_silence() {
    let server = still_server();
    post(&server, SERVICES, &service("a"));
    post(&server, SERVICES, &spec("two", json!({"ipFamilyPolicy": "RequireDualStack"})));
    let change = |name: &str, spec: Value| {
        patch(&server, &format!("{SERVICES}/{name}"), "merge-patch+json", &json!({"spec": spec}))
    };
    let other = "10.96.5.5";
    assert_eq!(fields(&change("a", json!({"clusterIP": other}))), ["spec.clusterIPs[0]"]);
    assert_eq!(fields(&change("a", json!({"clusterIP": "None"}))), ["spec.clusterIPs[0]"]);
    assert_eq!(fields(&change("a", json!({"clusterIPs": [other]}))), ["spec.clusterIPs"]);
    assert_eq!(fields(&change("two", json!({"clusterIP": other}))), ["spec.ipFamilyPolicy"]);
    for nothing in
        [json!({"clusterIP": ""}), json!({"clusterIP": null}), json!({"clusterIPs": null})]
    {
        let reply = change("two", nothing);
        assert_eq!(reply.code, 200, "{}", reply.text);
        assert_eq!(reply.body["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    }
    let reply = post(
        &server,
        SERVICES,
        &spec("b", json!({"clusterIP": other, "clusterIPs": ["10.96.5.6"]})),
    );
    assert_eq!(fields(&reply), ["spec.clusterIPs"]);
}

#[test]
fn k26_what_only_a_load_balancer_has_is_refused_elsewhere_and_in_a_wrong_form() {
    let server = still_server();
    let ranges = json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]});
    let reply = post(&server, SERVICES, &spec("a", ranges.clone()));
    assert_eq!(fields(&reply), ["spec.LoadBalancerSourceRanges"]);
    let mut balanced = spec("lb", ranges);
    balanced["spec"]["type"] = json!("LoadBalancer");
    assert_eq!(post(&server, SERVICES, &balanced).code, 201);
    let of = |ingress: Value| {
        let status = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        patch(&server, &format!("{SERVICES}/lb/status"), "merge-patch+json", &status)
    };
    for (ingress, field) in [
        (json!({"ip": "1.2.3.4", "ipMode": "X"}), "ipMode"),
        (json!({"hostname": "a.b", "ipMode": "VIP"}), "ipMode"),
        (json!({"ip": "1.2.3.400"}), "ip"),
        (json!({"ip": "01.2.3.4"}), "ip"),
        (json!({"hostname": "1.2.3.4"}), "hostname"),
        (json!({"hostname": "A_b"}), "hostname"),
    ] {
        let named = format!("status.loadBalancer.ingress[0].{field}");
        assert_eq!(fields(&of(ingress)), [named]);
    }
    let reply = of(json!({"ip": "fd00::0001"}));
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert!(reply.header("warning").contains("fd00::1"), "{}", reply.header("warning"));
}

#[test]
fn k23_an_endpoints_names_have_their_forms_and_old_topology_is_dropped() {
    let server = still_server();
    let of = |more: Value| {
        let mut object = slice("s", "a", &["10.0.0.1"]);
        object["endpoints"][0]
            .as_object_mut()
            .expect("one")
            .extend(more.as_object().cloned().expect("one"));
        post(&server, &format!("{SLICES}?dryRun=All"), &object)
    };
    let nine: Vec<Value> = (0..9).map(|at| json!({"name": format!("n{at}")})).collect();
    for (more, field) in [
        (json!({"hostname": "A_b"}), "hostname"),
        (json!({"hostname": "a.b"}), "hostname"),
        (json!({"nodeName": "A_b"}), "nodeName"),
        (json!({"hints": {"forNodes": nine}}), "hints.forNodes"),
        (json!({"hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}), "hints.forZones[1].name"),
    ] {
        assert_eq!(fields(&of(more)), [format!("endpoints[0].{field}")]);
    }
    let reply = of(json!({"deprecatedTopology": {"kubernetes.io/hostname": "n1"}}));
    assert_eq!(reply.body["endpoints"], json!([{"addresses": ["10.0.0.1"], "conditions": {}}]));
}

#[test]
fn a_new_range_has_an_empty_status_and_one_network_of_each_family() {
    let server = still_server();
    let range = |cidrs: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
    assert_eq!(
        fields(&post(&server, CIDRS, &range(json!(["10.1.0.0/24", "10.2.0.0/24"])))),
        ["spec.cidrs"]
    );
    let reply = post(&server, CIDRS, &range(json!(["10.1.0.0/24"])));
    assert_eq!((reply.code, &reply.body["status"]), (201, &json!({})));
}

#[test]
fn k36_warnings_are_those_of_the_real_server() {
    let server = still_server();
    let warned =
        |path: &str, object: &Value| post(&server, path, object).header("warning").to_owned();
    assert_eq!(
        warned(SERVICES, &spec("a", json!({"externalIPs": ["203.0.113.1"]}))),
        "299 - \"spec.externalIPs is deprecated and may no longer be implemented in some clusters\""
    );
    assert_eq!(
        warned(SERVICES, &spec("b", json!({"trafficDistribution": "PreferClose"}))),
        r#"299 - "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"""#
    );
    let mut names = slice("c", "a", &["a.example.org"]);
    names["addressType"] = json!("FQDN");
    assert_eq!(warned(SLICES, &names), "299 - \"spec.addressType: FQDN endpoints are deprecated\"");
    let unknown = |name: &str| spec(name, json!({"bogus": 1}));
    assert!(warned(SERVICES, &unknown("d")).contains("spec.bogus"));
    assert_eq!(warned(&format!("{SERVICES}?fieldValidation=Ignore"), &unknown("e")), "");
}

/// A token is a place below its own path; below another path it is another place.
#[test]
fn k14_a_token_of_one_namespace_means_something_else_in_all() {
    let server = still_server();
    let page = |server: &Server, query: &str| get(server, query).body;
    for name in ["s1", "s2", "s3"] {
        server.store().apply(service(name)).expect("apply");
    }
    let first = page(&server, &format!("{SERVICES}?limit=1"));
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let elsewhere = get(&server, &format!("/api/v1/services?limit=5&continue={token}"));
    assert_eq!((elsewhere.code, &elsewhere.body["items"]), (200, &json!([])));
    let all = page(&server, "/api/v1/services?limit=1");
    let token = all["metadata"]["continue"].as_str().expect("a token");
    let rest = page(&server, &format!("/api/v1/services?limit=5&continue={token}"));
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(2), "its own path goes on");
}

#[test]
fn k14_k1_options_of_a_list_that_contradict_each_other_are_named() {
    let server = still_server();
    for (query, field) in [
        ("resourceVersion=5&resourceVersionMatch=Some", "resourceVersionMatch"),
        ("resourceVersion=0&resourceVersionMatch=Exact", "resourceVersionMatch"),
        ("sendInitialEvents=true", "sendInitialEvents"),
        ("watch=1&sendInitialEvents=true", "resourceVersionMatch"),
    ] {
        assert_eq!(fields(&get(&server, &format!("{SERVICES}?{query}"))), [field], "{query}");
    }
}
