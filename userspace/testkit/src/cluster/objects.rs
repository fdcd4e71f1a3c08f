//! Owns the short forms of the Kubernetes objects that tests and the demo write.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A pod of namespace `default` on `node` that runs `image`: `echo` (listens on `ports`) or `pause`.
#[must_use]
pub fn pod(name: &str, node: &str, image: &str, labels: &Value, ports: &[(&str, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port)| json!({ "containerPort": port, "protocol": protocol }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": labels },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": image, "image": format!("sluice.io/{image}"), "ports": ports }],
        },
    })
}

/// A dual-stack Service of namespace `default`; ports are protocol, port and target port.
/// Without a selector, somebody else has to write its slices.
#[must_use]
pub fn service(name: &str, selector: &Value, ports: &[(&str, u16, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port, target)| {
            let name = format!("{}-{port}", protocol.to_lowercase());
            json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "ipFamilyPolicy": "RequireDualStack", "selector": selector, "ports": ports },
    })
}

/// A slice of `service` with ready endpoints of one family; ports are protocol, service port (for
/// the name, as in [`service`]) and target port.
#[must_use]
pub fn slice(
    name: &str,
    service: &str,
    endpoints: &[(IpAddr, &str)],
    ports: &[(&str, u16, u16)],
) -> Value {
    let family =
        if endpoints.first().is_some_and(|(ip, _)| ip.is_ipv6()) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| {
            let conditions = json!({ "ready": true, "serving": true, "terminating": false });
            json!({ "addresses": [ip], "nodeName": node, "conditions": conditions })
        })
        .collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port, target)| {
            json!({ "name": format!("{}-{port}", protocol.to_lowercase()), "protocol": protocol, "port": target })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}
