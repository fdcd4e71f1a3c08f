//! What happens to packets, on the host build: translation both ways, checksums, flow state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail")]

mod affinity;
mod build;
mod errors;
mod extensions;
mod flows;
mod fragments;
mod holding;
mod left_alone;
mod lists;
mod octets;
mod own;
mod paths;
mod ranges;
mod refusals;
mod schedulers;
mod sctp;
mod sockets;
mod strays;
