//! Weights by annotation: whom they concern, what 0 means, and what is said of bad entries.

use serde_json::{Value, json};
use sluice_services::{Backend, Index, ServicePort, WhenEmpty};

use crate::objects::{NODE, endpoint, http, index, problems, service, slice};

const NAME: &str = "sluice.io/service.weights";

/// Pods a and b on this node, c on n2; an endpoint that is no pod on n3.
fn endpoints() -> Value {
    let pod = |address, name, node| {
        endpoint(address, json!({"nodeName": node, "targetRef": {"kind": "Pod", "name": name}}))
    };
    json!([
        pod("10.1.0.1", "a", NODE),
        pod("10.1.0.2", "b", NODE),
        pod("10.1.0.3", "c", "n2"),
        endpoint("10.1.0.4", json!({"nodeName": "n3", "targetRef": {"kind": "VM", "name": "a"}})),
    ])
}

fn weighed(text: &str, spec: Value) -> (Index, ServicePort) {
    let mut index = index();
    index.apply_service(&service(json!({"metadata": {"annotations": {NAME: text}}, "spec": spec})));
    index.apply_slice(&slice(json!({"endpoints": endpoints()})));
    let port = http(&mut index).unwrap();
    (index, port)
}

/// Last octet and weight.
fn list(list: &[Backend]) -> Vec<(String, u8)> {
    let octet = |b: &Backend| b.address.to_string().rsplit('.').next().unwrap().to_owned();
    list.iter().map(|b| (octet(b), b.weight)).collect()
}

fn of(pairs: &[(u8, u8)]) -> Vec<(String, u8)> {
    pairs.iter().map(|(octet, weight)| (octet.to_string(), *weight)).collect()
}

#[test]
fn keys_are_addresses_then_pods_then_nodes() {
    for (text, expected) in [
        ("10.1.0.1=5", [5, 1, 1, 1]),
        ("010.1.0.001 = 5 ,c=100", [5, 1, 100, 1]),
        ("a=3", [3, 1, 1, 1]),
        ("n1=7", [7, 7, 1, 1]),
        ("n1=7,a=3,10.1.0.1=2,n3=9", [2, 7, 1, 9]),
        ("nobody=50,192.0.2.1=60", [1, 1, 1, 1]),
    ] {
        let (index, port) = weighed(text, json!({}));
        let expected: Vec<(u8, u8)> = (1..).zip(expected).collect();
        assert_eq!(list(&port.cluster), of(&expected), "{text}");
        assert!(problems(&index).is_empty(), "{text}: {:?}", problems(&index));
    }
}

#[test]
fn weight_0_gets_no_new_connections_and_keeps_its_flows() {
    let (_, port) = weighed("a=0,n2=0", json!({}));
    assert_eq!(list(&port.cluster), of(&[(2, 1), (4, 1)]));
    assert_eq!(list(&port.serving), of(&[(1, 0), (2, 1), (3, 0), (4, 1)]));
    assert_eq!(port.when_empty(), WhenEmpty::Drop);
}

/// As if the endpoints of weight 0 were not there: others elsewhere are silence here, none a refusal.
#[test]
fn weight_0_in_every_list_is_as_without_endpoints() {
    let local = json!({"internalTrafficPolicy": "Local"});
    let (_, port) = weighed("n1=0", local.clone());
    assert_eq!((port.local.len(), port.when_empty()), (0, WhenEmpty::Drop));
    let (_, port) = weighed("n1=0,n2=0,n3=0", local);
    assert_eq!((port.local.len(), port.when_empty()), (0, WhenEmpty::Reject));
    assert_eq!(port.serving.len(), 4);
}

#[test]
fn a_hint_to_weight_0_only_leads_nobody_astray() {
    let mut index = index();
    index.apply_service(&service(json!({"metadata": {"annotations": {NAME: "10.1.0.1=0"}}})));
    let hinted = |address, node: &str| {
        endpoint(address, json!({"hints": {"forNodes": [{"name": node}], "forZones": null}}))
    };
    let endpoints = json!([hinted("10.1.0.1", NODE), hinted("10.1.0.2", "n2")]);
    index.apply_slice(&slice(json!({"endpoints": endpoints})));
    assert_eq!(list(&http(&mut index).unwrap().cluster), of(&[(2, 1)]));
}

#[test]
fn bad_entries_are_told_and_harm_no_other() {
    for bad in ["", "a", "a=", "=3", "a=101", "a=-1", "a=1.5", "a=3=4", "a b=3", "a/b=1"] {
        let (index, port) = weighed(&format!("10.1.0.2=2,{bad},c=4"), json!({}));
        assert_eq!(list(&port.cluster), of(&[(1, 1), (2, 2), (3, 4), (4, 1)]), "{bad}");
        let told = problems(&index);
        assert_eq!(told.len(), 1, "{bad}: {told:?}");
        assert!(
            told[0].starts_with("metadata.annotations[sluice.io/service.weights][1]"),
            "{told:?}"
        );
    }
    let (index, port) = weighed("a=2,a=2,a=3", json!({}));
    assert_eq!(list(&port.cluster)[0].1, 3);
    assert_eq!(problems(&index).len(), 1);
}

#[test]
fn a_new_weight_is_a_change() {
    let (mut index, _) = weighed("a=2", json!({}));
    let other = service(json!({"metadata": {"annotations": {NAME: "a=3"}}}));
    assert!(index.apply_service(&other));
    assert!(!index.apply_service(&other), "nothing new");
    assert_eq!(index.update().changed.len(), 1);
}
