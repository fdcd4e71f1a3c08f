//! Who owns which field: `metadata.managedFields`, and server-side apply on top of it (K27).
//!
//! A field set is a set of paths; a path is made of the steps that managedFields writes as
//! `f:name`, `k:{keys}` and `v:value`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json::{array_at, map_mut, object, remove, set, str_at};
use super::resource::Resource;
use super::schema::{self, ListType};
use super::store::{Key, State};
use super::write::{self, WriteOptions};
use super::{convert, decode, time};

type Path = Vec<String>;
type Fields = BTreeSet<Path>;

/// The fields of an object that somebody can own, kind, name and what the server keeps left out.
fn fields_of(resource: &Resource, value: &Value) -> Fields {
    let mut fields = Fields::new();
    let Some(map) = value.as_object() else { return fields };
    for (key, inner) in map {
        match key.as_str() {
            "kind" | "apiVersion" => {}
            "metadata" => {
                for owned in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    if let Some(inner) = inner.get(owned) {
                        let mut path = vec!["f:metadata".to_owned(), format!("f:{owned}")];
                        walk(
                            resource.kind,
                            &format!("/metadata/{owned}"),
                            inner,
                            &mut path,
                            &mut fields,
                        );
                    }
                }
            }
            _ => walk(
                resource.kind,
                &format!("/{key}"),
                inner,
                &mut vec![format!("f:{key}")],
                &mut fields,
            ),
        }
    }
    fields
}

fn walk(kind: &str, at: &str, value: &Value, path: &mut Path, fields: &mut Fields) {
    match value {
        Value::Object(map) if !map.is_empty() && !schema::atomic_map(kind, at) => {
            for (key, inner) in map {
                path.push(format!("f:{key}"));
                walk(kind, &format!("{at}/{key}"), inner, path, fields);
                path.pop();
            }
        }
        Value::Array(items) => match schema::list_type(kind, at) {
            ListType::Atomic => {
                fields.insert(path.clone());
            }
            ListType::Set => {
                for item in items {
                    path.push(format!("v:{item}"));
                    fields.insert(path.clone());
                    path.pop();
                }
            }
            ListType::Map(keys) => {
                for item in items {
                    path.push(step_of(item, keys));
                    // The element itself is owned, too, as "." in the written form.
                    path.push(".".to_owned());
                    fields.insert(path.clone());
                    path.pop();
                    if let Some(map) = item.as_object() {
                        for (key, inner) in map {
                            path.push(format!("f:{key}"));
                            walk(kind, &format!("{at}/{key}"), inner, path, fields);
                            path.pop();
                        }
                    }
                    path.pop();
                }
            }
        },
        _ => {
            fields.insert(path.clone());
        }
    }
}

fn step_of(item: &Value, keys: &[&str]) -> String {
    let mut step = Map::new();
    for key in keys {
        let value = item.get(*key).cloned().or_else(|| schema::key_default(key).map(Value::from));
        step.insert((*key).to_owned(), value.unwrap_or_default());
    }
    format!("k:{}", Value::Object(step))
}

/// The element a `k:` or `v:` step names.
fn position(items: &[Value], step: &str) -> Option<usize> {
    if let Some(text) = step.strip_prefix("v:") {
        let wanted: Value = serde_json::from_str(text).ok()?;
        return items.iter().position(|i| *i == wanted);
    }
    let wanted: Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    items.iter().position(|item| {
        wanted.iter().all(|(key, value)| match item.get(key) {
            Some(have) => have == value,
            None => schema::key_default(key).map(Value::from).as_ref() == Some(value),
        })
    })
}

/// The value at a path.
fn look<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = value;
    for step in path {
        at = match step.strip_prefix("f:") {
            Some(key) => at.get(key)?,
            None if step == "." => at,
            None => {
                let items = at.as_array()?;
                items.get(position(items, step)?)?
            }
        };
    }
    Some(at)
}

/// Takes what is at a path away.
fn cut(value: &mut Value, path: &[String]) {
    let path = match path.split_last() {
        Some((last, parents)) if last == "." => parents,
        _ => path,
    };
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = value;
    for step in parents {
        let next = match step.strip_prefix("f:") {
            Some(key) => at.get_mut(key),
            None => at.as_array_mut().and_then(|items| {
                let position = position(items, step)?;
                items.get_mut(position)
            }),
        };
        let Some(next) = next else { return };
        at = next;
    }
    match (last.strip_prefix("f:"), at) {
        (Some(key), Value::Object(map)) => {
            map.remove(key);
        }
        (None, Value::Array(items)) => {
            if let Some(position) = position(items, last) {
                items.remove(position);
            }
        }
        _ => {}
    }
}

/// The nested form of managedFields.
fn written(fields: &Fields) -> Value {
    let mut root = json!({});
    for path in fields {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        map_mut(&mut root, &steps);
    }
    root
}

fn read(value: &Value, path: &mut Path, fields: &mut Fields) {
    match value.as_object() {
        Some(map) if !map.is_empty() => {
            for (step, inner) in map {
                path.push(step.clone());
                read(inner, path, fields);
                path.pop();
            }
        }
        _ if !path.is_empty() => {
            fields.insert(path.clone());
        }
        _ => {}
    }
}

/// One manager's entry.
#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    fields: Fields,
}

fn entries(value: &Value) -> Vec<Entry> {
    let read_one = |entry: &Value| {
        let mut fields = Fields::new();
        read(entry.get("fieldsV1").unwrap_or(&Value::Null), &mut Vec::new(), &mut fields);
        Entry {
            manager: str_at(entry, "/manager").to_owned(),
            operation: str_at(entry, "/operation").to_owned(),
            subresource: str_at(entry, "/subresource").to_owned(),
            api_version: str_at(entry, "/apiVersion").to_owned(),
            time: str_at(entry, "/time").to_owned(),
            fields,
        }
    };
    array_at(value, "/metadata/managedFields").iter().map(read_one).collect()
}

fn write_entries(value: &mut Value, entries: &[Entry]) {
    let written: Vec<Value> = entries
        .iter()
        .filter(|e| !e.fields.is_empty())
        .map(|e| {
            let mut entry = json!({
                "manager": e.manager, "operation": e.operation, "apiVersion": e.api_version, "time": e.time,
                "fieldsType": "FieldsV1", "fieldsV1": written(&e.fields),
            });
            if !e.subresource.is_empty() {
                entry["subresource"] = e.subresource.clone().into();
            }
            entry
        })
        .collect();
    if written.is_empty() {
        remove(value, &["metadata", "managedFields"]);
    } else {
        set(value, &["metadata", "managedFields"], written);
    }
}

fn entry_for<'a>(
    entries: &'a mut Vec<Entry>,
    resource: &Resource,
    operation: &str,
    options: &WriteOptions,
) -> Option<&'a mut Entry> {
    let same = |e: &Entry| {
        e.manager == options.manager
            && e.operation == operation
            && e.subresource == options.subresource
    };
    if !entries.iter().any(same) {
        entries.push(Entry {
            manager: options.manager.clone(),
            operation: operation.to_owned(),
            subresource: options.subresource.clone(),
            api_version: resource.api_version(),
            time: String::new(),
            fields: Fields::new(),
        });
    }
    entries.iter_mut().find(|e| same(e))
}

/// Gives the fields a plain write changed to its manager, and takes them from the others.
pub(crate) fn record(
    resource: &Resource,
    value: &mut Value,
    old: Option<&Value>,
    options: &WriteOptions,
) {
    let mut owners = old.map(entries).unwrap_or_default();
    let now = fields_of(resource, value);
    let changed: Fields = match old {
        None => now.clone(),
        Some(old) => {
            now.iter().filter(|path| look(value, path) != look(old, path)).cloned().collect()
        }
    };
    for owner in &mut owners {
        owner.fields.retain(|path| now.contains(path) && !changed.contains(path));
    }
    if !changed.is_empty()
        && let Some(entry) = entry_for(&mut owners, resource, "Update", options)
    {
        entry.fields.extend(changed);
        entry.time = time::now_s();
    }
    write_entries(value, &owners);
}

/// Server-side apply; true in the pair if it created the object.
///
/// # Errors
/// 400 without manager or name, 404 for a subresource of nothing, 409 when another manager owns a
/// field that would change, 422.
pub(crate) fn apply(
    state: &mut State,
    resource: &'static Resource,
    key: &Key,
    body: &Value,
    options: &WriteOptions,
) -> Result<(Arc<Value>, bool), ApiError> {
    let mut config = body.clone();
    if options.manager.is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
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
    let unknown = decode::decode(resource, &mut config)?;
    if options.strict && !unknown.is_empty() {
        return Err(ApiError::bad_request(format!(
            "strict decoding error: unknown field \"{}\"",
            unknown.join("\", \"")
        )));
    }
    convert::to_stored(resource, &mut config);
    let own = owned_by(resource, &config, options);
    let Some(old) = state.get(resource, key) else {
        if !options.subresource.is_empty() {
            return Err(ApiError::not_found(resource, &key.name));
        }
        return create(state, resource, key, config, own, options).map(|object| (object, true));
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
            return Ok((Arc::new(value), false));
        }
        return Ok((state.put(resource, key, value), false));
    }
    Ok((if options.dry_run { Arc::new(value) } else { old }, false))
}

fn same_owners(a: &[Entry], b: &[Entry]) -> bool {
    let sets = |entries: &[Entry]| -> BTreeSet<(String, String, String, Fields)> {
        let tuple = |e: &Entry| {
            (e.manager.clone(), e.operation.clone(), e.subresource.clone(), e.fields.clone())
        };
        entries.iter().filter(|e| !e.fields.is_empty()).map(tuple).collect()
    };
    sets(a) == sets(b)
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

/// `.spec.ports[port=80,protocol="TCP"].targetPort`
fn readable(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(name) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(keys) = step.strip_prefix("k:") {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            text.push_str(&format!("[{}]", keys.join(",")));
        } else if let Some(value) = step.strip_prefix("v:") {
            text.push_str(&format!("[={value}]"));
        }
    }
    text
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
