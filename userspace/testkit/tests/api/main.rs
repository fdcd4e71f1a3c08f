//! The embedded Kubernetes API server, held to what the real one does (K rules), by raw HTTP, by
//! kube-rs and by kubectl.

// Everything here is test code, also what stands outside of #[test] functions.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod command;
mod controllers;
mod defaults;
mod faults;
mod kube_client;
mod kubectl;
mod lists;
mod raw;
mod refusals;
mod watches;
mod writes;
