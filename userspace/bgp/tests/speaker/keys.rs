//! B8: TCP MD5 keys (RFC 2385), between two of our speakers, and against a peer that has none.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sluice_bgp::Attributes;
use sluice_bgp::driver::{Password, PeerConfig};
use sluice_bgp::fsm::{Settings, State};
use sluice_bgp::policy::Tag;
use sluice_bgp::rib::LocalRoute;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, Rig, open_policies, peer, peer_address, says};

/// The passive side's peer, with a key.
fn inner(key: &str) -> PeerConfig {
    PeerConfig { password: Password::new(key), ..peer(1, EXTERNAL) }
}

/// The active side's peer, the passive side.
fn outer(at: SocketAddr, key: &str) -> PeerConfig {
    let mut settings = Settings::new(EXTERNAL, Ipv4Addr::new(10, 0, 0, 1), ASN);
    settings.timing.connect_retry = Duration::from_millis(200);
    settings.timing.connect = Duration::from_millis(500);
    PeerConfig {
        port: at.port(),
        password: Password::new(key),
        local_address: Some(peer_address(1)),
        policies: open_policies(),
        ..PeerConfig::new(at.ip(), settings)
    }
}

/// The active side's speaker, at the address that the passive side knows.
async fn active(at: SocketAddr, key: &str) -> Rig {
    Rig::start_with(vec![outer(at, key)], |config| {
        config.identity.asn = EXTERNAL;
        config.identity.bgp_id = Ipv4Addr::new(10, 0, 0, 1);
        config.listen = vec![SocketAddr::new(peer_address(1), 0)];
    })
    .await
}

async fn set(rig: &Rig, peer: PeerConfig) {
    rig.speaker.lock().await.set_peers(vec![peer]).await.unwrap();
}

/// Sessions that there have been, and the state.
async fn stands(rig: &Rig) -> (u64, State) {
    let report = rig.speaker.lock().await.peers().await.remove(0);
    (report.status.counters.established, report.status.state)
}

/// Announces so many prefixes; returns them.
async fn announce(rig: &Rig, count: u8) -> Vec<String> {
    let prefixes: Vec<String> = (0..count).map(|n| format!("10.{n}.0.0/24")).collect();
    let local = |prefix: &String| LocalRoute {
        prefix: net(prefix),
        tag: Tag(1),
        attributes: Attributes::default(),
    };
    rig.set_locals(prefixes.iter().map(local).collect()).await;
    prefixes
}

async fn until_all(rig: &Rig, prefixes: &[String]) {
    rig.until_installed(&prefixes.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn b8_a_key_that_both_change_counts_without_a_reset() {
    let passive = Rig::start(vec![inner("first")]).await;
    let active = active(passive.address, "first").await;
    until_all(&active, &announce(&passive, 1).await).await;
    // One side after the other: what is sent in between is sent again by TCP. The key changes at
    // some time, and from then on nothing comes.
    set(&passive, inner("second")).await;
    let mut count = 1;
    let prefixes = loop {
        count += 1;
        assert!(count < 50, "the new key is not used");
        let prefixes = announce(&passive, count).await;
        sleep(Duration::from_millis(300)).await;
        if active.prefixes() != prefixes {
            break prefixes;
        }
    };
    set(&active, outer(passive.address, "second")).await;
    until_all(&active, &prefixes).await;
    for side in [&passive, &active] {
        assert_eq!(stands(side).await, (1, State::Established), "the session of before");
    }
}

#[tokio::test]
async fn b8_another_key_or_none_meets_silence_and_others_are_not_harmed() {
    let passive = Rig::start(vec![inner("right"), peer(2, EXTERNAL)]).await;
    let connect = async |limit| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(peer_address(1), 0)).unwrap();
        timeout(limit, socket.connect(passive.address)).await
    };
    assert!(connect(Duration::from_millis(700)).await.is_err(), "no SYN-ACK and no RST");
    let stranger = active(passive.address, "wrong").await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stands(&stranger).await.0, 0);
    assert_eq!(stands(&passive).await, (0, State::Active));
    RawPeer::established(peer_address(2), passive.address, &says(2, EXTERNAL)).await;
    set(&stranger, outer(passive.address, "right")).await;
    until_all(&stranger, &announce(&passive, 1).await).await;
    // A peer that loses its key is one without.
    set(&passive, PeerConfig { password: None, ..inner("") }).await;
    assert!(matches!(connect(Duration::from_secs(30)).await, Ok(Ok(_))));
}
