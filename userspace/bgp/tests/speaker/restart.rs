//! B18: graceful restart in both roles.

use std::time::Duration;

use sluice_bgp::{Capability, Family, Message, Update};

use crate::peer::RawPeer;
use crate::rig::{EXTERNAL, Rig, peer, peer_address, says};
use crate::routes::{announce, connect, send};

#[tokio::test]
async fn b18_a_helper_keeps_routes_until_end_of_rib_or_the_restart_time() {
    let graceful = |n| {
        let mut config = peer(n, EXTERNAL);
        config.settings.graceful_restart_s = Some(120);
        config
    };
    let restarting = |n, time_s: u16, forwarding: bool| {
        let mut settings = says(n, EXTERNAL);
        settings.graceful_restart_s = Some(time_s);
        let mut open = settings.open();
        for capability in &mut open.capabilities {
            if let Capability::GracefulRestart(restart) = capability {
                restart.families.iter_mut().for_each(|family| family.forwarding = forwarding);
            }
        }
        open
    };
    let up = async |rig: &Rig, n: u8, open| {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        raw.receive().await;
        raw.send(&Message::Open(open)).await;
        raw.send(&Message::Keepalive).await;
        raw.params = sluice_bgp::Params {
            four_octet_as: true,
            extended_messages: true,
            families: sluice_bgp::Families::ALL,
            ..sluice_bgp::Params::default()
        };
        raw
    };
    let rig = Rig::start(vec![graceful(1), graceful(2)]).await;
    // Until End-of-RIB.
    let mut raw = up(&rig, 1, restarting(1, 100, true)).await;
    for prefix in ["10.1.0.0/24", "10.2.0.0/24"] {
        send(&mut raw, announce(prefix, &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    rig.until_installed(&["10.1.0.0/24", "10.2.0.0/24"]).await;
    drop(raw);
    until_stale(&rig).await;
    assert_eq!(rig.prefixes(), ["10.1.0.0/24", "10.2.0.0/24"]);
    let mut raw = up(&rig, 1, restarting(1, 100, true)).await;
    send(&mut raw, announce("10.2.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.prefixes().len(), 2, "not before End-of-RIB");
    send(&mut raw, Update::end_of_rib(Family::Ipv4Unicast)).await;
    rig.until_installed(&["10.2.0.0/24"]).await;
    // The peer did not keep forwarding: gone as soon as it is back.
    drop(raw);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let raw = up(&rig, 1, restarting(1, 100, false)).await;
    rig.until_installed(&[]).await;
    drop(raw);
    // Until the restart time is over.
    let mut raw = up(&rig, 2, restarting(2, 1, true)).await;
    send(&mut raw, announce("10.3.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.3.0.0/24"]).await;
    drop(raw);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rig.prefixes(), ["10.3.0.0/24"]);
    rig.until_installed(&[]).await;
}

/// Waits until the end of a peer's connection was seen.
async fn until_stale(rig: &Rig) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !rig.routes().await.iter().all(|view| view.route.stale) {
        assert!(tokio::time::Instant::now() < until, "the end of the connection was not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until what a former run left may go.
async fn until_converged(rig: &Rig) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !*rig.converged.lock().unwrap() {
        assert!(tokio::time::Instant::now() < until, "never converged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn b18_what_a_former_run_left_may_go_after_end_of_rib_or_the_deferral() {
    let mut graceful = says(1, EXTERNAL);
    graceful.graceful_restart_s = Some(120);
    let rig = Rig::start_with(vec![peer(1, EXTERNAL)], |config| {
        config.deferral = Duration::from_secs(600);
    })
    .await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &graceful).await;
    send(&mut raw, announce("10.3.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.3.0.0/24"]).await;
    send(&mut raw, Update::end_of_rib(Family::Ipv4Unicast)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!*rig.converged.lock().unwrap(), "IPv6 is still owed");
    send(&mut raw, Update::end_of_rib(Family::Ipv6Unicast)).await;
    until_converged(&rig).await;
    let late = Rig::start(vec![peer(1, EXTERNAL)]).await;
    // A peer that never comes is not waited for.
    until_converged(&late).await;
}

#[tokio::test]
async fn b18_a_peer_without_graceful_restart_that_sends_no_end_of_rib_holds_nothing_up_for_long() {
    let rig = Rig::start_with(vec![peer(1, EXTERNAL)], |config| {
        config.deferral = Duration::from_secs(600);
    })
    .await;
    let _raw = connect(&rig, 1, EXTERNAL).await;
    until_converged(&rig).await;
}

#[tokio::test]
async fn b19_only_the_mark_itself_sweeps_what_is_stale() {
    let v4 = [Family::Ipv4Unicast].into_iter().collect();
    let mut config = peer(1, EXTERNAL);
    config.settings.graceful_restart_s = Some(120);
    let mut settings = says(1, EXTERNAL);
    settings.graceful_restart_s = Some(100);
    settings.families = v4;
    let rig = Rig::start(vec![config]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &settings).await;
    send(&mut raw, announce("10.1.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.1.0.0/24"]).await;
    drop(raw);
    until_stale(&rig).await;
    settings.restarted = true;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &settings).await;
    // IPv6's, which was not negotiated; a malformed AIGP, which leaves nothing.
    for attributes in [&[0x80, 15, 3, 0, 2, 1][..], &[0x80, 26, 3, 1, 0, 0x40]] {
        raw.send_octets(&crate::peer::update(&[], attributes, &[])).await;
    }
    send(&mut raw, announce("10.2.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.1.0.0/24", "10.2.0.0/24"]).await;
    send(&mut raw, Update::end_of_rib(Family::Ipv4Unicast)).await;
    rig.until_installed(&["10.2.0.0/24"]).await;
}
