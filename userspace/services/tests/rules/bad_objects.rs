//! One bad object changes nothing for the others, and every one is told.

use serde_json::{Value, json};
use sluice_services::{Index, Kind, State};

use crate::objects::{endpoint, index, problems, service, slice};

/// A Service and slices that are as they should be, beside which the bad ones come.
fn good(index: &mut Index) {
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(
        json!({"endpoints": [endpoint("10.1.0.1", json!({})), endpoint("10.1.0.2", json!({}))]}),
    ));
}

/// Bad Services; all named `bad`.
fn bad_services() -> Vec<Value> {
    let blob = "x".repeat(5 << 20);
    vec![
        json!({"spec": {"ports": null}}),
        json!({"spec": {"ports": []}}),
        json!({"spec": {"ports": [{"name": "http", "port": 0}, {"name": "http", "port": -5}, {"name": "x", "port": 99999}]}}),
        json!({"spec": {"ports": [{"name": "http", "port": 80, "protocol": "tcp", "nodePort": 0}]}}),
        json!({"spec": {"clusterIP": "10.96.0", "clusterIPs": ["10.96.0"]}}),
        json!({"spec": {"clusterIP": "::1", "clusterIPs": ["::1"], "ipFamilies": ["IPv6"]}}),
        json!({"spec": {"ipFamilies": ["IPv5"]}}),
        json!({"spec": null}),
        json!({"status": null, "spec": {"clusterIP": blob.clone(), "clusterIPs": [blob.clone()]}}),
        json!({"metadata": {"annotations": {"sluice.io/service.scheduler": blob.clone(), "other": blob}}, "spec": {"ports": null}}),
    ]
}

/// Bad slices; all named `bad`, some of a Service `bad`, some of the good one.
fn bad_slices() -> Vec<Value> {
    let of_bad = json!({"kubernetes.io/service-name": "bad"});
    vec![
        json!({"addressType": "FQDN", "endpoints": [{"addresses": ["db.example.org"]}]}),
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3"]}]}),
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["db.example.org"]}, {"addresses": []}]}),
        json!({"addressType": "IPv6", "endpoints": [{"addresses": ["10.1.0.1"]}]}),
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["0.0.0.0"]}, {"addresses": ["224.0.0.1"]}]}),
        json!({"ports": [{"name": "http", "port": 0}], "endpoints": [{"addresses": ["10.1.0.9"]}]}),
        json!({"ports": [{"name": "http", "port": 70000}, {"name": null, "port": 80}], "endpoints": [{"addresses": ["10.1.0.9"]}]}),
        json!({"metadata": {"labels": of_bad, "annotations": {"a": "x".repeat(5 << 20)}}, "endpoints": [{"addresses": ["10.1.0.9"]}]}),
        json!({"metadata": {"labels": null}, "endpoints": [{"addresses": ["10.1.0.9"]}]}),
        json!({"endpoints": null, "ports": null}),
    ]
}

fn alone() -> State {
    let mut index = index();
    good(&mut index);
    State::clone(&index.state())
}

#[test]
fn bad_services_leave_the_others_as_they_are() {
    for patch in bad_services() {
        let mut index = index();
        good(&mut index);
        let mut object = service(patch.clone());
        object.metadata.name = Some("bad".into());
        index.apply_service(&object);
        let mut state = State::clone(&index.state());
        state.ports.retain(|key, _| key.name != "bad");
        let shown: String = patch.to_string().chars().take(120).collect();
        assert_eq!(state, alone(), "{shown}");
    }
}

#[test]
fn bad_slices_leave_everything_as_it_is_even_slices_of_the_same_service() {
    for patch in bad_slices() {
        let mut index = index();
        good(&mut index);
        let mut object = slice(patch.clone());
        object.metadata.name = Some("bad".into());
        index.apply_slice(&object);
        let shown: String = patch.to_string().chars().take(120).collect();
        assert_eq!(*index.state(), alone(), "{shown}");
    }
}

#[test]
fn r6_leading_zeros_are_read_as_decimal_and_are_one_endpoint_with_the_plain_form() {
    let mut index = index();
    good(&mut index);
    index.apply_slice(&slice(
        json!({"metadata": {"name": "bad"}, "endpoints": [endpoint("010.001.000.001", json!({}))]}),
    ));
    assert_eq!(*index.state(), alone());
    assert!(problems(&index).is_empty());
}

#[test]
fn the_good_part_of_a_bad_object_is_served() {
    let mut index = index();
    index.apply_service(&service(json!({"spec": {
        "ports": [{"name": "bad", "port": 0}, {"name": "http", "port": 80}, {"name": "http", "port": 81}],
        "externalIPs": ["oops", "198.51.100.7"],
    }})));
    index.apply_slice(&slice(json!({
        "ports": [{"name": "http", "port": 0}, {"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["1.2.3"]}, {"addresses": ["10.1.0.1"]}],
    })));
    let state = index.state();
    let port = state.ports.values().next().unwrap();
    assert_eq!(
        (state.ports.len(), port.port, port.addresses.len(), port.cluster.len()),
        (1, 80, 2, 1)
    );
    assert_eq!(
        problems(&index),
        [
            "spec.externalIPs[0]: \"oops\" is not an IP address; skipped",
            "spec.ports[0].port: 0 is not a port number; skipped",
            "spec.ports[2].name: a second port named \"http\" of one protocol; skipped",
            "ports[0].port: 0 is not a port number; skipped",
            "endpoints[0].addresses[0]: \"1.2.3\" is not an IP address; skipped",
        ]
    );
}

#[test]
fn problems_are_told_once_and_go_with_their_object() {
    let mut index = index();
    let bad = slice(json!({"endpoints": [{"addresses": ["1.2.3"]}]}));
    index.apply_slice(&bad);
    let told = index.take_problems();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].object.kind, told[0].object.to_string().as_str()),
        (Kind::EndpointSlice, "EndpointSlice ns/svc-1")
    );
    // The same again is no news, another problem is.
    index.apply_slice(&bad);
    assert!(index.take_problems().is_empty());
    index.apply_slice(&slice(json!({"endpoints": [{"addresses": ["1.2.4"]}]})));
    assert_eq!(index.take_problems().len(), 1);
    index.apply_slice(&slice(json!({})));
    assert!(index.take_problems().is_empty() && problems(&index).is_empty());
    index.apply_slice(&bad);
    index.delete_slice("ns", "svc-1");
    assert!(index.take_problems().is_empty() && problems(&index).is_empty());
    // A relist forgets what is gone, also an object that never was of use.
    index.apply_slice(&slice(json!({"metadata": {"labels": null}})));
    assert_eq!(problems(&index).len(), 1);
    index.apply_service(&service(json!({"metadata": {"name": ""}})));
    assert_eq!(problems(&index).len(), 2);
    index.replace_slices(vec![]);
    assert_eq!(problems(&index).len(), 1);
    index.replace_services(vec![]);
    assert!(problems(&index).is_empty());
}

#[test]
fn problems_of_one_object_are_bounded_in_number_and_length() {
    let mut index = index();
    let long = "9".repeat(5 << 20);
    let endpoints: Vec<_> = (0..1000).map(|_| json!({"addresses": ["1.2.3"]})).collect();
    index.apply_slice(&slice(json!({"endpoints": endpoints})));
    index.apply_service(&service(
        json!({"metadata": {"annotations": {"sluice.io/service.scheduler": long}}}),
    ));
    let told = problems(&index);
    assert_eq!(told.len(), 18);
    assert_eq!(told.last().unwrap(), ": and 984 more");
    assert!(told.iter().all(|problem| problem.len() < 300));
}
