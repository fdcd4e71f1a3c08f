//! Performs what a [`Cursor`] asks for: one task per type of object, changes out over a channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::http::{self, header};
use futures::StreamExt as _;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::client::ApiAccess;
use super::cursor::{Cursor, Event, Reaction, Request, Timing};
use super::known::{Changes, Collected, Known};
use super::lines::Lines;
use super::object::{self, Item, Key, Line, Refusal};

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
}

/// Something about one type of objects changed.
#[derive(Debug, PartialEq)]
pub struct Update<T> {
    /// The first and every later complete list; otherwise single objects.
    pub listed: bool,
    /// Names of objects that are gone; to be applied first.
    pub gone: Vec<Key>,
    /// Objects as they are now.
    pub objects: Vec<T>,
}

/// Counters of one watch, for metrics and views.
#[derive(Debug, Default)]
pub struct WatcherReport {
    /// Complete lists handed on; 0 before the initial one.
    pub lists: AtomicU64,
    /// Requests made again after something went wrong.
    pub restarts: AtomicU64,
    /// Objects that could not be decoded.
    pub unreadable: AtomicU64,
    /// Objects that exist.
    pub objects: AtomicU64,
    /// Lists that came back empty although objects had been known (K20).
    pub emptied: AtomicU64,
}

/// Watches one type of objects until its channel closes.
#[derive(Debug)]
pub struct Watcher<T> {
    access: ApiAccess,
    watch: Watch,
    timing: Timing,
    out: mpsc::Sender<Update<T>>,
    report: Arc<WatcherReport>,
    cursor: Cursor,
    known: Known,
    collected: Collected<T>,
}

/// The agent is going away: nobody takes the changes any more.
struct Closed;

/// An answer with a stream in it, or what happened instead.
enum Opened {
    Stream(BodyDataStream),
    Event(Event),
}

impl<T: DeserializeOwned + Send + Sync + 'static> Watcher<T> {
    /// A watcher that has not asked anything yet.
    #[must_use]
    pub fn new(
        access: ApiAccess,
        watch: Watch,
        timing: Timing,
        out: mpsc::Sender<Update<T>>,
        report: Arc<WatcherReport>,
    ) -> Self {
        Self {
            access,
            watch,
            timing,
            out,
            report,
            cursor: Cursor::default(),
            known: Known::default(),
            collected: Collected::default(),
        }
    }

    /// Watches until the receiving end of the channel is dropped.
    pub async fn run(mut self) {
        let mut client: Option<Client> = None;
        loop {
            let reaction = match self.client(&mut client).await {
                Some(client) => self.perform(&client).await,
                None => Ok(self.decide(Event::Lost, "")),
            };
            let Ok(reaction) = reaction else { return };
            if reaction.reconnect {
                client = None;
            }
            let pause = reaction.pause.mul_f64(self.timing.pace);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.out.closed() => return,
            }
        }
    }

    async fn client(&self, client: &mut Option<Client>) -> Option<Client> {
        if client.is_none() {
            match self.access.connect().await {
                Ok(fresh) => *client = Some(fresh),
                Err(error) => warn!(resource = self.watch.resource, %error, "no API client"),
            }
        }
        client.clone()
    }

    /// Makes one request and follows its answer to the end.
    async fn perform(&mut self, client: &Client) -> Result<Reaction, Closed> {
        let request = self.cursor.request();
        debug!(resource = self.watch.resource, ?request, "asking");
        let lasts = self.watch_length();
        let uri = uri(&self.watch, &request, lasts);
        match &request {
            Request::Stream { .. } | Request::Watch { .. } => match self.open(client, &uri).await {
                Opened::Stream(body) => self.follow(body, lasts).await,
                Opened::Event(event) => Ok(self.decide(event, "")),
            },
            Request::List { .. } => self.list(client, &uri).await,
            Request::Probe { .. } => match self.fetch(client, &uri).await {
                Ok(_) => Ok(self.decide(Event::Known, "")),
                Err(event) => Ok(self.decide(event, "")),
            },
        }
    }

    async fn list(&mut self, client: &Client, uri: &str) -> Result<Reaction, Closed> {
        let body = match self.fetch(client, uri).await {
            Ok(body) => body,
            Err(event) => return Ok(self.decide(event, "")),
        };
        let page = match object::page::<T>(&body) {
            Ok(page) => page,
            Err(reason) => return Ok(self.decide(Event::Lost, &reason)),
        };
        for item in page.items {
            self.note_unreadable(&item);
            self.collected.upsert(item);
        }
        let event = Event::Page {
            resource_version: page.resource_version,
            continue_token: page.continue_token,
        };
        self.settle(event).await
    }

    /// Decides on an event that may complete a list, and hands the list over.
    async fn settle(&mut self, event: Event) -> Result<Reaction, Closed> {
        let reaction = self.decide(event, "");
        if reaction.listed {
            let collected = std::mem::take(&mut self.collected);
            if collected.is_empty() && !self.known.is_empty() {
                self.report.emptied.fetch_add(1, Ordering::Relaxed);
                warn!(
                    resource = self.watch.resource,
                    known = self.known.len(),
                    "the API server now lists NO objects: all of them are taken as deleted"
                );
            }
            let changes = self.known.replace(collected);
            info!(resource = self.watch.resource, objects = self.known.len(), "listed");
            self.report.lists.fetch_add(1, Ordering::Relaxed);
            self.send(changes, true).await?;
        }
        Ok(reaction)
    }

    async fn send(&self, changes: Changes<T>, listed: bool) -> Result<(), Closed> {
        self.report.objects.store(self.known.len() as u64, Ordering::Relaxed);
        if !listed && changes.gone.is_empty() && changes.objects.is_empty() {
            return Ok(());
        }
        let update = Update { listed, gone: changes.gone, objects: changes.objects };
        self.out.send(update).await.map_err(|_| Closed)
    }

    /// Reads a stream of events to its end.
    async fn follow(
        &mut self,
        mut body: BodyDataStream,
        lasts: Duration,
    ) -> Result<Reaction, Closed> {
        let opened = Instant::now();
        let ends = opened + lasts + self.timing.slack;
        let mut lines = Lines::default();
        let mut count = 0_u64;
        loop {
            while let Some(line) = lines.next_line() {
                count += 1;
                let reaction = self.take(&line).await?;
                if reaction.leave {
                    return Ok(reaction);
                }
            }
            let collecting = self.cursor.collecting();
            let silence = Instant::now() + self.timing.initial_silence;
            let until = if collecting { silence.min(ends) } else { ends };
            let chunk = tokio::select! {
                chunk = tokio::time::timeout_at(until.into(), body.next()) => chunk,
                () = self.out.closed() => return Err(Closed),
            };
            let event = match chunk {
                Ok(Some(Ok(chunk))) => match lines.push(&chunk) {
                    Ok(()) => continue,
                    Err(error) => return Ok(self.decide(Event::Lost, &error.to_string())),
                },
                Ok(Some(Err(error))) => return Ok(self.decide(Event::Lost, &chain(&error))),
                Ok(None) => match lines.rest() {
                    // A last document without a line end is taken, a cut one is a broken stream.
                    Some(rest) => {
                        let reaction = self.take(&rest).await?;
                        if reaction.leave {
                            return Ok(reaction);
                        }
                        Event::Eof { lived: opened.elapsed(), lines: count + 1 }
                    }
                    None => Event::Eof { lived: opened.elapsed(), lines: count },
                },
                Err(_) if collecting => Event::InitialSilence,
                Err(_) => return Ok(self.decide(Event::Lost, "the watch outlived its time")),
            };
            return Ok(self.decide(event, ""));
        }
    }

    /// Takes in one line of a stream.
    async fn take(&mut self, line: &[u8]) -> Result<Reaction, Closed> {
        match object::line::<T>(line) {
            Line::Upsert(item) => self.upsert(item).await,
            Line::Delete(item) => {
                let version = item.resource_version;
                if self.cursor.collecting() {
                    self.collected.delete(&item.key);
                } else {
                    let changes = self.known.delete(&item.key);
                    self.send(changes, false).await?;
                }
                Ok(self.decide(Event::Progress { resource_version: version }, ""))
            }
            Line::Bookmark { resource_version, initial_end: true } if self.cursor.collecting() => {
                self.settle(Event::InitialEnd { resource_version }).await
            }
            Line::Bookmark { resource_version, .. } => {
                Ok(self.decide(Event::Progress { resource_version }, ""))
            }
            Line::Refused(refusal) => Ok(self.refuse(refusal)),
            Line::Unknown(kind) => {
                warn!(resource = self.watch.resource, kind, "unknown type of event ignored");
                Ok(Reaction::default())
            }
            Line::Unreadable(reason) => {
                self.report.unreadable.fetch_add(1, Ordering::Relaxed);
                warn!(resource = self.watch.resource, reason, "unreadable event ignored");
                Ok(self.decide(Event::Unreadable, ""))
            }
            Line::Broken(reason) => Ok(self.decide(Event::Lost, &reason)),
        }
    }

    async fn upsert(&mut self, item: Item<T>) -> Result<Reaction, Closed> {
        let readable = self.note_unreadable(&item);
        let progress = Event::Progress { resource_version: item.resource_version.clone() };
        if self.cursor.collecting() {
            self.collected.upsert(item);
        } else {
            let changes = self.known.upsert(item);
            self.send(changes, false).await?;
        }
        let reaction = self.decide(progress, "");
        if readable { Ok(reaction) } else { Ok(self.decide(Event::Unreadable, "")) }
    }

    fn note_unreadable(&self, item: &Item<T>) -> bool {
        if let Err(reason) = &item.object {
            self.report.unreadable.fetch_add(1, Ordering::Relaxed);
            warn!(
                resource = self.watch.resource,
                object = %item.key,
                reason,
                "object cannot be decoded; its last readable state stays in force"
            );
        }
        item.object.is_ok()
    }

    fn refuse(&mut self, refusal: Refusal) -> Reaction {
        let text = refusal.to_string();
        self.decide(Event::Refused(refusal), &text)
    }

    fn decide(&mut self, event: Event, detail: &str) -> Reaction {
        let refusal = match &event {
            Event::Refused(refusal) => refusal.to_string(),
            _ => String::new(),
        };
        let reaction = self.cursor.on(event, Instant::now(), rand::random());
        if reaction.discard {
            self.collected = Collected::default();
        }
        if !reaction.why.is_empty() {
            self.report.restarts.fetch_add(1, Ordering::Relaxed);
            let detail = if detail.is_empty() { &refusal } else { detail };
            warn!(
                resource = self.watch.resource,
                why = reaction.why,
                detail,
                pause_ms = reaction.pause.as_millis(),
                "asking the API server again"
            );
        }
        reaction
    }

    fn watch_length(&self) -> Duration {
        let span = self.timing.watch_max.saturating_sub(self.timing.watch_min);
        self.timing.watch_min + span.mul_f64(rand::random())
    }

    async fn open(&self, client: &Client, uri: &str) -> Opened {
        let answer = match self.send_request(client, uri).await {
            Ok(answer) => answer,
            Err(event) => return Opened::Event(event),
        };
        if answer.status().is_success() {
            return Opened::Stream(Body::new(answer.into_body()).into_data_stream());
        }
        Opened::Event(self.read_refusal(answer).await)
    }

    async fn fetch(&self, client: &Client, uri: &str) -> Result<Vec<u8>, Event> {
        let answer = self.send_request(client, uri).await?;
        if !answer.status().is_success() {
            return Err(self.read_refusal(answer).await);
        }
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_PAGE_BYTES);
        match tokio::time::timeout(self.timing.answer, body).await {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            Ok(Err(error)) => Err(self.lost(&chain(&error))),
            Err(_) => Err(self.lost("the list did not end in time")),
        }
    }

    async fn send_request(
        &self,
        client: &Client,
        uri: &str,
    ) -> Result<http::Response<kube::client::Body>, Event> {
        let request = http::Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .body(kube::client::Body::empty())
            .map_err(|error| self.lost(&chain(&error)))?;
        match tokio::time::timeout(self.timing.answer, client.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.lost(&chain(&error))),
            Err(_) => Err(self.lost("no answer in time")),
        }
    }

    fn lost(&self, detail: &str) -> Event {
        warn!(resource = self.watch.resource, detail, "API server not reached");
        Event::Lost
    }

    async fn read_refusal(&self, answer: http::Response<kube::client::Body>) -> Event {
        let code = answer.status().as_u16();
        let asked = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ERROR_BYTES);
        let body = tokio::time::timeout(self.timing.answer, body).await;
        let bytes = body.ok().and_then(Result::ok).unwrap_or_default();
        let mut refusal = Refusal::from_body(code, &bytes);
        refusal.retry_after = asked.or(refusal.retry_after);
        Event::Refused(refusal)
    }
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
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

/// The path and query of a request.
fn uri(watch: &Watch, request: &Request, lasts: Duration) -> String {
    let mut query = Query(format!("{}?", watch.path));
    query.add("labelSelector", watch.label_selector);
    query.add("fieldSelector", &watch.field_selector);
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
            assert_eq!(uri(&watch(), &request, lasts), format!("{SELECTORS}{expected}"));
        }
    }
}
