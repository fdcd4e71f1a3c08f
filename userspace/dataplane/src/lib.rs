//! The data plane of a node: loads the kernel programs, attaches them, fills their maps.
//!
//! The agent owns one [`Dataplane`] on a thread of its own: calls block for milliseconds. When it
//! is dropped or killed, programs and maps stay pinned and go on forwarding; the next
//! [`Dataplane::open`] adopts them.

pub mod check;
mod cleanup;
mod config;
mod destroy;
#[cfg(test)]
mod differential;
mod error;
mod flows;
mod interfaces;
mod kernel;
mod layout;
mod links;
mod maps;
mod object;
mod plan;
mod plane;
mod settings;
mod slots;
mod sockets;
mod wire;

pub use cleanup::cleanup;
pub use config::LocalPods;
pub use error::Error;
pub use flows::{ConnectionState, FlowView, Walked};
pub use interfaces::link_events;
pub use layout::{Pod, Ways};
pub use links::Attachment;
pub use plane::{Dataplane, LinkReport, Options, Status, SyncReport};
pub use sockets::find_cgroup;
