//! All packet logic of Sluice: parse, look up, translate, deliver.
//!
//! Safe Rust without `std`, generic over [`Packet`], [`Tables`] and the address [`Family`]; compiled
//! into the kernel programs over aya's maps and, with feature `host`, over plain collections.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "host")]
extern crate std;

mod checksum;
mod family;
#[cfg(feature = "host")]
pub mod host;
mod open;
mod packet;
mod process;
mod tables;
mod translate;
pub mod wire;

pub use checksum::hash_tuple;
pub use family::{Family, V4, V6};
pub use packet::{NextHop, Packet};
pub use process::{Action, Hook, process};
pub use tables::{FlowTable, Inserted, Lookup, NodeTables, Tables};

/// First port for translated sources. Above the kernel's default ephemeral range
/// (32768-60999); user space also puts the range into `ip_local_reserved_ports`.
pub const SNAT_FIRST_PORT: u16 = 61_000;
/// Number of ports from [`SNAT_FIRST_PORT`], a power of two: no division in the program.
pub const SNAT_PORTS: u16 = 4_096;
/// Seconds without a packet after which a UDP flow is over (kernel: nf_conntrack_udp_timeout_stream).
pub const UDP_TIMEOUT_S: u32 = 120;
