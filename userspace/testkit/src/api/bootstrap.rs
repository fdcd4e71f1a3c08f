//! What a new cluster has before anyone writes to it: namespaces and the service ranges.

use serde_json::json;

use super::store::State;
use super::write::{self, WriteOptions};

/// Fills an empty store.
pub(crate) fn fill(state: &mut State) {
    let cidrs: Vec<String> = state.ranges.service_cidrs.iter().map(ToString::to_string).collect();
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let objects = namespaces
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .into_iter()
        .chain((!cidrs.is_empty()).then(|| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
                "spec": {"cidrs": cidrs},
                "status": {"conditions": [{
                    "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": super::time::now_s(),
                    "message": "Kubernetes Service CIDR is ready",
                }]},
            })
        }));
    for object in objects {
        if let Err(error) = write::put_whole(state, object, &WriteOptions::direct()) {
            tracing::error!(%error, "cannot fill the new store");
        }
    }
}
