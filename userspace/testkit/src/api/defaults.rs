//! What the server fills in for every type but Service, and the empty values it shows (K22).

use serde_json::{Value, json};

use super::json::{array_at, fill, items_mut, map_mut, remove, set, str_at};
use super::resource::Resource;
use super::time;

/// Fills in what the writer left out. `creating` tells a new object from a changed one.
pub(crate) fn fill_in(resource: &Resource, value: &mut Value, creating: bool) {
    match resource.plural {
        "endpointslices" => slice(value),
        "nodes" => node(value, creating),
        "pods" => pod(value, creating),
        "namespaces" => namespace(value, creating),
        "networkpolicies" => network_policy(value),
        "events" => event(value),
        "servicecidrs" => {
            map_mut(value, &["status"]);
        }
        _ => {}
    }
}

/// An empty list shows as null, as Go's JSON has it.
fn null_if_empty(value: &mut Value, key: &str) {
    if value.get(key).is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        set(value, &[key], Value::Null);
    }
}

fn slice(value: &mut Value) {
    for port in items_mut(value, "/ports") {
        fill(port, &["name"], "");
        fill(port, &["protocol"], "TCP");
    }
    for endpoint in items_mut(value, "/endpoints") {
        // Shown, but with nothing filled in: unset conditions have their own meaning (R7).
        map_mut(endpoint, &["conditions"]);
        // Of discovery.k8s.io/v1beta1: taken, and not kept.
        remove(endpoint, &["deprecatedTopology"]);
        for hints in ["forZones", "forNodes"] {
            if array_at(endpoint, &format!("/hints/{hints}")).is_empty() {
                remove(endpoint, &["hints", hints]);
            }
        }
    }
    null_if_empty(value, "endpoints");
    null_if_empty(value, "ports");
}

/// Condition times show as null when nobody set them.
fn condition_times(value: &mut Value, keys: &[&str]) {
    for condition in items_mut(value, "/status/conditions") {
        for key in keys {
            fill(condition, &[key], Value::Null);
        }
    }
}

fn node(value: &mut Value, creating: bool) {
    map_mut(value, &["spec"]);
    if creating {
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let present = array_at(value, "/spec/taints")
            .iter()
            .any(|t| str_at(t, "/key") == str_at(&taint, "/key"));
        if !present {
            let mut taints = array_at(value, "/spec/taints").to_vec();
            taints.push(taint);
            set(value, &["spec", "taints"], taints);
        }
    }
    if let Some(first) = array_at(value, "/spec/podCIDRs").first().cloned() {
        fill(value, &["spec", "podCIDR"], first);
    } else if let Some(cidr) = value.pointer("/spec/podCIDR").cloned() {
        set(value, &["spec", "podCIDRs"], vec![cidr]);
    }
    fill(value, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"], 0);
    for key in [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ] {
        fill(value, &["status", "nodeInfo", key], "");
    }
    condition_times(value, &["lastHeartbeatTime", "lastTransitionTime"]);
}

fn pod(value: &mut Value, creating: bool) {
    fill(value, &["spec", "restartPolicy"], "Always");
    fill(value, &["spec", "dnsPolicy"], "ClusterFirst");
    fill(value, &["spec", "terminationGracePeriodSeconds"], 30);
    fill(value, &["spec", "securityContext"], json!({}));
    fill(value, &["spec", "enableServiceLinks"], true);
    fill(value, &["spec", "schedulerName"], "default-scheduler");
    fill(value, &["spec", "priority"], 0);
    fill(value, &["spec", "preemptionPolicy"], "PreemptLowerPriority");
    if creating {
        let mut tolerations = array_at(value, "/spec/tolerations").to_vec();
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            if !tolerations.iter().any(|t| str_at(t, "/key") == key) {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
                }));
            }
        }
        set(value, &["spec", "tolerations"], tolerations);
    }
    let host_network = value.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
    for container in items_mut(value, "/spec/containers") {
        fill(container, &["resources"], json!({}));
        fill(container, &["terminationMessagePath"], "/dev/termination-log");
        fill(container, &["terminationMessagePolicy"], "File");
        let image = str_at(container, "/image");
        let latest =
            image.ends_with(":latest") || !image.rsplit('/').next().unwrap_or(image).contains(':');
        fill(container, &["imagePullPolicy"], if latest { "Always" } else { "IfNotPresent" });
        for port in items_mut(container, "/ports") {
            fill(port, &["protocol"], "TCP");
            if host_network && let Some(number) = port.get("containerPort").cloned() {
                fill(port, &["hostPort"], number);
            }
        }
    }
    fill(value, &["status", "phase"], "Pending");
    fill(value, &["status", "qosClass"], "BestEffort");
    condition_times(value, &["lastProbeTime", "lastTransitionTime"]);
}

fn namespace(value: &mut Value, creating: bool) {
    let name = str_at(value, "/metadata/name").to_owned();
    set(value, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
    map_mut(value, &["spec"]);
    if creating {
        set(value, &["spec", "finalizers"], json!(["kubernetes"]));
    }
    fill(value, &["status", "phase"], "Active");
}

fn network_policy(value: &mut Value) {
    map_mut(value, &["spec", "podSelector"]);
    if array_at(value, "/spec/policyTypes").is_empty() {
        let egress = !array_at(value, "/spec/egress").is_empty();
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        set(value, &["spec", "policyTypes"], types);
    }
    for direction in ["/spec/ingress", "/spec/egress"] {
        for rule in items_mut(value, direction) {
            for port in items_mut(rule, "/ports") {
                fill(port, &["protocol"], "TCP");
            }
        }
    }
}

fn event(value: &mut Value) {
    map_mut(value, &["involvedObject"]);
    map_mut(value, &["source"]);
    for key in ["eventTime", "firstTimestamp", "lastTimestamp"] {
        fill(value, &[key], Value::Null);
    }
    fill(value, &["reportingComponent"], "");
    fill(value, &["reportingInstance"], "");
}

/// Status at creation: what the writer sent is dropped where the real server drops it.
pub(crate) fn reset_status(resource: &Resource, value: &mut Value) {
    match resource.plural {
        // A Node keeps it.
        "nodes" => {}
        _ if resource.status => {
            remove(value, &["status"]);
        }
        _ => {}
    }
}

/// The object of a BOOKMARK: a version and the type's zero values (K4, K22).
pub(crate) fn bookmark(resource: &Resource, rv: u64, initial_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": rv.to_string()});
    if initial_end {
        set(&mut metadata, &["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    }
    let mut value = match resource.plural {
        "services" => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        "endpointslices" => json!({"addressType": "", "endpoints": null, "ports": null}),
        "pods" => json!({"spec": {"containers": null}, "status": {}}),
        "nodes" => {
            let mut node = json!({"spec": {}});
            node_zero(&mut node);
            node
        }
        "namespaces" => json!({"spec": {}, "status": {}}),
        "networkpolicies" => json!({"spec": {"podSelector": {}}}),
        "servicecidrs" => json!({"spec": {}, "status": {}}),
        "leases" => json!({"spec": {}}),
        "events" => json!({
            "involvedObject": {}, "source": {}, "eventTime": null, "firstTimestamp": null, "lastTimestamp": null,
            "reportingComponent": "", "reportingInstance": "",
        }),
        _ => json!({}),
    };
    set(&mut value, &["metadata"], metadata);
    value
}

fn node_zero(node: &mut Value) {
    let mut filled = json!({});
    self::node(&mut filled, false);
    if let Some(status) = remove(&mut filled, &["status"]) {
        set(node, &["status"], status);
    }
}

/// Metadata every new object gets.
pub(crate) fn stamp(resource: &Resource, value: &mut Value) {
    set(value, &["metadata", "uid"], new_uid());
    set(value, &["metadata", "creationTimestamp"], time::now_s());
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        remove(value, &["metadata", key]);
    }
    if resource.has_generation() {
        set(value, &["metadata", "generation"], 1);
    } else {
        remove(value, &["metadata", "generation"]);
    }
}

/// A random UUID, version 4.
pub(crate) fn new_uid() -> String {
    let random: u128 = rand::random();
    let id = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{id:032x}");
    let mut out = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(digit);
    }
    out
}

/// The five characters that follow a `generateName`, from the letters Kubernetes uses.
pub(crate) fn name_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .filter_map(|_| LETTERS.get(rand::random_range(0..LETTERS.len())))
        .map(|b| char::from(*b))
        .collect()
}
