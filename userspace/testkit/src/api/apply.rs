//! Server-side apply (K27): what is applied is owned, what is left out goes, what others own
//! conflicts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, FieldError};
use super::fieldset::{Fields, Path, cut, fields_of, look, position, readable, step_of};
use super::json::{object, remove, str_at};
use super::ownership::{Entry, entries, entry_for, same_owners, write_entries};
use super::resource::Resource;
use super::schema::{self, ListType};
use super::store::{Key, State};
use super::write::{self, WriteOptions, Written};
use super::{convert, decode, time};

/// Server-side apply.
///
/// # Errors
/// 422 without manager, 400 without name, 404 for a subresource of nothing, 409 when another manager owns a
/// field that would change, 422.
pub(crate) fn apply(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    body: &Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    let mut config = body.clone();
    if options.manager.is_empty() {
        let missing = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid_options("PatchOptions", &[missing]));
    }
    if Resource::by_kind(str_at(&config, "/apiVersion"), str_at(&config, "/kind")) != Some(resource)
    {
        return Err(ApiError::bad_request(format!(
            "apply needs apiVersion {} and kind {}",
            resource.api_version(),
            resource.kind
        )));
    }
    if str_at(&config, "/metadata/name") != key.name {
        return Err(ApiError::bad_request(
            "metadata.name of an applied object must be the name in the path",
        ));
    }
    if config.pointer("/metadata/managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let unknown = decode::decode(resource, &mut config).map_err(|error| {
        // The real server stumbles over it while it merges.
        ApiError::new(500, "", format!("failed to convert new object: {}", error.message))
    })?;
    let warnings = options.unknown.told(resource.kind, resource.version, &unknown)?;
    convert::to_stored(resource, &mut config);
    let own = owned_by(resource, &config, options);
    let Some(old) = state.get(resource, key) else {
        if !options.subresource.is_empty() {
            return Err(ApiError::not_found(resource, &key.name));
        }
        let object = create(state, resource, key, config, own, options)?;
        return Ok(Written { object, created: true, warnings });
    };
    let version = str_at(&config, "/metadata/resourceVersion");
    if !version.is_empty() && version != str_at(&old, "/metadata/resourceVersion") {
        return Err(ApiError::modified(resource, &key.name));
    }
    let mut owners = entries(&old);
    conflicts(resource, key, &old, &config, &own, &mut owners, options)?;

    let mut value = (*old).clone();
    let mine = entry_for(&mut owners, resource, "Apply", options)
        .map(|e| std::mem::replace(&mut e.fields, own.clone()));
    let mut dropped: Vec<Path> =
        mine.unwrap_or_default().into_iter().filter(|path| !own.contains(path)).collect();
    // Members before the elements that hold them.
    dropped.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in dropped {
        if !owners.iter().any(|e| e.fields.contains(&path)) {
            cut(&mut value, &path);
        }
    }
    overlay(resource.kind, "", &mut value, &config, options);
    remove(&mut value, &["metadata", "resourceVersion"]);
    remove(&mut value, &["metadata", "managedFields"]);
    let before = without_owners(&old);
    // The update gives changed fields to an Update entry of its own: put the apply's in its place.
    let dry = WriteOptions { dry_run: true, ..options.clone() };
    let mut value = (*write::update(state, resource, key, &old, value, &dry)?).clone();
    if without_owners(&value) != before || !same_owners(&owners, &entries(&old)) {
        let now = time::now_s();
        if let Some(entry) = entry_for(&mut owners, resource, "Apply", options) {
            entry.time = now;
        }
        let present = fields_of(resource, &value);
        for owner in &mut owners {
            owner.fields.retain(|path| present.contains(path) || look(&value, path).is_some());
        }
        write_entries(&mut value, &owners);
        if options.dry_run {
            return Ok(Written { object: Arc::new(value), created: false, warnings });
        }
        let object = state.put(resource, key, value);
        return Ok(Written { object, created: false, warnings });
    }
    let object = if options.dry_run { Arc::new(value) } else { old };
    Ok(Written { object, created: false, warnings })
}

fn without_owners(value: &Value) -> Value {
    let mut value = value.clone();
    remove(&mut value, &["metadata", "managedFields"]);
    value
}

/// What an apply owns: everything it names, on the side of the object it writes to.
fn owned_by(resource: &Resource, config: &Value, options: &WriteOptions) -> Fields {
    let mut fields = fields_of(resource, config);
    if resource.status {
        let status = options.subresource == "status";
        fields.retain(|path| {
            path.first().is_none_or(|f| (f == "f:status") == status || f == "f:metadata")
        });
    }
    fields
}

fn create(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    config: Value,
    own: Fields,
    options: &WriteOptions,
) -> Result<Arc<Value>, ApiError> {
    let dry = WriteOptions { dry_run: true, ..options.clone() };
    let written = write::create(state, resource, &key.namespace, config, &dry)?;
    let mut value = (*written.object).clone();
    let mut owners = Vec::new();
    if let Some(entry) = entry_for(&mut owners, resource, "Apply", options) {
        entry.fields = own;
        entry.time = time::now_s();
    }
    write_entries(&mut value, &owners);
    Ok(if options.dry_run { Arc::new(value) } else { state.put(resource, key, value) })
}

/// Finds fields of others that the apply would change; with force, takes them.
fn conflicts(
    resource: &Resource,
    key: &Key,
    old: &Value,
    config: &Value,
    own: &Fields,
    owners: &mut [Entry],
    options: &WriteOptions,
) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for owner in owners.iter_mut() {
        if owner.manager == options.manager
            && owner.operation == "Apply"
            && owner.subresource == options.subresource
        {
            continue;
        }
        let disputed: Vec<Path> = own
            .iter()
            .filter(|path| path.last().is_none_or(|l| l != "."))
            .filter(|path| owner.fields.contains(*path) && look(config, path) != look(old, path))
            .cloned()
            .collect();
        for path in disputed {
            if options.force {
                owner.fields.remove(&path);
            } else {
                let text = readable(&path);
                let who = format!("conflict with {:?} using {}", owner.manager, owner.api_version);
                causes
                    .push(json!({"reason": "FieldManagerConflict", "message": who, "field": text}));
            }
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let count = causes.len();
    let list: Vec<String> = causes
        .iter()
        .map(|c| format!("{}: {}", str_at(c, "/message"), str_at(c, "/field")))
        .collect();
    let message = format!(
        "Apply failed with {count} conflict{}: {}",
        if count == 1 { "" } else { "s" },
        list.join("\n")
    );
    let mut error = ApiError::conflict(resource, &key.name, "");
    error.message = message;
    error.details = json!({"causes": causes});
    Err(error)
}

/// Lays an applied configuration over the object.
fn overlay(kind: &str, at: &str, value: &mut Value, config: &Value, options: &WriteOptions) {
    let Value::Object(config) = config else { return };
    for (key, inner) in config {
        let at = format!("{at}/{key}");
        if at == "/kind"
            || at == "/apiVersion"
            || (at == "/status" && options.subresource != "status")
        {
            continue;
        }
        let slot = object(value).entry(key.clone()).or_insert(Value::Null);
        match inner {
            Value::Object(map) if !map.is_empty() && !schema::atomic_map(kind, &at) => {
                overlay(kind, &at, slot, inner, options)
            }
            Value::Array(items) => overlay_list(kind, &at, slot, items, options),
            _ => *slot = inner.clone(),
        }
    }
}

fn overlay_list(kind: &str, at: &str, slot: &mut Value, items: &[Value], options: &WriteOptions) {
    let list_type = schema::list_type(kind, at);
    if list_type == ListType::Atomic || !slot.is_array() {
        *slot = Value::Array(items.to_vec());
        return;
    }
    let Value::Array(have) = slot else { return };
    for item in items {
        let step = match list_type {
            ListType::Map(keys) => step_of(item, keys),
            _ => format!("v:{item}"),
        };
        match position(have, &step).and_then(|at| have.get_mut(at)) {
            Some(found) => overlay(kind, at, found, item, options),
            None => have.push(item.clone()),
        }
    }
}
