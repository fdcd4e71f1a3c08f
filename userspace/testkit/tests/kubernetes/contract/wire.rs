//! Requests to either server, and what comes back, freed of what no two servers share: versions,
//! identities, times, addresses, wordings.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, Method, Request, header};
use futures::AsyncBufReadExt as _;
use futures::io::Lines;
use futures::{AsyncBufRead, StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};

/// Time for the next line of a stream.
const LINE: Duration = Duration::from_secs(8);

/// A server, and what it has answered so far.
pub(super) struct Wire {
    client: Client,
    /// Name of each step with its normal answer.
    pub(super) transcript: Vec<(String, Value)>,
}

impl Wire {
    pub(super) fn new(client: Client) -> Self {
        Self { client, transcript: Vec::new() }
    }

    /// Notes something of a step.
    pub(super) fn note(&mut self, step: &str, value: Value) {
        self.transcript.push((step.to_owned(), value));
    }

    /// Makes a request; its status and body as they are.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> (u16, Value) {
        let (code, _, body) = self.whole(method, path, kind, body).await;
        (code, body)
    }

    /// Makes a request; its status, the headers that say something, and its body.
    async fn whole(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> (u16, Value, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, format!("application/{kind}"));
        self.answer(request.body(Body::from(bytes)).unwrap()).await
    }

    async fn answer(&self, request: Request<Body>) -> (u16, Value, Value) {
        let answer = self.client.send(request).await.unwrap();
        let (code, headers) = (answer.status().as_u16(), spoken(answer.headers()));
        // Where a refusal is asked for, there may be a watch, which has no end.
        let body = match tokio::time::timeout(LINE, answer.into_body().collect_bytes()).await {
            Ok(bytes) => {
                let bytes = bytes.unwrap();
                let text = || json!(String::from_utf8_lossy(&bytes));
                serde_json::from_slice(&bytes).unwrap_or_else(|_| text())
            }
            Err(_) => json!("a stream"),
        };
        (code, headers, body)
    }

    /// Reads in the form that is asked for; the normal answer.
    pub(super) async fn accepting(&self, path: &str, accept: &str) -> Value {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty());
        let (code, headers, body) = self.answer(request.unwrap()).await;
        json!({ "code": code, "headers": headers, "body": normal(&body) })
    }

    /// Makes a request and notes its answer; the body as it is.
    pub(super) async fn step(
        &mut self,
        name: &str,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> Value {
        let (code, headers, answer) = self.whole(method, path, kind, body).await;
        self.note(name, json!({ "code": code, "headers": headers, "body": normal(&answer) }));
        answer
    }

    pub(super) async fn get(&mut self, name: &str, path: &str) -> Value {
        self.step(name, Method::GET, path, "json", &Value::Null).await
    }

    pub(super) async fn post(&mut self, name: &str, path: &str, body: &Value) -> Value {
        self.step(name, Method::POST, path, "json", body).await
    }

    pub(super) async fn put(&mut self, name: &str, path: &str, body: &Value) -> Value {
        self.step(name, Method::PUT, path, "json", body).await
    }

    pub(super) async fn delete(&mut self, name: &str, path: &str) -> Value {
        self.step(name, Method::DELETE, path, "json", &Value::Null).await
    }

    /// Opens a watch.
    pub(super) async fn watch(&self, path: &str) -> Watch {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.client.send(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = axum::body::Body::new(answer.into_body()).into_data_stream();
        let reader = body.map_err(std::io::Error::other).into_async_read();
        Watch { code, lines: (Box::new(reader) as Box<dyn AsyncBufRead + Send + Unpin>).lines() }
    }
}

/// An open watch.
pub(super) struct Watch {
    pub(super) code: u16,
    lines: Lines<Box<dyn AsyncBufRead + Send + Unpin>>,
}

impl Watch {
    /// The next event; "silence" after `limit`, "end" at the end of the stream.
    pub(super) async fn next_within(&mut self, limit: Duration) -> Value {
        match tokio::time::timeout(limit, self.lines.next()).await {
            Ok(Some(Ok(line))) => serde_json::from_str(&line).unwrap_or(json!("no JSON")),
            Ok(Some(Err(_)) | None) => json!("end"),
            Err(_) => json!("silence"),
        }
    }

    /// The next event, in its normal form.
    pub(super) async fn next(&mut self) -> Value {
        normal(&self.next_within(LINE).await)
    }

    /// So many events.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.next().await);
        }
        events
    }
}

/// A value without what differs between any two servers.
pub(super) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.get("kind") == Some(&json!("Status")) => status(fields),
        Value::Object(fields) => {
            let kept = fields.iter().map(|(name, value)| (name.clone(), field(name, value)));
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

/// The headers by which a server says something beside the body.
fn spoken(headers: &HeaderMap) -> Value {
    let of = |name: HeaderName| -> Vec<String> {
        let all = headers.get_all(name).iter();
        all.map(|value| value.to_str().unwrap_or_default().to_owned()).collect()
    };
    json!({
        "content-type": of(header::CONTENT_TYPE), "retry-after": of(header::RETRY_AFTER),
        "warning": of(header::WARNING),
    })
}

/// A Status says the same by code, reason, object and causes; its words are for people.
fn status(fields: &Map<String, Value>) -> Value {
    let of = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let mut details = of("details");
    let causes = details.get("causes").and_then(Value::as_array).cloned().unwrap_or_default();
    // Which field, and what is wrong with it; one cause may be told twice.
    let causes: BTreeSet<String> =
        causes.iter().map(|cause| format!("{} {}", cause["reason"], cause["field"])).collect();
    if let Some(details) = details.as_object_mut() {
        details.remove("causes");
        details.remove("uid");
    }
    json!({
        "status": of("status"), "code": of("code"), "reason": of("reason"), "details": details,
        "causes": causes,
    })
}

fn field(name: &str, value: &Value) -> Value {
    let there = |as_text: &str| if value.is_null() { Value::Null } else { json!(as_text) };
    match name {
        "uid" | "resourceVersion" | "creationTimestamp" | "deletionTimestamp" | "eventTime"
        | "lastTransitionTime" | "lastHeartbeatTime" | "lastObservedTime" | "continue" => {
            match value.as_str() {
                Some("") => json!(""),
                _ => there(name),
            }
        }
        // Who wrote which field is the server's own business; that it is noted is not.
        "managedFields" => there("managedFields"),
        // Allocated ones; 0 and "None" say something.
        "nodePort" | "healthCheckNodePort" if value.as_u64().is_some_and(|port| port > 0) => {
            json!(name)
        }
        "clusterIP" => address(value),
        "clusterIPs" => Value::Array(value.as_array().into_iter().flatten().map(address).collect()),
        "podCIDR" => address(value),
        "podCIDRs" => value.as_array().into_iter().flatten().map(address).collect(),
        "endpoints.kubernetes.io/last-change-trigger-time" => there("a time"),
        _ => normal(value),
    }
}

fn address(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if text.contains(':') => json!("IPv6"),
        Some(text) if text.contains('.') => json!("IPv4"),
        _ => value.clone(),
    }
}
