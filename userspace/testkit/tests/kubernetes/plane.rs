//! What every agent's data plane holds, compared with all Services and slices that the API server has:
//! not only the one that a test asks about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{Rig, patient};

/// Backends by Service, port's protocol and number, and ClusterIP.
type Plane = BTreeMap<String, BTreeSet<String>>;

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn each<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn line(namespace: &str, name: &str, protocol: &str, port: &Value, address: &str) -> String {
    format!("{namespace}/{name} {protocol} {port} at {address}")
}

/// What the objects say. Written for the Services of these tests: no hints, no policies, nobody that
/// ends; those with a hint of another policy would need `matrix::rules`.
fn told(services: &[Value], slices: &[Value]) -> Plane {
    let mut plane = Plane::new();
    for service in services {
        let (namespace, name) =
            (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
        let own = |slice: &&Value| {
            text(slice, "/metadata/namespace") == namespace
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == name
        };
        let addresses = each(service, "/spec/clusterIPs").filter_map(Value::as_str);
        for address in addresses.filter_map(|text| text.parse::<IpAddr>().ok()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            for port in each(service, "/spec/ports") {
                let same = |other: &&Value| {
                    text(other, "/name") == text(port, "/name")
                        && text(other, "/protocol") == text(port, "/protocol")
                };
                let mut backends = BTreeSet::new();
                let of_family = slices.iter().filter(own).filter(|s| s["addressType"] == family);
                for slice in of_family {
                    let numbers =
                        each(slice, "/ports").filter(same).filter_map(|p| p["port"].as_u64());
                    for number in numbers.filter_map(|number| u16::try_from(number).ok()) {
                        // R7: what is not said is ready.
                        let ready = each(slice, "/endpoints")
                            .filter(|endpoint| endpoint["conditions"]["ready"] != false);
                        let ips = ready
                            .filter_map(|endpoint| text(endpoint, "/addresses/0").parse().ok());
                        backends.extend(ips.map(|ip| SocketAddr::new(ip, number).to_string()));
                    }
                }
                let line = line(
                    namespace,
                    name,
                    text(port, "/protocol"),
                    &port["port"],
                    &address.to_string(),
                );
                plane.insert(line, backends);
            }
        }
    }
    plane
}

/// What an agent balances.
fn held(rig: &Rig, node: &str) -> Plane {
    let config = rig.cluster.node(node).unwrap().agent_config().unwrap();
    let mut command = Command::new(&config.sluice);
    command.args(["services", "--json", "--state-dir"]).arg(&config.state_dir);
    let rows: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default();
    let mut plane = Plane::new();
    for row in rows.as_array().into_iter().flatten() {
        for address in each(row, "/addresses").filter(|address| address["kind"] == "cluster") {
            let backends =
                each(row, "/backends").map(|backend| text(backend, "/endpoint").to_owned());
            let (namespace, name) = (text(row, "/namespace"), text(row, "/name"));
            let address = text(address, "/address");
            plane.insert(
                line(namespace, name, text(row, "/protocol"), &row["port"], address),
                backends.collect(),
            );
        }
    }
    plane
}

/// Where two differ.
fn differences(told: &Plane, held: &Plane) -> Vec<String> {
    let lines: BTreeSet<&String> = told.keys().chain(held.keys()).collect();
    let differ = lines.into_iter().filter(|line| told.get(*line) != held.get(*line));
    differ
        .map(|line| format!("{line}: API {:?}, agent {:?}", told.get(line), held.get(line)))
        .collect()
}

/// Waits until every agent holds what the API has, and no more.
pub(crate) fn settle(rig: &Rig, limit: Duration) {
    let (_, _, remote) = rig.cluster.api().real().unwrap();
    let deadline = Instant::now() + patient(limit);
    for node in rig.cluster.nodes() {
        loop {
            let told =
                told(&remote.list("services").unwrap(), &remote.list("endpointslices").unwrap());
            assert!(!told.is_empty(), "the API has at least its own Service");
            let wrong = differences(&told, &held(rig, node.name()));
            if wrong.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{} after {limit:?}: {wrong:#?}", node.name());
            sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_backend_too_many_or_too_few_and_a_service_that_is_gone_are_seen() {
    let service = serde_json::json!({ "metadata": { "namespace": "d", "name": "a" },
        "spec": { "clusterIPs": ["10.0.0.1"], "ports": [{ "port": 80, "protocol": "TCP" }] } });
    let slice = serde_json::json!({ "addressType": "IPv4",
        "metadata": { "namespace": "d", "labels": { "kubernetes.io/service-name": "a" } },
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["10.1.0.1"], "conditions": {} },
            { "addresses": ["10.1.0.2"], "conditions": { "ready": false } }] });
    let told = told(&[service], &[slice]);
    let key = "d/a TCP 80 at 10.0.0.1".to_owned();
    let of = |backends: &[&str]| -> Plane {
        [(key.clone(), backends.iter().map(|b| (*b).to_owned()).collect())].into()
    };
    assert_eq!(told, of(&["10.1.0.1:8080"]));
    for wrong in [of(&[]), of(&["10.1.0.1:8080", "10.1.0.2:8080"]), Plane::new()] {
        assert_eq!(differences(&told, &wrong).len(), 1);
    }
    assert_eq!(differences(&Plane::new(), &told).len(), 1);
}
