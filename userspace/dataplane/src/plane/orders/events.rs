//! Services and slices that come, change, go, and change sides.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sluice_services::{Config, Index};

const NODE: &str = "n1";
/// Addresses of the node that the planes are of.
pub(super) const NODE_ADDRESSES: [&str; 2] = ["192.168.77.11", "fd00:77::11"];
/// How many Services there are at most; the one with the number n has the n-th ClusterIP. Fewer
/// addresses than Services: some want the same.
const SERVICES: u8 = 6;
const SLICES: u8 = 24;
/// Addresses that Services may have, the first ones ClusterIPs; the last is nobody's.
pub(super) const ADDRESSES: [[&str; 2]; 8] = [
    ["10.96.0.1", "fd00:96::1"],
    ["10.96.0.2", "fd00:96::2"],
    ["10.96.0.3", "fd00:96::3"],
    ["10.96.0.4", "fd00:96::4"],
    ["198.51.100.7", "2001:db8::7"],
    ["192.0.2.1", "2001:db8:1::1"],
    ["192.0.2.2", "2001:db8:1::2"],
    ["10.96.0.99", "fd00:96::99"],
];
/// Types of Services, most of them reachable from outside.
const KINDS: [&str; 6] =
    ["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "LoadBalancer", "ExternalName"];
/// Service ports and node ports.
pub(super) const PORTS: [u16; 3] = [80, 81, 443];
pub(super) const NODE_PORTS: [u16; 3] = [30_080, 30_081, 30_443];

pub(super) fn index() -> Index {
    Index::new(Config { node_name: NODE.into(), ..Config::default() })
}

/// What exists.
#[derive(Default)]
pub(super) struct Objects {
    services: BTreeMap<u8, Value>,
    slices: BTreeMap<u8, Value>,
    zone: Option<String>,
}

fn pick<'a, T>(rng: &mut StdRng, among: &'a [T]) -> &'a T {
    &among[rng.random_range(0..among.len())]
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// One in `n`.
fn rarely(rng: &mut StdRng, n: u32) -> bool {
    rng.random_ratio(1, n)
}

fn service(rng: &mut StdRng, n: u8) -> Value {
    let address = ADDRESSES[usize::from(n % 4)];
    let both = &["IPv4", "IPv6"][..];
    let families = *pick(rng, &[both, both, both, both, &["IPv4"], &["IPv6"]]);
    let of = |family: &&str| address[usize::from(*family == "IPv6")];
    let ips: Vec<&str> = families.iter().map(of).collect();
    let policy = ["Cluster", "Cluster", "Local"];
    let mut ports = Vec::new();
    for ((name, protocol, port), node_port) in
        [("web", "TCP", 80), ("dns", "UDP", 80), ("tls", "TCP", 443)].into_iter().zip(NODE_PORTS)
    {
        if !rarely(rng, 4) {
            // A port that moves.
            let port = if rarely(rng, 5) { 81 } else { port };
            let node_port = if rarely(rng, 2) { node_port } else { 0 };
            ports.push(
                json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port}),
            );
        }
    }
    let external: Vec<&str> = if rarely(rng, 3) { ADDRESSES[4].to_vec() } else { Vec::new() };
    let ingress: Vec<Value> = (5..7)
        .filter(|_| rarely(rng, 3))
        .flat_map(|at: usize| ADDRESSES[at].map(|ip| json!({"ip": ip})))
        .collect();
    let ranges =
        if rarely(rng, 4) { json!(["192.168.88.0/25", "fd00:88::/65"]) } else { json!(null) };
    let mut annotations = json!({});
    if rarely(rng, 3) {
        annotations["sluice.io/service.scheduler"] =
            json!(*pick(rng, &["rr", "mh", "lc", "sh", "?"]));
    }
    if rarely(rng, 3) {
        annotations["sluice.io/service.weights"] = json!(*pick(
            rng,
            &["10.244.1.10=0", "n2=2", "fd00:244:0:1::10=2,n3=0", "n1=0,n2=0,n3=0"]
        ));
    }
    let labels = if rarely(rng, 8) {
        json!({"service.kubernetes.io/service-proxy-name": "x"})
    } else {
        json!(null)
    };
    json!({
        "metadata": {"namespace": "ns", "name": format!("s{n}"), "labels": labels,
                     "annotations": annotations, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", n + 1)},
        "spec": {"type": *pick(rng, &KINDS),
                 "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "ports": ports,
                 "internalTrafficPolicy": *pick(rng, &policy), "externalTrafficPolicy": *pick(rng, &policy),
                 "externalIPs": external, "loadBalancerSourceRanges": ranges,
                 "sessionAffinity": *pick(rng, &["None", "None", "ClientIP"])},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn endpoint(rng: &mut StdRng, v4: bool) -> Value {
    // Host 10 to 14, on nodes 1 to 3.
    let (node, host) = (rng.random_range(1..4), rng.random_range(10..15));
    let address =
        if v4 { format!("10.244.{node}.{host}") } else { format!("fd00:244:0:{node}::{host}") };
    let terminating = rarely(rng, 5);
    let hints = match rng.random_range(0..8) {
        0 => json!({"forNodes": [{"name": "n1"}]}),
        1..4 => json!({"forZones": [{"name": *pick(rng, &["z0", "z1"])}]}),
        _ => json!(null),
    };
    json!({
        "addresses": [address], "nodeName": if rarely(rng, 8) { json!(null) } else { json!(format!("n{node}")) },
        "conditions": {"ready": !terminating && !rarely(rng, 5), "serving": !rarely(rng, 6),
                       "terminating": terminating},
        "hints": hints,
    })
}

fn slice(rng: &mut StdRng, n: u8) -> Value {
    let v4 = n.is_multiple_of(2);
    let mut labels = json!({});
    if !rarely(rng, 10) {
        // Mostly its own, of which it then is one of two slices in a family.
        let owner = if rarely(rng, 4) { rng.random_range(0..SERVICES) } else { n / 2 % SERVICES };
        labels["kubernetes.io/service-name"] = json!(format!("s{owner}"));
    }
    if rarely(rng, 10) {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let endpoints: Vec<Value> = (0..rng.random_range(0..7)).map(|_| endpoint(rng, v4)).collect();
    let target = if rarely(rng, 6) { 9090 } else { 8080 };
    json!({
        "metadata": {"namespace": "ns", "name": format!("slice{n}"), "labels": labels},
        "addressType": if v4 { "IPv4" } else { "IPv6" }, "endpoints": endpoints,
        "ports": [{"name": "web", "port": target}, {"name": "dns", "port": 5353, "protocol": "UDP"},
                  {"name": "tls", "port": 8443}],
    })
}

impl Objects {
    /// One event, and the index is told.
    pub(super) fn happens(&mut self, rng: &mut StdRng, index: &mut Index) {
        match rng.random_range(0..100) {
            0..30 => {
                let n = rng.random_range(0..SERVICES);
                if rarely(rng, 8) {
                    self.services.remove(&n);
                    index.delete_service("ns", &format!("s{n}"));
                } else {
                    let object = service(rng, n);
                    index.apply_service(&typed::<Service>(&object));
                    self.services.insert(n, object);
                }
            }
            30..80 => {
                let n = rng.random_range(0..SLICES);
                if rarely(rng, 6) {
                    self.slices.remove(&n);
                    index.delete_slice("ns", &format!("slice{n}"));
                } else {
                    let object = slice(rng, n);
                    index.apply_slice(&typed::<EndpointSlice>(&object));
                    self.slices.insert(n, object);
                }
            }
            // Endpoints move from one slice to another, by two events.
            80..92 => self.move_endpoints(rng, index),
            // A slice changes its Service, and nothing else.
            92..97 => {
                let n = rng.random_range(0..SLICES);
                let Some(slice) = self.slices.get_mut(&n) else { return };
                let owner = format!("s{}", rng.random_range(0..SERVICES));
                slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(owner);
                index.apply_slice(&typed::<EndpointSlice>(slice));
            }
            _ => {
                self.zone = pick(rng, &[None, Some("z0"), Some("z1")]).map(str::to_owned);
                index.apply_node(&self.node());
            }
        }
    }

    fn move_endpoints(&mut self, rng: &mut StdRng, index: &mut Index) {
        let from = rng.random_range(0..SLICES);
        let to = (from + 2) % SLICES;
        let Some(moved) = self.slices.get_mut(&from).map(|slice| slice["endpoints"].take()) else {
            return;
        };
        let mut events = vec![from];
        if let Some(slice) = self.slices.get_mut(&to) {
            slice["endpoints"] = moved;
            events.push(to);
        }
        // In the one order or the other.
        if rarely(rng, 2) {
            events.reverse();
        }
        for n in events {
            index.apply_slice(&typed::<EndpointSlice>(&self.slices[&n]));
        }
    }

    fn node(&self) -> Node {
        let labels = match &self.zone {
            Some(zone) => json!({"topology.kubernetes.io/zone": zone}),
            None => json!({}),
        };
        typed(&json!({"metadata": {"name": NODE, "labels": labels}}))
    }

    /// The index is told all that there is.
    pub(super) fn are_listed(&self, index: &mut Index) {
        index.replace_slices(self.slices.values().map(typed).collect());
        index.replace_services(self.services.values().map(typed).collect());
        index.replace_nodes(vec![self.node()]);
    }

    /// For whoever looks for the cause of a difference.
    pub(super) fn text(&self) -> String {
        let lines = self.services.values().chain(self.slices.values()).map(ToString::to_string);
        lines.collect::<Vec<_>>().join("\n")
    }
}
