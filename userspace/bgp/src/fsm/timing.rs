//! Owns the machine's timers: what is due, pauses that grow, jitter (RFC 4271 10).

use std::time::Duration;

use super::link::{LinkId, Stage};
use super::{Action, Machine, Time};
use crate::message::{Code, Message, Notification};

impl Machine {
    pub(super) fn on_tick(&mut self, now: Time, out: &mut Vec<Action>) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.idle_until) {
            self.idle_until = None;
            self.connect(now, out);
        }
        if due(self.connect_at) {
            self.connect(now, out);
        }
        let ids: Vec<LinkId> = self.links.iter().map(|link| link.id).collect();
        for id in ids {
            self.tick_link(id, now, out);
        }
    }

    fn tick_link(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.link(id) else { return };
        let expired = match &link.stage {
            Stage::Connecting { give_up_at } if *give_up_at <= now => {
                self.drop_link(id, out);
                self.connect_later(now);
                return;
            }
            Stage::Connecting { .. } => return,
            Stage::OpenSent { hold_at } => *hold_at <= now,
            Stage::Confirm { clock, .. } | Stage::Established { clock, .. } => {
                clock.hold_at.is_some_and(|at| at <= now)
            }
        };
        if expired {
            self.refuse(id, Notification::new(Code::HOLD_EXPIRED), now, out);
            return;
        }
        let keepalive_s = match link.stage.clock() {
            Some((negotiated, clock)) if clock.keepalive_at.is_some_and(|at| at <= now) => {
                negotiated.keepalive_s()
            }
            _ => return,
        };
        out.push(Action::Send(id, Box::new(Message::Keepalive)));
        let next = self.keepalive_at(keepalive_s, now);
        if let Some((_, clock)) = self.link(id).and_then(|link| link.stage.clock()) {
            clock.keepalive_at = next;
        }
    }

    /// When the next KEEPALIVE is due; `None` for a hold time of 0.
    pub(super) fn keepalive_at(&mut self, keepalive_s: u16, now: Time) -> Option<Time> {
        let interval = Duration::from_secs(u64::from(keepalive_s));
        (!interval.is_zero()).then(|| now + self.jittered(interval))
    }

    /// Tries again after the retry time, if nothing else is under way.
    pub(super) fn connect_later(&mut self, now: Time) {
        if self.is_idle() || self.settings.passive || !self.links.is_empty() {
            return;
        }
        let wait = self.jittered(self.settings.timing.connect_retry);
        let at = now + wait;
        self.connect_at = Some(self.connect_at.map_or(at, |before| before.min(at)));
    }

    /// Goes idle after an error, for longer with each one in a row (B4). A connection that stands
    /// is not harmed.
    pub(super) fn pause(&mut self, now: Time) {
        if !self.started || !self.links.is_empty() {
            return;
        }
        let timing = self.settings.timing;
        let pause = timing.idle.saturating_mul(1 << self.failures.min(16)).min(timing.idle_max);
        self.failures = self.failures.saturating_add(1);
        self.connect_at = None;
        self.idle_until = Some(now + self.jittered(pause));
    }

    /// Three to four quarters of an interval.
    fn jittered(&mut self, interval: Duration) -> Duration {
        // xorshift64: enough to keep speakers out of step.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        interval.mul_f64(0.75 + 0.25 * ((self.random % 1024) as f64 / 1024.0))
    }
}
