//! Pauses between looks for what is not there yet: short at first, for a pod that is about to come, and
//! ever longer for what may never come, such as an endpoint that no interface of this node leads to.

use std::time::Duration;

/// Pauses that double from the first to the longest, and begin again with news.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Patience {
    /// Nothing has been looked for yet.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next look.
    pub(super) fn pause(&mut self) -> Duration {
        let longer = self.next.saturating_mul(2).min(self.longest);
        std::mem::replace(&mut self.next, longer)
    }

    /// Something has changed: what was not there may be now.
    pub(super) fn renew(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_with_news() {
        let mut patience = Patience::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut next = || patience.pause().as_secs();
        let seen = [next(), next(), next(), next(), next(), next(), next()];
        assert_eq!(seen, [1, 2, 4, 8, 16, 30, 30]);
        patience.renew();
        assert_eq!(patience.pause().as_secs(), 1);
    }
}
