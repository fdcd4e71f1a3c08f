//! R12: whom the agent takes for a pod, in each of kube-proxy's modes. Seen by what backends see: at
//! ClusterIPs pods keep their address, and who is none is masqueraded.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::flags::{addresses, node_port, with};
use crate::rig::{ALL, Rig, SOON, WAYS, Way, rig, until};

const NAME: &str = "detected";
const CLIENT: &str = "client-n1";

/// A Service with a node port for local endpoints only; the office is led to its ClusterIPs by n1.
struct Service {
    cluster_ips: Vec<IpAddr>,
    node_ports: Box<dyn Fn(Way) -> SocketAddr>,
}

impl Service {
    fn create(rig: &Rig) -> Self {
        let at = node_port(rig, NAME);
        let spec = json!({ "type": "NodePort", "externalTrafficPolicy": "Local" });
        let cluster_ips = rig.service(NAME, spec);
        let plan = rig.cluster.node("n1").unwrap().plan();
        let router = &rig.cluster.network().router;
        for (address, via) in cluster_ips.iter().zip([IpAddr::from(plan.v4), plan.v6.into()]) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            router.ip(&format!("route replace {address}/{bits} via {via}\n")).unwrap();
        }
        let (node, _) = addresses(rig);
        Self { cluster_ips, node_ports: Box::new(move |way| at(&node, way)) }
    }

    fn remove(self, rig: &Rig) {
        let router = &rig.cluster.network().router;
        for address in self.cluster_ips {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            router.ip(&format!("route del {address}/{bits}\n")).unwrap();
        }
        rig.remove(NAME);
    }

    /// Waits until the pod of n1 and the office are taken for what they are.
    fn finds(&self, rig: &Rig, pod: bool, office: bool) {
        let (node, _) = addresses(rig);
        for way in WAYS {
            let target = SocketAddr::new(way.pick(&self.cluster_ips), way.port());
            for (from, is_pod) in [(CLIENT, pod), ("office", office)] {
                // A Node that says something else has the data plane loaded anew.
                until(&format!("{from} {way:?} pod: {is_pod}"), 4 * SOON, || {
                    let report = rig.report(from, target, way, 20);
                    let masqueraded = report.clients.iter().all(|ip| node.contains(ip));
                    // Who is outside and keeps its address is answered by backends of other nodes
                    // past this one, and does not understand it.
                    let answered = report.failed() == 0 || (from == "office" && is_pod);
                    answered && report.answered > 0 && masqueraded != is_pod
                });
            }
            // The short cut to all endpoints is for pods of this node (of a detector that there is).
            let backends = if pod { &ALL[..] } else { &ALL[..2] };
            rig.settle(CLIENT, (self.node_ports)(way), way, backends);
        }
    }
}

/// Gives n1 other ranges of pods; those of before.
fn give_ranges(rig: &Rig, ranges: &Value) -> Value {
    let mut node = rig.cluster.store().get("nodes", "", "n1").unwrap();
    let before = node["spec"]["podCIDRs"].clone();
    node["spec"]["podCIDRs"] = ranges.clone();
    node["spec"]["podCIDR"] = ranges[0].clone();
    node["apiVersion"] = json!("v1");
    node["kind"] = json!("Node");
    node["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    rig.cluster.store().embedded().unwrap().store().apply_unchecked(node).unwrap();
    before
}

#[test]
fn r12_pods_are_told_by_ranges_or_by_interfaces() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let service = Service::create(rig);
    service.finds(rig, true, false);
    with(
        rig,
        &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=kube-bridge"],
        || {
            service.finds(rig, true, false);
        },
    );
    let prefix = ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"];
    with(rig, &prefix, || service.finds(rig, true, false));
    service.remove(rig);
}

/// The Node's ranges count as soon as they are said, without a restart.
#[test]
fn r12_the_nodes_ranges_are_followed() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let service = Service::create(rig);
    // A router would answer "unreachable" for what is free in ranges of its own.
    with(rig, &["--detect-local-mode=NodeCIDR", "--run-router=false"], || {
        service.finds(rig, true, false);
        let own = give_ranges(rig, &json!(["192.168.88.0/24", "fd00:88::/64"]));
        service.finds(rig, false, true);
        give_ranges(rig, &own);
        service.finds(rig, true, false);
    });
    service.remove(rig);
}
