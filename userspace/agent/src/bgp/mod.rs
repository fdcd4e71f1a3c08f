//! The router part of the agent: peers and policies from flags and Nodes, announcements from the
//! services that are written, chosen routes into the kernel, and what all that shows.
//!
//! What is decided is pure: [`settings`] (flags), [`nodes`] (Node objects), [`peers`] (whom to
//! talk to, and under which policy), [`announce`] (what to announce). [`router`] is the task that
//! feeds it and carries it out.

pub mod announce;
pub mod flags;
mod handle;
mod keys;
pub mod metrics;
mod network;
pub mod nodes;
mod peer_list;
pub mod peer_options;
pub mod peers;
pub mod router;
pub mod settings;
pub mod show;
pub mod view;

pub use flags::BgpArgs;
pub use handle::BgpHandle;
pub use router::Router;
pub use settings::Settings;
