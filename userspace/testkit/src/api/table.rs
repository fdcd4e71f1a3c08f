//! The columns `kubectl get` shows, made by the server (`as=Table`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::convert;
use super::json::{array_at, map_at, str_at, strings};
use super::resource::Resource;
use super::time;

/// Column names; those after `|` are shown with `-o wide`.
fn columns(resource: &Resource) -> (&'static [&'static str], usize) {
    match resource.plural {
        "services" => {
            (&["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"], 6)
        }
        "endpointslices" => (&["Name", "AddressType", "Ports", "Endpoints", "Age"], 5),
        "nodes" => {
            (&["Name", "Status", "Roles", "Age", "Version", "Internal-IP", "External-IP"], 5)
        }
        "pods" => (&["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node"], 5),
        "namespaces" => (&["Name", "Status", "Age"], 3),
        "servicecidrs" => (&["Name", "CIDRs", "Age"], 3),
        "events" => (&["Last Seen", "Type", "Reason", "Object", "Message"], 5),
        "leases" => (&["Name", "Holder", "Age"], 3),
        "endpoints" => (&["Name", "Endpoints", "Age"], 3),
        "networkpolicies" => (&["Name", "Pod-Selector", "Age"], 3),
        _ => (&["Name", "Age"], 2),
    }
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn selector(value: &Value, pointer: &str) -> String {
    let pairs = map_at(value, pointer).into_iter().flatten();
    or_none(
        pairs
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
    )
}

/// A few of a list, and how many more.
fn some(items: &[String], most: usize) -> String {
    let shown = items.iter().take(most).cloned().collect::<Vec<_>>().join(",");
    if items.len() > most { format!("{shown} + {} more...", items.len() - most) } else { shown }
}

fn ready(value: &Value) -> bool {
    let conditions = array_at(value, "/status/conditions");
    conditions.iter().any(|c| str_at(c, "/type") == "Ready" && str_at(c, "/status") == "True")
}

fn service(value: &Value) -> Vec<String> {
    let ports: Vec<String> = array_at(value, "/spec/ports")
        .iter()
        .map(|p| {
            let (port, protocol) =
                (p.get("port").cloned().unwrap_or_default(), str_at(p, "/protocol"));
            match p.get("nodePort").and_then(Value::as_u64).filter(|n| *n != 0) {
                Some(node) => format!("{port}:{node}/{protocol}"),
                None => format!("{port}/{protocol}"),
            }
        })
        .collect();
    let mut external = strings(value, "/spec/externalIPs");
    for ingress in array_at(value, "/status/loadBalancer/ingress") {
        external.extend([str_at(ingress, "/ip"), str_at(ingress, "/hostname")].map(str::to_owned));
    }
    external.retain(|e| !e.is_empty());
    let kind = str_at(value, "/spec/type");
    let external = match (external.is_empty(), kind) {
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, "ExternalName") => str_at(value, "/spec/externalName").to_owned(),
        _ => or_none(external.join(",")),
    };
    vec![
        kind.to_owned(),
        or_none(str_at(value, "/spec/clusterIP").to_owned()),
        external,
        or_none(ports.join(",")),
    ]
}

fn slice(value: &Value) -> Vec<String> {
    let port = |p: &Value| p.get("port").map_or("*".to_owned(), Value::to_string);
    let ports: Vec<String> = array_at(value, "/ports").iter().map(port).collect();
    let endpoints: Vec<String> =
        array_at(value, "/endpoints").iter().flat_map(|e| strings(e, "/addresses")).collect();
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    vec![
        str_at(value, "/addressType").to_owned(),
        unset(some(&ports, 3)),
        unset(some(&endpoints, 3)),
    ]
}

fn node_addresses(value: &Value, kind: &str) -> String {
    let of_kind = |a: &&Value| str_at(a, "/type") == kind;
    let addresses = array_at(value, "/status/addresses");
    or_none(
        addresses
            .iter()
            .find(of_kind)
            .map(|a| str_at(a, "/address").to_owned())
            .unwrap_or_default(),
    )
}

fn cells(resource: &Resource, value: &Value) -> Vec<String> {
    let name = str_at(value, "/metadata/name").to_owned();
    let age = duration(time::age_s(str_at(value, "/metadata/creationTimestamp")));
    let mut cells = vec![name];
    match resource.plural {
        "services" => {
            cells.extend(service(value));
            cells.extend([age, selector(value, "/spec/selector")]);
        }
        "endpointslices" => {
            cells.extend(slice(value));
            cells.push(age);
        }
        "nodes" => {
            let roles: Vec<String> = map_at(value, "/metadata/labels")
                .into_iter()
                .flatten()
                .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/").map(str::to_owned))
                .collect();
            cells.push(if ready(value) { "Ready" } else { "NotReady" }.to_owned());
            cells.extend([or_none(roles.join(",")), age]);
            cells.push(str_at(value, "/status/nodeInfo/kubeletVersion").to_owned());
            cells
                .extend([node_addresses(value, "InternalIP"), node_addresses(value, "ExternalIP")]);
        }
        "pods" => {
            let all = array_at(value, "/spec/containers").len();
            let statuses = array_at(value, "/status/containerStatuses");
            let up = statuses
                .iter()
                .filter(|s| s.get("ready").and_then(Value::as_bool) == Some(true))
                .count();
            // Without container statuses the pod's own condition speaks.
            let up = if statuses.is_empty() && ready(value) { all } else { up };
            let restarts: u64 =
                statuses.iter().filter_map(|s| s.get("restartCount")?.as_u64()).sum();
            let going = !str_at(value, "/metadata/deletionTimestamp").is_empty();
            let phase = if going { "Terminating" } else { str_at(value, "/status/phase") };
            cells.extend([format!("{up}/{all}"), phase.to_owned(), restarts.to_string(), age]);
            cells.push(or_none(str_at(value, "/status/podIP").to_owned()));
            cells.push(or_none(str_at(value, "/spec/nodeName").to_owned()));
        }
        "namespaces" => cells.extend([str_at(value, "/status/phase").to_owned(), age]),
        "servicecidrs" => cells.extend([strings(value, "/spec/cidrs").join(","), age]),
        "leases" => cells.extend([str_at(value, "/spec/holderIdentity").to_owned(), age]),
        "networkpolicies" => cells.extend([selector(value, "/spec/podSelector/matchLabels"), age]),
        "endpoints" => {
            let mut addresses = Vec::new();
            for subset in array_at(value, "/subsets") {
                addresses.extend(
                    array_at(subset, "/addresses").iter().map(|a| str_at(a, "/ip").to_owned()),
                );
            }
            cells.extend([or_none(some(&addresses, 3)), age]);
        }
        "events" => {
            let seen = [str_at(value, "/lastTimestamp"), str_at(value, "/eventTime")];
            let seen = seen
                .into_iter()
                .find(|s| !s.is_empty())
                .unwrap_or(str_at(value, "/metadata/creationTimestamp"));
            let about = format!(
                "{}/{}",
                str_at(value, "/involvedObject/kind").to_lowercase(),
                str_at(value, "/involvedObject/name")
            );
            cells = vec![duration(time::age_s(seen)), str_at(value, "/type").to_owned()];
            cells.extend([
                str_at(value, "/reason").to_owned(),
                about,
                str_at(value, "/message").to_owned(),
            ]);
        }
        _ => cells.push(age),
    }
    cells
}

/// A table of objects.
pub(crate) fn of(resource: &Resource, objects: &[Arc<Value>], metadata: &Value) -> Value {
    let (names, narrow) = columns(resource);
    let definitions: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({
                "name": name, "type": "string", "format": if at == 0 { "name" } else { "" },
                "description": "", "priority": i32::from(at >= narrow),
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": cells(resource, object), "object": convert::partial(object)}))
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}
