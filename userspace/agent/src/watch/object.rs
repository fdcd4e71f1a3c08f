//! Decodes what the API server sends: events of a watch, pages of a list, refusals.
//!
//! Every object passes through untyped JSON first: what nobody here reads is dropped before it
//! costs memory (K21), and an object that does not fit its type still tells its name and version.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Annotations longer than this, in bytes, are dropped on arrival unless they are for the agent.
const MAX_ANNOTATION_BYTES: usize = 4096;
/// Prefix of annotations for the agent. Some are long (weights); the API's bound, 256 KiB, holds.
const OWN_ANNOTATIONS: &str = "sluice.io/";
/// Marks the bookmark that ends the initial events (K15).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Namespace and name of an object; the namespace is empty where the type has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, or "".
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One object of a list or watch.
#[derive(Debug)]
pub struct Item<T> {
    /// Its name.
    pub key: Key,
    /// Its identity: another one under the same name is another object (K11).
    pub uid: String,
    /// Its version; empty when it has none.
    pub resource_version: String,
    /// The object, or why it could not be decoded.
    pub object: Result<T, String>,
}

/// One line of a watch.
#[derive(Debug)]
pub enum Line<T> {
    /// ADDED or MODIFIED: for a client both are "this is the object now" (K11).
    Upsert(Item<T>),
    /// DELETED
    Delete(Item<T>),
    /// BOOKMARK: nothing but a version (K4); the last one of the initial events says so (K15).
    Bookmark {
        /// The version to go on from.
        resource_version: String,
        /// Whether the initial events are complete.
        initial_end: bool,
    },
    /// ERROR, or a bare Status where an event should be (K5).
    Refused(Refusal),
    /// A type of event that is not known: to be ignored (K11).
    Unknown(String),
    /// JSON, but neither an event nor a Status, or an object without a name.
    Unreadable(String),
    /// Not JSON: the line was cut, the stream is broken (K18).
    Broken(String),
}

/// One page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// The list's own version: where a watch starts (K2).
    pub resource_version: String,
    /// Token for the next page, `None` on the last.
    pub continue_token: Option<String>,
    /// The objects of this page.
    pub items: Vec<Item<T>>,
}

/// An error answer of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// `Status.reason`
    pub reason: String,
    /// `Status.message`
    pub message: String,
    /// `Status.details.causes[].reason`
    pub causes: Vec<String>,
    /// Retry-After header or `Status.details.retryAfterSeconds`.
    pub retry_after: Option<Duration>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    causes: Option<Vec<Cause>>,
    retry_after_seconds: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    reason: Option<String>,
}

impl Refusal {
    /// Reads a Status object; `code` is that of the HTTP answer and is used where the Status has
    /// none. A body that is no Status gives a refusal with the code alone.
    #[must_use]
    pub fn from_body(code: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if value.is_object() => Self::from_status(code, value),
            _ => {
                let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
                Self { code, message: text.trim().to_owned(), ..Self::default() }
            }
        }
    }

    fn from_status(code: u16, value: Value) -> Self {
        let status: Status = serde_json::from_value(value).unwrap_or_default();
        let details = status.details.unwrap_or_default();
        let causes = details.causes.unwrap_or_default();
        Self {
            code: status.code.filter(|code| *code != 0).unwrap_or(code),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            causes: causes.into_iter().filter_map(|cause| cause.reason).collect(),
            retry_after: details.retry_after_seconds.map(Duration::from_secs),
        }
    }

    /// The version asked for is no longer kept (K5).
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }

    /// The version asked for is from the server's future (K6).
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.causes.iter().any(|cause| cause == "ResourceVersionTooLarge")
            || self.message.contains("Too large resource version")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// Decodes one line of a watch.
#[must_use]
pub fn line<T: DeserializeOwned>(bytes: &[u8]) -> Line<T> {
    let mut value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Line::Broken(error.to_string()),
    };
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let object = value.get_mut("object").map(Value::take).unwrap_or_default();
    match kind.as_str() {
        "ADDED" | "MODIFIED" => item(object).map_or_else(Line::Unreadable, Line::Upsert),
        "DELETED" => item(object).map_or_else(Line::Unreadable, Line::Delete),
        "BOOKMARK" => Line::Bookmark {
            resource_version: text_at(&object, "/metadata/resourceVersion"),
            initial_end: object
                .pointer("/metadata/annotations")
                .and_then(|annotations| annotations.get(INITIAL_EVENTS_END))
                .is_some_and(|value| value == "true"),
        },
        "ERROR" => Line::Refused(Refusal::from_status(500, object)),
        "" if value.get("kind").is_some_and(|kind| kind == "Status") => {
            Line::Refused(Refusal::from_status(500, value))
        }
        "" => Line::Unreadable("neither an event nor a Status".to_owned()),
        other => Line::Unknown(other.to_owned()),
    }
}

/// Decodes one page of a list.
///
/// # Errors
/// When the body is not a list; objects in it that cannot be decoded are items of their own.
pub fn page<T: DeserializeOwned>(body: &[u8]) -> Result<Page<T>, String> {
    let mut value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        Some(Value::Null) => Vec::new(),
        _ => return Err("no items".to_owned()),
    };
    let resource_version = text_at(&value, "/metadata/resourceVersion");
    let token = text_at(&value, "/metadata/continue");
    if resource_version.is_empty() {
        return Err("no metadata.resourceVersion".to_owned());
    }
    Ok(Page {
        resource_version,
        continue_token: (!token.is_empty()).then_some(token),
        items: items.into_iter().filter_map(|object| item(object).ok()).collect(),
    })
}

fn item<T: DeserializeOwned>(mut object: Value) -> Result<Item<T>, String> {
    let key = Key {
        namespace: text_at(&object, "/metadata/namespace"),
        name: text_at(&object, "/metadata/name"),
    };
    if key.name.is_empty() {
        return Err("an object without metadata.name".to_owned());
    }
    let uid = text_at(&object, "/metadata/uid");
    let resource_version = text_at(&object, "/metadata/resourceVersion");
    strip(&mut object);
    let object = serde_json::from_value(object).map_err(|error| error.to_string());
    Ok(Item { key, uid, resource_version, object })
}

/// Drops what nobody here reads and what may be huge (K21).
fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|name, value| {
                name != "kubectl.kubernetes.io/last-applied-configuration"
                    && (name.starts_with(OWN_ANNOTATIONS)
                        || value.as_str().is_none_or(|text| text.len() <= MAX_ANNOTATION_BYTES))
            });
        }
    }
    if let Some(Value::Object(status)) = object.get_mut("status") {
        // A Node's list of images.
        status.remove("images");
    }
}

fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    #[test]
    fn k22_nulls_and_empties_of_the_real_server_decode() {
        let slice = br#"{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1",
            "metadata":{"name":"a","namespace":"d","uid":"u","resourceVersion":"7","creationTimestamp":null},
            "addressType":"IPv4","endpoints":null,"ports":null}}"#;
        let Line::Upsert(item) = line::<EndpointSlice>(slice) else { panic!("not an upsert") };
        assert_eq!(item.resource_version, "7");
        assert!(item.object.expect("decodes").endpoints.is_empty());

        let conditions = br#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"d"},
            "addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{}}],"ports":null}}"#;
        let Line::Upsert(item) = line::<EndpointSlice>(conditions) else { panic!("not an upsert") };
        assert_eq!(item.object.expect("decodes").endpoints.len(), 1);

        let node = br#"{"type":"ADDED","object":{"metadata":{"name":"n"},"spec":{},"status":{
            "conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":null,"lastTransitionTime":null}],
            "nodeInfo":{"architecture":"","bootID":"","containerRuntimeVersion":"","kernelVersion":"",
            "kubeProxyVersion":"","kubeletVersion":"","machineID":"","operatingSystem":"","osImage":"","systemUUID":""}}}}"#;
        let Line::Upsert(item) = line::<Node>(node) else { panic!("not an upsert") };
        item.object.expect("decodes");
    }

    #[test]
    fn k4_k15_bookmarks_carry_a_version_and_may_end_the_initial_events() {
        let plain = br#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"9"},"spec":{}}}"#;
        assert!(matches!(line::<Service>(plain),
            Line::Bookmark { resource_version, initial_end: false } if resource_version == "9"));
        let end = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(line::<Service>(end), Line::Bookmark { initial_end: true, .. }));
    }

    #[test]
    fn k11_undecodable_objects_tell_their_name_and_version() {
        let bad = br#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"d","resourceVersion":"8"},
            "spec":{"ports":"none"}}}"#;
        let Line::Upsert(item) = line::<Service>(bad) else { panic!("not an upsert") };
        assert_eq!((item.key.to_string().as_str(), item.resource_version.as_str()), ("d/a", "8"));
        assert!(item.object.is_err());
        assert!(matches!(line::<Service>(b"{\"type\":\"HELLO\",\"object\":{}}"), Line::Unknown(_)));
        assert!(matches!(
            line::<Service>(b"{\"type\":\"ADDED\",\"object\":{}}"),
            Line::Unreadable(_)
        ));
        assert!(matches!(line::<Service>(b"[1]"), Line::Unreadable(_)));
        assert!(matches!(line::<Service>(b"{\"type\":\"ADD"), Line::Broken(_)));
    }

    #[test]
    fn k5_k6_refusals_in_every_shape() {
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let Line::Refused(refusal) = line::<Service>(gone) else { panic!("not refused") };
        assert!(refusal.is_expired());
        let bare = br#"{"kind":"Status","status":"Failure","code":410,"reason":"Gone"}"#;
        let Line::Refused(refusal) = line::<Service>(bare) else { panic!("not refused") };
        assert!(refusal.is_expired());
        let large = br#"{"kind":"Status","code":504,"reason":"Timeout","message":"x",
            "details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}"#;
        let refusal = Refusal::from_body(504, large);
        assert!(refusal.is_too_large() && !refusal.is_expired());
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
        let old = br#"{"code":504,"message":"Too large resource version: 12, current: 5"}"#;
        assert!(Refusal::from_body(504, old).is_too_large());
        assert_eq!(Refusal::from_body(502, b"<html>bad gateway").code, 502);
    }

    #[test]
    fn k2_k14_list_has_its_own_version_and_one_bad_item_spoils_nothing() {
        let body =
            br#"{"kind":"ServiceList","metadata":{"resourceVersion":"50","continue":"t"},"items":[
            {"metadata":{"name":"b","namespace":"d","resourceVersion":"60"},"spec":{}},
            {"metadata":{"name":"a","namespace":"d","resourceVersion":"40"},"spec":{"ports":3}}]}"#;
        let page = page::<Service>(body).expect("a list");
        assert_eq!(page.resource_version, "50");
        assert_eq!(page.continue_token.as_deref(), Some("t"));
        let readable: Vec<bool> = page.items.iter().map(|item| item.object.is_ok()).collect();
        assert_eq!(readable, [true, false]);
        let empty = br#"{"metadata":{"resourceVersion":"1"},"items":null}"#;
        assert!(super::page::<Service>(empty).expect("a list").items.is_empty());
        assert!(super::page::<Service>(b"{\"kind\":\"Status\"}").is_err());
    }

    #[test]
    fn k21_huge_annotations_and_managed_fields_are_dropped() {
        let huge = "x".repeat(5 << 20);
        let event = serde_json::json!({"type": "ADDED", "object": {"metadata": {
            "name": "a", "namespace": "d", "managedFields": [{"manager": "m"}],
            "annotations": {"big": huge, "sluice.io/service.weights": "web-1=2,".repeat(1000),
                "kubectl.kubernetes.io/last-applied-configuration": "{}"}}}});
        let Line::Upsert(item) = line::<Service>(event.to_string().as_bytes()) else {
            panic!("not an upsert")
        };
        let metadata = item.object.expect("decodes").metadata;
        assert!(metadata.managed_fields.is_none_or(|fields| fields.is_empty()));
        let kept = metadata.annotations.unwrap_or_default();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["sluice.io/service.weights"]);
    }
}
