//! Decides what one watch asks the server next: the K rules, without a clock and without a network.
//!
//! The driver asks for [`Cursor::request`], performs it, and tells what came of it with
//! [`Cursor::on`]; time and randomness are parameters.

use std::time::{Duration, Instant};

use super::object::Refusal;

/// Page size of a list (as client-go's pager).
const PAGE_OBJECTS: u32 = 500;
/// Shortest and longest pause between failing requests (K9).
const BACKOFF_MIN: Duration = Duration::from_millis(800);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Health after which the next failure starts with the shortest pause again (K9).
const BACKOFF_RESET: Duration = Duration::from_secs(120);
/// A watch that lived shorter than this and brought nothing is a failure (K7).
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// 500s on a watch are retried this long, then the type is listed again (K9).
const ERRORS_UNTIL_RELIST: Duration = Duration::from_secs(120);
/// Streaming lists that ended before their bookmark until plain lists are used (K15).
const CUT_INITIAL_STREAMS: u32 = 3;
/// Whom the server takes us for where it got no credentials (K10).
const ANONYMOUS: &str = "system:anonymous";
/// Undecodable objects until a list shall put things right, and how seldom (K11).
const UNREADABLE_UNTIL_RELIST: u32 = 3;
const UNREADABLE_RELIST_EVERY: Duration = Duration::from_secs(600);
/// The longest pause that a server's Retry-After is taken for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// After a 410 every node relists every type at once: spread over this long (K31).
const RELIST_SPREAD: Duration = Duration::from_secs(1);

/// Limits in time of one watch; parameters so that tests need not wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The server is asked to end a watch after a time between these two (K7).
    pub watch_min: Duration,
    /// See `watch_min`.
    pub watch_max: Duration,
    /// How much longer than asked a watch may last before the client ends it (K8).
    pub slack: Duration,
    /// Limit for the head of any answer and for a page of a list.
    pub answer: Duration,
    /// Silence during the initial events after which they count as lost (K15).
    pub initial_silence: Duration,
    /// Factor on every pause; 1.0 outside tests.
    pub pace: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch_min: Duration::from_secs(300),
            watch_max: Duration::from_secs(600),
            slack: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            initial_silence: Duration::from_secs(10),
            pace: 1.0,
        }
    }
}

/// What to ask the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A streaming list that goes on as a watch (K15); not older than the version, if any.
    Stream {
        /// `resourceVersion`; unset asks for the newest state (K1).
        not_older_than: Option<String>,
    },
    /// One page of a list.
    List {
        /// `resourceVersion` with `resourceVersionMatch=NotOlderThan`; never with `limit` (K1).
        not_older_than: Option<String>,
        /// `limit`
        limit: Option<u32>,
        /// `continue`; never with a version (K14).
        continue_token: Option<String>,
    },
    /// A list of one object that only asks whether the server knows our version: a watch from the
    /// future would be silent (K32).
    Probe {
        /// The last version seen.
        not_older_than: String,
    },
    /// A plain watch with bookmarks.
    Watch {
        /// The last version seen.
        from: String,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page of a list arrived.
    Page {
        /// The list's version.
        resource_version: String,
        /// Token of the next page.
        continue_token: Option<String>,
    },
    /// The server knows the probe's version.
    Known,
    /// The initial events of a streaming list are complete.
    InitialEnd {
        /// Version of the bookmark.
        resource_version: String,
    },
    /// An object or a bookmark arrived on the watch.
    Progress {
        /// Its version.
        resource_version: String,
    },
    /// An object could not be decoded.
    Unreadable,
    /// The server refused, in the answer's head or as an event.
    Refused(Refusal),
    /// The stream ended in order.
    Eof {
        /// Time from the answer's head to the end.
        lived: Duration,
        /// Lines that were read.
        lines: u64,
    },
    /// No connection, a reset, a cut line, or silence beyond every limit.
    Lost,
    /// The initial events stopped without their bookmark.
    InitialSilence,
}

/// What the driver has to do after an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Pause before the next request.
    pub pause: Duration,
    /// Leave the stream that is open and make the next request.
    pub leave: bool,
    /// Throw away the objects collected so far; the list starts over (K14, K15).
    pub discard: bool,
    /// Read credentials and addresses anew before the next request (K10).
    pub reconnect: bool,
    /// The list is complete: hand it over.
    pub listed: bool,
    /// For the log and the counter of restarts; empty when there is nothing to tell.
    pub why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Stream,
    List { continue_token: Option<String> },
    Probe,
    Watch,
}

/// The position of one watch.
#[derive(Clone, Debug)]
pub struct Cursor {
    phase: Phase,
    /// Last version seen; `None` asks for the newest state.
    version: Option<String>,
    /// The connection was lost since the last list, or somebody said that the server is away. Meanwhile an older state may have been restored,
    /// whose versions have passed ours: then the server takes our version for one of its own (K32).
    doubtful: bool,
    streaming: bool,
    paging: bool,
    cut_streams: u32,
    failures: u32,
    last_failure: Option<Instant>,
    /// Versions that the server did not know since a watch last brought something.
    outdated: u32,
    errors_since: Option<Instant>,
    unreadable: u32,
    unreadable_relist: Option<Instant>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            phase: Phase::Stream,
            version: None,
            doubtful: false,
            streaming: true,
            paging: true,
            cut_streams: 0,
            failures: 0,
            last_failure: None,
            outdated: 0,
            errors_since: None,
            unreadable: 0,
            unreadable_relist: None,
        }
    }
}

impl Cursor {
    /// What to ask now.
    #[must_use]
    pub fn request(&self) -> Request {
        match (&self.phase, &self.version) {
            (Phase::Stream, version) => Request::Stream { not_older_than: version.clone() },
            (Phase::List { continue_token: Some(token) }, _) => Request::List {
                not_older_than: None,
                limit: Some(PAGE_OBJECTS),
                continue_token: Some(token.clone()),
            },
            (Phase::List { continue_token: None }, version) => Request::List {
                not_older_than: version.clone(),
                limit: (self.paging && version.is_none()).then_some(PAGE_OBJECTS),
                continue_token: None,
            },
            (Phase::Probe, Some(version)) => Request::Probe { not_older_than: version.clone() },
            (Phase::Watch, Some(version)) => Request::Watch { from: version.clone() },
            // Without a version there is nothing to watch from.
            (Phase::Probe | Phase::Watch, None) => Request::Stream { not_older_than: None },
        }
    }

    /// Takes in what came of the request. `jitter` is random, from 0 to 1.
    pub fn on(&mut self, event: Event, now: Instant, jitter: f64) -> Reaction {
        match event {
            Event::Page { resource_version, continue_token } => match continue_token {
                Some(token) => {
                    self.phase = Phase::List { continue_token: Some(token) };
                    Reaction { leave: true, ..Reaction::default() }
                }
                None => self.listed(resource_version, true),
            },
            Event::InitialEnd { resource_version } => self.listed(resource_version, false),
            Event::Known => {
                self.phase = Phase::Watch;
                Reaction { leave: true, ..Reaction::default() }
            }
            Event::Progress { resource_version } => {
                if self.phase == Phase::Watch && !resource_version.is_empty() {
                    self.version = Some(resource_version);
                    self.errors_since = None;
                    self.outdated = 0;
                }
                Reaction::default()
            }
            Event::Unreadable => self.unreadable(now, jitter),
            Event::Refused(refusal) => self.refused(&refusal, now, jitter),
            Event::Eof { lived, lines } => self.ended(lived, lines, now, jitter),
            Event::Lost => self.lost(now, jitter),
            Event::InitialSilence => {
                self.streaming = false;
                self.relist("no end of the initial events", Duration::ZERO)
            }
        }
    }

    /// Whether the initial events of a streaming list are being collected.
    #[must_use]
    pub fn collecting(&self) -> bool {
        matches!(self.phase, Phase::Stream | Phase::List { .. })
    }

    /// Whether the next watch is to be short, since a list will follow it.
    #[must_use]
    pub fn doubtful(&self) -> bool {
        self.doubtful
    }

    fn listed(&mut self, resource_version: String, leave: bool) -> Reaction {
        self.phase = Phase::Watch;
        self.version = Some(resource_version);
        self.doubtful = false;
        self.paging = true;
        self.cut_streams = 0;
        self.errors_since = None;
        self.unreadable = 0;
        Reaction { listed: true, leave, ..Reaction::default() }
    }

    fn relist(&mut self, why: &'static str, pause: Duration) -> Reaction {
        self.phase =
            if self.streaming { Phase::Stream } else { Phase::List { continue_token: None } };
        Reaction { pause, leave: true, discard: true, why, ..Reaction::default() }
    }

    fn relist_from_newest(&mut self, why: &'static str, pause: Duration) -> Reaction {
        self.version = None;
        self.relist(why, pause)
    }

    fn ended(&mut self, lived: Duration, lines: u64, now: Instant, jitter: f64) -> Reaction {
        match self.phase {
            Phase::Watch if lived < SHORT_LIFE && lines == 0 => {
                self.phase = Phase::Probe;
                let pause = self.backoff(now, jitter);
                Reaction { pause, leave: true, why: "empty watch", ..Reaction::default() }
            }
            // Not at once after the loss: then all nodes would list at the same time (K9).
            Phase::Watch if self.doubtful => self.relist("", Duration::ZERO),
            Phase::Watch => {
                // One from the future is as silent as one of a type that does not change (K32).
                if lines == 0 {
                    self.phase = Phase::Probe;
                }
                Reaction { leave: true, ..Reaction::default() }
            }
            Phase::Stream => self.cut_initial("initial events cut short", now, jitter),
            Phase::List { .. } | Phase::Probe => self.lost(now, jitter),
        }
    }

    fn cut_initial(&mut self, why: &'static str, now: Instant, jitter: f64) -> Reaction {
        self.cut_streams += 1;
        if self.cut_streams >= CUT_INITIAL_STREAMS {
            self.streaming = false;
        }
        let pause = self.backoff(now, jitter);
        self.relist(why, pause)
    }

    fn lost(&mut self, now: Instant, jitter: f64) -> Reaction {
        let pause = self.backoff(now, jitter);
        // The address or the CA may have changed: look again every fourth time.
        let reconnect = self.failures.is_multiple_of(4);
        match self.phase {
            Phase::Stream | Phase::List { .. } => {
                Reaction { reconnect, ..self.relist("connection lost", pause) }
            }
            Phase::Watch | Phase::Probe => {
                self.phase = Phase::Probe;
                self.doubtful = true;
                Reaction {
                    pause,
                    leave: true,
                    reconnect,
                    why: "connection lost",
                    ..Reaction::default()
                }
            }
        }
    }

    fn refused(&mut self, refusal: &Refusal, now: Instant, jitter: f64) -> Reaction {
        let asked = refusal.retry_after.map(|asked| asked.min(RETRY_AFTER_MAX));
        if refusal.is_too_large() {
            let pause = asked.unwrap_or(Duration::from_secs(1)).max(self.soon(now, jitter));
            return self.relist_from_newest("the server's state is older than ours", pause);
        }
        if refusal.is_expired() {
            let why = "version expired";
            return match self.phase {
                // The inconsistent continuation is not for a cache (K14): without pages instead.
                Phase::List { continue_token: Some(_) } => {
                    self.paging = false;
                    self.relist_from_newest(why, Duration::ZERO)
                }
                Phase::Watch | Phase::Probe => {
                    let pause = self.soon(now, jitter);
                    self.relist_from_newest(why, pause)
                }
                _ => {
                    let pause = self.backoff(now, jitter);
                    self.relist_from_newest(why, pause)
                }
            };
        }
        let pause = asked.unwrap_or_default().max(self.backoff(now, jitter));
        let again =
            |why, reconnect| Reaction { pause, leave: true, reconnect, why, ..Reaction::default() };
        match (refusal.code, &self.phase) {
            (code @ (401 | 403 | 429), phase) => {
                let why = match code {
                    401 => "unauthorized",
                    403 => "forbidden",
                    _ => "too many requests",
                };
                // What we are was not sent, or not believed.
                let unknown = code == 401 || refusal.message.contains(ANONYMOUS);
                let collecting = matches!(phase, Phase::Stream | Phase::List { .. });
                let reaction = if collecting { self.relist(why, pause) } else { again(why, false) };
                Reaction { reconnect: unknown, ..reaction }
            }
            (400..=499, Phase::Stream) => {
                // No such thing as a streaming list here: never asked for again.
                self.streaming = false;
                self.relist("no streaming lists", Duration::ZERO)
            }
            (400..=499, Phase::List { .. }) => self.relist_from_newest("list refused", pause),
            (400..=499, Phase::Probe) => {
                // A server that cannot answer the question; go on without it.
                self.phase = Phase::Watch;
                again("probe refused", false)
            }
            (400..=499, Phase::Watch) => self.relist_from_newest("watch refused", pause),
            (code, Phase::Watch | Phase::Probe) => {
                // It may come back with a state that was restored.
                self.phase = Phase::Probe;
                self.doubtful |= (502..=504).contains(&code);
                let since = *self.errors_since.get_or_insert(now);
                if now.duration_since(since) >= ERRORS_UNTIL_RELIST {
                    self.errors_since = None;
                    return self.relist("errors for too long", pause);
                }
                again("server error", false)
            }
            (_, Phase::Stream) => {
                self.cut_streams += 1;
                if self.cut_streams >= CUT_INITIAL_STREAMS {
                    self.streaming = false;
                }
                self.relist("server error", pause)
            }
            (_, Phase::List { .. }) => self.relist("server error", pause),
        }
    }

    fn unreadable(&mut self, now: Instant, jitter: f64) -> Reaction {
        if self.phase != Phase::Watch {
            return Reaction::default();
        }
        self.unreadable += 1;
        let rested = self
            .unreadable_relist
            .is_none_or(|last| now.duration_since(last) >= UNREADABLE_RELIST_EVERY);
        if self.unreadable < UNREADABLE_UNTIL_RELIST || !rested {
            return Reaction::default();
        }
        self.unreadable_relist = Some(now);
        self.relist("undecodable objects", RELIST_SPREAD.mul_f64(jitter))
    }

    /// The pause before a list that a healthy server has asked for, whatever was before: all nodes are asked
    /// at once. A server that goes on asking is not healthy.
    fn soon(&mut self, now: Instant, jitter: f64) -> Duration {
        self.outdated += 1;
        if self.outdated == 1 { RELIST_SPREAD.mul_f64(jitter) } else { self.backoff(now, jitter) }
    }

    /// The pause after a failure: doubled with each, up to twice as long by chance.
    fn backoff(&mut self, now: Instant, jitter: f64) -> Duration {
        if self.last_failure.is_some_and(|last| now.duration_since(last) >= BACKOFF_RESET) {
            self.failures = 0;
        }
        self.last_failure = Some(now);
        let doublings = self.failures.min(10);
        self.failures += 1;
        let base = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        base.mul_f64(1.0 + jitter)
    }
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
