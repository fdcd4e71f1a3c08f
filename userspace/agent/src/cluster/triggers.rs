//! When the changes were made that the next sync writes: what the latency of the data plane is counted
//! from. Owned by [`super::Cluster`].

use std::mem;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use sluice_services::Family;

/// When the change behind a slice's content was made (written by the EndpointSlice controller).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// More triggers than this between two syncs tell nothing new about latency.
const MAX_TRIGGERS: usize = 10_000;

/// When the change behind the content of a slice was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The slice's family.
    pub family: Family,
    /// The time.
    pub at: SystemTime,
}

impl Trigger {
    /// How long ago the change was made.
    #[must_use]
    pub fn waited(&self, clock: SystemTime) -> Duration {
        clock.duration_since(self.at).unwrap_or_default()
    }
}

/// The triggers since the last sync.
#[derive(Debug)]
pub(super) struct Triggers {
    started: SystemTime,
    waiting: Vec<Trigger>,
}

impl Triggers {
    /// None yet, of a process that started then: what happened before says nothing about its latency.
    pub(super) fn new(started: SystemTime) -> Self {
        Self { started, waiting: Vec::new() }
    }

    /// Takes note of a slice that has changed; one that tells no time counts for nothing.
    pub(super) fn note(&mut self, slice: &EndpointSlice) {
        let annotations = slice.metadata.annotations.as_ref();
        let text = annotations.and_then(|annotations| annotations.get(TRIGGER_TIME));
        let time = text.and_then(|text| text.parse::<k8s_openapi::jiff::Timestamp>().ok());
        let Some(at) = time.map(SystemTime::from) else { return };
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return,
        };
        if at >= self.started && self.waiting.len() < MAX_TRIGGERS {
            self.waiting.push(Trigger { family, at });
        }
    }

    /// Those that a sync is to write.
    pub(super) fn take(&mut self) -> Vec<Trigger> {
        mem::take(&mut self.waiting)
    }

    /// Keeps those that could not be written.
    pub(super) fn give_back(&mut self, triggers: Vec<Trigger>) {
        self.waiting.extend(triggers);
        self.waiting.truncate(MAX_TRIGGERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn trigger_times_give_the_latency_of_changes_made_since_the_start() {
        let start: k8s_openapi::jiff::Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let mut triggers = Triggers::new(start.into());
        for time in ["2026-01-01T00:00:09Z", "2026-01-01T00:00:12Z", "yesterday"] {
            let slice = json!({"metadata": {"annotations": {TRIGGER_TIME: time}},
                "addressType": "IPv4", "endpoints": [], "ports": []});
            triggers.note(&serde_json::from_value(slice).expect("a slice"));
        }
        let taken = triggers.take();
        let clock = SystemTime::from(start) + Duration::from_secs(5);
        let waited: Vec<_> = taken.iter().map(|one| (one.family, one.waited(clock))).collect();
        assert_eq!(waited, [(Family::V4, Duration::from_secs(3))]);
        triggers.give_back(taken);
        assert_eq!(triggers.take().len(), 1);
    }
}
