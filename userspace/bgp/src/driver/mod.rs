//! Owns everything that touches sockets and clocks: a [`Speaker`] with one task per peer, one for
//! the tables, one for the listeners. They speak through channels; nothing is shared.
//!
//! A peer's task reads, decodes, drives the state machine and writes, and never waits for the
//! tables or for a slow socket: its timers run whatever else is going on (B28).

mod bfd;
mod config;
mod connection;
mod listener;
mod seldom;
mod session;
mod sockopt;
mod speaker;
mod status;
mod tables;

pub use config::{Password, PeerConfig, SpeakerConfig, Ttl};
pub use speaker::{PeerReport, Speaker, SpeakerError};
pub use status::{Counters, PeerStatus};
pub use tables::Output;

use std::net::IpAddr;

use crate::attribute::Fault;
use crate::family::Family;
use crate::fsm::Reason;
use crate::message::Refresh;

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEvent {
    /// The peer.
    pub peer: IpAddr,
    /// What happened.
    pub what: Happening,
}

/// What happened with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The session came up.
    Up,
    /// The session ended; with `graceful` its routes stay for now.
    Down {
        /// Why.
        reason: Reason,
        /// The peer's routes stay for its restart time.
        graceful: bool,
    },
    /// A connection got no further than OPEN.
    Refused(Reason),
    /// A malformed UPDATE that did not end the session (RFC 7606), for the log; one a minute, and
    /// all are counted in [`Counters`].
    Fault(Fault),
    /// A ROUTE-REFRESH that must not be sent in this session was ignored; one a minute.
    Ignored {
        /// What it was.
        refresh: Refresh,
        /// Why, for people.
        why: &'static str,
    },
    /// It has sent three quarters of the prefixes that it may send (B22); once a session.
    NearLimit {
        /// Of which family.
        family: Family,
        /// How many, before the policy.
        count: usize,
    },
}
