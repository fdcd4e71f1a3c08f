//! Owns how often something is told that a peer decides on: at once, and then not for a while.

use std::time::Duration;

use crate::fsm::Time;

/// Pause between two lines of the log.
const PAUSE: Duration = Duration::from_secs(60);

/// When something was told last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seldom(Option<Time>);

impl Seldom {
    /// Whether it may be told now, which counts as having told it.
    pub(super) fn lets(&mut self, now: Time) -> bool {
        let lets = self.0.is_none_or(|told| told + PAUSE <= now);
        if lets {
            self.0 = Some(now);
        }
        lets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_then_one_a_minute_however_many_there_are() {
        let mut seldom = Seldom::default();
        let told: Vec<u64> =
            (100..400).filter(|now| seldom.lets(Duration::from_secs(*now))).collect();
        assert_eq!(told, [100, 160, 220, 280, 340]);
    }
}
