//! What the server refuses of Events (K29), in the form that is stored, which is the core group's.
//! After `ValidateEventCreate` and `ValidateEventUpdate` of pkg/apis/core/validation/events.go.

use serde_json::{Value, json};

use super::super::error::FieldError;
use super::super::json::str_at;
use super::super::resource::Resource;
use super::Problems;
use super::names::is_qualified;

/// The most bytes of a reason, an action and a reporting instance.
const WORDS: usize = 128;
/// The most bytes of a note.
const NOTE: usize = 1024;
/// Where Events about objects without a namespace go.
const OF_THE_CLUSTER: [&str; 2] = ["default", "kube-system"];
/// What must not change after creation, by its core name.
const FIXED: [&str; 11] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "action",
    "related",
    "reportingInstance",
];

/// Both groups' rules. Those of events.k8s.io are stricter.
pub(super) fn event(
    resource: &Resource,
    value: &Value,
    old: Option<&Value>,
    problems: &mut Problems,
) {
    let strict = resource.group == "events.k8s.io";
    let controller = if strict { "reportingController" } else { "reportingComponent" };
    place(value, problems);
    if !str_at(value, "/eventTime").is_empty() {
        words(value, controller, problems);
    }
    if !strict {
        return;
    }
    if old.is_none_or(|old| old.get("series") != value.get("series")) {
        series(value, problems);
    }
    match old {
        None => created(value, problems),
        Some(old) => changed(value, old, controller, problems),
    }
}

fn invalid(field: &str, message: &str) -> FieldError {
    FieldError::invalid(field, &json!(""), message)
}

/// An Event lies where its object lies.
fn place(value: &Value, problems: &mut Problems) {
    let own = str_at(value, "/metadata/namespace");
    let object = str_at(value, "/involvedObject/namespace");
    // One without an eventTime is of the old kind.
    let good = match (str_at(value, "/eventTime").is_empty(), object.is_empty()) {
        (true, true) => own == "default",
        (true, false) => own == object,
        (false, true) => OF_THE_CLUSTER.contains(&own),
        (false, false) => true,
    };
    if !good {
        let message = "does not match event.namespace";
        problems.push(FieldError::invalid("involvedObject.namespace", &json!(object), message));
    }
}

fn words(value: &Value, controller: &str, problems: &mut Problems) {
    let reporter = str_at(value, "/reportingComponent");
    if reporter.is_empty() {
        problems.push(FieldError::required(controller, ""));
    }
    if !is_qualified(reporter) {
        let message = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        problems.push(FieldError::invalid(controller, &json!(reporter), message));
    }
    for field in ["reportingInstance", "action", "reason"] {
        let text = str_at(value, &format!("/{field}"));
        if text.is_empty() {
            problems.push(FieldError::required(field, ""));
        }
        if text.len() > WORDS {
            problems.push(invalid(field, &format!("can have at most {WORDS} characters")));
        }
    }
    if str_at(value, "/message").len() > NOTE {
        problems.push(invalid("message", &format!("can have at most {NOTE} characters")));
    }
}

fn series(value: &Value, problems: &mut Problems) {
    let Some(series) = value.get("series") else { return };
    if series.get("count").and_then(Value::as_i64).unwrap_or(0) < 2 {
        problems.push(invalid("series.count", "should be at least 2"));
    }
    if str_at(series, "/lastObservedTime").is_empty() {
        problems.push(FieldError::required("series.lastObservedTime", ""));
    }
}

fn created(value: &Value, problems: &mut Problems) {
    if str_at(value, "/eventTime").is_empty() {
        problems.push(FieldError::required("eventTime", ""));
    }
    let kind = str_at(value, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        problems.push(invalid("type", &format!("has invalid value: {kind}")));
    }
    // What only the old kind has.
    let unset = |field: &str| match value.get(field) {
        Some(Value::Object(source)) => source.is_empty(),
        Some(Value::Number(count)) => count.as_i64() == Some(0),
        other => other.is_none_or(Value::is_null),
    };
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !unset(field) {
            problems.push(invalid(field, "needs to be unset"));
        }
    }
}

/// Only the series of an Event may change.
fn changed(value: &Value, old: &Value, controller: &str, problems: &mut Problems) {
    let fixed = FIXED.map(|field| (field, field));
    for (field, stored) in
        fixed.into_iter().chain([("eventTime", "eventTime"), (controller, "reportingComponent")])
    {
        if old.get(stored) != value.get(stored) {
            let now = value.get(stored).cloned().unwrap_or_default();
            problems.push(FieldError::invalid(field, &now, "field is immutable"));
        }
    }
}
