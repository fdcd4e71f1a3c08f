//! Decides which notes become requests: the same note once in a while only, and not many at once.
//! Pure; the clock is a parameter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same note within this time is only counted. Events are kept for an hour by default: one
/// that goes on is refreshed before it vanishes.
pub const REPEAT_AFTER: Duration = Duration::from_secs(1800);
/// So many requests at once, then one each [`REFILL`].
const BURST: u32 = 25;
/// See [`BURST`]: an hour of trouble is a few hundred requests per node.
const REFILL: Duration = Duration::from_secs(10);
/// Notes remembered at most; far more than [`BURST`] and [`REFILL`] let through.
const MAX_NOTES: usize = 4096;

/// What to do with a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Create its Event.
    Create,
    /// Its Event is there: tell how often it happened so far.
    Count(u32),
    /// It was told not long ago.
    Known,
    /// Too many requests; it may be told later.
    TooMany,
}

/// What was told.
#[derive(Debug)]
pub struct Ledger {
    told: HashMap<String, Told>,
    tokens: u32,
    refilled: Instant,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    times: u32,
}

impl Ledger {
    /// A ledger that knows of nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { told: HashMap::new(), tokens: BURST, refilled: now }
    }

    /// Judges the note whose Event would have this name.
    pub fn judge(&mut self, name: &str, now: Instant) -> Verdict {
        let known = self.told.get_mut(name).map(|told| {
            told.times = told.times.saturating_add(1);
            (told.times, now.duration_since(told.at) < REPEAT_AFTER)
        });
        if let Some((_, true)) = known {
            return Verdict::Known;
        }
        if !self.take_token(now) {
            return Verdict::TooMany;
        }
        if self.told.len() >= MAX_NOTES {
            self.told.retain(|_, told| now.duration_since(told.at) < REPEAT_AFTER);
        }
        match known {
            Some((times, _)) => {
                if let Some(told) = self.told.get_mut(name) {
                    told.at = now;
                }
                Verdict::Count(times)
            }
            None => {
                self.told.insert(name.to_owned(), Told { at: now, times: 1 });
                Verdict::Create
            }
        }
    }

    /// The Event could not be written: the next such note is a new one.
    pub fn forget(&mut self, name: &str) {
        self.told.remove(name);
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let periods = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let fresh = u32::try_from(periods).unwrap_or(u32::MAX);
        self.refilled += REFILL.saturating_mul(fresh);
        self.tokens = self.tokens.saturating_add(fresh).min(BURST);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_note_is_counted_and_refreshed_before_its_event_expires() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        assert_eq!(ledger.judge("a", start), Verdict::Create);
        assert_eq!(ledger.judge("b", start), Verdict::Create, "another note is another event");
        for seconds in [1, 5, 1799] {
            assert_eq!(ledger.judge("a", start + Duration::from_secs(seconds)), Verdict::Known);
        }
        let later = start + REPEAT_AFTER;
        assert_eq!(ledger.judge("a", later), Verdict::Count(5));
        assert_eq!(ledger.judge("a", later + Duration::from_secs(1)), Verdict::Known);
        ledger.forget("a");
        assert_eq!(ledger.judge("a", later + Duration::from_secs(2)), Verdict::Create);
    }

    #[test]
    fn a_flood_is_cut_and_the_rest_may_come_later() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let made = |ledger: &mut Ledger, now| {
            let names = (0..1000).map(|at| format!("{at} {now:?}"));
            names.filter(|name| ledger.judge(name, now) == Verdict::Create).count()
        };
        assert_eq!(made(&mut ledger, start), 25);
        assert_eq!(made(&mut ledger, start + Duration::from_secs(9)), 0);
        assert_eq!(made(&mut ledger, start + Duration::from_secs(20)), 2);
        assert_eq!(made(&mut ledger, start + Duration::from_secs(100_000)), 25, "no more saved up");
    }

    #[test]
    fn the_ledger_does_not_grow_for_ever() {
        let mut now = Instant::now();
        let mut ledger = Ledger::new(now);
        for at in 0..2 * MAX_NOTES {
            now += REFILL;
            ledger.judge(&at.to_string(), now);
        }
        assert!(ledger.told.len() <= MAX_NOTES, "{}", ledger.told.len());
    }
}
