//! Watches on the Kubernetes API: what the agent knows of the cluster, object by object.
//!
//! [`cursor`] decides what to ask the server next (pure, one test per K rule), [`driver`] asks
//! and reads with `ask`, [`lines`] frames the answer, [`object`] decodes it, [`known`] turns a list into
//! changes. kube's own `runtime::watcher` is not used: it repeats a watch for ever that the server
//! refuses with HTTP 410, loops without a pause when a stream ends at once, fails a whole list for
//! one object that it cannot decode, waits for ever for the end of the initial events, and does
//! not notice a server that went back in time.

mod ask;
pub mod client;
mod counted;
pub mod cursor;
pub mod driver;
pub mod known;
pub mod lines;
pub mod object;
mod warned;

pub use ask::Watch;
pub use client::{ApiAccess, ClientError};
pub use counted::Requests;
pub use cursor::Timing;
pub use driver::{Update, Watcher, WatcherReport};
pub use warned::Warnings;
