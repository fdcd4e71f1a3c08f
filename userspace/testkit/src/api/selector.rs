//! Label and field selectors: parsing what the query holds, matching objects.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::json::str_at;
use super::resource::Resource;
use super::validate::names::{is_label_value, is_qualified};

#[derive(Clone, Debug, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    /// A whole number, and whether the label's is to be above it, or below.
    Beside(String, i64, bool),
}

/// What a LIST or WATCH asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(&'static str, String, bool)>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for what cannot be parsed and for fields the type does not offer (K34).
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|v| values.iter().any(|w| w == v))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|v| values.iter().all(|w| w != v))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
            Requirement::Beside(key, bound, above) => {
                let number: Option<i64> = label(key).and_then(|v| v.parse().ok());
                number.is_some_and(|n| if *above { n > *bound } else { n < *bound })
            }
        }) && self
            .fields
            .iter()
            .all(|(pointer, wanted, equal)| (field_text(object, pointer) == *wanted) == *equal)
    }
}

fn field_text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::String(s)) => s.clone(),
        // Absent booleans read as false.
        _ if pointer.ends_with("hostNetwork") || pointer.ends_with("unschedulable") => {
            "false".to_owned()
        }
        _ => str_at(object, pointer).to_owned(),
    }
}

/// Whether all of a `spec.selector`'s labels are on the object.
pub(crate) fn selects(selector: &Map<String, Value>, object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let mut requirements = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // A comma inside parentheses belongs to the set.
        let mut depth = 0;
        let end = rest
            .char_indices()
            .find(|(_, c)| {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                *c == ',' && depth == 0
            })
            .map_or(rest.len(), |(at, _)| at);
        let (one, tail) = rest.split_at(end);
        requirements.push(parse_label(one.trim())?);
        rest = match tail.strip_prefix(',').map(str::trim) {
            Some("") => {
                let message = "found '', expected: identifier after ','";
                return Err(ApiError::bad_request(message));
            }
            Some(rest) => rest,
            None => tail.trim(),
        };
    }
    Ok(requirements)
}

fn parse_label(text: &str) -> Result<Requirement, ApiError> {
    let bad = || ApiError::bad_request(format!("unable to parse requirement: {text:?}"));
    let key = |k: &str| {
        let k = k.trim();
        if is_qualified(k) { Ok(k.to_owned()) } else { Err(bad()) }
    };
    let value = |v: &str| {
        let v = v.trim();
        if is_label_value(v) { Ok(v.to_owned()) } else { Err(bad()) }
    };
    if let Some((k, v)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = text.split_once(['<', '>']) {
        let bound = v.trim().parse().map_err(|_| bad())?;
        return Ok(Requirement::Beside(key(k)?, bound, text.contains('>')));
    }
    if let Some(set) = text.strip_suffix(')') {
        let (head, values) = set.split_once('(').ok_or_else(bad)?;
        let values = values.split(',').map(value).collect::<Result<_, _>>()?;
        let mut words = head.split_whitespace();
        let (k, op) = (words.next().ok_or_else(bad)?, words.next().ok_or_else(bad)?);
        return match op {
            "in" => Ok(Requirement::In(key(k)?, values)),
            "notin" => Ok(Requirement::NotIn(key(k)?, values)),
            _ => Err(bad()),
        };
    }
    match text.strip_prefix('!') {
        Some(k) => Ok(Requirement::Missing(key(k)?)),
        None => Ok(Requirement::Exists(key(text)?)),
    }
}

/// The fields each type can be selected by (K34) and where they lie.
fn pointer_of(resource: &Resource, field: &str) -> Option<&'static str> {
    const NAME: &str = "/metadata/name";
    match (resource.plural, field) {
        (_, "metadata.name") => Some(NAME),
        (_, "metadata.namespace") if resource.namespaced => Some("/metadata/namespace"),
        ("services", "spec.clusterIP") => Some("/spec/clusterIP"),
        ("services", "spec.type") => Some("/spec/type"),
        ("pods", "spec.nodeName") => Some("/spec/nodeName"),
        ("pods", "spec.restartPolicy") => Some("/spec/restartPolicy"),
        ("pods", "spec.schedulerName") => Some("/spec/schedulerName"),
        ("pods", "spec.serviceAccountName") => Some("/spec/serviceAccountName"),
        ("pods", "spec.hostNetwork") => Some("/spec/hostNetwork"),
        ("pods", "status.phase") => Some("/status/phase"),
        ("pods", "status.podIP") => Some("/status/podIP"),
        ("pods", "status.nominatedNodeName") => Some("/status/nominatedNodeName"),
        ("nodes", "spec.unschedulable") => Some("/spec/unschedulable"),
        ("namespaces", "status.phase") => Some("/status/phase"),
        // Events are kept in the core form, whichever group asks.
        ("events", field) => {
            let (head, tail) = field.split_once('.').unwrap_or((field, ""));
            match (head, tail) {
                ("reason", "") => Some("/reason"),
                ("type", "") => Some("/type"),
                ("reportingComponent" | "reportingController", "") => Some("/reportingComponent"),
                ("source", "") => Some("/source/component"),
                ("involvedObject" | "regarding", "kind") => Some("/involvedObject/kind"),
                ("involvedObject" | "regarding", "name") => Some("/involvedObject/name"),
                ("involvedObject" | "regarding", "namespace") => Some("/involvedObject/namespace"),
                ("involvedObject" | "regarding", "uid") => Some("/involvedObject/uid"),
                ("involvedObject" | "regarding", "apiVersion") => {
                    Some("/involvedObject/apiVersion")
                }
                ("involvedObject" | "regarding", "resourceVersion") => {
                    Some("/involvedObject/resourceVersion")
                }
                ("involvedObject" | "regarding", "fieldPath") => Some("/involvedObject/fieldPath"),
                _ => None,
            }
        }
        _ => None,
    }
}

fn parse_fields(
    resource: &Resource,
    text: &str,
) -> Result<Vec<(&'static str, String, bool)>, ApiError> {
    let mut fields = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (field, value, equal) = if let Some((f, v)) = part.split_once("!=") {
            (f, v, false)
        } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (f, v, true)
        } else {
            return Err(ApiError::bad_request(format!("invalid field selector: {part:?}")));
        };
        let pointer = pointer_of(resource, field)
            .ok_or_else(|| ApiError::bad_request(format!("field label not supported: {field}")))?;
        fields.push((pointer, value.to_owned(), equal));
    }
    Ok(fields)
}
