//! Asks the API server: the URI of each request, and one answer, refusal or loss for it.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{self, header};
use kube::Client;

use super::cursor::{Event, Request};
use super::object::Refusal;

/// Largest error body that is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Largest page of a list that is read, in bytes.
const MAX_PAGE_BYTES: usize = 1 << 30;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Name in logs and metrics, e.g. `services`.
    pub resource: &'static str,
    /// Path of the collection, e.g. `/api/v1/services`.
    pub path: &'static str,
    /// `labelSelector`, or "".
    pub label_selector: &'static str,
    /// `fieldSelector`, or "".
    pub field_selector: String,
    /// Whether there are API servers without this type, which then counts as having no objects.
    pub optional: bool,
}

/// A question without an answer: what the cursor makes of it, and what the log says.
pub(super) struct Failure {
    pub(super) event: Event,
    pub(super) detail: String,
}

impl Failure {
    fn lost(detail: String) -> Self {
        Self { event: Event::Lost, detail }
    }
}

/// One question to the server.
pub(super) struct Ask<'a> {
    /// The connection.
    pub(super) client: &'a Client,
    /// Limit for the head of the answer, and for a whole body.
    pub(super) answer: Duration,
}

impl Ask<'_> {
    /// Opens a stream.
    pub(super) async fn open(&self, uri: &str) -> Result<BodyDataStream, Failure> {
        let answer = self.send_request(uri).await?;
        if answer.status().is_success() {
            return Ok(Body::new(answer.into_body()).into_data_stream());
        }
        Err(self.read_refusal(answer).await)
    }

    /// Gets a whole body.
    pub(super) async fn fetch(&self, uri: &str) -> Result<Vec<u8>, Failure> {
        let answer = self.send_request(uri).await?;
        if !answer.status().is_success() {
            return Err(self.read_refusal(answer).await);
        }
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_PAGE_BYTES);
        match tokio::time::timeout(self.answer, body).await {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            Ok(Err(error)) => Err(Failure::lost(chain(&error))),
            Err(_) => Err(Failure::lost("the list did not end in time".to_owned())),
        }
    }

    async fn send_request(&self, uri: &str) -> Result<http::Response<kube::client::Body>, Failure> {
        let request = http::Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .body(kube::client::Body::empty())
            .map_err(|error| Failure::lost(chain(&error)))?;
        match tokio::time::timeout(self.answer, self.client.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::lost(chain(&error))),
            Err(_) => Err(Failure::lost("no answer in time".to_owned())),
        }
    }

    async fn read_refusal(&self, answer: http::Response<kube::client::Body>) -> Failure {
        let code = answer.status().as_u16();
        let asked = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ERROR_BYTES);
        let body = tokio::time::timeout(self.answer, body).await;
        let bytes = body.ok().and_then(Result::ok).unwrap_or_default();
        let mut refusal = Refusal::from_body(code, &bytes);
        refusal.retry_after = asked.or(refusal.retry_after);
        let detail = refusal.to_string();
        Failure { event: Event::Refused(refusal), detail }
    }
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Watch {
    /// The path and query of a request.
    pub(super) fn uri(&self, request: &Request, lasts: Duration) -> String {
        let mut query = Query(format!("{}?", self.path));
        query.add("labelSelector", self.label_selector);
        query.add("fieldSelector", &self.field_selector);
        let seconds = lasts.as_secs().max(1).to_string();
        match request {
            Request::Stream { not_older_than } => {
                query.add("watch", "1");
                query.add("sendInitialEvents", "true");
                query.add("allowWatchBookmarks", "true");
                query.add("resourceVersionMatch", "NotOlderThan");
                query.add("resourceVersion", not_older_than.as_deref().unwrap_or_default());
                query.add("timeoutSeconds", &seconds);
            }
            Request::Watch { from } => {
                query.add("watch", "1");
                query.add("allowWatchBookmarks", "true");
                query.add("resourceVersion", from);
                query.add("timeoutSeconds", &seconds);
            }
            Request::List { not_older_than, limit, continue_token } => {
                if let Some(version) = not_older_than {
                    query.add("resourceVersion", version);
                    query.add("resourceVersionMatch", "NotOlderThan");
                }
                query.add("limit", &limit.map(|limit| limit.to_string()).unwrap_or_default());
                query.add("continue", continue_token.as_deref().unwrap_or_default());
            }
            Request::Probe { not_older_than } => {
                query.add("resourceVersion", not_older_than);
                query.add("resourceVersionMatch", "NotOlderThan");
                query.add("limit", "1");
            }
        }
        query.0
    }
}

struct Query(String);

impl Query {
    /// Adds one parameter unless its value is empty, percent-encoded (RFC 3986, section 2.3).
    fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.0.ends_with('?') {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            resource: "services",
            path: "/api/v1/services",
            label_selector: "!service.kubernetes.io/service-proxy-name",
            field_selector: "spec.clusterIP!=None".to_owned(),
            optional: false,
        }
    }

    const SELECTORS: &str = "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name\
        &fieldSelector=spec.clusterIP%21%3DNone";

    #[test]
    fn k1_k14_versions_limits_and_tokens_are_never_mixed() {
        let lasts = Duration::from_secs(300);
        let cases = [
            (
                Request::Stream { not_older_than: None },
                "&watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
                 &resourceVersionMatch=NotOlderThan&timeoutSeconds=300",
            ),
            (
                Request::Watch { from: "7".to_owned() },
                "&watch=1&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=300",
            ),
            (
                Request::List { not_older_than: None, limit: Some(500), continue_token: None },
                "&limit=500",
            ),
            (
                Request::List {
                    not_older_than: Some("7".to_owned()),
                    limit: None,
                    continue_token: None,
                },
                "&resourceVersion=7&resourceVersionMatch=NotOlderThan",
            ),
            (
                Request::List {
                    not_older_than: None,
                    limit: Some(500),
                    continue_token: Some("a+/=".to_owned()),
                },
                "&limit=500&continue=a%2B%2F%3D",
            ),
            (
                Request::Probe { not_older_than: "7".to_owned() },
                "&resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=1",
            ),
        ];
        for (request, expected) in cases {
            assert_eq!(watch().uri(&request, lasts), format!("{SELECTORS}{expected}"));
        }
    }
}
