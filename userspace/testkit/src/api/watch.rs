//! WATCH: replaying the log from a version, initial events, bookmarks, selector transitions, and
//! the ways a stream can end.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::error::ApiError;
use super::faults::{Ending, Fault};
use super::list;
use super::query::{Query, Version};
use super::render::Form;
use super::resource::Resource;
use super::selector::Selector;
use super::server::Shared;
use super::store::Change;
use super::stream::{Closed, Lines};

/// A watch that has been checked and can begin.
#[derive(Debug)]
pub(crate) struct Watch {
    resource: &'static Resource,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    version: Version,
    /// Begin with the objects there are.
    initial: bool,
    bookmarks: bool,
    lasts: Duration,
}

impl Watch {
    /// # Errors
    /// 400 and 422 for queries that contradict themselves (K15).
    pub(crate) fn new(
        resource: &'static Resource,
        namespace: Option<&str>,
        query: &Query,
        form: Form,
    ) -> Result<Self, ApiError> {
        query.check_watch_options()?;
        let version = query.late_version()?;
        let sends = query.text("sendInitialEvents");
        let initial = match sends {
            "" => !matches!(version, Version::At(_)),
            _ => query.flag("sendInitialEvents"),
        };
        // The server's own limit: 30 to 60 minutes, at random, so that not all clients come at once.
        let default_s = rand::rng().random_range(1800..3600);
        Ok(Self {
            resource,
            namespace: namespace.map(str::to_owned),
            selector: query.selector(resource)?,
            form,
            version,
            initial,
            bookmarks: query.flag("allowWatchBookmarks"),
            lasts: Duration::from_secs(
                query.number("timeoutSeconds")?.filter(|s| *s > 0).unwrap_or(default_s),
            ),
        })
    }

    /// Whether the client asked for a streaming list by name.
    pub(crate) fn is_list(query: &Query) -> bool {
        query.flag("sendInitialEvents")
    }

    fn matches(&self, key: &super::store::Key, object: &Value) -> bool {
        self.namespace.as_ref().is_none_or(|n| *n == key.namespace) && self.selector.matches(object)
    }

    /// What the client sees of a change (K12).
    fn see(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        let matching =
            |object: &Option<Arc<Value>>| object.clone().filter(|o| self.matches(&change.key, o));
        match (matching(&change.before), matching(&change.after), &change.after) {
            (None, Some(after), _) => Some(("ADDED", after)),
            (Some(_), Some(after), _) => Some(("MODIFIED", after)),
            // Gone; the log has the last state with the version of the deletion.
            (Some(before), None, None) => Some(("DELETED", before)),
            // No longer selected: the state of before, with the version of the change.
            (Some(before), None, Some(_)) => {
                let mut shown = (*before).clone();
                super::json::set(
                    &mut shown,
                    &["metadata", "resourceVersion"],
                    change.rv.to_string(),
                );
                Some(("DELETED", Arc::new(shown)))
            }
            (None, None, _) => None,
        }
    }

    /// Runs until the client goes, the time is up, or a fault ends it.
    pub(crate) async fn run(self, shared: Arc<Shared>, faults: Vec<Fault>, mut lines: Lines) {
        let mut endings = shared.faults.endings();
        let work = self.follow(&shared, &faults, &mut lines);
        let ended = tokio::select! {
            biased;
            ending = async {
                loop {
                    match endings.recv().await {
                        Ok((which, ending)) if which.as_deref().is_none_or(|w| w == self.resource.plural) => break ending,
                        Ok(_) => {}
                        Err(_) => std::future::pending().await,
                    }
                }
            } => match ending {
                Ending::Eof => Closed::Eof,
                Ending::Break => Closed::Break,
                Ending::Gone => Closed::Error(ApiError::expired(0, shared.store.version())),
                Ending::InternalError => Closed::Error(ApiError::new(500, "InternalError", "an error on the server")),
            },
            result = work => result.err().unwrap_or(Closed::Eof),
        };
        lines.finish(ended).await;
    }

    async fn follow(
        &self,
        shared: &Shared,
        faults: &[Fault],
        lines: &mut Lines,
    ) -> Result<(), Closed> {
        let deadline = Instant::now() + self.lasts;
        if faults.contains(&Fault::Silent) {
            sleep_until(deadline).await;
            return Ok(());
        }
        if faults.contains(&Fault::GoneInStream) {
            return Err(Closed::Error(ApiError::expired(0, shared.store.version())));
        }
        lines.check_end()?;
        let mut versions = shared.store.versions();
        let bookmarks = self.bookmarks && !faults.contains(&Fault::NoBookmarks);
        let (mut cursor, mut marked) = if self.initial {
            self.send_initial(shared, faults, lines).await?
        } else {
            let from = match self.version {
                Version::At(rv) => rv,
                _ => shared.store.version(),
            };
            (from, from)
        };
        let mut next_mark = Instant::now() + shared.options.bookmark_interval;
        // One more shortly before the end (K4).
        let mut last_mark = Some(deadline - Duration::from_secs(2).min(self.lasts / 2));
        loop {
            versions.mark_unchanged();
            let (changes, now) =
                shared.store.with(|state| (state.changes(self.resource.table, cursor), state.rv()));
            let Some(changes) = changes else {
                let oldest = shared.store.with(|state| state.oldest());
                return Err(Closed::Error(ApiError::expired(cursor, oldest)));
            };
            for change in changes {
                if let Some((kind, object)) = self.see(&change) {
                    lines.event(kind, self.form.event(self.resource, &object)).await?;
                }
            }
            cursor = cursor.max(now);
            lines.flush().await?;
            let at = last_mark.map_or(next_mark, |last| last.min(next_mark)).min(deadline);
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { return Ok(()) },
                () = lines.closed() => return Err(Closed::Eof),
                () = sleep_until(at) => {
                    let time = Instant::now();
                    if time >= deadline {
                        return Ok(());
                    }
                    if last_mark.is_some_and(|last| time >= last) {
                        last_mark = None;
                    }
                    next_mark = time + shared.options.bookmark_interval;
                    let (version, reached) =
                        shared.store.with(|state| (state.rv(), state.reached(self.resource.table)));
                    // A change that came meanwhile goes first.
                    if bookmarks && reached > marked && version == now {
                        marked = reached;
                        lines.bookmark(self.resource, reached, false).await?;
                    }
                }
            }
        }
    }

    /// Sends the objects there are; gives the version they are of, and the one that was said: from
    /// the cache (RV=0), that may be the older one of the type's last change (K4).
    async fn send_initial(
        &self,
        shared: &Shared,
        faults: &[Fault],
        lines: &mut Lines,
    ) -> Result<(u64, u64), Closed> {
        if let Version::At(rv) = self.version {
            if faults.contains(&Fault::TooLargeVersion) {
                return Err(Closed::Error(ApiError::too_large(rv, shared.store.version())));
            }
            list::wait_for(shared, rv).await.map_err(Closed::Error)?;
        }
        let (mut objects, rv, told) = shared.store.with(|state| {
            if self.version == Version::Unset {
                state.catch_up(self.resource.table);
            }
            let objects: Vec<Arc<Value>> = state
                .all(self.resource)
                .filter(|(key, object)| self.matches(key, object))
                .map(|(_, object)| Arc::clone(object))
                .collect();
            let cached = self.version == Version::Any;
            let told = if cached { state.reached(self.resource.table) } else { state.rv() };
            (objects, state.rv(), told)
        });
        if faults.contains(&Fault::EmptyList) {
            objects.clear();
        }
        if faults.contains(&Fault::Shuffle) {
            objects.shuffle(&mut rand::rng());
        }
        for object in objects {
            lines.event("ADDED", self.form.event(self.resource, &object)).await?;
        }
        if self.bookmarks && !faults.contains(&Fault::NoInitialEventsEnd) {
            lines.bookmark(self.resource, told, true).await?;
        }
        Ok((rv, told))
    }
}
