//! Owns one connection to a peer: how far it has come, and its timers.

use super::negotiate::Negotiated;
use super::{State, Time};
use std::time::Duration;

/// Name of a connection, never used twice by one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// We did.
    Active,
    /// The peer did.
    Passive,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) side: Side,
    pub(super) stage: Stage,
}

/// How far a connection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting { give_up_at: Time },
    OpenSent { hold_at: Time },
    Confirm { negotiated: Box<Negotiated>, clock: Clock },
    Established { negotiated: Box<Negotiated>, clock: Clock, since: Time },
}

/// Timers of a connection after OPEN; none for a hold time of 0 (B2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) hold_at: Option<Time>,
    pub(super) keepalive_at: Option<Time>,
}

impl Stage {
    pub(super) fn open_sent(now: Time, open_hold: Duration) -> Self {
        Self::OpenSent { hold_at: now + open_hold }
    }

    pub(super) fn confirm(negotiated: Negotiated, keepalive_at: Option<Time>, now: Time) -> Self {
        let hold_at = hold_at(&negotiated, now);
        Self::Confirm { negotiated: Box::new(negotiated), clock: Clock { hold_at, keepalive_at } }
    }

    /// Makes a confirmed connection the session; `None` if it is not confirmed.
    pub(super) fn establish(&mut self, now: Time) -> Option<Negotiated> {
        let Self::Confirm { negotiated, clock } = self else { return None };
        let (negotiated, clock) = (negotiated.clone(), *clock);
        *self = Self::Established { negotiated: negotiated.clone(), clock, since: now };
        Some(*negotiated)
    }

    pub(super) fn state(&self) -> State {
        match self {
            Self::Connecting { .. } => State::Connect,
            Self::OpenSent { .. } => State::OpenSent,
            Self::Confirm { .. } => State::OpenConfirm,
            Self::Established { .. } => State::Established,
        }
    }

    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match self {
            Self::Confirm { negotiated, .. } | Self::Established { negotiated, .. } => {
                Some(negotiated)
            }
            _ => None,
        }
    }

    pub(super) fn established(&self) -> Option<&Negotiated> {
        if self.state() == State::Established { self.negotiated() } else { None }
    }

    pub(super) fn clock(&mut self) -> Option<(&Negotiated, &mut Clock)> {
        match self {
            Self::Confirm { negotiated, clock } | Self::Established { negotiated, clock, .. } => {
                Some((negotiated, clock))
            }
            _ => None,
        }
    }

    /// A message came: the hold timer starts anew. In OpenSent only OPEN counts.
    pub(super) fn heard(&mut self, now: Time) {
        if let Some((negotiated, clock)) = self.clock() {
            clock.hold_at = hold_at(negotiated, now);
        }
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Time> + use<> {
        let (first, second) = match self {
            Self::Connecting { give_up_at } => (Some(*give_up_at), None),
            Self::OpenSent { hold_at } => (Some(*hold_at), None),
            Self::Confirm { clock, .. } | Self::Established { clock, .. } => {
                (clock.hold_at, clock.keepalive_at)
            }
        };
        first.into_iter().chain(second)
    }
}

fn hold_at(negotiated: &Negotiated, now: Time) -> Option<Time> {
    let hold = Duration::from_secs(u64::from(negotiated.hold_s));
    (!hold.is_zero()).then(|| now + hold)
}
