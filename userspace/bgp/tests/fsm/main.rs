//! The state machine: its rules one by one, and two of them against each other in virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod graceful;
mod network;
mod races;
mod rules;

use std::net::Ipv4Addr;

use sluice_bgp::fsm::Settings;

const LOW: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HIGH: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Settings of the speaker with the lower identifier and of the one with the higher.
fn pair() -> [Settings; 2] {
    [Settings::new(64512, LOW, 64512), Settings::new(64512, HIGH, 64512)]
}
