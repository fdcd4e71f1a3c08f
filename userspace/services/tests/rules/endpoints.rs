//! R5-R10, R43: which endpoints of which slices a service port has.

use serde_json::{Value, json};
use sluice_services::{Config, Family, Index, Protocol, ServicePort};

use crate::objects::{draining, endpoint, http, index, port, problems, service, slice, text};

/// The service port with one slice that has this patch.
fn with_slice(patch: Value) -> ServicePort {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(patch));
    http(&mut index).unwrap()
}

fn cluster(index: &mut Index) -> String {
    text(&http(index).unwrap().cluster)
}

#[test]
fn r1_the_headless_label_hides_a_slice_whenever_it_comes() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    let shown = slice(json!({"endpoints": [endpoint("10.1.0.1", json!({}))]}));
    let hidden = slice(json!({
        "metadata": {"labels": {"service.kubernetes.io/headless": ""}},
        "endpoints": [endpoint("10.1.0.1", json!({}))],
    }));
    for (slice, expected) in
        [(&hidden, ""), (&shown, "10.1.0.1:8080"), (&hidden, ""), (&shown, "10.1.0.1:8080")]
    {
        index.apply_slice(slice);
        assert_eq!(cluster(&mut index), expected);
    }
}

#[test]
fn r1_slices_and_services_come_in_any_order() {
    let mut index = index();
    index.apply_slice(&slice(json!({"endpoints": [endpoint("10.1.0.1", json!({}))]})));
    assert!(index.state().ports.is_empty());
    index.apply_service(&service(json!({})));
    assert_eq!(cluster(&mut index), "10.1.0.1:8080");
}

#[test]
fn r3_a_slice_counts_for_its_own_family() {
    for (address_type, address, v4, v6) in [
        ("IPv4", "10.1.0.1", "10.1.0.1:8080", ""),
        ("IPv6", "fd00:1::1", "", "[fd00:1::1]:8080"),
        ("FQDN", "10.1.0.1", "", ""),
        ("", "10.1.0.1", "", ""),
        // R43: an address of the other family is left out.
        ("IPv4", "fd00:1::1", "", ""),
        ("IPv6", "10.1.0.1", "", ""),
        ("IPv6", "::ffff:10.1.0.1", "", ""),
    ] {
        let mut index = index();
        index.apply_service(&service(
            json!({"spec": {"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]}}),
        ));
        index.apply_slice(&slice(
            json!({"addressType": address_type, "endpoints": [endpoint(address, json!({}))]}),
        ));
        for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
            let found = port(&mut index, "http", Protocol::Tcp, family).unwrap();
            assert_eq!(text(&found.cluster), expected, "{address_type} {address}");
        }
    }
}

#[test]
fn r5_ports_match_by_name_and_protocol_not_by_number() {
    let endpoints = json!([endpoint("10.1.0.1", json!({}))]);
    for (ports, expected) in [
        (json!([{"name": "http", "port": 9999, "protocol": "TCP"}]), "10.1.0.1:9999"),
        (json!([{"name": "http", "port": 9999, "protocol": null}]), "10.1.0.1:9999"),
        (json!([{"name": "http", "port": 80, "protocol": "UDP"}]), ""),
        (json!([{"name": "web", "port": 80, "protocol": "TCP"}]), ""),
        (json!([{"name": null, "port": 80, "protocol": "TCP"}]), ""),
        (json!([{"name": "http", "port": null, "protocol": "TCP"}]), ""),
        (json!([{"name": "http", "port": 0, "protocol": "TCP"}]), ""),
        (
            json!([{"name": "http", "port": -1, "protocol": "TCP"}, {"name": "http", "port": 81}]),
            "10.1.0.1:81",
        ),
        (json!([{"name": "http", "port": 70000, "protocol": "TCP"}]), ""),
        (json!([{"name": "http", "port": 80, "protocol": "QUIC"}]), ""),
        (json!(null), ""),
    ] {
        let port = with_slice(json!({"ports": ports.clone(), "endpoints": endpoints.clone()}));
        assert_eq!(text(&port.cluster), expected, "{ports}");
    }
}

#[test]
fn r5_the_unnamed_port_has_the_empty_name() {
    for name in [json!(null), json!("")] {
        let mut index = index();
        index.apply_service(&service(
            json!({"spec": {"ports": [{"name": name, "port": 53, "protocol": "UDP"}]}}),
        ));
        index.apply_slice(&slice(json!({
            "ports": [{"name": "", "port": 5353, "protocol": "UDP"}],
            "endpoints": [endpoint("10.1.0.1", json!({}))],
        })));
        let found = port(&mut index, "", Protocol::Udp, Family::V4).unwrap();
        assert_eq!((found.port, text(&found.cluster)), (53, "10.1.0.1:5353".into()));
    }
}

#[test]
fn r5_slices_without_service_or_name_are_ignored_and_told() {
    for patch in [
        json!({"metadata": {"labels": null}}),
        json!({"metadata": {"labels": {"kubernetes.io/service-name": ""}}}),
        json!({"metadata": {"name": null}}),
        json!({"metadata": {"namespace": null}}),
    ] {
        let mut index = index();
        index.apply_service(&service(json!({})));
        let mut bad = patch.clone();
        bad["endpoints"] = json!([endpoint("10.1.0.1", json!({}))]);
        index.apply_slice(&slice(bad));
        assert_eq!(cluster(&mut index), "", "{patch}");
        assert_eq!(problems(&index).len(), 1, "{patch}");
    }
}

#[test]
fn r6_only_the_first_address_counts_sloppily_read() {
    let port = with_slice(json!({"endpoints": [
        endpoint("010.001.000.002", json!({})),
        {"addresses": ["10.1.0.1", "10.1.0.9"]},
        {"addresses": []},
        {"addresses": ["1.2.3", "10.1.0.8"]},
    ]}));
    assert_eq!(text(&port.cluster), "10.1.0.1:8080 10.1.0.2:8080");
}

#[test]
fn r7_conditions_left_out_are_ready_serving_and_not_terminating() {
    // conditions, in the cluster list, serving, anything there
    for (conditions, used, serving, any) in [
        (json!(null), true, true, true),
        (json!({}), true, true, true),
        (json!({"ready": null, "serving": null, "terminating": null}), true, true, true),
        (json!({"ready": false}), false, true, false),
        (json!({"ready": false, "serving": false}), false, false, false),
        (json!({"ready": false, "terminating": true}), true, true, true),
        (json!({"ready": false, "serving": false, "terminating": true}), false, false, false),
        // Taken as they are: ready counts, also with terminating or without serving.
        (json!({"ready": true, "terminating": true}), true, true, true),
        // In use, hence good for old flows (R31).
        (json!({"ready": true, "serving": false}), true, true, true),
    ] {
        let port = with_slice(
            json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": conditions}]}),
        );
        let found = (!port.cluster.is_empty(), !port.serving.is_empty(), port.has_any_endpoint);
        assert_eq!(found, (used, serving, any), "{conditions}");
    }
}

#[test]
fn r8_local_is_this_nodes_name_exactly() {
    for (configured, node_name, local) in [
        ("n1", json!("n1"), true),
        (" N1\n", json!("n1"), true),
        ("n1", json!("N1"), false),
        ("n1", json!("n10"), false),
        ("n1", json!(null), false),
        ("n1", json!(""), false),
        ("", json!(""), false),
        ("", json!(null), false),
    ] {
        let mut index = Index::new(Config { node_name: configured.into(), ..Config::default() });
        index.apply_service(&service(json!({"spec": {"internalTrafficPolicy": "Local"}})));
        index.apply_slice(&slice(
            json!({"endpoints": [endpoint("10.1.0.1", json!({"nodeName": node_name}))]}),
        ));
        let port = http(&mut index).unwrap();
        assert_eq!(!port.local.is_empty(), local, "{configured:?} {node_name}");
        assert!(port.has_any_endpoint && port.local.iter().all(|b| b.local));
    }
}

#[test]
fn r9_slices_are_merged_and_the_better_entry_wins_whatever_the_order() {
    let ready = endpoint("10.1.0.1", json!({"nodeName": "n1"}));
    let unready = endpoint("10.1.0.1", json!({"conditions": {"ready": false}, "nodeName": "n2"}));
    let dead = endpoint("10.1.0.1", json!({"conditions": {"ready": false, "serving": false}}));
    let drains = draining("10.1.0.1", json!({"nodeName": "n3"}));
    let dying = draining("10.1.0.1", json!({"conditions": {"serving": false}}));
    let published = draining("10.1.0.1", json!({"conditions": {"ready": true}}));
    // the entries of two slices, then: in the cluster list, of this node, serving
    for (entries, used, local, serving) in [
        ([&ready, &drains], true, true, true),
        ([&ready, &unready], true, true, true),
        ([&ready, &dying], true, true, true),
        // Not terminating beats terminating, even where nothing can be used then.
        ([&unready, &drains], false, false, true),
        ([&dead, &drains], false, false, false),
        ([&unready, &published], false, false, true),
        ([&published, &drains], true, false, true),
        ([&drains, &dying], true, false, true),
        ([&unready, &dead], false, false, true),
    ] {
        for (order, names) in [([0, 1], ["a", "b"]), ([1, 0], ["a", "b"]), ([0, 1], ["b", "a"])] {
            let mut index = index();
            index.apply_service(&service(json!({})));
            for i in order {
                let name = names[i];
                index.apply_slice(&slice(
                    json!({"metadata": {"name": name}, "endpoints": [entries[i]]}),
                ));
            }
            let port = http(&mut index).unwrap();
            let found = (
                port.cluster.len() == 1,
                port.cluster.iter().any(|b| b.local),
                port.serving.len() == 1,
            );
            assert_eq!(found, (used, local, serving), "{entries:?} {order:?} {names:?}");
        }
    }
}

#[test]
fn r9_one_address_with_several_ports_is_several_endpoints() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    for (name, number) in [("a", 8080), ("b", 8081)] {
        index.apply_slice(&slice(json!({
            "metadata": {"name": name},
            "ports": [{"name": "http", "port": number}],
            "endpoints": [endpoint("10.1.0.1", json!({})), endpoint("10.1.0.1", json!({}))],
        })));
    }
    assert_eq!(cluster(&mut index), "10.1.0.1:8080 10.1.0.1:8081");
}

#[test]
fn r10_an_update_replaces_the_slice_and_a_moved_slice_leaves_its_service() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index.apply_service(&service(
        json!({"metadata": {"name": "other"}, "spec": {"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"]}}),
    ));
    let of = |service: &str, address: &str| {
        slice(json!({
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "endpoints": [endpoint(address, json!({}))],
        }))
    };
    let both = |index: &mut Index| {
        let state = index.state();
        state
            .ports
            .iter()
            .map(|(key, port)| format!("{} {}", key.name, text(&port.cluster)))
            .collect::<Vec<_>>()
    };
    index.apply_slice(&of("svc", "10.1.0.1"));
    index.apply_slice(&of("svc", "10.1.0.2"));
    assert_eq!(both(&mut index), ["other ", "svc 10.1.0.2:8080"]);
    index.apply_slice(&of("other", "10.1.0.2"));
    assert_eq!(both(&mut index), ["other 10.1.0.2:8080", "svc "]);
    assert!(!index.delete_slice("ns", "unknown"));
    assert!(!index.delete_slice("other", "svc-1"));
    // Label gone: the slice is nobody's.
    index.apply_slice(&slice(json!({"metadata": {"labels": null}})));
    assert_eq!(both(&mut index), ["other ", "svc "]);
    index.apply_slice(&of("svc", "10.1.0.3"));
    assert!(index.delete_slice("ns", "svc-1"));
    assert_eq!(both(&mut index), ["other ", "svc "]);
}

#[test]
fn k22_null_lists_and_empty_conditions_are_taken() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(json!({"endpoints": null, "ports": null})));
    index.apply_slice(&slice(json!({"metadata": {"name": "b"}, "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {}}]})));
    assert_eq!(cluster(&mut index), "10.1.0.1:8080");
    assert!(problems(&index).is_empty());
}
