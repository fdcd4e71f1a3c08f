//! Real agents at the real API server: what they survive, and what they may. One cluster serves
//! all tests of this file, one at a time. Skipped where `cargo xtask setup --kubernetes` was not run.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use sluice_testkit::cluster::ApiServer;

mod contract;
mod plane;
#[path = "../conformance/rig.rs"]
#[expect(dead_code, reason = "the same words as in the conformance tests, not all of them here")]
mod rig;
mod rights;
mod survival;
mod takeover;

/// The API server of the cluster.
const API: ApiServer = ApiServer::Kubernetes;
