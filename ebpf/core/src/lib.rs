//! All packet logic of Sluice: parse, look up, translate, deliver.
//!
//! Safe Rust without `std`, generic over [`Packet`], [`Tables`] and the address [`Family`]; compiled
//! into the kernel programs over aya's maps and, with feature `host`, over plain collections.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "host")]
extern crate std;

mod checksum;
mod error;
mod family;
mod fragment;
#[cfg(feature = "host")]
pub mod host;
mod open;
mod packet;
mod process;
mod refuse;
mod sctp;
pub mod socket;
mod tables;
mod translate;
pub mod wire;

pub use family::{Family, V4, V6};
pub use packet::{LOOPBACK, NextHop, Packet};
pub use process::{Action, Hook, process};
pub use tables::{FlowTable, Inserted, Lookup, NodeTables, Tables};

/// Seconds without a packet after which a UDP flow is over (kernel: nf_conntrack_udp_timeout_stream).
pub const UDP_TIMEOUT_S: u32 = 120;
