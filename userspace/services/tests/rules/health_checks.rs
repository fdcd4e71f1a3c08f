//! R24, R26, R50: which health checks of load balancers a node answers, and what they count.

use serde_json::{Value, json};
use sluice_services::{Family, Index};

use crate::objects::{NODE, draining, endpoint, index, service, slice};

fn balanced(patch: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000});
    for (field, value) in patch.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"spec": spec})
}

/// Family, port and count of every health check.
fn checks(index: &mut Index) -> Vec<(Family, u16, usize)> {
    let checks = index.update().health_checks;
    checks.iter().map(|(key, check)| (key.family, check.port, check.local_ready)).collect()
}

#[test]
fn r24_there_is_one_for_load_balancers_with_policy_local_only() {
    for (spec, expected) in [
        (json!({}), true),
        (json!({"type": "NodePort"}), false),
        (json!({"externalTrafficPolicy": "Cluster"}), false),
        (json!({"healthCheckNodePort": 0}), false),
        (json!({"healthCheckNodePort": null}), false),
        (json!({"healthCheckNodePort": 70000}), false),
    ] {
        let mut index = index();
        index.apply_service(&service(balanced(spec.clone())));
        let found = if expected { vec![(Family::V4, 32000, 0)] } else { vec![] };
        assert_eq!(checks(&mut index), found, "{spec}");
    }
}

#[test]
fn r26_distinct_ready_local_addresses_over_all_ports() {
    let here = |address| endpoint(address, json!({"nodeName": NODE}));
    let there = endpoint("10.1.0.9", json!({"nodeName": "n2"}));
    let drains = draining("10.1.0.8", json!({"nodeName": NODE}));
    let unready = endpoint("10.1.0.7", json!({"nodeName": NODE, "conditions": {"ready": false}}));
    for (endpoints, expected) in [
        (json!([]), 0),
        (json!([here("10.1.0.1"), here("10.1.0.2"), there, unready]), 2),
        // The draining one gets traffic, for nothing else is here; the load balancer shall go.
        (json!([drains, there]), 0),
    ] {
        let mut index = index();
        let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
        index.apply_service(&service(balanced(json!({"ports": ports}))));
        let ports = json!([{"name": "http", "port": 8080}, {"name": "https", "port": 8443}]);
        index.apply_slice(&slice(json!({"ports": ports, "endpoints": endpoints.clone()})));
        assert_eq!(checks(&mut index), [(Family::V4, 32000, expected)], "{endpoints}");
    }
}

#[test]
fn r50_each_family_of_the_service_counts_its_own_endpoints() {
    let mut index = index();
    index.apply_service(&service(balanced(
        json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]}),
    )));
    let v6 = json!({"metadata": {"name": "svc-6"}, "addressType": "IPv6",
        "endpoints": [endpoint("fd00:1::1", json!({"nodeName": NODE}))]});
    index.apply_slice(&slice(v6));
    assert_eq!(checks(&mut index), [(Family::V4, 32000, 0), (Family::V6, 32000, 1)]);
}

#[test]
fn health_checks_follow_the_service_and_unrelated_changes_leave_them_alone() {
    let mut index = index();
    index.apply_service(&service(balanced(json!({}))));
    let before = index.update().health_checks;
    index.apply_service(&service(json!({"metadata": {"name": "other"}})));
    assert!(std::sync::Arc::ptr_eq(&before, &index.update().health_checks));
    index.apply_service(&service(balanced(json!({"healthCheckNodePort": 32001}))));
    assert_eq!(checks(&mut index), [(Family::V4, 32001, 0)]);
    index.delete_service("ns", "svc");
    assert_eq!(checks(&mut index), []);
}
