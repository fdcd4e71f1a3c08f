//! Writes notes to the API server as Events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use axum::http::{Method, Request, StatusCode, header};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::ledger::{Ledger, Verdict};
use super::{EventCounts, Note, Severity};
use crate::watch::ApiAccess;

/// Name under which Sluice reports.
const CONTROLLER: &str = "sluice";
/// Limit for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// First and longest pause before a request is made again that got no answer.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Requests made in vain until the note is given up: some three minutes.
const TRIES: u32 = 10;

/// Longest texts that the API takes, in bytes (K29, `ValidateEventCreate`).
const MAX_NOTE_BYTES: usize = 1024;
const MAX_INSTANCE_BYTES: usize = 128;

/// Turns notes into Events; owned by a task of its own.
pub struct Recorder {
    access: ApiAccess,
    node: String,
    notes: mpsc::Receiver<Note>,
    counts: Arc<EventCounts>,
    client: Option<Client>,
    ledger: Ledger,
    /// Factor on pauses; 1.0 outside tests.
    pace: f64,
    /// Status of the last refusal, told once.
    refused: Option<StatusCode>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

/// How a request went.
enum Outcome {
    Done,
    /// There is such an Event already.
    Exists,
    /// There is no such Event (any more).
    Missing,
    /// Never to be taken.
    Refused(StatusCode),
    /// No answer, or one to come back later for.
    Later,
}

impl Recorder {
    /// A recorder for the node of this name.
    #[must_use]
    pub fn new(
        access: ApiAccess,
        node: String,
        notes: mpsc::Receiver<Note>,
        counts: Arc<EventCounts>,
        pace: f64,
    ) -> Self {
        let ledger = Ledger::new(Instant::now());
        Self { access, node, notes, counts, client: None, ledger, pace, refused: None }
    }

    /// Runs until nobody can tell anything any more.
    pub async fn run(mut self) {
        while let Some(note) = self.notes.recv().await {
            let name = note.event_name();
            let sent = match self.ledger.judge(&name, Instant::now()) {
                Verdict::Known => continue,
                Verdict::Create => self.create(&note, &name).await,
                Verdict::Count(times) => self.count(&note, &name, times).await,
                Verdict::TooMany => false,
            };
            let counter = if sent { &self.counts.sent } else { &self.counts.lost };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the Event is there now.
    async fn create(&mut self, note: &Note, name: &str) -> bool {
        let event = event(note, name, &self.node, SystemTime::now());
        match self.insist(Method::POST, &path(note, None), &event).await {
            Outcome::Done => true,
            // Of an earlier run, or another node saw the same in an object.
            Outcome::Exists if note.origin.is_empty() => true,
            Outcome::Exists => self.count(note, name, 2).await,
            _ => {
                self.ledger.forget(name);
                false
            }
        }
    }

    /// Only `series` may change (K29).
    async fn count(&mut self, note: &Note, name: &str, times: u32) -> bool {
        let last = micro_time(SystemTime::now());
        let series = json!({"series": {"count": times.max(2), "lastObservedTime": last}});
        match self.insist(Method::PATCH, &path(note, Some(name)), &series).await {
            Outcome::Done => true,
            // It has expired: the next note makes a new one.
            _ => {
                self.ledger.forget(name);
                false
            }
        }
    }

    /// Makes the request until there is an answer that settles it.
    async fn insist(&mut self, method: Method, path: &str, body: &Value) -> Outcome {
        for attempt in 0..TRIES {
            match self.request(&method, path, body).await {
                Outcome::Later => {}
                Outcome::Refused(code) => {
                    if self.refused.replace(code) != Some(code) {
                        warn!(%code, "the API server refuses our Events; going on without");
                    }
                    return Outcome::Refused(code);
                }
                outcome => {
                    self.refused = None;
                    return outcome;
                }
            }
            let pause = AGAIN_MIN.saturating_mul(1 << attempt.min(10)).min(AGAIN_MAX);
            tokio::time::sleep(pause.mul_f64(self.pace)).await;
        }
        debug!(path, "an Event is given up");
        Outcome::Later
    }

    async fn request(&mut self, method: &Method, path: &str, body: &Value) -> Outcome {
        if self.client.is_none() {
            self.client = self.access.connect().await.ok();
        }
        let Some(client) = self.client.clone() else { return Outcome::Later };
        let kind = match *method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .body(kube::client::Body::from(body.to_string().into_bytes()));
        let Ok(request) = request else { return Outcome::Refused(StatusCode::BAD_REQUEST) };
        let answer = tokio::time::timeout(ANSWER, client.send(request)).await;
        let Ok(Ok(answer)) = answer else {
            // The address or the credentials may have changed.
            self.client = None;
            return Outcome::Later;
        };
        match answer.status() {
            code if code.is_success() => Outcome::Done,
            StatusCode::CONFLICT => Outcome::Exists,
            StatusCode::NOT_FOUND if *method == Method::PATCH => Outcome::Missing,
            StatusCode::UNAUTHORIZED => {
                self.client = None;
                Outcome::Later
            }
            StatusCode::TOO_MANY_REQUESTS => Outcome::Later,
            code if code.is_server_error() => Outcome::Later,
            code => Outcome::Refused(code),
        }
    }
}

fn path(note: &Note, name: Option<&str>) -> String {
    let collection = format!("/apis/events.k8s.io/v1/namespaces/{}/events", note.event_namespace());
    name.map_or(collection.clone(), |name| format!("{collection}/{name}"))
}

/// The whole object (K29).
fn event(note: &Note, name: &str, node: &str, clock: SystemTime) -> Value {
    let about = &note.about;
    let mut regarding = json!({"apiVersion": "v1", "kind": about.kind, "name": about.name});
    if let Some(regarding) = regarding.as_object_mut() {
        for (field, value) in [("namespace", &about.namespace), ("uid", &about.uid)] {
            if !value.is_empty() {
                regarding.insert(field.to_owned(), value.as_str().into());
            }
        }
    }
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": note.event_namespace()},
        "eventTime": micro_time(clock),
        "reportingController": CONTROLLER,
        "reportingInstance": cut(&format!("{CONTROLLER}-{node}"), MAX_INSTANCE_BYTES),
        "type": match note.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        },
        "reason": note.reason,
        "action": note.action,
        "note": cut(&note.text, MAX_NOTE_BYTES),
        "regarding": regarding,
    })
}

fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

/// A time as the API's MicroTime.
fn micro_time(time: SystemTime) -> String {
    let time = k8s_openapi::jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::About;
    use super::*;

    #[test]
    fn k29_an_event_has_all_that_the_api_asks_for() {
        let about = About {
            kind: "Node",
            namespace: String::new(),
            name: "n1".to_owned(),
            uid: "n1".to_owned(),
        };
        let note = Note {
            about,
            severity: Severity::Normal,
            reason: "Starting",
            action: "Start",
            text: "ä".repeat(600),
            origin: "n1".to_owned(),
        };
        let clock = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let value = event(&note, "n1.1", "n1", clock);
        let typed: k8s_openapi::api::events::v1::Event =
            serde_json::from_value(value.clone()).expect("an Event");
        assert_eq!(typed.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(value["eventTime"], "2023-11-14T22:13:20.250000Z");
        assert_eq!(
            value["regarding"],
            json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"})
        );
        assert_eq!(value["note"].as_str().map(str::len), Some(1024));
        assert_eq!(value["reportingController"], "sluice");
    }

    #[test]
    fn equal_notes_have_one_name_and_another_node_another() {
        let about = |uid: &str| About {
            kind: "Service",
            namespace: "d".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
        };
        let note = |uid, origin: &str| Note {
            about: about(uid),
            severity: Severity::Warning,
            reason: "R",
            action: "A",
            text: "t".to_owned(),
            origin: origin.to_owned(),
        };
        assert_eq!(note("1", "").event_name(), note("1", "").event_name());
        assert_ne!(note("1", "").event_name(), note("2", "").event_name(), "another Service");
        assert_ne!(note("1", "n1").event_name(), note("1", "n2").event_name());
        assert!(note("1", "").event_name().starts_with("web."));
    }
}
