//! What the server fills in, and what it refuses: the table of the real server's defaults.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::raw::{
    PODS, SERVICES, SLICES, delete, get, patch, post, put, service, slice, still_server,
};

fn spec(server: &sluice_testkit::api::Server, name: &str, spec: Value) -> Value {
    let object =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let reply = post(server, SERVICES, &object);
    assert_eq!(reply.code, 201, "{}", reply.text);
    reply.body
}

#[test]
fn a_service_gets_its_type_policies_and_addresses() {
    let server = still_server();
    let plain = spec(&server, "plain", json!({"ports": [{"port": 80}]}));
    let address = plain["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("10."), "{address}");
    let mut expected = json!({
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    });
    assert_eq!(plain["spec"], expected);
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        assert!(plain["metadata"].get(key).is_some(), "{key}");
    }
    assert!(plain["metadata"].get("generation").is_none(), "K35");
    let dual = spec(
        &server,
        "dual",
        json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}),
    );
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(dual["spec"]["clusterIPs"][1].as_str().expect("v6").starts_with("fd00:10:96::"));
    let affine =
        spec(&server, "affine", json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP"}));
    assert_eq!(
        affine["spec"]["sessionAffinityConfig"],
        json!({"clientIP": {"timeoutSeconds": 10800}})
    );
    // The server does not change what it has stored.
    expected["ports"] = json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]);
    assert_eq!(get(&server, &format!("{SERVICES}/plain")).body["spec"], expected);
}

#[test]
fn a_headless_service_has_none_and_both_families_without_a_selector() {
    let server = still_server();
    let with = spec(
        &server,
        "with",
        json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}),
    );
    assert_eq!(
        (&with["spec"]["clusterIPs"], &with["spec"]["ipFamilyPolicy"]),
        (&json!(["None"]), &json!("SingleStack"))
    );
    let without = spec(&server, "without", json!({"clusterIP": "None"}));
    assert_eq!(without["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(without["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[test]
fn node_ports_and_health_check_ports_are_allocated_once_each() {
    let server = still_server();
    let port = |body: &Value| body["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let mut taken = HashSet::new();
    for at in 0..100 {
        let body =
            spec(&server, &format!("n{at}"), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(body["spec"]["externalTrafficPolicy"], "Cluster");
        // The first 86 are left to those who ask for them by number (KEP-3668).
        assert!((30086..=32767).contains(&port(&body)) && taken.insert(port(&body)));
    }
    let balanced = spec(
        &server,
        "lb",
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}],
        }),
    );
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    let health = balanced["spec"]["healthCheckNodePort"].as_u64().expect("a health check port");
    assert!(taken.insert(health) && taken.insert(port(&balanced)));
    let ports = &balanced["spec"]["ports"];
    assert_eq!(
        ports[0]["nodePort"], ports[1]["nodePort"],
        "one number for two protocols of a port"
    );
    let mut thief = service("thief");
    thief["spec"] = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": health}]});
    assert_eq!(post(&server, SERVICES, &thief).code, 422);
    delete(&server, &format!("{SERVICES}/lb"));
    assert_eq!(post(&server, SERVICES, &thief).code, 201, "freed with the service");
}

#[test]
fn addresses_are_unique_within_the_ranges_and_freed() {
    let server = still_server();
    let asked = json!({"clusterIP": "10.96.7.7", "ports": [{"port": 80}]});
    spec(&server, "first", asked.clone());
    let again = |name: &str, address: &str| {
        let mut object = service(name);
        object["spec"]["clusterIP"] = address.into();
        post(&server, SERVICES, &object)
    };
    let reply = again("second", "10.96.7.7");
    assert_eq!(reply.code, 422);
    assert!(reply.message().contains("already allocated"), "{}", reply.message());
    assert!(again("second", "192.0.2.1").message().contains("not in the valid range"));
    assert_eq!(again("second", "10.96.07.7").code, 422, "leading zero");
    // A further ServiceCIDR widens what can be had (K33).
    let more = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["192.0.2.0/24"]},
    });
    assert_eq!(post(&server, "/apis/networking.k8s.io/v1/servicecidrs", &more).code, 201);
    assert_eq!(again("second", "192.0.2.1").code, 201);
    delete(&server, &format!("{SERVICES}/first"));
    assert_eq!(again("third", "10.96.7.7").code, 201);
}

#[test]
fn a_small_range_is_used_up_to_the_last_address_and_then_full() {
    let ranges = sluice_testkit::api::Ranges {
        service_cidrs: vec!["10.5.0.0/28".parse().expect("range")],
        ..Default::default()
    };
    let store = sluice_testkit::api::Store::new(ranges);
    let mut seen = HashSet::new();
    for at in 0..14 {
        let stored = store.apply(service(&format!("s{at}"))).expect("room");
        assert!(seen.insert(stored["spec"]["clusterIP"].clone()));
    }
    let error = store.apply(service("more")).expect_err("full");
    assert!(error.to_string().contains("range is full"), "{error}");
}

#[test]
fn k26_a_change_of_type_clears_what_belonged_to_the_old_one() {
    let server = still_server();
    let created = spec(
        &server,
        "a",
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
    );
    let path = format!("{SERVICES}/a");
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "x.example"}]}}});
    let reply = patch(&server, &format!("{path}/status"), "merge-patch+json", &ingress);
    let shown = &reply.body["status"]["loadBalancer"]["ingress"];
    assert_eq!(*shown, json!([{"ip": "192.0.2.9", "ipMode": "VIP"}, {"hostname": "x.example"}]));
    let reply = patch(&server, &path, "merge-patch+json", &json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(reply.code, 200, "{}", reply.text);
    let spec = &reply.body["spec"];
    for gone in ["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"] {
        assert!(spec.get(gone).is_none(), "{gone}: {spec}");
    }
    assert!(spec["ports"][0].get("nodePort").is_none());
    assert_eq!(reply.body["status"], json!({"loadBalancer": {}}));
    assert_eq!(spec["clusterIP"], created["spec"]["clusterIP"]);
    let refused = patch(&server, &format!("{path}/status"), "merge-patch+json", &ingress);
    assert_eq!(refused.code, 422, "ingress on a ClusterIP service");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "db.example"}});
    let reply = patch(&server, &path, "merge-patch+json", &external);
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert!(
        reply.body["spec"].get("clusterIPs").is_none()
            && reply.body["spec"].get("ipFamilies").is_none()
    );
    assert_eq!(reply.body["spec"]["ports"][0]["port"], 80, "ports stay");
}

#[test]
fn a_put_that_leaves_allocated_fields_out_keeps_them_and_may_not_change_the_address() {
    let server = still_server();
    let created = spec(&server, "a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let path = format!("{SERVICES}/a");
    let mut object = service("a");
    object["spec"] =
        json!({"type": "NodePort", "selector": {"new": "one"}, "ports": [{"port": 80}]});
    let reply = put(&server, &path, &object);
    assert_eq!(reply.code, 200, "{}", reply.text);
    for pointer in
        ["/spec/clusterIP", "/spec/clusterIPs", "/spec/ports/0/nodePort", "/metadata/uid"]
    {
        assert_eq!(reply.body.pointer(pointer), created.pointer(pointer), "{pointer}");
    }
    object["spec"]["clusterIP"] = "10.96.1.2".into();
    assert_eq!(put(&server, &path, &object).code, 422);
}

/// The fake must refuse what the real server refuses, and nothing else.
#[test]
fn services_that_the_server_refuses() {
    let server = still_server();
    for (what, spec) in [
        ("no ports", json!({})),
        ("port 0", json!({"ports": [{"port": 0}]})),
        ("port 70000", json!({"ports": [{"port": 70000}]})),
        ("nameless of two", json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]})),
        ("same name", json!({"ports": [{"port": 1, "name": "b"}, {"port": 2, "name": "b"}]})),
        ("same port", json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]})),
        ("protocol", json!({"ports": [{"port": 1, "protocol": "ICMP"}]})),
        ("target port", json!({"ports": [{"port": 1, "targetPort": "Not_A_Name"}]})),
        ("type", json!({"type": "Cluster", "ports": [{"port": 1}]})),
        ("node port without the type", json!({"ports": [{"port": 1, "nodePort": 30001}]})),
        ("policy", json!({"internalTrafficPolicy": "Near", "ports": [{"port": 1}]})),
        (
            "external policy of a ClusterIP",
            json!({"externalTrafficPolicy": "Local", "ports": [{"port": 1}]}),
        ),
        (
            "affinity timeout",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}, "ports": [{"port": 1}]}),
        ),
        ("loopback external IP", json!({"externalIPs": ["127.0.0.1"], "ports": [{"port": 1}]})),
        ("leading zero", json!({"externalIPs": ["10.0.0.01"], "ports": [{"port": 1}]})),
        ("host bits", json!({"loadBalancerSourceRanges": ["10.0.0.1/8"], "ports": [{"port": 1}]})),
        (
            "headless NodePort",
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
        ),
    ] {
        let reply = post(&server, SERVICES, &json!({"metadata": {"name": "x"}, "spec": spec}));
        assert_eq!(
            (reply.code, &reply.body["reason"]),
            (422, &json!("Invalid")),
            "{what}: {}",
            reply.text
        );
        assert!(reply.body["details"]["causes"][0]["field"].is_string(), "{what}: {}", reply.text);
    }
    let blanks = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.0.0.0/8 "], "ports": [{"port": 1}]});
    assert_eq!(
        spec(&server, "blanks", blanks)["spec"]["loadBalancerSourceRanges"][0],
        " 10.0.0.0/8 ",
        "K23: stored as it is"
    );
    let wrong_type =
        post(&server, SERVICES, &json!({"metadata": {"name": "x"}, "spec": {"ports": "80"}}));
    assert_eq!(wrong_type.code, 400);
}

#[test]
fn r7_k22_a_slice_keeps_unset_conditions_unset_and_shows_empty_lists_as_null() {
    let server = still_server();
    let mut object = slice("s", "a", &["10.0.0.1"]);
    let body = post(&server, SLICES, &object).body;
    assert_eq!(body["endpoints"], json!([{"addresses": ["10.0.0.1"], "conditions": {}}]));
    assert_eq!(body["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(body["metadata"]["generation"], 1);
    object["metadata"]["name"] = "empty".into();
    object["endpoints"] = json!([]);
    object["ports"] = json!([]);
    let text = post(&server, SLICES, &object).text;
    assert!(text.contains(r#""endpoints":null"#) && text.contains(r#""ports":null"#), "{text}");
}

#[test]
fn k35_a_slices_generation_rises_with_content_and_labels_not_with_annotations() {
    let server = still_server();
    post(&server, SLICES, &slice("s", "a", &["10.0.0.1"]));
    let path = format!("{SLICES}/s");
    let change = |body: Value| {
        patch(&server, &path, "merge-patch+json", &body).body["metadata"]["generation"].clone()
    };
    assert_eq!(change(json!({"metadata": {"annotations": {"a": "b"}}})), 1);
    assert_eq!(change(json!({"metadata": {"labels": {"a": "b"}}})), 2);
    assert_eq!(change(json!({"ports": [{"port": 1}]})), 3);
}

#[test]
fn k23_slices_the_server_takes_though_they_are_odd_and_those_it_refuses() {
    let server = still_server();
    let many: Vec<String> = (0..1000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut odd = slice("odd", "a", &many);
    odd["endpoints"][1]["addresses"] = json!(["10.1.0.0", "10.1.0.0"]);
    odd["ports"] = json!([{"name": "a", "port": 0}, {"name": "b", "port": -1}, {"name": "c", "port": 70000}, {"name": "d"}]);
    let reply = post(&server, SLICES, &odd);
    assert_eq!(reply.code, 201, "{}", reply.message());
    let no_endpoint = json!([{"addresses": []}]);
    for (what, key, value) in [
        ("loopback", "endpoints", json!([{"addresses": ["127.0.0.1"]}])),
        ("link-local", "endpoints", json!([{"addresses": ["169.254.0.1"]}])),
        ("leading zero", "endpoints", json!([{"addresses": ["10.0.0.01"]}])),
        ("short", "endpoints", json!([{"addresses": ["1.2.3"]}])),
        ("other family", "endpoints", json!([{"addresses": ["fd00::1"]}])),
        ("no address", "endpoints", no_endpoint),
        ("equal port names", "ports", json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}])),
        ("address type", "addressType", json!("IPv5")),
    ] {
        let mut bad = slice("bad", "a", &["10.0.0.1"]);
        bad[key] = value;
        assert_eq!(post(&server, SLICES, &bad).code, 422, "{what}");
    }
    let mut v6 = slice("v6", "a", &["fd00::00:1"]);
    v6["addressType"] = "IPv6".into();
    assert_eq!(post(&server, SLICES, &v6).code, 422, "not canonical");
    let moved = patch(
        &server,
        &format!("{SLICES}/odd"),
        "merge-patch+json",
        &json!({"addressType": "IPv6", "endpoints": null}),
    );
    assert_eq!(moved.code, 422, "addressType may not change");
    // What an older server let in is still served.
    let mut bad = slice("stored", "a", &["127.0.0.1"]);
    bad["endpoints"][0]["addresses"] = json!(["1.2.3"]);
    server.store().apply_unchecked(bad).expect("stored");
    assert_eq!(
        get(&server, &format!("{SLICES}/stored")).body["endpoints"][0]["addresses"][0],
        "1.2.3"
    );
}

#[test]
fn nodes_pods_and_namespaces_get_their_defaults() {
    let server = still_server();
    let node = post(&server, "/api/v1/nodes", &json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})).body;
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
    assert_eq!(node["status"]["nodeInfo"].as_object().map(serde_json::Map::len), Some(10));
    assert_eq!(node["status"]["conditions"][0]["lastHeartbeatTime"], Value::Null, "K22");
    let pod = json!({
        "metadata": {"name": "p"}, "status": {"phase": "Running"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]},
    });
    let pod = post(&server, PODS, &pod).body;
    assert_eq!(pod["status"]["phase"], "Pending", "a writer's status is dropped at creation");
    assert_eq!(
        pod["spec"]["containers"][0]["ports"][0],
        json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
    );
    assert_eq!(
        (&pod["spec"]["terminationGracePeriodSeconds"], &pod["metadata"]["generation"]),
        (&json!(30), &json!(1))
    );
    let namespace =
        post(&server, "/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).body;
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "team"}));
    assert_eq!(
        (&namespace["spec"]["finalizers"], &namespace["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    let lost = post(&server, "/api/v1/namespaces/nowhere/services", &service("a"));
    assert_eq!(lost.code, 400, "the object says another namespace");
    let lost = post(
        &server,
        "/api/v1/namespaces/nowhere/services",
        &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}),
    );
    assert_eq!((lost.code, lost.message()), (404, "namespaces \"nowhere\" not found"));
}
