//! B18: graceful restart in both roles.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use sluice_bgp::{Capability, Family, Message, Update};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, Rig, peer, peer_address, says};
use crate::routes::{announce, connect, local, send};

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

/// A client of the reflector at 127.0.0.1, which connects again after this pause.
async fn client(n: u8, reflector: std::net::SocketAddr, retry: Duration) -> Rig {
    let mut config = peer(1, ASN);
    config.address = reflector.ip();
    config.port = reflector.port();
    config.local_address = Some(peer_address(n));
    config.settings.passive = false;
    config.settings.bgp_id = Ipv4Addr::new(10, 0, 0, n);
    config.settings.graceful_restart_s = Some(120);
    config.settings.timing.connect_retry = retry;
    config.policies.next_hops = vec![IpAddr::from([10, 255, 0, n])];
    let rig = Rig::start_with(vec![config], |config| {
        config.identity.bgp_id = Ipv4Addr::new(10, 0, 0, n);
    })
    .await;
    rig.set_locals(vec![local(&format!("10.{n}.0.0/24"))]).await;
    rig
}

async fn reflector(at: std::net::SocketAddr, restarted: bool) -> Rig {
    // The listener of one before it ends with its task, soon.
    while std::net::TcpListener::bind(at).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let clients = [1, 2].map(|n| {
        let mut config = peer(n, ASN);
        config.policies.client = true;
        config.settings.graceful_restart_s = Some(120);
        config.settings.restarted = restarted;
        config
    });
    let rig = Rig::start_with(clients.to_vec(), |config| {
        config.listen = vec![at];
        config.deferral = Duration::from_secs(60);
    })
    .await;
    rig.set_locals(vec![]).await;
    rig
}

#[tokio::test]
async fn b18_clients_of_a_restarted_reflector_drop_nothing_of_each_other() {
    let port = reflector(([127, 0, 0, 1], 0).into(), false).await.address;
    let first = reflector(port, false).await;
    let one = client(1, port, Duration::from_millis(20)).await;
    let two = client(2, port, Duration::from_secs(2)).await;
    one.until_installed(&["10.2.0.0/24"]).await;
    two.until_installed(&["10.1.0.0/24"]).await;
    // Killed: it says nothing.
    drop(first);
    until_stale_of(&one, "10.2.0.0/24").await;
    until_stale_of(&two, "10.1.0.0/24").await;
    let _second = reflector(port, true).await;
    // The first client is back long before the other.
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while is_stale(&one, "10.2.0.0/24").await || is_stale(&two, "10.1.0.0/24").await {
        assert!(tokio::time::Instant::now() < until, "never confirmed");
        for (rig, prefix) in [(&one, "10.2.0.0/24"), (&two, "10.1.0.0/24")] {
            assert_eq!(rig.prefixes(), [prefix], "forwarding goes on");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a route from a peer is there, and stale.
async fn is_stale(rig: &Rig, prefix: &str) -> bool {
    let routes = rig.routes().await;
    let found = routes.iter().find(|view| view.prefix == net(prefix));
    found.expect("the route stays").route.stale
}

async fn until_stale_of(rig: &Rig, prefix: &str) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !is_stale(rig, prefix).await {
        assert!(tokio::time::Instant::now() < until, "{prefix} is not stale");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
