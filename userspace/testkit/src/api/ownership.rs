//! Who owns which field: `metadata.managedFields`, kept by every write.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fieldset::{Fields, fields_of, look, read, written};
use super::json::{array_at, remove, set, str_at};
use super::resource::Resource;
use super::time;
use super::write::WriteOptions;

/// One manager's entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) subresource: String,
    pub(crate) api_version: String,
    pub(crate) time: String,
    pub(crate) fields: Fields,
}

/// Reads `metadata.managedFields`.
pub(crate) fn entries(value: &Value) -> Vec<Entry> {
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

/// Writes them back, without those that own nothing.
pub(crate) fn write_entries(value: &mut Value, entries: &[Entry]) {
    let written: Vec<Value> = entries
        .iter()
        .filter(|e| !e.fields.is_empty())
        .map(|e| {
            let mut entry = json!({
                "manager": e.manager, "operation": e.operation, "apiVersion": e.api_version, "time": e.time,
                "fieldsType": "FieldsV1", "fieldsV1": written(&e.fields),
            });
            if !e.subresource.is_empty() {
                set(&mut entry, &["subresource"], e.subresource.clone());
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

/// The manager's own entry, made if there is none.
pub(crate) fn entry_for<'a>(
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

/// Whether two lists of entries give the same fields to the same managers.
pub(crate) fn same_owners(a: &[Entry], b: &[Entry]) -> bool {
    let sets = |entries: &[Entry]| -> BTreeSet<(String, String, String, Fields)> {
        let tuple = |e: &Entry| {
            (e.manager.clone(), e.operation.clone(), e.subresource.clone(), e.fields.clone())
        };
        entries.iter().filter(|e| !e.fields.is_empty()).map(tuple).collect()
    };
    sets(a) == sets(b)
}
