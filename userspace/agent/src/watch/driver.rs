//! Performs what a [`Cursor`] asks for: one task per type of object, changes out over a channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::BodyDataStream;
use futures::StreamExt as _;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::ask::{Ask, Failure, Watch, chain};
use super::client::ApiAccess;
use super::cursor::{Cursor, Event, Reaction, Request, Timing};
use super::known::{Changes, Collected, Known};
use super::lines::Lines;
use super::object::{self, Item, Key, Line, Refusal};

/// Something about one type of objects changed.
#[derive(Debug, PartialEq)]
pub struct Update<T> {
    /// The first and every later complete list; otherwise single objects.
    pub listed: bool,
    /// The API server does not know this type; comes with an empty list.
    pub absent: bool,
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

/// A type that the API server does not know is asked for again after this time: the server may be
/// upgraded.
const ABSENT_AGAIN: Duration = Duration::from_secs(300);

/// A watch before which the connection was lost lasts up to so much of the shortest one: up to a
/// minute, over which the lists of all nodes are spread that follow.
const DOUBTFUL_PART: f64 = 0.2;
/// It must not count as a watch that ended at once.
const DOUBTFUL_MIN: Duration = Duration::from_millis(1_500);

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
    /// The API server has just said that it does not know this type.
    absent: bool,
}

/// The agent is going away: nobody takes the changes any more.
struct Closed;

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
            absent: false,
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
        let uri = self.watch.uri(&request, lasts);
        let ask = Ask { client, answer: self.timing.answer };
        match &request {
            Request::Stream { .. } | Request::Watch { .. } => match ask.open(&uri).await {
                Ok(body) => self.follow(body, lasts).await,
                Err(failure) => self.fail(failure).await,
            },
            Request::List { .. } => self.list(&ask, &uri).await,
            Request::Probe { .. } => match ask.fetch(&uri).await {
                Ok(_) => Ok(self.decide(Event::Known, "")),
                Err(failure) => Ok(self.decide(failure.event, &failure.detail)),
            },
        }
    }

    async fn list(&mut self, ask: &Ask<'_>, uri: &str) -> Result<Reaction, Closed> {
        let body = match ask.fetch(uri).await {
            Ok(body) => body,
            Err(failure) => return self.fail(failure).await,
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
            self.absent = false;
            let changes = self.known.replace(collected);
            info!(resource = self.watch.resource, objects = self.known.len(), "listed");
            self.report.lists.fetch_add(1, Ordering::Relaxed);
            self.send(changes, true).await?;
        }
        Ok(reaction)
    }

    /// Decides on a request that was refused or got no answer.
    async fn fail(&mut self, failure: Failure) -> Result<Reaction, Closed> {
        let missing = matches!(&failure.event, Event::Refused(refusal) if refusal.code == 404);
        // What there was a moment ago does not become unknown: that is some proxy's 404.
        if !self.watch.optional || !missing || !self.known.is_empty() {
            return Ok(self.decide(failure.event, &failure.detail));
        }
        if !self.absent {
            info!(resource = self.watch.resource, "the API server does not have this type");
        }
        self.absent = true;
        self.cursor = Cursor::default();
        self.report.lists.fetch_add(1, Ordering::Relaxed);
        self.send(Changes { gone: Vec::new(), objects: Vec::new() }, true).await?;
        Ok(Reaction { pause: ABSENT_AGAIN, ..Reaction::default() })
    }

    async fn send(&self, changes: Changes<T>, listed: bool) -> Result<(), Closed> {
        self.report.objects.store(self.known.len() as u64, Ordering::Relaxed);
        if !listed && changes.gone.is_empty() && changes.objects.is_empty() {
            return Ok(());
        }
        let absent = self.absent;
        let update = Update { listed, absent, gone: changes.gone, objects: changes.objects };
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
        let reaction = self.cursor.on(event, Instant::now(), rand::random());
        if reaction.discard {
            self.collected = Collected::default();
        }
        if !reaction.why.is_empty() {
            self.report.restarts.fetch_add(1, Ordering::Relaxed);
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
        if self.cursor.doubtful() {
            let length = self.timing.watch_min.mul_f64(DOUBTFUL_PART * rand::random::<f64>());
            return length.max(DOUBTFUL_MIN);
        }
        let span = self.timing.watch_max.saturating_sub(self.timing.watch_min);
        self.timing.watch_min + span.mul_f64(rand::random())
    }
}
