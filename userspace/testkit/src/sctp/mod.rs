//! Owns a small SCTP (RFC 9260) in user space, over raw sockets: kernels without SCTP's module have
//! clients and servers of it, and their checksums and tags are looked at by somebody.
//!
//! One address and one stream for each association, no congestion control, no path probing.

mod association;
mod client;
mod server;
mod socket;
mod wire;

pub use self::client::Client;
pub(crate) use self::server::Listener;

use std::time::Duration;

/// After this what was not acknowledged is sent again (RFC 9260 section 16: RTO.Initial).
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is (Association.Max.Retrans).
const ATTEMPTS: u32 = 10;
