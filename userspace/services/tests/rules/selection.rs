//! Section 3: the cluster list, the local list, hints, and what an empty list means (section 5).

use serde_json::{Value, json};
use sluice_services::{Config, Index, ServicePort, WhenEmpty};

use crate::objects::{NODE, draining, endpoint, http, index, node, service, slice, text};

const OUTSIDE: &str = "198.51.100.7";

fn index_of(spec: Value, endpoints: Value) -> Index {
    let mut index = index();
    index.apply_node(&node(NODE, json!({"topology.kubernetes.io/zone": "z1"})));
    index.apply_service(&service(json!({"spec": spec})));
    index.apply_slice(&slice(json!({"endpoints": endpoints})));
    index
}

fn select(spec: Value, endpoints: Value) -> ServicePort {
    http(&mut index_of(spec, endpoints)).unwrap()
}

/// Last digits of the addresses in a list: `1 2`.
fn short(list: &sluice_services::BackendSet) -> String {
    text(list).replace("10.1.0.", "").replace(":8080", "")
}

fn here(address: &str) -> Value {
    endpoint(address, json!({"nodeName": NODE}))
}

fn there(address: &str) -> Value {
    endpoint(address, json!({"nodeName": "n2"}))
}

#[test]
fn lists_that_no_policy_uses_are_not_made() {
    let endpoints = json!([here("10.1.0.1"), there("10.1.0.2")]);
    for (spec, cluster, local) in [
        (json!({}), "1 2", ""),
        (json!({"internalTrafficPolicy": "Local"}), "", "1"),
        (json!({"externalTrafficPolicy": "Local", "type": "LoadBalancer"}), "1 2", ""),
        // Reachable from outside: the cluster list serves the short-circuit also with both Local.
        (json!({"internalTrafficPolicy": "Local", "externalIPs": [OUTSIDE]}), "1 2", "1"),
        (json!({"externalTrafficPolicy": "Local", "externalIPs": [OUTSIDE]}), "1 2", "1"),
        (
            json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "type": "NodePort",
                   "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
            "1 2",
            "1",
        ),
        // An external address of the other family does not make this one reachable.
        (json!({"externalTrafficPolicy": "Local", "externalIPs": ["2001:db8::7"]}), "1 2", ""),
    ] {
        let port = select(spec.clone(), endpoints.clone());
        assert_eq!(
            (short(&port.cluster).as_str(), short(&port.local).as_str()),
            (cluster, local),
            "{spec}"
        );
    }
}

#[test]
fn ready_endpoints_first_then_draining_ones_in_each_list_on_its_own() {
    let both = json!({"internalTrafficPolicy": "Local", "externalIPs": [OUTSIDE]});
    let unready = json!({"conditions": {"ready": false}});
    let dead = json!({"conditions": {"ready": false, "serving": false}});
    // endpoints, cluster, local, something there
    for (endpoints, cluster, local, any) in [
        (
            json!([here("10.1.0.1"), draining("10.1.0.2", json!({"nodeName": NODE}))]),
            "1",
            "1",
            true,
        ),
        // None ready here, some elsewhere: only the local list falls back.
        (
            json!([draining("10.1.0.1", json!({"nodeName": NODE})), there("10.1.0.2")]),
            "2",
            "1",
            true,
        ),
        (
            json!([
                draining("10.1.0.1", json!({"nodeName": NODE})),
                draining("10.1.0.2", json!({}))
            ]),
            "1 2",
            "1",
            true,
        ),
        (json!([draining("10.1.0.2", json!({"nodeName": "n2"}))]), "2", "", true),
        (json!([endpoint("10.1.0.1", unready.clone())]), "", "", false),
        (json!([endpoint("10.1.0.1", dead)]), "", "", false),
        (json!([draining("10.1.0.1", json!({"conditions": {"serving": false}}))]), "", "", false),
        (json!([]), "", "", false),
    ] {
        let port = select(both.clone(), endpoints.clone());
        assert_eq!(
            (short(&port.cluster).as_str(), short(&port.local).as_str()),
            (cluster, local),
            "{endpoints}"
        );
        assert_eq!(port.has_any_endpoint, any, "{endpoints}");
    }
}

#[test]
fn an_empty_list_rejects_without_endpoints_and_drops_when_they_are_elsewhere() {
    let spec = json!({"internalTrafficPolicy": "Local"});
    for (endpoints, expected) in [
        (json!([]), WhenEmpty::Reject),
        (json!([endpoint("10.1.0.2", json!({"conditions": {"ready": false}}))]), WhenEmpty::Reject),
        (json!([there("10.1.0.2")]), WhenEmpty::Drop),
        (json!([draining("10.1.0.2", json!({"nodeName": "n2"}))]), WhenEmpty::Drop),
    ] {
        let port = select(spec.clone(), endpoints.clone());
        let (list, when_empty) = port.internal();
        assert!(list.is_empty(), "{endpoints}");
        assert_eq!(when_empty, expected, "{endpoints}");
    }
}

#[test]
fn r11_internal_policy_is_for_cluster_ips_and_external_policy_for_the_others() {
    let endpoints = json!([here("10.1.0.1"), there("10.1.0.2")]);
    for (internal, external, for_internal, for_external) in [
        ("Cluster", "Cluster", "1 2", "1 2"),
        ("Local", "Cluster", "1", "1 2"),
        ("Cluster", "Local", "1 2", "1"),
        ("Local", "Local", "1", "1"),
    ] {
        let spec = json!({"internalTrafficPolicy": internal, "externalTrafficPolicy": external, "externalIPs": [OUTSIDE]});
        let port = select(spec.clone(), endpoints.clone());
        let found = (short(port.internal().0), short(port.external().0));
        assert_eq!(found, (for_internal.to_owned(), for_external.to_owned()), "{spec}");
    }
}

fn nodes(address: &str, nodes: &[&str]) -> Value {
    let names: Vec<_> = nodes.iter().map(|name| json!({"name": name})).collect();
    endpoint(address, json!({"hints": {"forNodes": names}}))
}

fn zones(address: &str, zones: &[&str]) -> Value {
    let names: Vec<_> = zones.iter().map(|name| json!({"name": name})).collect();
    endpoint(address, json!({"hints": {"forZones": names}}))
}

#[test]
fn hints_narrow_the_cluster_list_only_if_every_ready_endpoint_has_them() {
    let (a, b, c) = ("10.1.0.1", "10.1.0.2", "10.1.0.3");
    let with_both = |address, node, zone| {
        let hints = json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
        endpoint(address, json!({"hints": hints}))
    };
    let unready = json!({"conditions": {"ready": false, "serving": true}});
    for (name, endpoints, expected) in [
        (
            "same node",
            json!([nodes(a, &[NODE]), nodes(b, &["n2"]), nodes(c, &["n2", NODE])]),
            "1 3",
        ),
        ("one without hint", json!([nodes(a, &[NODE]), endpoint(b, json!({}))]), "1 2"),
        ("empty hint list", json!([nodes(a, &[NODE]), nodes(b, &[])]), "1 2"),
        ("nobody means this node", json!([nodes(a, &["n2"]), nodes(b, &["n3"])]), "1 2"),
        (
            "same zone",
            json!([zones(a, &["z1"]), zones(b, &["z2"]), zones(c, &["z2", "z1"])]),
            "1 3",
        ),
        ("one without zone", json!([zones(a, &["z1"]), endpoint(b, json!({}))]), "1 2"),
        ("nobody means this zone", json!([zones(a, &["z2"]), zones(b, &["z3"])]), "1 2"),
        (
            "the node goes before the zone",
            json!([with_both(a, NODE, "z1"), with_both(b, "n2", "z1")]),
            "1",
        ),
        ("else the zone", json!([with_both(a, "n3", "z1"), with_both(b, "n2", "z2")]), "1"),
        // Endpoints that are not ready have no say.
        (
            "unready without hint",
            json!([zones(a, &["z1"]), zones(b, &["z2"]), endpoint(c, unready)]),
            "1",
        ),
        (
            "draining without hint",
            json!([zones(a, &["z1"]), zones(b, &["z2"]), draining(c, json!({}))]),
            "1",
        ),
        // The fallback ignores hints.
        (
            "draining, hinted elsewhere",
            json!([
                draining(a, json!({"hints": {"forZones": [{"name": "z2"}]}})),
                draining(b, json!({}))
            ]),
            "1 2",
        ),
    ] {
        assert_eq!(short(&select(json!({}), endpoints).cluster), expected, "{name}");
    }
}

#[test]
fn r8_without_a_node_name_no_hint_means_this_node() {
    let mut index = Index::new(Config::default());
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(
        json!({"endpoints": [nodes("10.1.0.1", &[""]), nodes("10.1.0.2", &["n2"])]}),
    ));
    assert_eq!(short(&http(&mut index).unwrap().cluster), "1 2");
}

#[test]
fn hints_never_narrow_the_local_list() {
    let endpoints = json!([
        endpoint("10.1.0.1", json!({"nodeName": NODE, "hints": {"forZones": [{"name": "z2"}]}})),
        endpoint("10.1.0.2", json!({"nodeName": "n2", "hints": {"forZones": [{"name": "z1"}]}})),
    ]);
    let port =
        select(json!({"internalTrafficPolicy": "Local", "externalIPs": [OUTSIDE]}), endpoints);
    assert_eq!((short(&port.cluster), short(&port.local)), ("2".into(), "1".into()));
    assert_eq!(short(&port.serving), "1 2");
}

#[test]
fn only_hints_are_read_not_what_asks_for_them() {
    let spec = json!({"trafficDistribution": "PreferSameNode"});
    let zone = json!({"zone": "z2", "nodeName": "n2"});
    let endpoints = json!([here("10.1.0.1"), endpoint("10.1.0.2", zone)]);
    let mut index = index_of(spec, endpoints);
    index.apply_service(&service(
        json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}}),
    ));
    assert_eq!(short(&http(&mut index).unwrap().cluster), "1 2");
}

#[test]
fn the_zone_label_of_the_own_node_is_followed() {
    let mut index =
        index_of(json!({}), json!([zones("10.1.0.1", &["z1"]), zones("10.1.0.2", &["z2"])]));
    let zone = |zone: &str| json!({"topology.kubernetes.io/zone": zone});
    let mut cluster = |change: &dyn Fn(&mut Index) -> bool| {
        let changed = change(&mut index);
        (changed, short(&http(&mut index).unwrap().cluster))
    };
    assert_eq!(cluster(&|_| false), (false, "1".into()));
    assert_eq!(cluster(&|i| i.apply_node(&node(NODE, zone("z2")))), (true, "2".into()));
    assert_eq!(cluster(&|i| i.apply_node(&node("n2", zone("z1")))), (false, "2".into()));
    assert_eq!(
        cluster(&|i| i.apply_node(&node(NODE, json!({"zone": "z1"})))),
        (true, "1 2".into())
    );
    assert_eq!(cluster(&|i| i.apply_node(&node(NODE, zone("z1")))), (true, "1".into()));
    assert_eq!(cluster(&|i| i.delete_node("n2")), (false, "1".into()));
    assert_eq!(cluster(&|i| i.delete_node(NODE)), (true, "1 2".into()));
    assert_eq!(cluster(&|i| i.replace_nodes(vec![node(NODE, zone("z2"))])), (true, "2".into()));
    assert_eq!(cluster(&|i| i.replace_nodes(vec![])), (true, "1 2".into()));
}

#[test]
fn r31_flows_may_stay_with_whatever_serves_or_is_in_use() {
    let endpoints = json!([
        here("10.1.0.1"),
        draining("10.1.0.2", json!({})),
        endpoint("10.1.0.3", json!({"conditions": {"ready": false}})),
        endpoint("10.1.0.4", json!({"conditions": {"serving": false}})),
        endpoint("10.1.0.5", json!({"conditions": {"ready": false, "serving": false}})),
    ]);
    let port = select(json!({}), endpoints);
    assert_eq!(short(&port.cluster), "1 4");
    assert_eq!(short(&port.serving), "1 2 3 4");
}
