//! The speaker and the speakers of others, in network namespaces: sessions of every kind come up,
//! routes go both ways with their attributes, withdrawals arrive within a second, refresh and
//! graceful restart work. Needs root; a speaker that is not installed is skipped by its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;
mod ours;
mod scenario;
mod space;

use scenario::{Daemon, Scenario, Transport, restart, talk};

/// External and internal sessions, over IPv4 and IPv6, with and without key.
fn scenarios() -> Vec<Scenario> {
    let base = Scenario::default();
    vec![
        Scenario { name: "external over IPv4", ..base.clone() },
        Scenario { name: "internal over IPv4", peer_asn: base.asn, ..base.clone() },
        Scenario { name: "external over IPv6", transport: Transport::V6, ..base.clone() },
        Scenario {
            name: "external with MD5, four-octet ASes",
            asn: 4_200_000_100,
            peer_asn: 4_200_000_200,
            password: Some("secret-of-both"),
            ..base.clone()
        },
        Scenario {
            name: "internal over IPv6 with MD5",
            peer_asn: base.asn,
            transport: Transport::V6,
            password: Some("another-secret"),
            ..base
        },
    ]
}

fn all<D: Daemon>(daemon: D) {
    if let Some(reason) = space::cannot_run(daemon.program()) {
        println!("SKIP: {reason}");
        return;
    }
    for scenario in scenarios() {
        talk(&daemon, &scenario);
    }
}

fn graceful<D: Daemon>(daemon: D) {
    if let Some(reason) = space::cannot_run(daemon.program()) {
        println!("SKIP: {reason}");
        return;
    }
    restart(&daemon);
}

#[test]
fn bird_talks() {
    all(bird::Bird);
}

#[test]
fn frr_talks() {
    all(frr::Frr);
}

#[test]
fn gobgp_talks() {
    all(gobgp::GoBgp);
}

#[test]
fn openbgpd_talks() {
    all(openbgpd::OpenBgpd);
}

#[test]
fn exabgp_talks() {
    all(exabgp::ExaBgp);
}

#[test]
fn b11_bird_and_we_notice_a_cut_by_bfd() {
    let daemon = bird::Bird;
    if let Some(reason) = space::cannot_run(daemon.program()) {
        println!("SKIP: {reason}");
        return;
    }
    scenario::cut(&daemon);
}

fn secured<D: Daemon>(daemon: D) {
    if let Some(reason) = space::cannot_run(daemon.program()) {
        println!("SKIP: {reason}");
        return;
    }
    for (name, transport) in
        [("TTL security over IPv4", Transport::V4), ("TTL security over IPv6", Transport::V6)]
    {
        talk(&daemon, &Scenario { name, transport, ttl_security: true, ..Scenario::default() });
    }
}

#[test]
fn b7_bird_talks_with_ttl_security() {
    secured(bird::Bird);
}

#[test]
fn b7_frr_talks_with_ttl_security() {
    secured(frr::Frr);
}

#[test]
fn b7_gobgp_talks_with_ttl_security() {
    secured(gobgp::GoBgp);
}

#[test]
fn b18_bird_and_we_restart_gracefully() {
    graceful(bird::Bird);
}

#[test]
fn b18_frr_and_we_restart_gracefully() {
    graceful(frr::Frr);
}

#[test]
fn b18_gobgp_and_we_restart_gracefully() {
    graceful(gobgp::GoBgp);
}
