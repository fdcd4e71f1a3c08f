//! EndpointSlices from pods and selectors, ranges for nodes, the end of namespaces, garbage.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::api::Server;

use crate::raw::{delete, eventually, get, post, server, service};

fn node(server: &Server, name: &str, zone: &str) {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    server.store().apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})).expect("node");
}

fn pod(server: &Server, name: &str, node: &str, ip: &str, ready: bool) {
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
    });
    server
        .store()
        .apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": status,
        }))
        .expect("pod");
}

fn web(server: &Server) {
    let mut object = service("web");
    object["metadata"]["labels"] = json!({"team": "x"});
    object["spec"] = json!({"selector": {"app": "web"}, "ports": [{"name": "p", "port": 80, "targetPort": "http"}]});
    server.store().apply(object).expect("service");
}

fn slices(server: &Server) -> Vec<Value> {
    let of_web = |s: &Value| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web";
    server.store().list("endpointslices").iter().map(|s| (**s).clone()).filter(of_web).collect()
}

/// Waits for one slice about which a condition holds.
fn one_slice(server: &Server, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || match slices(server).as_slice() {
        [slice] if holds(slice) => Some(slice.clone()),
        _ => None,
    })
}

fn endpoints(slice: &Value) -> usize {
    slice["endpoints"].as_array().map_or(0, Vec::len)
}

fn conditions(slice: &Value) -> (bool, bool, bool) {
    let flag =
        |key: &str| slice["endpoints"][0]["conditions"][key].as_bool().expect("all three are set");
    (flag("ready"), flag("serving"), flag("terminating"))
}

#[test]
fn a_service_without_pods_has_one_empty_slice_with_labels_and_owner() {
    let server = server();
    web(&server);
    let slice = one_slice(&server, "an empty slice", |_| true);
    assert_eq!((&slice["endpoints"], &slice["ports"]), (&Value::Null, &Value::Null));
    assert_eq!(
        slice["metadata"]["labels"],
        json!({
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": "web", "team": "x",
        })
    );
    let owner = &slice["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["controller"]), (&json!("Service"), &json!(true)));
    assert!(
        slice["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("web-") && n.len() == 9)
    );
    assert!(
        slice["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"]
            .is_string()
    );
    // The service's labels are kept up to date.
    server
        .store()
        .merge("services", "default", "web", "", &json!({"metadata": {"labels": {"team": "y"}}}))
        .expect("merge");
    one_slice(&server, "the new label", |s| s["metadata"]["labels"]["team"] == "y");
}

#[test]
fn endpoints_follow_the_pods_life() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    pod(&server, "a", "n1", "10.244.0.5", false);
    let slice = one_slice(&server, "the pod", |s| endpoints(s) == 1);
    assert_eq!(conditions(&slice), (false, false, false));
    pod(&server, "a", "n1", "10.244.0.5", true);
    let slice = one_slice(&server, "the ready pod", |s| conditions(s).0);
    assert_eq!(conditions(&slice), (true, true, false));
    let endpoint = &slice["endpoints"][0];
    assert_eq!(
        (&endpoint["addresses"], &endpoint["nodeName"], &endpoint["zone"]),
        (&json!(["10.244.0.5"]), &json!("n1"), &json!("za"))
    );
    assert_eq!(endpoint["targetRef"]["name"], "a");
    assert_eq!(
        slice["ports"],
        json!([{"name": "p", "port": 8080, "protocol": "TCP"}]),
        "the named port is resolved"
    );
    delete(&server, "/api/v1/namespaces/default/pods/a");
    let slice = one_slice(&server, "the ending pod", |s| conditions(s).2);
    assert_eq!(conditions(&slice), (false, true, true));
    pod(&server, "a", "n1", "10.244.0.5", false);
    let slice = one_slice(&server, "ending, no longer ready", |s| !conditions(s).1);
    assert_eq!(conditions(&slice), (false, false, true));
    assert!(server.store().delete("pods", "default", "a"));
    one_slice(&server, "empty again", |s| s["endpoints"].is_null() && s["ports"].is_null());
}

#[test]
fn only_pods_on_known_nodes_are_listed_and_published_ones_are_always_ready() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    pod(&server, "lost", "n9", "10.244.0.9", true);
    pod(&server, "a", "n1", "10.244.0.5", false);
    let slice = one_slice(&server, "the pod of the known node", |s| endpoints(s) == 1);
    assert_eq!(slice["endpoints"][0]["targetRef"]["name"], "a");
    server
        .store()
        .merge(
            "services",
            "default",
            "web",
            "",
            &json!({"spec": {"publishNotReadyAddresses": true}}),
        )
        .expect("merge");
    let slice = one_slice(&server, "both", |s| endpoints(s) == 2);
    assert!(
        slice["endpoints"]
            .as_array()
            .expect("endpoints")
            .iter()
            .all(|e| e["conditions"]["ready"] == true)
    );
    server
        .store()
        .merge("pods", "default", "a", "status", &json!({"status": {"phase": "Failed"}}))
        .expect("merge");
    one_slice(&server, "without the failed one", |s| endpoints(s) == 1);
}

#[test]
fn a_slice_holds_100_endpoints_and_slices_are_not_rebalanced() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    for at in 0..120 {
        pod(&server, &format!("p{at}"), "n1", &format!("10.244.0.{at}"), true);
    }
    let sizes = || {
        let mut sizes: Vec<usize> = slices(&server).iter().map(endpoints).collect();
        sizes.sort_unstable();
        sizes
    };
    eventually("100 and 20", || (sizes() == [20, 100]).then_some(()));
    let small = slices(&server).into_iter().find(|s| endpoints(s) == 20).expect("the small one");
    let large = slices(&server).into_iter().find(|s| endpoints(s) == 100).expect("the large one");
    for endpoint in &large["endpoints"].as_array().expect("endpoints")[..70] {
        let name = endpoint["targetRef"]["name"].as_str().expect("name");
        assert!(server.store().delete("pods", "default", name));
    }
    eventually("30 and 20", || (sizes() == [20, 30]).then_some(()));
    pod(&server, "late", "n1", "10.244.1.1", true);
    eventually("the fullest with room takes it", || (sizes() == [20, 31]).then_some(()));
    let name = small["metadata"]["name"].as_str().expect("name");
    assert_eq!(
        endpoints(&server.store().get("endpointslices", "default", name).expect("stays")),
        20
    );
}

#[test]
fn dual_stack_services_have_a_slice_per_family_and_hints_follow_the_distribution() {
    let server = server();
    node(&server, "n1", "za");
    let mut object = service("web");
    object["spec"] = json!({
        "selector": {"app": "web"}, "ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack",
        "trafficDistribution": "PreferSameNode",
    });
    server.store().apply(object).expect("service");
    pod(&server, "a", "n1", "10.244.0.5", true);
    let ips = json!({"status": {"podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00:10:244::5"}]}});
    server.store().merge("pods", "default", "a", "status", &ips).expect("merge");
    let both = eventually("a slice per family", || {
        let all = slices(&server);
        (all.len() == 2 && all.iter().all(|s| endpoints(s) == 1)).then_some(all)
    });
    let mut families: Vec<(&str, &str)> = both
        .iter()
        .map(|s| {
            (
                s["addressType"].as_str().expect("type"),
                s["endpoints"][0]["addresses"][0].as_str().expect("address"),
            )
        })
        .collect();
    families.sort_unstable();
    assert_eq!(families, [("IPv4", "10.244.0.5"), ("IPv6", "fd00:10:244::5")]);
    assert_eq!(
        both[0]["endpoints"][0]["hints"],
        json!({"forZones": [{"name": "za"}], "forNodes": [{"name": "n1"}]})
    );
    server
        .store()
        .merge(
            "services",
            "default",
            "web",
            "",
            &json!({"spec": {"trafficDistribution": "PreferClose"}}),
        )
        .expect("merge");
    eventually("zone hints only", || {
        slices(&server)
            .iter()
            .all(|s| s["endpoints"][0]["hints"] == json!({"forZones": [{"name": "za"}]}))
            .then_some(())
    });
}

/// The Service decides, not the slice: leftovers are real.
#[test]
fn slices_stay_without_a_selector_and_for_a_while_after_the_service() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    pod(&server, "a", "n1", "10.244.0.5", true);
    let slice = one_slice(&server, "the pod", |s| endpoints(s) == 1);
    server
        .store()
        .merge("services", "default", "web", "", &json!({"spec": {"selector": null}}))
        .expect("merge");
    pod(&server, "b", "n1", "10.244.0.6", true);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(slices(&server), [slice], "nobody looks after it any more");
    delete(&server, "/api/v1/namespaces/default/services/web");
    assert_eq!(slices(&server).len(), 1, "not gone with the service");
    eventually("garbage collection", || slices(&server).is_empty().then_some(()));
}

#[test]
fn a_slice_edited_by_hand_is_put_right_and_a_deleted_one_made_anew() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    pod(&server, "a", "n1", "10.244.0.5", true);
    let slice = one_slice(&server, "the pod", |s| endpoints(s) == 1);
    let name = slice["metadata"]["name"].as_str().expect("name").to_owned();
    server
        .store()
        .merge(
            "endpointslices",
            "default",
            &name,
            "",
            &json!({"endpoints": [{"addresses": ["192.0.2.1"]}]}),
        )
        .expect("merge");
    one_slice(&server, "put right", |s| {
        s["endpoints"][0]["addresses"][0] == "10.244.0.5"
            && s["metadata"]["generation"]
                == json!(slice["metadata"]["generation"].as_u64().expect("generation") + 2)
    });
    assert!(server.store().delete("endpointslices", "default", &name));
    let new = one_slice(&server, "a new one", |s| endpoints(s) == 1);
    assert_ne!(new["metadata"]["name"], slice["metadata"]["name"]);
    // A port change rewrites the slice in place.
    let ports = json!({"spec": {"ports": [{"name": "q", "port": 81, "targetPort": 9090}]}});
    server.store().merge("services", "default", "web", "", &ports).expect("merge");
    let moved = one_slice(&server, "the new port", |s| s["ports"][0]["port"] == 9090);
    assert_eq!(moved["metadata"]["name"], new["metadata"]["name"]);
}

#[test]
fn a_named_port_that_differs_between_pods_makes_further_slices() {
    let server = server();
    node(&server, "n1", "za");
    web(&server);
    pod(&server, "a", "n1", "10.244.0.5", true);
    let mut other = server.store().get("pods", "default", "a").expect("there");
    other["kind"] = "Pod".into();
    other["apiVersion"] = "v1".into();
    other["metadata"] = json!({"name": "b", "labels": {"app": "web"}});
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9999.into();
    other["status"]["podIPs"] = json!([{"ip": "10.244.0.6"}]);
    server.store().apply(other).expect("pod");
    let ports = eventually("two port sets", || {
        let mut ports: Vec<u64> =
            slices(&server).iter().filter_map(|s| s["ports"][0]["port"].as_u64()).collect();
        ports.sort_unstable();
        (ports.len() == 2).then_some(ports)
    });
    assert_eq!(ports, [8080, 9999]);
}

#[test]
fn a_bare_node_gets_ranges_of_both_families_and_loses_its_taint_when_ready() {
    let server = server();
    let mut first = crate::raw::watch(
        &server,
        &format!("/api/v1/nodes?watch=1&resourceVersion={}", server.store().version()),
    );
    post(&server, "/api/v1/nodes", &json!({"metadata": {"name": "n1"}}));
    let (kind, added) = first.event();
    assert_eq!((kind.as_str(), added["spec"].get("podCIDRs")), ("ADDED", None), "it comes without");
    let (kind, modified) = first.event();
    assert_eq!(
        (kind.as_str(), &modified["spec"]["podCIDRs"]),
        ("MODIFIED", &json!(["10.244.0.0/24", "fd00:10:244::/64"]))
    );
    assert_eq!(modified["spec"]["podCIDR"], "10.244.0.0/24");
    delete(&server, "/api/v1/nodes/n1");
    post(&server, "/api/v1/nodes", &json!({"metadata": {"name": "n2"}}));
    let ranges = eventually("ranges", || {
        let node = get(&server, "/api/v1/nodes/n2").body;
        node["spec"]["podCIDRs"].is_array().then(|| node["spec"]["podCIDRs"].clone())
    });
    assert_eq!(
        ranges,
        json!(["10.244.1.0/24", "fd00:10:244:1::/64"]),
        "a freed range is not given out at once"
    );
    post(
        &server,
        "/api/v1/nodes",
        &json!({"metadata": {"name": "own"}, "spec": {"podCIDR": "192.0.2.0/26"}}),
    );
    server
        .store()
        .merge(
            "nodes",
            "",
            "own",
            "status",
            &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        )
        .expect("merge");
    let own = eventually("no taint", || {
        let node = get(&server, "/api/v1/nodes/own").body;
        node["spec"].get("taints").is_none().then_some(node)
    });
    assert_eq!(
        own["spec"]["podCIDRs"],
        json!(["192.0.2.0/26"]),
        "ranges set by others are left alone"
    );
}

#[test]
fn a_namespace_goes_with_what_is_in_it_but_waits_for_pods() {
    let server = server();
    let post_ok = |path: &str, body: Value| {
        let reply = post(&server, path, &body);
        assert_eq!(reply.code, 201, "{}", reply.text);
    };
    post_ok("/api/v1/namespaces", json!({"metadata": {"name": "team"}}));
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    post_ok("/api/v1/namespaces/team/pods", json!({"metadata": {"name": "p"}, "spec": spec}));
    post_ok(
        "/api/v1/namespaces/team/services",
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}),
    );
    assert_eq!(delete(&server, "/api/v1/namespaces/team").body["status"]["phase"], "Terminating");
    eventually("the service is gone", || {
        (get(&server, "/api/v1/namespaces/team/services/s").code == 404).then_some(())
    });
    assert_eq!(get(&server, "/api/v1/namespaces/team").code, 200, "the pod has its grace");
    let refused = post(
        &server,
        "/api/v1/namespaces/team/services",
        &json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}}),
    );
    assert_eq!(refused.code, 403);
    delete(&server, "/api/v1/namespaces/team/pods/p?gracePeriodSeconds=0");
    eventually("the namespace is gone", || {
        (get(&server, "/api/v1/namespaces/team").code == 404).then_some(())
    });
}

/// A rollout of everything at once must not take minutes, nor keep requests waiting.
#[test]
fn five_hundred_services_with_pods_get_their_slices_in_seconds() {
    let server = server();
    node(&server, "n1", "za");
    for at in 0..500 {
        server.store().apply(service(&format!("s{at}"))).expect("service");
        if at % 10 == 0 {
            let name = format!("p{at}");
            server
                .store()
                .apply(json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "labels": {"app": format!("s{at}")}},
                    "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
                    "status": {"phase": "Running", "podIP": format!("10.244.{}.{}", at / 250, at % 250)},
                }))
                .expect("pod");
        }
    }
    let start = std::time::Instant::now();
    loop {
        let all = server.store().list("endpointslices");
        let filled = all.iter().filter(|s| s["endpoints"].is_array()).count();
        if all.len() >= 500 && filled == 50 {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{} slices, {filled} with endpoints",
            all.len()
        );
        assert_eq!(get(&server, "/api/v1/namespaces/default").code, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
}
