//! The EndpointSlice controller's decision, as a pure function: from a Service, the pods it selects
//! and the slices it has, which slices to write and which to delete.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::json::{array_at, remove, set, str_at};

/// Who writes the slices, as their label says.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// --max-endpoints-per-slice of kube-controller-manager.
const MOST_ENDPOINTS: usize = 100;

/// What the decision is made from.
pub(crate) struct Input<'a> {
    pub(crate) service: &'a Value,
    /// The pods the selector selects.
    pub(crate) pods: &'a [Arc<Value>],
    /// Every node, with its zone ("" for none).
    pub(crate) nodes: &'a HashMap<String, String>,
    /// The slices this controller wrote for the Service.
    pub(crate) slices: &'a [Arc<Value>],
    /// When a pod became ready or the Service came to be, if that is why.
    pub(crate) trigger: Option<&'a str>,
}

/// What to do. A slice without a name is new.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) write: Vec<Value>,
    pub(crate) delete: Vec<String>,
}

/// Family and resolved ports: each pair has slices of its own.
type Group = (String, String);

/// Whether the controller looks after the Service's slices at all.
pub(crate) fn manages(service: &Value) -> bool {
    service.pointer("/spec/selector").is_some() && str_at(service, "/spec/type") != "ExternalName"
}

/// Whether this controller wrote the slice.
pub(crate) fn is_ours(slice: &Value) -> bool {
    let labels = slice.pointer("/metadata/labels");
    labels.and_then(|l| l.get(MANAGED_BY_LABEL)).and_then(Value::as_str) == Some(MANAGED_BY)
}

/// The Service a slice belongs to.
pub(crate) fn service_of(slice: &Value) -> &str {
    let labels = slice.pointer("/metadata/labels");
    labels.and_then(|l| l.get(SERVICE_LABEL)).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a pod is Ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = array_at(pod, "/status/conditions");
    conditions.iter().any(|c| str_at(c, "/type") == "Ready" && str_at(c, "/status") == "True")
}

fn pod_address(pod: &Value, family: &str) -> Option<String> {
    let mut all: Vec<&str> =
        array_at(pod, "/status/podIPs").iter().map(|p| str_at(p, "/ip")).collect();
    if all.is_empty() {
        all.push(str_at(pod, "/status/podIP"));
    }
    let fits = |ip: &&&str| {
        ip.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_ipv4() == (family == "IPv4"))
    };
    all.iter().find(fits).map(|ip| (*ip).to_owned())
}

/// The Service's ports as this pod has them; a name the pod does not know drops out.
fn resolved_ports(service: &Value, pod: &Value) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in array_at(service, "/spec/ports") {
        let protocol = str_at(port, "/protocol");
        let number = match port.get("targetPort") {
            Some(Value::String(name)) => array_at(pod, "/spec/containers")
                .iter()
                .flat_map(|c| array_at(c, "/ports"))
                .find(|p| str_at(p, "/name") == name && str_at(p, "/protocol") == protocol)
                .and_then(|p| p.get("containerPort").cloned()),
            Some(number) => Some(number.clone()),
            None => port.get("port").cloned(),
        };
        let Some(number) = number else { continue };
        let mut resolved =
            json!({"name": str_at(port, "/name"), "port": number, "protocol": protocol});
        if let Some(app) = port.get("appProtocol") {
            set(&mut resolved, &["appProtocol"], app.clone());
        }
        ports.push(resolved);
    }
    ports
}

fn endpoint(input: &Input<'_>, pod: &Value, address: String) -> Value {
    let published =
        input.service.pointer("/spec/publishNotReadyAddresses").and_then(Value::as_bool)
            == Some(true);
    let serving = is_ready(pod);
    let terminating = !str_at(pod, "/metadata/deletionTimestamp").is_empty();
    let ready = published || serving && !terminating;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": str_at(pod, "/metadata/namespace"),
            "name": str_at(pod, "/metadata/name"), "uid": str_at(pod, "/metadata/uid"),
        },
    });
    let node = str_at(pod, "/spec/nodeName");
    let zone = input.nodes.get(node).map_or("", String::as_str);
    if !node.is_empty() {
        set(&mut endpoint, &["nodeName"], node);
    }
    if !zone.is_empty() {
        set(&mut endpoint, &["zone"], zone);
    }
    let hostname = str_at(pod, "/spec/hostname");
    if !hostname.is_empty()
        && str_at(pod, "/spec/subdomain") == str_at(input.service, "/metadata/name")
    {
        set(&mut endpoint, &["hostname"], hostname);
    }
    if ready {
        let distribution = str_at(input.service, "/spec/trafficDistribution");
        let mut hints = json!({});
        if !distribution.is_empty() && !zone.is_empty() {
            set(&mut hints, &["forZones"], json!([{"name": zone}]));
        }
        if distribution == "PreferSameNode" && !node.is_empty() {
            set(&mut hints, &["forNodes"], json!([{"name": node}]));
        }
        if hints.as_object().is_some_and(|h| !h.is_empty()) {
            set(&mut endpoint, &["hints"], hints);
        }
    }
    endpoint
}

/// The endpoints there should be, by group and pod.
fn desired(input: &Input<'_>) -> BTreeMap<Group, BTreeMap<String, Value>> {
    let published =
        input.service.pointer("/spec/publishNotReadyAddresses").and_then(Value::as_bool)
            == Some(true);
    let mut groups: BTreeMap<Group, BTreeMap<String, Value>> = BTreeMap::new();
    for family in array_at(input.service, "/spec/ipFamilies").iter().filter_map(Value::as_str) {
        for pod in input.pods {
            let ended = matches!(str_at(pod, "/status/phase"), "Succeeded" | "Failed");
            let placed = input.nodes.contains_key(str_at(pod, "/spec/nodeName"));
            let Some(address) = pod_address(pod, family) else { continue };
            if ended || !(placed || published) {
                continue;
            }
            let ports = Value::Array(resolved_ports(input.service, pod)).to_string();
            let uid = str_at(pod, "/metadata/uid").to_owned();
            let group = groups.entry((family.to_owned(), ports)).or_default();
            group.insert(uid, endpoint(input, pod, address));
        }
    }
    groups
}

fn ports_text(slice: &Value) -> String {
    match slice.get("ports") {
        Some(Value::Array(ports)) => Value::Array(ports.clone()).to_string(),
        _ => "[]".to_owned(),
    }
}

/// Decides what to write and delete so that the slices show the pods.
pub(crate) fn plan(input: &Input<'_>) -> Plan {
    let mut desired = desired(input);
    let families = array_at(input.service, "/spec/ipFamilies");
    let mut plan = Plan::default();
    // The slices of each group that stay, with their endpoints brought up to date; the rest is spare.
    let mut kept: BTreeMap<Group, Vec<(Value, Vec<Value>)>> = BTreeMap::new();
    let mut spare: Vec<Value> = Vec::new();
    for slice in input.slices {
        let group = (str_at(slice, "/addressType").to_owned(), ports_text(slice));
        let Some(wanted) = desired.get_mut(&group) else {
            spare.push((**slice).clone());
            continue;
        };
        let mut endpoints = Vec::new();
        for old in array_at(slice, "/endpoints") {
            if let Some(current) = wanted.remove(str_at(old, "/targetRef/uid")) {
                endpoints.push(current);
            }
        }
        kept.entry(group).or_default().push(((**slice).clone(), endpoints));
    }
    for (group, missing) in desired {
        let slices = kept.entry(group.clone()).or_default();
        for endpoint in missing.into_values() {
            // Into the fullest with room.
            let place = slices
                .iter_mut()
                .filter(|(_, endpoints)| endpoints.len() < MOST_ENDPOINTS)
                .max_by_key(|(_, endpoints)| endpoints.len());
            match place {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => {
                    let at = spare.iter().position(|s| str_at(s, "/addressType") == group.0);
                    let slice =
                        at.map_or_else(|| json!({"addressType": group.0}), |at| spare.remove(at));
                    slices.push((slice, vec![endpoint]));
                }
            }
        }
    }
    // One empty slice stands for a family without endpoints, and only then.
    let mut final_slices: Vec<(Value, String, Vec<Value>)> = Vec::new();
    for family in families.iter().filter_map(Value::as_str) {
        let mut of_family: Vec<(Value, String, Vec<Value>)> = Vec::new();
        let mut empty: Vec<Value> = Vec::new();
        for ((_, ports), slices) in kept.iter_mut().filter(|((f, _), _)| f == family) {
            for (slice, endpoints) in slices.drain(..) {
                if endpoints.is_empty() {
                    empty.push(slice);
                } else {
                    of_family.push((slice, ports.clone(), endpoints));
                }
            }
        }
        if of_family.is_empty() {
            let at = spare.iter().position(|s| str_at(s, "/addressType") == family);
            let slice = empty.pop().or_else(|| at.map(|at| spare.remove(at)));
            of_family.push((
                slice.unwrap_or_else(|| json!({"addressType": family})),
                "[]".to_owned(),
                Vec::new(),
            ));
        }
        spare.extend(empty);
        final_slices.extend(of_family);
    }
    plan.delete = spare.iter().map(|s| str_at(s, "/metadata/name").to_owned()).collect();
    for (slice, ports, endpoints) in final_slices {
        let old = (!str_at(&slice, "/metadata/name").is_empty()).then(|| slice.clone());
        let new = written(input, slice, &ports, endpoints);
        if old.is_none_or(|old| differs(&old, &new)) {
            plan.write.push(stamped(new, input.trigger));
        }
    }
    plan
}

/// The slice as it should be.
fn written(input: &Input<'_>, mut slice: Value, ports: &str, endpoints: Vec<Value>) -> Value {
    let service = input.service;
    let name = str_at(service, "/metadata/name");
    let mut labels =
        service.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), name.into());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.into());
    labels.remove(HEADLESS_LABEL);
    if super::service::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), "".into());
    }
    set(&mut slice, &["kind"], "EndpointSlice");
    set(&mut slice, &["apiVersion"], "discovery.k8s.io/v1");
    set(&mut slice, &["metadata", "namespace"], str_at(service, "/metadata/namespace"));
    set(&mut slice, &["metadata", "labels"], labels);
    set(
        &mut slice,
        &["metadata", "ownerReferences"],
        json!([{
            "apiVersion": "v1", "kind": "Service", "name": name, "uid": str_at(service, "/metadata/uid"),
            "controller": true, "blockOwnerDeletion": true,
        }]),
    );
    if str_at(&slice, "/metadata/name").is_empty() {
        set(&mut slice, &["metadata", "generateName"], format!("{name}-"));
    }
    // An empty slice has no ports either.
    let ports: Value = serde_json::from_str(ports).unwrap_or_default();
    let none = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
    set(&mut slice, &["ports"], if none(&ports) { Value::Null } else { ports });
    set(
        &mut slice,
        &["endpoints"],
        if endpoints.is_empty() { Value::Null } else { Value::Array(endpoints) },
    );
    slice
}

fn differs(old: &Value, new: &Value) -> bool {
    ["/endpoints", "/ports", "/metadata/labels", "/metadata/ownerReferences"]
        .iter()
        .any(|pointer| old.pointer(pointer) != new.pointer(pointer))
}

/// With the annotation of what triggered the write, without it when nothing of that kind did.
fn stamped(mut slice: Value, trigger: Option<&str>) -> Value {
    match trigger {
        Some(time) => set(&mut slice, &["metadata", "annotations", TRIGGER], time),
        None => {
            remove(&mut slice, &["metadata", "annotations", TRIGGER]);
        }
    }
    slice
}
