//! Writes: what happens between a decoded request and the stored object. Create, replace, patch.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, FieldError};
use super::json::{array_at, fill, object, remove, set, str_at};
use super::ownership;
use super::patch::{self, Kind};
use super::resource::Resource;
use super::store::{Key, State};
use super::{apply, convert, decode, defaults, service, validate, warnings};

/// What becomes of fields that the type does not have (fieldValidation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They are dropped, with a warning each.
    #[default]
    Warned,
    /// They are dropped.
    Dropped,
    /// They are an error.
    Refused,
}

impl Unknown {
    /// What the client is told of these fields.
    ///
    /// # Errors
    /// 400 where they are refused.
    pub(crate) fn told(
        self,
        kind: &str,
        version: &str,
        fields: &[String],
    ) -> Result<Vec<String>, ApiError> {
        let told: Vec<String> = fields.iter().map(|f| format!("unknown field \"{f}\"")).collect();
        match self {
            Self::Refused if !told.is_empty() => Err(ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
                told.join(", ")
            ))),
            Self::Dropped => Ok(Vec::new()),
            _ => Ok(told),
        }
    }
}

/// What a client said about a write, beside the object.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    /// Who owns the fields written.
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    /// Take fields over in an apply.
    pub(crate) force: bool,
    pub(crate) unknown: Unknown,
    /// "", "status" or "binding".
    pub(crate) subresource: String,
    /// Written past the front door: status may come with the rest.
    pub(crate) direct: bool,
}

impl WriteOptions {
    /// For writes by tests and by the server's own controllers.
    pub(crate) fn direct() -> Self {
        Self { manager: "sluice-testkit".to_owned(), direct: true, ..Self::default() }
    }
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Value>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

fn decoded(
    resource: &Resource,
    value: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let kind = str_at(value, "/kind");
    if !kind.is_empty() && kind != resource.kind {
        let message = format!(
            "{kind} in version {:?} cannot be handled as a {}",
            str_at(value, "/apiVersion"),
            resource.kind
        );
        return Err(ApiError::bad_request(message));
    }
    let unknown = decode::decode(resource, value)?;
    let told = options.unknown.told(resource.kind, resource.version, &unknown)?;
    convert::to_stored(resource, value);
    Ok(told)
}

/// Creates an object from what a client sent.
///
/// # Errors
/// 400, 403, 404 (no such namespace), 409 (there already), 422.
pub(crate) fn create(
    state: &mut State,
    resource: &'static Resource,
    namespace: &str,
    mut value: Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    let mut warnings = decoded(resource, &mut value, options)?;
    let key = named(resource, namespace, &mut value)?;
    in_namespace(state, resource, &key)?;
    if state.get(resource, &key).is_some() {
        return Err(ApiError::already_exists(resource, &key.name));
    }
    if !options.direct {
        defaults::reset_status(resource, &mut value);
    }
    defaults::stamp(resource, &mut value);
    shape(state, resource, &key, &mut value, None)?;
    ownership::record(resource, &mut value, None, options);
    warnings.extend(warnings::of(resource, &value, true));
    let object = if options.dry_run { Arc::new(value) } else { state.put(resource, &key, value) };
    Ok(Written { object, created: true, warnings })
}

/// The key of a new object, with the name made if it is to be generated.
fn named(resource: &Resource, namespace: &str, value: &mut Value) -> Result<Key, ApiError> {
    if resource.namespaced {
        let own = str_at(value, "/metadata/namespace");
        if !own.is_empty() && own != namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        set(value, &["metadata", "namespace"], namespace);
    } else {
        remove(value, &["metadata", "namespace"]);
    }
    let base = str_at(value, "/metadata/generateName").to_owned();
    if str_at(value, "/metadata/name").is_empty() && !base.is_empty() {
        set(value, &["metadata", "name"], format!("{base}{}", defaults::name_suffix()));
    }
    Ok(Key::new(if resource.namespaced { namespace } else { "" }, str_at(value, "/metadata/name")))
}

fn in_namespace(state: &State, resource: &Resource, key: &Key) -> Result<(), ApiError> {
    if !resource.namespaced {
        return Ok(());
    }
    let Some(namespaces) = Resource::by_plural("namespaces") else { return Ok(()) };
    let Some(namespace) = state.get(namespaces, &Key::new("", &key.namespace)) else {
        return Err(ApiError::not_found(namespaces, &key.namespace));
    };
    if str_at(&namespace, "/status/phase") == "Terminating" {
        return Err(ApiError::terminating(resource, &key.name, &key.namespace));
    }
    Ok(())
}

/// Defaults, allocation and validation, the same for new and changed objects.
fn shape(
    state: &State,
    resource: &'static Resource,
    key: &Key,
    value: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    // kind and apiVersion are added again on the way out.
    for gone in ["kind", "apiVersion"] {
        object(value).remove(gone);
    }
    if resource.plural == "services" {
        service::prepare(state, resource, key, value, old)?;
    } else {
        defaults::fill_in(resource, value, old.is_none());
    }
    for empty in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let pointer = format!("/metadata/{empty}");
        let nothing = |v: &Value| {
            v.as_object().is_some_and(serde_json::Map::is_empty)
                || v.as_array().is_some_and(Vec::is_empty)
        };
        if value.pointer(&pointer).is_some_and(nothing) {
            remove(value, &["metadata", empty]);
        }
    }
    let problems = validate::check(resource, value, old);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, &key.name, &problems))
    }
}

/// Replaces an object (PUT). Without one, Services, Leases and Events are created (K28).
///
/// # Errors
/// 400, 404, 409 on a stale version, 422.
pub(crate) fn replace(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    mut value: Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    let name = str_at(&value, "/metadata/name").to_owned();
    if !name.is_empty() && name != key.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        )));
    }
    let Some(old) = state.get(resource, key) else {
        let creates = matches!(resource.plural, "services" | "leases" | "events");
        if creates && options.subresource.is_empty() {
            set(&mut value, &["metadata", "name"], key.name.clone());
            return create(state, resource, &key.namespace, value, options);
        }
        return Err(ApiError::not_found(resource, &key.name));
    };
    let mut warnings = decoded(resource, &mut value, options)?;
    let version = str_at(&value, "/metadata/resourceVersion");
    if resource.plural == "leases" && version.is_empty() {
        let field = FieldError::invalid(
            "metadata.resourceVersion",
            &json!(""),
            "must be specified for an update",
        );
        let mut error = ApiError::invalid(resource, &key.name, &[field]);
        // Not the kind, here.
        set(&mut error.details, &["kind"], resource.plural);
        return Err(error);
    }
    let object = update(state, resource, key, &old, value, options)?;
    warnings.extend(warnings::of(resource, &object, false));
    Ok(Written { object, created: false, warnings })
}

/// Patches an object, or creates it if the patch is an apply.
///
/// # Errors
/// 400, 404, 409, 422.
pub(crate) fn patch(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    kind: Kind,
    body: &Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    if kind == Kind::Apply {
        return apply::apply(state, resource, key, body, options);
    }
    let old = state.get(resource, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
    // The client patches the form it sees.
    let mut value = (*old).clone();
    convert::to_client(resource, &mut value);
    // A version in the patch is a precondition; the one in the object is not.
    remove(&mut value, &["metadata", "resourceVersion"]);
    match kind {
        Kind::Merge => patch::merge(&mut value, body),
        Kind::Strategic => patch::strategic(resource.kind, &mut value, body),
        Kind::Json => patch::json_patch(&mut value, body)?,
        Kind::Apply => {}
    }
    // In a PUT it is a precondition (409), here a change that is not allowed.
    let uid = str_at(&value, "/metadata/uid");
    if !uid.is_empty() && uid != str_at(&old, "/metadata/uid") {
        let problem = FieldError::invalid("metadata.uid", &json!(uid), "field is immutable");
        return Err(ApiError::invalid(resource, &key.name, &[problem]));
    }
    let mut warnings = decoded(resource, &mut value, options)
        .map_err(|error| ApiError::unreadable_patch(&error.message))?;
    let object = update(state, resource, key, &old, value, options)?;
    warnings.extend(warnings::of(resource, &object, false));
    Ok(Written { object, created: false, warnings })
}

/// Puts a changed object in the place of the old one: what may not change is kept, and a write that
/// changes nothing is none (K28).
///
/// # Errors
/// 409 on a stale version or another uid, 422.
pub(crate) fn update(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    old: &Value,
    mut value: Value,
    options: &WriteOptions,
) -> Result<Arc<Value>, ApiError> {
    let uid = str_at(&value, "/metadata/uid");
    if !uid.is_empty() && uid != str_at(old, "/metadata/uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            str_at(old, "/metadata/uid")
        );
        return Err(ApiError::conflict(resource, &key.name, &why));
    }
    let version = str_at(&value, "/metadata/resourceVersion");
    if !version.is_empty() && version != str_at(old, "/metadata/resourceVersion") {
        return Err(ApiError::modified(resource, &key.name));
    }
    for kept in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ] {
        match old.get("metadata").and_then(|m| m.get(kept)).cloned() {
            Some(was) => set(&mut value, &["metadata", kept], was),
            None => {
                remove(&mut value, &["metadata", kept]);
            }
        }
    }
    keep_other_half(resource, old, &mut value, options);
    shape(state, resource, key, &mut value, Some(old))?;
    if resource.has_generation() && content_changed(resource, old, &value) {
        let generation =
            old.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0) + 1;
        set(&mut value, &["metadata", "generation"], generation);
    }
    ownership::record(resource, &mut value, Some(old), options);
    store_changed(state, resource, key, old, value, options.dry_run)
}

/// Stores unless nothing changed; removes when the last finalizer of a deleted object went.
pub(crate) fn store_changed(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    old: &Value,
    value: Value,
    dry_run: bool,
) -> Result<Arc<Value>, ApiError> {
    if without_owners(old) == without_owners(&value) || dry_run {
        return Ok(if dry_run {
            Arc::new(value)
        } else {
            state.get(resource, key).unwrap_or_else(|| Arc::new(value))
        });
    }
    let going = !str_at(&value, "/metadata/deletionTimestamp").is_empty();
    let held = !array_at(&value, "/metadata/finalizers").is_empty()
        || !array_at(&value, "/spec/finalizers").is_empty();
    let grace =
        value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0);
    if going && !held && grace == 0 {
        // DELETED still shows the finalizer; the answer does not.
        state.remove(resource, key).ok_or_else(|| ApiError::not_found(resource, &key.name))?;
        return Ok(Arc::new(value));
    }
    Ok(state.put(resource, key, value))
}

fn without_owners(value: &Value) -> Value {
    let mut value = value.clone();
    remove(&mut value, &["metadata", "managedFields"]);
    value
}

/// A write to the object leaves its status alone, one to the status leaves the rest (K25).
fn keep_other_half(resource: &Resource, old: &Value, value: &mut Value, options: &WriteOptions) {
    if !resource.status || options.direct && options.subresource.is_empty() {
        return;
    }
    if options.subresource == "status" {
        let status = value.get("status").cloned();
        let metadata = value.get("metadata").cloned();
        *value = old.clone();
        set(value, &["status"], status.unwrap_or_default());
        for key in ["labels", "annotations"] {
            match metadata.as_ref().and_then(|m| m.get(key)).cloned() {
                Some(new) => set(value, &["metadata", key], new),
                None => {
                    remove(value, &["metadata", key]);
                }
            }
        }
    } else if let Some(status) = old.get("status").cloned() {
        set(value, &["status"], status);
    } else {
        remove(value, &["status"]);
    }
}

fn content_changed(resource: &Resource, old: &Value, new: &Value) -> bool {
    let differs = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    match resource.plural {
        "endpointslices" => {
            differs("/endpoints") || differs("/ports") || differs("/metadata/labels")
        }
        _ => differs("/spec"),
    }
}

/// Creates or replaces, by the object's own kind and name.
///
/// # Errors
/// As [`create`] and [`replace`]; 400 for a kind that is not known.
pub(crate) fn put_whole(
    state: &mut State,
    mut value: Value,
    options: &WriteOptions,
) -> Result<Arc<Value>, ApiError> {
    let resource = kind_of(&value)?;
    let namespace = default_namespace(resource, &mut value);
    let key = Key::new(&namespace, str_at(&value, "/metadata/name"));
    remove(&mut value, &["metadata", "resourceVersion"]);
    match state.get(resource, &key) {
        None => create(state, resource, &namespace, value, options).map(|w| w.object),
        Some(old) => {
            decoded(resource, &mut value, options)?;
            if let Some(status) = old.get("status").cloned() {
                fill(&mut value, &["status"], status);
            }
            update(state, resource, &key, &old, value, options)
        }
    }
}

/// Stores an object as it is.
///
/// # Errors
/// 400 for a kind that is not known.
pub(crate) fn put_unchecked(state: &mut State, mut value: Value) -> Result<Arc<Value>, ApiError> {
    let resource = kind_of(&value)?;
    let namespace = default_namespace(resource, &mut value);
    let key = Key::new(&namespace, str_at(&value, "/metadata/name"));
    let uid = state.get(resource, &key).map(|o| str_at(&o, "/metadata/uid").to_owned());
    fill(&mut value, &["metadata", "uid"], uid.unwrap_or_else(defaults::new_uid));
    fill(&mut value, &["metadata", "creationTimestamp"], super::time::now_s());
    for gone in ["kind", "apiVersion"] {
        object(&mut value).remove(gone);
    }
    Ok(state.put(resource, &key, value))
}

fn kind_of(value: &Value) -> Result<&'static Resource, ApiError> {
    let (version, kind) = (str_at(value, "/apiVersion"), str_at(value, "/kind"));
    Resource::by_kind(version, kind).ok_or_else(|| {
        ApiError::bad_request(format!("no resource for kind {kind:?} in {version:?}"))
    })
}

fn default_namespace(resource: &Resource, value: &mut Value) -> String {
    if !resource.namespaced {
        return String::new();
    }
    fill(value, &["metadata", "namespace"], "default");
    str_at(value, "/metadata/namespace").to_owned()
}
