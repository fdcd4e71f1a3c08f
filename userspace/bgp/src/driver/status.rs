//! Owns how a peer stands, as its task shows it.

use std::net::IpAddr;

use tokio::time::Instant;

use crate::fsm::{Negotiated, State};

/// Counts of a peer since it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages received.
    pub received: u64,
    /// UPDATEs among them.
    pub updates_received: u64,
    /// Messages sent.
    pub sent: u64,
    /// UPDATEs among them.
    pub updates_sent: u64,
    /// Malformed attributes that were discarded, or made their routes withdrawn (RFC 7606).
    pub faults: u64,
    /// UPDATEs that were treated as withdrawals for them.
    pub withdrawn_by_fault: u64,
    /// Attributes among them that were discarded, with the route standing unless something else
    /// made it go.
    pub discarded_by_fault: u64,
    /// Sessions that came up.
    pub established: u64,
    /// Sessions that ended.
    pub lost: u64,
}

/// How a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The machine's state.
    pub state: State,
    /// When it last changed.
    pub since: Instant,
    /// What was negotiated, while established.
    pub negotiated: Option<Negotiated>,
    /// Our end, while established.
    pub local_address: Option<IpAddr>,
    /// Why the last connection or session ended.
    pub last_end: Option<String>,
    /// Counts.
    pub counters: Counters,
}

impl PeerStatus {
    pub(super) fn new() -> Self {
        Self {
            state: State::Idle,
            since: Instant::now(),
            negotiated: None,
            local_address: None,
            last_end: None,
            counters: Counters::default(),
        }
    }
}
