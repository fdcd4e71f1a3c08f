//! Property: whatever happened before and in whatever order, the state is that of the objects that
//! exist in the end. Relists give the same as the events they stand for (K5, K11, K13).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_services::Index;

use crate::objects::{NODE, index, node, service, slice};

/// One thing that the API server may tell.
#[derive(Clone, Debug)]
enum Event {
    Service(u8, Option<Value>),
    Slice(u8, Option<Value>),
    Node(Option<u8>),
    /// Lists everything anew, after events that were never seen.
    Relist,
    /// Somebody reads the state.
    Read,
}

fn a_service() -> impl Strategy<Value = Value> {
    let policy = prop::sample::select(vec!["Cluster", "Local"]);
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let ports = prop::sample::subsequence(
        vec![
            json!({"name": "http", "port": 80}),
            json!({"name": "http", "port": 80, "protocol": "UDP"}),
            json!({"name": "", "port": 443, "nodePort": 30443}),
            json!({"name": "bad", "port": 0}),
            json!({"name": "http", "port": 81}),
        ],
        0..=5,
    );
    let external = prop::sample::subsequence(vec!["198.51.100.7", "2001:db8::7", "1.2.3"], 0..=3);
    let dual = any::<bool>();
    let hidden = prop::bool::weighted(0.1);
    (0..4_u8, policy.clone(), policy, kind, ports, external, dual, hidden).prop_map(
        |(ip, internal, outer, kind, ports, external, dual, hidden)| {
            let v4 = format!("10.96.0.{ip}");
            let (families, ips) = if dual {
                (json!(["IPv4", "IPv6"]), json!([v4.clone(), format!("fd00::1:{ip}")]))
            } else {
                (json!(["IPv4"]), json!([v4.clone()]))
            };
            let labels = if hidden { json!({"service.kubernetes.io/service-proxy-name": "x"}) } else { json!(null) };
            json!({
                "metadata": {"labels": labels},
                "spec": {"type": kind, "clusterIP": v4, "clusterIPs": ips, "ipFamilies": families, "ports": ports,
                         "internalTrafficPolicy": internal, "externalTrafficPolicy": outer, "externalIPs": external},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
            })
        },
    )
}

fn an_endpoint() -> impl Strategy<Value = Value> {
    let flag = prop::option::of(any::<bool>());
    let node = prop::option::of(prop::sample::select(vec![NODE, "n2"]));
    let zone = prop::option::of(prop::sample::select(vec!["z0", "z1"]));
    let address = prop::sample::select(vec![
        "10.1.0.1",
        "10.1.0.2",
        "010.1.0.3",
        "10.1.0.4",
        "1.2.3",
        "fd00:1::1",
        "fd00:1::2",
    ]);
    (address, flag.clone(), flag.clone(), flag, node, zone).prop_map(
        |(address, ready, serving, terminating, node, zone)| {
            json!({
                "addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "hints": {"forZones": zone.map(|z| vec![json!({"name": z})]), "forNodes": null},
            })
        },
    )
}

fn a_slice() -> impl Strategy<Value = Value> {
    let owner = prop::option::weighted(0.9, 0..3_u8);
    let ports = prop::sample::subsequence(
        vec![
            json!({"name": "http", "port": 8080}),
            json!({"name": "http", "port": 8081, "protocol": "UDP"}),
            json!({"name": "", "port": 8443}),
            json!({"name": "", "port": 0}),
        ],
        0..=4,
    );
    let kind = prop::sample::select(vec!["IPv4", "IPv4", "IPv6", "FQDN"]);
    (owner, ports, kind, prop::collection::vec(an_endpoint(), 0..5), prop::bool::weighted(0.1)).prop_map(
        |(owner, ports, kind, endpoints, hidden)| {
            let mut labels = json!({"kubernetes.io/service-name": owner.map_or(String::new(), |o| format!("s{o}"))});
            if hidden {
                labels["service.kubernetes.io/headless"] = json!("");
            }
            json!({"metadata": {"labels": labels}, "addressType": kind, "ports": ports, "endpoints": endpoints})
        },
    )
}

fn an_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_u8, prop::option::weighted(0.8, a_service())).prop_map(|(n, o)| Event::Service(n, o)),
        6 => (0..5_u8, prop::option::weighted(0.8, a_slice())).prop_map(|(n, o)| Event::Slice(n, o)),
        1 => prop::option::weighted(0.8, 0..3_u8).prop_map(Event::Node),
        1 => Just(Event::Relist),
        2 => Just(Event::Read),
    ]
}

/// What exists in the cluster.
#[derive(Clone, Default)]
struct Cluster {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<u8, EndpointSlice>,
    node: Option<Node>,
}

impl Cluster {
    fn happens(&mut self, event: &Event) {
        match event {
            Event::Service(n, Some(patch)) => {
                let mut object = service(patch.clone());
                object.metadata.name = Some(format!("s{n}"));
                self.services.insert(*n, object);
            }
            Event::Service(n, None) => drop(self.services.remove(n)),
            Event::Slice(n, Some(patch)) => {
                let mut object = slice(patch.clone());
                object.metadata.name = Some(format!("slice{n}"));
                self.slices.insert(*n, object);
            }
            Event::Slice(n, None) => drop(self.slices.remove(n)),
            Event::Node(zone) => {
                self.node = zone
                    .map(|z| node(NODE, json!({"topology.kubernetes.io/zone": format!("z{z}")})));
            }
            Event::Relist | Event::Read => {}
        }
    }

    fn is_told(&self, event: &Event, index: &mut Index) {
        match event {
            Event::Service(n, _) => match self.services.get(n) {
                Some(object) => index.apply_service(object),
                None => index.delete_service("ns", &format!("s{n}")),
            },
            Event::Slice(n, _) => match self.slices.get(n) {
                Some(object) => index.apply_slice(object),
                None => index.delete_slice("ns", &format!("slice{n}")),
            },
            Event::Node(_) => match &self.node {
                Some(object) => index.apply_node(object),
                None => index.delete_node(NODE),
            },
            Event::Relist => {
                let services = index.replace_services(self.services.values().cloned().collect());
                let slices = index.replace_slices(self.slices.values().cloned().collect());
                index.replace_nodes(self.node.iter().cloned().collect()) | services | slices
            }
            Event::Read => !index.state().ports.is_empty(),
        };
    }

    /// An index that sees the final objects only, in the order of the given numbers.
    fn fresh(&self, shuffle: &[u64]) -> Index {
        let mut events: Vec<Event> =
            self.services.keys().map(|n| Event::Service(*n, None)).collect();
        events.extend(self.slices.keys().map(|n| Event::Slice(*n, None)));
        events.push(Event::Node(None));
        let mut order: Vec<_> = events.into_iter().zip(shuffle.iter().cycle()).collect();
        order.sort_by_key(|(_, weight)| **weight);
        let mut index = index();
        for (event, _) in &order {
            self.is_told(event, &mut index);
        }
        index
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_that_of_the_final_objects(
        events in prop::collection::vec((an_event(), prop::bool::weighted(0.9)), 0..60),
        shuffle in prop::collection::vec(any::<u64>(), 9),
    ) {
        let mut cluster = Cluster::default();
        let mut seen = index();
        let mut missed = false;
        for (event, arrives) in &events {
            cluster.happens(event);
            // An event that gets lost is made good by a relist before anything is compared.
            match (event, arrives) {
                (Event::Relist, _) => {
                    cluster.is_told(event, &mut seen);
                    missed = false;
                }
                (_, true) => cluster.is_told(event, &mut seen),
                (_, false) => missed = true,
            }
        }
        if missed {
            cluster.is_told(&Event::Relist, &mut seen);
        }
        let mut fresh = cluster.fresh(&shuffle);
        prop_assert_eq!(&*seen.state(), &*fresh.state());
        let mut told: Vec<_> = seen.problems().cloned().collect();
        let mut expected: Vec<_> = fresh.problems().cloned().collect();
        told.sort();
        expected.sort();
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn every_state_keeps_the_rules_of_section_3(
        events in prop::collection::vec(an_event(), 1..40),
    ) {
        let mut cluster = Cluster::default();
        let mut index = index();
        for event in &events {
            cluster.happens(event);
            cluster.is_told(event, &mut index);
        }
        for port in index.state().ports.values() {
            let accessible = port.node_port != 0 || port.addresses.len() > 1;
            let uses_cluster = !port.internal_local || accessible;
            // Step 3: where the cluster list is used it is empty only if there is nothing at all.
            prop_assert_eq!(!port.cluster.is_empty(), uses_cluster && port.has_any_endpoint);
            prop_assert!(port.local.iter().all(|b| b.local));
            for list in [&port.cluster, &port.local, &port.serving] {
                prop_assert!(list.is_sorted() && list.windows(2).all(|w| w[0] != w[1]));
                prop_assert!(list.iter().all(|b| b.serving && b.port != 0));
            }
            // What a list uses may keep its flows (R31).
            prop_assert!(port.cluster.iter().chain(port.local.iter()).all(|b| port.serving.contains(b)));
        }
    }

    #[test]
    fn updates_name_exactly_what_is_different(
        events in prop::collection::vec(an_event(), 1..40),
    ) {
        let mut cluster = Cluster::default();
        let mut index = index();
        let mut before = index.state();
        for event in &events {
            if matches!(event, Event::Read) {
                continue;
            }
            cluster.happens(event);
            cluster.is_told(event, &mut index);
            let update = index.update();
            let keys = before.ports.keys().chain(update.state.ports.keys());
            let mut different: Vec<_> =
                keys.filter(|key| before.ports.get(*key) != update.state.ports.get(*key)).cloned().collect();
            different.sort();
            different.dedup();
            prop_assert_eq!(update.changed, different);
            before = update.state;
        }
    }
}
