//! Sets of fields, as managedFields writes them: a field is a path of steps `f:name`, `k:{keys}`
//! and `v:value`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::json::map_mut;
use super::resource::Resource;
use super::schema::{self, ListType};

/// Steps from the object to a field.
pub(crate) type Path = Vec<String>;
/// A set of fields.
pub(crate) type Fields = BTreeSet<Path>;

/// The fields of an object that somebody can own, kind, name and what the server keeps left out.
pub(crate) fn fields_of(resource: &Resource, value: &Value) -> Fields {
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

/// The step that names an element of a list by its keys.
pub(crate) fn step_of(item: &Value, keys: &[&str]) -> String {
    let mut step = Map::new();
    for key in keys {
        let value = item.get(*key).cloned().or_else(|| schema::key_default(key).map(Value::from));
        step.insert((*key).to_owned(), value.unwrap_or_default());
    }
    format!("k:{}", Value::Object(step))
}

/// The element a `k:` or `v:` step names.
pub(crate) fn position(items: &[Value], step: &str) -> Option<usize> {
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
pub(crate) fn look<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
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
pub(crate) fn cut(value: &mut Value, path: &[String]) {
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
pub(crate) fn written(fields: &Fields) -> Value {
    let mut root = json!({});
    for path in fields {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        map_mut(&mut root, &steps);
    }
    root
}

/// Reads the nested form back.
pub(crate) fn read(value: &Value, path: &mut Path, fields: &mut Fields) {
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

/// `.spec.ports[port=80,protocol="TCP"].targetPort`
pub(crate) fn readable(path: &[String]) -> String {
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
