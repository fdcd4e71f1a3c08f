//! What clients of a real cluster see where the matrix does not show it: things that change under
//! traffic. R numbers are those of `docs/services.md`. One cluster serves all tests of this file,
//! one at a time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use sluice_testkit::cluster::ApiServer;

mod addresses;
mod affinity;
mod detectors;
mod established;
mod flags;
mod fragments;
mod headers;
mod health;
mod itself;
mod masquerade;
mod matrix;
mod objects;
mod packets;
mod paths;
mod ranges;
mod raw;
mod restart;
mod rig;
mod schedulers;
mod sctp;
mod udp;
mod weights;

/// The API server of the cluster.
const API: ApiServer = ApiServer::Embedded;
