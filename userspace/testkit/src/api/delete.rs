//! Deletion: preconditions, finalizers, the grace of pods, and the end of a namespace.

use std::sync::Arc;

use serde_json::Value;

use super::error::ApiError;
use super::json::{array_at, set, str_at};
use super::resource::Resource;
use super::store::{Key, State};
use super::time;

/// What became of the object.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// Gone; its last state.
    Gone(Arc<Value>),
    /// Marked; it goes when its grace or its finalizers end.
    Going(Arc<Value>),
}

/// Deletes an object. `body` are the DeleteOptions, `grace` the query's gracePeriodSeconds.
///
/// # Errors
/// 404; 409 when a precondition does not hold.
pub(crate) fn delete(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    body: &Value,
    grace: Option<u64>,
    dry_run: bool,
) -> Result<Deleted, ApiError> {
    let stored =
        state.get(resource, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
    for (pointer, have) in [
        ("/preconditions/uid", str_at(&stored, "/metadata/uid")),
        ("/preconditions/resourceVersion", str_at(&stored, "/metadata/resourceVersion")),
    ] {
        let wanted = str_at(body, pointer);
        if !wanted.is_empty() && wanted != have {
            let why = format!("Precondition failed: wanted {wanted}, have {have}");
            return Err(ApiError::conflict(resource, &key.name, &why));
        }
    }
    let asked = grace.or_else(|| body.get("gracePeriodSeconds").and_then(Value::as_u64));
    let grace = grace_s(resource, &stored, asked);
    let held = !array_at(&stored, "/metadata/finalizers").is_empty()
        || !array_at(&stored, "/spec/finalizers").is_empty();
    if dry_run {
        return Ok(Deleted::Gone(stored));
    }
    if grace == 0 && !held {
        let last =
            state.remove(resource, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
        return Ok(Deleted::Gone(last));
    }
    let had = stored.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
    if had.is_some_and(|had| grace >= had) {
        return Ok(Deleted::Going(stored));
    }
    let mut value = (*stored).clone();
    set(&mut value, &["metadata", "deletionTimestamp"], time::later_s(grace));
    set(&mut value, &["metadata", "deletionGracePeriodSeconds"], grace);
    if resource.has_generation() {
        let generation =
            value.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0) + 1;
        set(&mut value, &["metadata", "generation"], generation);
    }
    if resource.plural == "namespaces" {
        set(&mut value, &["status", "phase"], "Terminating");
    }
    Ok(Deleted::Going(state.put(resource, key, value)))
}

/// Only a pod that is on a node, and not yet ended, has a grace: its kubelet ends it.
fn grace_s(resource: &Resource, stored: &Value, asked: Option<u64>) -> u64 {
    let ended = matches!(str_at(stored, "/status/phase"), "Succeeded" | "Failed");
    if resource.plural != "pods" || str_at(stored, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    asked
        .or_else(|| stored.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64))
        .unwrap_or(30)
}

/// Empties a namespace that is going away, and removes it once nothing is left in it.
pub(crate) fn finish_namespace(state: &mut State, name: &str) {
    let Some(namespaces) = Resource::by_plural("namespaces") else { return };
    let key = Key::new("", name);
    let going = state
        .get(namespaces, &key)
        .is_some_and(|n| !str_at(&n, "/metadata/deletionTimestamp").is_empty());
    if !going {
        return;
    }
    let mut left = 0;
    for resource in super::resource::RESOURCES.iter().filter(|r| r.namespaced) {
        let keys: Vec<Key> = state
            .all(resource)
            .filter(|(k, _)| k.namespace == name)
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            if !matches!(
                delete(state, resource, &key, &Value::Null, None, false),
                Ok(Deleted::Gone(_))
            ) {
                left += 1;
            }
        }
    }
    if left == 0 {
        state.remove(namespaces, &key);
    }
}
