//! When to sync: at once after a pause, then not more often than allowed, again after a failure,
//! and no change is ever lost (R38).

use std::time::{Duration, Instant};

/// First and longest pause after a failed sync when nothing new comes.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// kube-proxy retries after its sync period (R38).
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The pace of syncs.
#[derive(Clone, Debug)]
pub struct Pace {
    min_period: Duration,
    /// When the oldest change that no sync has written yet came in.
    pending_since: Option<Instant>,
    /// When the oldest change came in that the last sync has not seen.
    fresh_since: Option<Instant>,
    running: bool,
    last_end: Option<Instant>,
    failures: u32,
}

impl Pace {
    /// A pace with at least `min_period` between the end of a sync and the next.
    #[must_use]
    pub fn new(min_period: Duration) -> Self {
        Self {
            min_period,
            pending_since: None,
            fresh_since: None,
            running: false,
            last_end: None,
            failures: 0,
        }
    }

    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        self.pending_since.get_or_insert(now);
        self.fresh_since.get_or_insert(now);
    }

    /// When the next sync is to start; `None` while one runs or nothing is to be written.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let since = self.pending_since?;
        if self.running {
            return None;
        }
        let Some(end) = self.last_end else { return Some(since) };
        if self.fresh_since.is_some() || self.failures == 0 {
            return Some(since.max(end + self.min_period));
        }
        let doublings = (self.failures - 1).min(10);
        Some(end + RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX).max(self.min_period))
    }

    /// A sync starts with the state as it is now.
    pub fn started(&mut self) {
        self.running = true;
        self.fresh_since = None;
    }

    /// The running sync is over.
    pub fn finished(&mut self, ok: bool, now: Instant) {
        self.running = false;
        self.last_end = Some(now);
        if ok {
            self.failures = 0;
            self.pending_since = self.fresh_since;
        } else {
            self.failures += 1;
        }
    }

    /// When the oldest unwritten change came in (R28).
    #[must_use]
    pub fn pending_since(&self) -> Option<Instant> {
        self.pending_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sync(pace: &mut Pace, ok: bool, end: Instant) {
        pace.started();
        pace.finished(ok, end);
    }

    #[test]
    fn r38_the_first_change_after_a_pause_acts_at_once_the_next_waits() {
        let t = Instant::now();
        let mut pace = Pace::new(50 * MS);
        assert_eq!(pace.due(), None);
        pace.changed(t);
        assert_eq!(pace.due(), Some(t));
        sync(&mut pace, true, t + 5 * MS);
        assert_eq!(pace.due(), None);
        pace.changed(t + 10 * MS);
        pace.changed(t + 20 * MS);
        assert_eq!(pace.due(), Some(t + 55 * MS));
        sync(&mut pace, true, t + 60 * MS);
        pace.changed(t + 500 * MS);
        assert_eq!(pace.due(), Some(t + 500 * MS));
    }

    #[test]
    fn r38_a_change_during_a_sync_is_not_lost() {
        let t = Instant::now();
        let mut pace = Pace::new(50 * MS);
        pace.changed(t);
        pace.started();
        pace.changed(t + MS);
        assert_eq!(pace.due(), None, "one at a time");
        pace.finished(true, t + 5 * MS);
        assert_eq!(pace.pending_since(), Some(t + MS));
        assert_eq!(pace.due(), Some(t + 55 * MS));
    }

    #[test]
    fn r38_a_failed_sync_is_retried_and_sooner_with_a_change() {
        let t = Instant::now();
        let mut pace = Pace::new(50 * MS);
        pace.changed(t);
        sync(&mut pace, false, t);
        assert_eq!(pace.due(), Some(t + 1000 * MS));
        sync(&mut pace, false, t + 1000 * MS);
        assert_eq!(pace.due(), Some(t + 3000 * MS));
        pace.changed(t + 1100 * MS);
        assert_eq!(pace.due(), Some(t + 1050 * MS), "a change may try at once");
        assert_eq!(pace.pending_since(), Some(t), "R28 counts from the oldest");
        for _ in 0..20 {
            sync(&mut pace, false, t);
        }
        assert_eq!(pace.due(), Some(t + RETRY_MAX));
        sync(&mut pace, true, t);
        assert_eq!((pace.due(), pace.pending_since()), (None, None));
    }
}
