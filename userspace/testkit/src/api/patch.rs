//! The three plain patch formats: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and the
//! strategic merge patch of Kubernetes.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::json::object;
use super::schema;

/// A patch format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Merge,
    Json,
    Strategic,
    Apply,
}

impl Kind {
    /// By Content-Type.
    pub(crate) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Some(Self::Merge),
            "application/json-patch+json" => Some(Self::Json),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = object(target);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902.
///
/// # Errors
/// 422 when an operation cannot be done, as the real server answers.
pub(crate) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let bad = |why: String| {
        ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {why}"),
        )
        .bare()
    };
    let operations = patch
        .as_array()
        .ok_or_else(|| ApiError::bad_request("a JSON patch is an array of operations"))?;
    for operation in operations {
        let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
        let (path, from) = (text("path"), text("from"));
        let value = operation.get("value").cloned().unwrap_or_default();
        let missing = |p: &str| bad(format!("nothing at {p:?}"));
        match text("op") {
            "add" => add(target, path, value).ok_or_else(|| missing(path))?,
            "remove" => {
                take(target, path).ok_or_else(|| missing(path))?;
            }
            "replace" => {
                *target.pointer_mut(path).ok_or_else(|| missing(path))? = value;
            }
            "move" => {
                let moved = take(target, from).ok_or_else(|| missing(from))?;
                add(target, path, moved).ok_or_else(|| missing(path))?;
            }
            "copy" => {
                let copied = target.pointer(from).cloned().ok_or_else(|| missing(from))?;
                add(target, path, copied).ok_or_else(|| missing(path))?;
            }
            "test" => {
                if target.pointer(path) != Some(&value) {
                    return Err(bad(format!("testing value {path} failed")));
                }
            }
            other => return Err(bad(format!("unknown operation {other:?}"))),
        }
    }
    Ok(())
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at: usize = last.parse().ok()?;
            if at > items.len() {
                return None;
            }
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last),
        Value::Array(items) => {
            let at: usize = last.parse().ok()?;
            (at < items.len()).then(|| items.remove(at))
        }
        _ => None,
    }
}

/// Strategic merge patch: lists that have a merge key are merged by it, with the directives
/// `$patch`, `$retainKeys`, `$setElementOrder/...` and `$deleteFromPrimitiveList/...`.
pub(crate) fn strategic(kind: &str, target: &mut Value, patch: &Value) {
    if let Value::Object(patch) = patch {
        strategic_map(kind, "", object(target), patch);
    }
}

fn strategic_map(
    kind: &str,
    path: &str,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(k, _)| *k != "$patch")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return;
        }
        Some("delete") => {
            target.clear();
            return;
        }
        _ => {}
    }
    if let Some(retain) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| retain.iter().any(|k| k.as_str() == Some(key)));
    }
    for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
        let path = format!("{path}/{key}");
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                strategic_map(
                    kind,
                    &path,
                    object(target.entry(key.clone()).or_insert(Value::Null)),
                    inner,
                );
            }
            Value::Array(items) => {
                let slot = target.entry(key.clone()).or_insert(Value::Null);
                match schema::merge_key(kind, &path) {
                    Some("") => union(slot, items),
                    Some(merge_key) => strategic_list(kind, &path, merge_key, slot, items),
                    None => *slot = value.clone(),
                }
            }
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
    for (key, value) in patch {
        let Some(items) = value.as_array() else { continue };
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(Value::Array(have)) = target.get_mut(list) {
                have.retain(|h| !items.contains(h));
            }
        } else if let Some(list) = key.strip_prefix("$setElementOrder/")
            && let Some(Value::Array(have)) = target.get_mut(list)
        {
            let merge_key = schema::merge_key(kind, &format!("{path}/{list}")).unwrap_or("");
            let place = |item: &Value| {
                items.iter().position(|wanted| {
                    if merge_key.is_empty() {
                        wanted == item
                    } else {
                        wanted.get(merge_key) == item.get(merge_key)
                    }
                })
            };
            have.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
        }
    }
}

fn union(slot: &mut Value, items: &[Value]) {
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    if let Value::Array(have) = slot {
        for item in items {
            if !have.contains(item) {
                have.push(item.clone());
            }
        }
    }
}

fn strategic_list(kind: &str, path: &str, merge_key: &str, slot: &mut Value, items: &[Value]) {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if items.iter().any(|i| directive(i).as_deref() == Some("replace")) {
        *slot = Value::Array(items.iter().filter(|i| directive(i).is_none()).cloned().collect());
        return;
    }
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    let Value::Array(have) = slot else { return };
    for item in items {
        let same =
            |h: &Value| item.get(merge_key).is_some() && h.get(merge_key) == item.get(merge_key);
        if directive(item).as_deref() == Some("delete") {
            have.retain(|h| !same(h));
            continue;
        }
        let Value::Object(patch) = item else { continue };
        match have.iter_mut().find(|h| same(h)) {
            Some(found) => strategic_map(kind, path, object(found), patch),
            None => {
                let mut new = Map::new();
                strategic_map(kind, path, &mut new, patch);
                have.push(Value::Object(new));
            }
        }
    }
}
