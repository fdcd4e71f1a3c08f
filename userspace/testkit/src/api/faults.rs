//! Misbehaviour on demand: one switch for each thing a client must survive. A fault is armed for
//! some requests, by type, verb and number of times, and noted when it strikes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// A page of a collection after the first.
    Continue,
    /// A stream of changes.
    Watch,
    /// A watch that begins with the objects there are (K15).
    WatchList,
    /// POST, PUT, PATCH, DELETE.
    Write,
    /// Discovery, version, documents.
    Other,
}

/// One way to go wrong. Those about events work on WATCH only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// K4: no bookmarks; the end of initial events is still marked.
    NoBookmarks,
    /// K5: HTTP 410 on the request.
    Gone,
    /// K5: a 200 stream whose only event is ERROR 410.
    GoneInStream,
    /// K6: HTTP 504 "too large resource version" when the request names a version; in a watch-list
    /// the same as an ERROR event.
    TooLargeVersion,
    /// K7: clean end of the stream after so many events, 0 for at once.
    EndAfter(usize),
    /// K18: the connection breaks in the middle of the line after so many events.
    CutAfter(usize),
    /// K8: the stream is open and says nothing, ever.
    Silent,
    /// K9: HTTP 500.
    InternalError,
    /// K9: HTTP 429 with Retry-After in seconds.
    TooManyRequests(u32),
    /// K10: HTTP 401.
    Unauthorized,
    /// K10: HTTP 403 with the verb and resource in the message.
    Forbidden,
    /// K2, K13, K17: items and initial events in random order.
    Shuffle,
    /// K11: every event of an addition or change comes twice, the second time as ADDED.
    DuplicateAdded,
    /// K11: additions come as MODIFIED.
    AddedAsModified,
    /// K11: an event of a type nobody knows before the first one.
    UnknownEventType,
    /// K11: the next object is one no client can decode. In a list: the first item.
    Undecodable,
    /// K14: 410 with an inconsistent continuation token on the next page.
    ContinueExpired,
    /// K14: a page without items and with a continuation token comes first.
    EmptyPage,
    /// K15: the server does not know streaming lists: 422.
    RefuseWatchList,
    /// K15: the initial events come, the bookmark that ends them never does.
    NoInitialEventsEnd,
    /// K18: the body comes in chunks of one to seven bytes, characters split.
    SplitChunks,
    /// K18: several lines in one chunk.
    JoinChunks,
    /// K20: the list is empty, with success.
    EmptyList,
    /// Answers after this time.
    Slow(Duration),
    /// The request is taken and never answered.
    NoAnswer,
}

impl Fault {
    /// Whether the fault means anything to such a request; others do not use up its times.
    fn concerns(&self, verb: Verb) -> bool {
        let stream = matches!(verb, Verb::Watch | Verb::WatchList);
        let list = matches!(verb, Verb::List | Verb::Continue);
        match self {
            Self::NoBookmarks
            | Self::GoneInStream
            | Self::EndAfter(_)
            | Self::CutAfter(_)
            | Self::Silent
            | Self::DuplicateAdded
            | Self::AddedAsModified
            | Self::UnknownEventType
            | Self::NoInitialEventsEnd
            | Self::SplitChunks
            | Self::JoinChunks => stream,
            Self::RefuseWatchList => verb == Verb::WatchList,
            Self::TooLargeVersion => list || verb == Verb::WatchList,
            Self::ContinueExpired => verb == Verb::Continue,
            Self::EmptyPage => verb == Verb::List,
            Self::Shuffle | Self::EmptyList | Self::Undecodable | Self::Gone => stream || list,
            Self::InternalError
            | Self::TooManyRequests(_)
            | Self::Unauthorized
            | Self::Forbidden
            | Self::Slow(_)
            | Self::NoAnswer => true,
        }
    }
}

/// Which requests a fault strikes: all it concerns, unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    resource: Option<String>,
    verbs: Vec<Verb>,
    times: Option<u32>,
    skip: u32,
}

impl Scope {
    /// Every request.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only requests for this type, by its plural name.
    #[must_use]
    pub fn of(resource: &str) -> Self {
        Self { resource: Some(resource.to_owned()), ..Self::default() }
    }

    /// Only requests with this verb; several calls add up.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Only the first so many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Lets so many matching requests pass first.
    #[must_use]
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    fn covers(&self, resource: &str, verb: Verb) -> bool {
        self.resource.as_deref().is_none_or(|r| r == resource)
            && (self.verbs.is_empty() || self.verbs.contains(&verb))
            && self.times != Some(0)
    }
}

/// How [`Faults::end_watches`] ends the streams that are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Clean end of the stream (K7).
    Eof,
    /// The connection breaks.
    Break,
    /// ERROR 410, then the end (K5).
    Gone,
    /// ERROR 500, then the end.
    InternalError,
}

#[derive(Debug, Default)]
struct Armed {
    faults: Vec<(Fault, Scope)>,
    struck: Vec<(Fault, String, Verb)>,
}

/// The switches of one server.
#[derive(Debug)]
pub struct Faults {
    armed: Mutex<Armed>,
    endings: broadcast::Sender<(Option<String>, Ending)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { armed: Mutex::default(), endings: broadcast::Sender::new(64) }
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Armed> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault, scope: Scope) {
        self.lock().faults.push((fault, scope));
    }

    /// Disarms everything; streams that are open keep what they began with.
    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn struck(&self, fault: &Fault) -> usize {
        self.lock().struck.iter().filter(|(f, _, _)| f == fault).count()
    }

    /// Ends the watches that are open now, of one type or of all.
    pub fn end_watches(&self, resource: Option<&str>, ending: Ending) {
        // Without an open watch there is nobody to tell.
        let _ = self.endings.send((resource.map(str::to_owned), ending));
    }

    pub(crate) fn endings(&self) -> broadcast::Receiver<(Option<String>, Ending)> {
        self.endings.subscribe()
    }

    /// The faults this request meets.
    pub(crate) fn strike(&self, resource: &str, verb: Verb) -> Vec<Fault> {
        let mut armed = self.lock();
        let mut struck = Vec::new();
        for (fault, scope) in &mut armed.faults {
            // A watch-list is a watch, too.
            let covered = scope.covers(resource, verb)
                || verb == Verb::WatchList && scope.covers(resource, Verb::Watch)
                || verb == Verb::Continue && scope.covers(resource, Verb::List);
            if !covered || !fault.concerns(verb) {
                continue;
            }
            if scope.skip > 0 {
                scope.skip -= 1;
                continue;
            }
            if let Some(times) = &mut scope.times {
                *times -= 1;
            }
            struck.push(fault.clone());
        }
        armed.struck.extend(struck.iter().map(|f| (f.clone(), resource.to_owned(), verb)));
        struck
    }
}
