//! From what a client sent to what can be stored: type check against the published schema, unknown
//! fields dropped (K36), nulls dropped, times in the one form the API answers with (K24).

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Endpoints, Event as CoreEvent, Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    events::v1::Event,
    networking::v1::{NetworkPolicy, ServiceCIDR},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::error::ApiError;
use super::json::{drop_nulls, object};
use super::resource::Resource;
use super::time;

/// Checks the object's types and drops what the schema does not know; gives the dropped paths.
///
/// # Errors
/// 400 when a field has the wrong type or a time cannot be read.
pub(crate) fn decode(resource: &Resource, value: &mut Value) -> Result<Vec<String>, ApiError> {
    if !value.is_object() {
        return Err(ApiError::bad_request(
            "the object provided is unrecognized: not a JSON object",
        ));
    }
    drop_nulls(value);
    quantities(value);
    let known = match (resource.group, resource.plural) {
        ("events.k8s.io", _) => round_trip::<Event>(value),
        (_, "endpoints") => round_trip::<Endpoints>(value),
        (_, "events") => round_trip::<CoreEvent>(value),
        (_, "namespaces") => round_trip::<Namespace>(value),
        (_, "nodes") => round_trip::<Node>(value),
        (_, "pods") => round_trip::<Pod>(value),
        (_, "leases") => round_trip::<Lease>(value),
        (_, "endpointslices") => round_trip::<EndpointSlice>(value),
        (_, "networkpolicies") => round_trip::<NetworkPolicy>(value),
        (_, "servicecidrs") => round_trip::<ServiceCIDR>(value),
        _ => round_trip::<Service>(value),
    };
    let known = known.map_err(|error| {
        let (kind, version) = (resource.kind, resource.version);
        ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"
        ))
    })?;
    let mut unknown = Vec::new();
    prune(value, &known, "", &mut unknown);
    times(value)?;
    Ok(unknown)
}

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, serde_json::Error> {
    let typed: T = T::deserialize(value)?;
    serde_json::to_value(typed)
}

fn prune(value: &mut Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(map), Value::Object(known)) => map.retain(|key, inner| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(known) => {
                    prune(inner, known, &path, unknown);
                    true
                }
                None => {
                    unknown.push(path);
                    false
                }
            }
        }),
        (Value::Array(items), Value::Array(known)) => {
            for (at, (item, known)) in items.iter_mut().zip(known).enumerate() {
                prune(item, known, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Quantities may be sent as numbers (`cpu: 1`); they are stored as text.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if matches!(key.as_str(), "limits" | "requests" | "capacity" | "allocatable") {
                    for quantity in object(inner).values_mut().filter(|q| q.is_number()) {
                        *quantity = quantity.to_string().into();
                    }
                } else {
                    quantities(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}

fn times(value: &mut Value) -> Result<(), ApiError> {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let form: fn(&str) -> Option<String> = match key.as_str() {
                    "creationTimestamp"
                    | "deletionTimestamp"
                    | "lastTransitionTime"
                    | "lastHeartbeatTime"
                    | "lastProbeTime"
                    | "lastUpdateTime"
                    | "firstTimestamp"
                    | "lastTimestamp"
                    | "startTime"
                    | "startedAt"
                    | "finishedAt"
                    | "deprecatedFirstTimestamp"
                    | "deprecatedLastTimestamp" => time::canonical,
                    "eventTime" | "renewTime" | "acquireTime" | "lastObservedTime" => {
                        time::canonical_micro
                    }
                    "annotations" | "labels" | "managedFields" => continue,
                    _ => {
                        times(inner)?;
                        continue;
                    }
                };
                if let Some(text) = inner.as_str() {
                    let read = form(text).ok_or_else(|| {
                        ApiError::bad_request(format!(
                            "{key}: parsing time {text:?}: cannot parse as the API's form"
                        ))
                    })?;
                    *inner = read.into();
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(times),
        _ => Ok(()),
    }
}
