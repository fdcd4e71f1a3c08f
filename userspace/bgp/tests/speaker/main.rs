//! The running speaker over TCP on loopback: what a peer sees that sends it these octets. No root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attributes;
mod keys;
mod live;
mod notifications;
mod others;
mod peer;
mod refresh;
mod restart;
mod rig;
mod robust;
mod routes;
#[path = "../rows/mod.rs"]
mod rows;
mod scale;
mod ttl;
