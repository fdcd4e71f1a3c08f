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
    /// Machine-readable reason, such as `NotFound`; "" for none.
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

    /// As a cause of a Status.
    fn shown(&self) -> Value {
        json!({"reason": self.reason, "message": self.message, "field": self.field})
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
        // Both groups' Events are judged as those of the core group.
        let group = if resource.table == "events" { "" } else { resource.group };
        let kind = if group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{group}", resource.kind)
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {all}"));
        let causes: Vec<Value> = fields.iter().map(FieldError::shown).collect();
        error.details = json!({"name": name, "kind": resource.kind, "causes": causes});
        if !group.is_empty() {
            set(&mut error.details, &["group"], group);
        }
        error
    }

    /// 422: the patch makes something that is no object of its type.
    pub(crate) fn unreadable_patch(why: &str) -> Self {
        let cause = FieldError::invalid("patch", &json!(""), why);
        let mut error =
            Self::new(422, "Invalid", format!(" \"\" is invalid: patch: {}", cause.message));
        error.details = json!({"causes": [cause.shown()]});
        error
    }

    /// 403: nothing new in a namespace that goes away.
    pub(crate) fn terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = Self::forbidden(resource, name, &why);
        let cause = json!({
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated"),
        });
        set(&mut error.details, &["causes"], json!([cause]));
        error
    }

    /// With details that say nothing, where the real server's do.
    pub(crate) fn bare(mut self) -> Self {
        self.details = json!({});
        self
    }

    /// 404: a group that is known has no such version, type or subresource.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").bare()
    }

    /// 405.
    pub(crate) fn no_such_method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).bare()
    }

    /// 500, which has no reason, for a version that is no number where the real server looks at it
    /// too late.
    pub(crate) fn garbage_version(text: &str) -> Self {
        let message = format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        );
        Self::new(500, "", message)
    }

    /// 422 about the request's own options: those of a list or of a patch.
    pub(crate) fn invalid_options(kind: &str, fields: &[FieldError]) -> Self {
        let texts: Vec<String> =
            fields.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {}", texts.join(", "));
        let mut error = Self::new(422, "Invalid", message);
        let causes: Vec<Value> = fields.iter().map(FieldError::shown).collect();
        error.details = json!({"group": "meta.k8s.io", "kind": kind, "causes": causes});
        error
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
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            set(&mut status, &["reason"], self.reason);
        }
        if let Some(next) = &self.next {
            set(&mut status, &["metadata", "continue"], next.clone());
        }
        if !self.details.is_null() {
            set(&mut status, &["details"], self.details.clone());
        }
        status
    }
}
