//! The forms of an answer: whole objects, tables for kubectl's columns, metadata only; chosen by the
//! Accept header (K18).

use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::error::ApiError;
use super::json::set;
use super::list::Page;
use super::resource::Resource;
use super::{convert, table};

/// The form a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Table,
    Metadata,
}

impl Form {
    /// # Errors
    /// 406 when none of what the client takes can be had.
    pub(crate) fn accepted(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        let mut is_json = false;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            if !matches!(
                parts.next().unwrap_or_default(),
                "application/json" | "application/*" | "*/*" | ""
            ) {
                continue;
            }
            is_json = true;
            let parameters: Vec<&str> = parts.collect();
            let given = |name: &str| {
                parameters
                    .iter()
                    .find_map(|p| p.strip_prefix(name).and_then(|v| v.strip_prefix('=')))
            };
            match given("as") {
                None => return Ok(Self::Whole),
                Some("Table") if given("v") == Some("v1") => return Ok(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
                    return Ok(Self::Metadata);
                }
                Some(_) => {}
            }
        }
        let message = "only the following media types are accepted: application/json";
        let error = ApiError::new(406, "NotAcceptable", message);
        // JSON, but in a form that there is not.
        Err(if is_json { error } else { error.bare() })
    }

    /// One object.
    pub(crate) fn one(self, resource: &'static Resource, stored: &Arc<Value>) -> Value {
        match self {
            Self::Whole => convert::whole(resource, stored),
            Self::Metadata => convert::partial(stored),
            Self::Table => table::of(
                resource,
                std::slice::from_ref(stored),
                &json!({
                    "resourceVersion": stored.pointer("/metadata/resourceVersion").cloned().unwrap_or_default(),
                }),
            ),
        }
    }

    /// The object of an event.
    pub(crate) fn event(self, resource: &'static Resource, stored: &Arc<Value>) -> Value {
        self.one(resource, stored)
    }

    /// A collection, as JSON text: big ones are not copied on the way.
    pub(crate) fn list(self, resource: &'static Resource, page: &Page) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": page.rv.to_string()});
        if let Some(next) = &page.next {
            set(&mut metadata, &["continue"], next.clone());
        }
        if let Some(remaining) = page.remaining {
            set(&mut metadata, &["remainingItemCount"], remaining);
        }
        let (kind, version) = match self {
            Self::Table => {
                return serde_json::to_vec(&table::of(resource, &page.items, &metadata))
                    .unwrap_or_default();
            }
            Self::Whole => (format!("{}List", resource.kind), resource.api_version()),
            Self::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let mut out = format!(
            r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#
        )
        .into_bytes();
        for (at, item) in page.items.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let text = match self {
                Self::Metadata => serde_json::to_vec(&convert::partial(item)),
                _ if resource.plural == "events" => {
                    serde_json::to_vec(&convert::item(resource, item))
                }
                // Items of a typed list have neither kind nor apiVersion, like what is stored.
                _ => serde_json::to_vec(&**item),
            };
            out.extend(text.unwrap_or_default());
        }
        out.extend(b"]}");
        out
    }
}
