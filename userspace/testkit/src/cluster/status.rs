//! Owns what a kubelet writes into a pod's and a node's status. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::topology::NodePlan;

/// How a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Runs and serves.
    Ready,
    /// Runs and wants no new clients.
    NotReady,
    /// Its process has ended and will be started again.
    Waiting,
}

/// The status of a pod with `addresses` (IPv4 first) on `node`.
pub(super) fn status(
    pod: &Pod,
    node: &NodePlan,
    addresses: &[IpAddr],
    state: State,
    restarts: i32,
) -> Value {
    let ready = state == State::Ready;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<Value> = containers
        .map(|container| {
            let running = if state == State::Waiting {
                json!({ "waiting": { "reason": "CrashLoopBackOff" } })
            } else {
                json!({ "running": {} })
            };
            json!({
                "name": container.name, "image": container.image, "imageID": "",
                "ready": ready, "started": state != State::Waiting, "restartCount": restarts, "state": running,
            })
        })
        .collect();
    json!({
        "phase": "Running",
        "hostIP": node.v4,
        "hostIPs": [{ "ip": node.v4 }, { "ip": node.v6 }],
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": containers,
    })
}

/// The Node object of `node`, without a podCIDR: the API server's IPAM gives one.
pub(super) fn node(node: &NodePlan) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "topology.kubernetes.io/zone": node.zone,
            },
        },
        "spec": {},
    })
}

/// The status of a node whose kubelet works.
pub(super) fn node_status(node: &NodePlan) -> Value {
    json!({
        "addresses": [
            { "type": "InternalIP", "address": node.v4 },
            { "type": "InternalIP", "address": node.v6 },
            { "type": "Hostname", "address": node.name },
        ],
        "conditions": [condition("Ready", true)],
    })
}

fn condition(kind: &str, is: bool) -> Value {
    json!({ "type": kind, "status": if is { "True" } else { "False" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_shut_down_runs_but_is_not_ready() {
        let node = &crate::cluster::topology::nodes(1)[0];
        let addresses = ["10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()];
        let status = |state| status(&Pod::default(), node, &addresses, state, 0);
        let ready = |status: &Value| status["conditions"][3].clone();
        assert_eq!(ready(&status(State::Ready)), json!({ "type": "Ready", "status": "True" }));
        assert_eq!(ready(&status(State::NotReady)), json!({ "type": "Ready", "status": "False" }));
        assert_eq!(status(State::NotReady)["phase"], "Running");
        assert_eq!(status(State::Ready)["podIP"], "10.244.1.2");
        assert_eq!(status(State::Ready)["podIPs"][1]["ip"], "fd00:10:244:1::2");
    }
}
