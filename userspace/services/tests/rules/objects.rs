//! Objects to feed and states to look at: JSON as the API server writes it, merged into a minimal
//! valid object.

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_services::{Backend, Config, Family, Index, Protocol, ServicePort, ServicePortKey};

pub(crate) const NODE: &str = "n1";

pub(crate) fn index() -> Index {
    Index::new(Config { node_name: NODE.into(), ..Config::default() })
}

/// A TCP Service `ns/svc`, port `http` 80 on 10.96.0.1, with `patch` merged in (RFC 7386).
pub(crate) fn service(patch: Value) -> Service {
    let base = json!({
        "metadata": {"namespace": "ns", "name": "svc", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"], "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    });
    object(base, patch)
}

/// An IPv4 slice `ns/svc-1` of `svc`, port `http` 8080, with `patch` merged in.
pub(crate) fn slice(patch: Value) -> EndpointSlice {
    let base = json!({
        "metadata": {"namespace": "ns", "name": "svc-1", "labels": {"kubernetes.io/service-name": "svc"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": null,
    });
    object(base, patch)
}

pub(crate) fn node(name: &str, labels: Value) -> Node {
    object(json!({"metadata": {"name": name, "labels": labels}}), json!({}))
}

/// A ready endpoint, with `patch` merged in.
pub(crate) fn endpoint(address: &str, patch: Value) -> Value {
    let mut base = json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
    });
    merge(&mut base, patch);
    base
}

/// Serving and terminating, as a pod that drains.
pub(crate) fn draining(address: &str, patch: Value) -> Value {
    let mut base = endpoint(
        address,
        json!({"conditions": {"ready": false, "serving": true, "terminating": true}}),
    );
    merge(&mut base, patch);
    base
}

fn object<T: DeserializeOwned>(mut base: Value, patch: Value) -> T {
    merge(&mut base, patch);
    serde_json::from_value(base).expect("an object of its kind")
}

/// RFC 7386 but for null, which stays: the API server sends it (K22).
fn merge(base: &mut Value, patch: Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, patch) => *base = patch,
    }
}

/// The service port `ns/svc:http/TCP` in IPv4, if it is served.
pub(crate) fn http(index: &mut Index) -> Option<ServicePort> {
    port(index, "http", Protocol::Tcp, Family::V4)
}

pub(crate) fn port(
    index: &mut Index,
    port_name: &str,
    protocol: Protocol,
    family: Family,
) -> Option<ServicePort> {
    let key = ServicePortKey {
        namespace: "ns".into(),
        name: "svc".into(),
        port_name: port_name.into(),
        protocol,
        family,
    };
    index.state().ports.get(&key).map(|port| ServicePort::clone(port))
}

/// A list as text: `10.1.0.1:8080 10.1.0.2:8080`.
pub(crate) fn text(list: &[Backend]) -> String {
    let backends: Vec<_> =
        list.iter().map(|b| std::net::SocketAddr::new(b.address, b.port).to_string()).collect();
    backends.join(" ")
}

/// The problems of now as text, without the object's name.
pub(crate) fn problems(index: &Index) -> Vec<String> {
    index.problems().map(|p| format!("{}: {}", p.field, p.reason)).collect()
}
