//! The two Event APIs share one store: objects are kept in the core form, without kind and
//! apiVersion, and turned into what was asked for on the way out.

use serde_json::{Value, json};

use super::json::{object, remove, set};
use super::resource::Resource;

/// Core name and events.k8s.io name of each field that differs.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: &mut Value, from: &str, to: &str) {
    if let Some(moved) = remove(value, &[from]) {
        set(value, &[to], moved);
    }
}

/// Into the form that is stored.
pub(crate) fn to_stored(resource: &Resource, value: &mut Value) {
    if resource.group == "events.k8s.io" {
        for (core, new) in RENAMED {
            rename(value, new, core);
        }
    }
}

/// Into the form of the group that was asked.
pub(crate) fn to_client(resource: &Resource, value: &mut Value) {
    if resource.group == "events.k8s.io" {
        for (core, new) in RENAMED {
            rename(value, core, new);
        }
    }
}

/// A whole object as a client gets it, with kind and apiVersion.
pub(crate) fn whole(resource: &Resource, stored: &Value) -> Value {
    let mut value = stored.clone();
    to_client(resource, &mut value);
    object(&mut value).insert("kind".to_owned(), resource.kind.into());
    object(&mut value).insert("apiVersion".to_owned(), resource.api_version().into());
    value
}

/// An object within a typed list: it has neither kind nor apiVersion.
pub(crate) fn item(resource: &Resource, stored: &Value) -> Value {
    let mut value = stored.clone();
    to_client(resource, &mut value);
    value
}

/// Metadata only, as `as=PartialObjectMetadata` asks for; list items do carry kind (K18).
pub(crate) fn partial(stored: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": stored.get("metadata").cloned().unwrap_or_default(),
    })
}
