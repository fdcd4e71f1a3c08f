//! Reading and writing paths in `serde_json::Value` without surprises: what is missing reads as
//! empty, what is missing is made when written.

use serde_json::{Map, Value};

/// The string at a JSON pointer, "" where there is none.
pub(crate) fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at a JSON pointer, empty where there is none.
pub(crate) fn array_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at a JSON pointer.
pub(crate) fn map_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    value.pointer(pointer).and_then(Value::as_object)
}

/// The value as an object; anything else is replaced by an empty one.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// The object at a path of keys, made where it is missing.
pub(crate) fn map_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = value;
    for key in path {
        at = object(at).entry((*key).to_owned()).or_insert(Value::Null);
    }
    object(at)
}

/// Sets the value at a path of keys.
pub(crate) fn set(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if let Some((last, parents)) = path.split_last() {
        map_mut(value, parents).insert((*last).to_owned(), new.into());
    }
}

/// Sets the value at a path unless something is there; null and "" count as nothing.
pub(crate) fn fill(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if let Some((last, parents)) = path.split_last() {
        let map = map_mut(value, parents);
        if map.get(*last).is_none_or(|v| v.is_null() || v.as_str() == Some("")) {
            map.insert((*last).to_owned(), new.into());
        }
    }
}

/// Removes what is at a path of keys.
pub(crate) fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut at = value;
    for key in parents {
        at = at.get_mut(*key)?;
    }
    at.as_object_mut()?.remove(*last)
}

/// The elements of an array member for changing, none where there is no array.
pub(crate) fn items_mut<'a>(value: &'a mut Value, pointer: &str) -> std::slice::IterMut<'a, Value> {
    match value.pointer_mut(pointer) {
        Some(Value::Array(items)) => items.iter_mut(),
        _ => [].iter_mut(),
    }
}

/// Drops members that are null, at every depth: the decoder takes null as "not sent".
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The strings of an array.
pub(crate) fn strings(value: &Value, pointer: &str) -> Vec<String> {
    array_at(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
