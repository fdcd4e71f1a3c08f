//! R42: service ports that want the same address or node port.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_services::{AddressKind, Frontend, Index, Protocol};

use crate::objects::{endpoint, index, service, slice};

/// Adds a Service of this name and, if wanted, a ready endpoint for it.
fn add(index: &mut Index, name: &str, created: &str, spec: Value, has_endpoint: bool) {
    let mut object = service(json!({"metadata": {"name": name, "creationTimestamp": created}}));
    let patched = service(json!({"spec": spec}));
    object.spec = patched.spec;
    index.apply_service(&object);
    if has_endpoint {
        index.apply_slice(&slice(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [endpoint("10.1.0.1", json!({}))],
        })));
    }
}

fn external(cluster_ip: &str, external_ip: &str) -> Value {
    json!({"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "externalIPs": [external_ip]})
}

fn owner(index: &mut Index, address: &str) -> (String, AddressKind) {
    let address: IpAddr = address.parse().unwrap();
    let state = index.state();
    let frontends = state.frontends();
    let (key, port, kind) = frontends[&Frontend { address, port: 80, protocol: Protocol::Tcp }];
    assert!(port.addresses.contains(&(address, kind)));
    (key.name.clone(), kind)
}

const OLD: &str = "2025-01-01T00:00:00Z";
const NEW: &str = "2026-06-01T00:00:00Z";
const VIP: &str = "198.51.100.7";

#[test]
fn r42_who_gets_an_address() {
    let cluster_ip = |ip: &str| json!({"clusterIP": ip, "clusterIPs": [ip]});
    // (name, created, spec, has an endpoint) of two Services; who owns VIP
    for (case, first, second, expected) in [
        (
            "the older",
            ("b", OLD, external("10.96.0.1", VIP), true),
            ("a", NEW, external("10.96.0.2", VIP), true),
            "b",
        ),
        (
            "of one age the first name",
            ("b", OLD, external("10.96.0.1", VIP), true),
            ("a", OLD, external("10.96.0.2", VIP), true),
            "a",
        ),
        (
            "with endpoints before older",
            ("b", OLD, external("10.96.0.1", VIP), false),
            ("a", NEW, external("10.96.0.2", VIP), true),
            "a",
        ),
        (
            "a ClusterIP before older",
            ("b", OLD, external("10.96.0.1", VIP), true),
            ("a", NEW, cluster_ip(VIP), true),
            "a",
        ),
        (
            "none with endpoints: a ClusterIP",
            ("b", OLD, external("10.96.0.1", VIP), false),
            ("a", NEW, cluster_ip(VIP), false),
            "a",
        ),
        (
            "a ClusterIP without endpoints before an external IP with",
            ("b", OLD, external("10.96.0.1", VIP), true),
            ("a", NEW, cluster_ip(VIP), false),
            "a",
        ),
    ] {
        for reversed in [false, true] {
            let mut index = index();
            let mut both = [first.clone(), second.clone()];
            if reversed {
                both.reverse();
            }
            for (name, created, spec, has_endpoint) in both {
                add(&mut index, name, created, spec, has_endpoint);
            }
            assert_eq!(owner(&mut index, VIP).0, expected, "{case}");
            let conflicts = index.state().conflicts();
            assert_eq!(conflicts.len(), 1, "{case}");
            assert_eq!(
                (conflicts[0].winner.name.as_str(), conflicts[0].losers.len()),
                (expected, 1),
                "{case}"
            );
            assert_ne!(conflicts[0].losers[0].name, expected, "{case}");
        }
    }
}

#[test]
fn r42_the_next_in_line_takes_over_when_the_owner_goes() {
    let mut index = index();
    add(&mut index, "a", OLD, external("10.96.0.1", VIP), true);
    add(&mut index, "b", NEW, external("10.96.0.2", VIP), true);
    assert_eq!(owner(&mut index, VIP), ("a".into(), AddressKind::ExternalIp));
    index.delete_service("ns", "a");
    assert_eq!(owner(&mut index, VIP), ("b".into(), AddressKind::ExternalIp));
    assert!(index.state().conflicts().is_empty());
}

#[test]
fn other_ports_and_protocols_of_an_address_are_no_conflict() {
    let mut index = index();
    let mut spec = external("10.96.0.1", VIP);
    add(&mut index, "a", OLD, spec.clone(), true);
    spec["ports"] =
        json!([{"name": "http", "port": 81}, {"name": "http", "port": 80, "protocol": "UDP"}]);
    spec["clusterIP"] = json!("10.96.0.2");
    spec["clusterIPs"] = json!(["10.96.0.2"]);
    add(&mut index, "b", NEW, spec, true);
    assert!(index.state().conflicts().is_empty());
    assert_eq!(index.state().frontends().len(), 6);
}

#[test]
fn r42_node_ports_go_to_one_service_per_protocol_and_family() {
    let mut index = index();
    let spec = |ip: &str, protocol: &str| {
        json!({"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
               "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": protocol}]})
    };
    add(&mut index, "young", NEW, spec("10.96.0.1", "TCP"), true);
    add(&mut index, "old", OLD, spec("10.96.0.2", "TCP"), true);
    add(&mut index, "udp", NEW, spec("10.96.0.3", "UDP"), false);
    let state = index.state();
    let found: Vec<_> = state
        .node_ports()
        .into_iter()
        .map(|((_, protocol, number), (key, _))| format!("{protocol} {number} {}", key.name))
        .collect();
    assert_eq!(found, ["TCP 30080 old", "UDP 30080 udp"]);
}
