//! What the server refuses, as the `Status` object that clients get.

use serde_json::{Value, json};

use super::json::set;
use super::resource::Resource;

/// A refusal: an HTTP status and the Kubernetes `Status` that goes with it.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code, the same in the Status.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// What happened, for people.
    pub message: String,
    /// `details` of the Status, null for none.
    pub details: Value,
    /// Seconds for the Retry-After header.
    pub retry_after_s: Option<u32>,
    /// `metadata.continue` of the Status: where an expired continuation may go on (K14).
    pub next: Option<String>,
}

/// One field that is wrong, a cause of an `Invalid` Status.
#[derive(Clone, Debug)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, message: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {message}"),
        }
    }

    pub(crate) fn required(field: impl Into<String>, message: &str) -> Self {
        let message = if message.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {message}")
        };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: &Value, accepted: &[&str]) -> Self {
        let accepted = accepted.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {accepted}");
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    pub(crate) fn forbidden(field: impl Into<String>, message: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {message}"),
        }
    }

    pub(crate) fn too_many(field: impl Into<String>, count: usize, most: usize) -> Self {
        let message = format!("Too many: {count}: must have at most {most} items");
        Self { field: field.into(), reason: "FieldValueTooMany", message }
    }
}

fn about(resource: &Resource, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource.plural});
    if !resource.group.is_empty() {
        set(&mut details, &["group"], resource.group);
    }
    details
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            retry_after_s: None,
            next: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let mut error =
            Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()));
        error.details = about(resource, name);
        error
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let mut error = Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", resource.qualified()),
        );
        error.details = about(resource, name);
        error
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        let mut error = Self::new(409, "Conflict", message);
        error.details = about(resource, name);
        error
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        let mut error = Self::new(403, "Forbidden", message);
        error.details = about(resource, name);
        error
    }

    /// 422 with one cause per field.
    pub(crate) fn invalid(resource: &Resource, name: &str, fields: &[FieldError]) -> Self {
        let mut texts: Vec<String> =
            fields.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        let all =
            if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {all}"));
        let causes: Vec<Value> = fields
            .iter()
            .map(|f| json!({"reason": f.reason, "message": f.message, "field": f.field}))
            .collect();
        error.details = json!({"name": name, "kind": resource.kind, "causes": causes});
        if !resource.group.is_empty() {
            set(&mut error.details, &["group"], resource.group);
        }
        error
    }

    /// 422 about the request's own options.
    pub(crate) fn invalid_options(field: &str, message: &str) -> Self {
        let message =
            format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {message}");
        Self::new(422, "Invalid", message)
    }

    /// The change log no longer reaches back to this version (K5).
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The version has not been reached yet (K6).
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", message);
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error.retry_after_s = Some(1);
        error
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(next) = &self.next {
            set(&mut status, &["metadata", "continue"], next.clone());
        }
        if !self.details.is_null() {
            set(&mut status, &["details"], self.details.clone());
        }
        status
    }
}
