//! B7: TTL security (RFC 5082), on connections that the peer makes and on ours, in both families.
//! Loopback has no hops, so a peer that is further away is one that sends with a lower TTL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use sluice_bgp::driver::{Happening, PeerConfig, Ttl};
use sluice_bgp::fsm::{Reason, State};
use sluice_bgp::{Message, Params};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::peer::{PATIENCE, RawPeer, mandatory, update};
use crate::rig::{EXTERNAL, Rig, peer, peer_address, says};

const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

fn secured(address: IpAddr, hops: u8) -> PeerConfig {
    PeerConfig { address, ttl: Ttl::Security(hops), ..peer(1, EXTERNAL) }
}

fn set_ttl(socket: &socket2::SockRef<'_>, v6: bool, ttl: u32) {
    match v6 {
        true => socket.set_unicast_hops_v6(ttl).unwrap(),
        false => socket.set_ttl_v4(ttl).unwrap(),
    }
}

/// Speakers that listen at loopback, by their peer's address.
fn families() -> [(IpAddr, SocketAddr); 2] {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    [(peer_address(1), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), (v6, SocketAddr::new(v6, 0))]
}

#[tokio::test]
async fn b7_a_peer_from_further_away_gets_no_session_whatever_it_sends_at_once() {
    for (address, at) in families() {
        for (hops, near, far) in [(1, 255, 254), (3, 253, 252)] {
            let peers = vec![secured(address, hops)];
            let mut rig = Rig::start_with(peers, |config| config.listen = vec![at]).await;
            let to = rig.address;
            let from = |ttl| {
                RawPeer::connect_with(address, to, move |socket| {
                    set_ttl(&socket, address.is_ipv6(), ttl);
                })
            };
            for ttl in [far, 64, 1] {
                // All that makes a session and a route, before the speaker has seen any of it.
                let mut raw = from(ttl).await;
                let mut octets = BytesMut::new();
                let params = Params::default();
                Message::Open(says(1, EXTERNAL).open()).encode(&params, &mut octets).unwrap();
                Message::Keepalive.encode(&params, &mut octets).unwrap();
                octets.extend(update(&[], &mandatory(Some(EXTERNAL), HOP), &[24, 10, 1, 0]));
                // The end may come before all is written.
                drop(raw.stream.try_write(&octets));
                assert_eq!(raw.try_receive().await, None, "not even an OPEN, TTL {ttl}");
                assert_eq!(rig.happening().await, Happening::Refused(Reason::TooFar));
            }
            let report = rig.speaker.lock().await.peers().await.remove(0);
            assert_eq!(report.status.state, State::Active);
            assert_eq!(report.status.counters.received, 0);
            let mut raw = from(near).await;
            raw.establish(&says(1, EXTERNAL)).await;
        }
    }
}

#[tokio::test]
async fn b7_packets_from_further_away_are_no_part_of_a_session() {
    for (address, at) in families() {
        let v6 = address.is_ipv6();
        let rig =
            Rig::start_with(vec![secured(address, 1)], |config| config.listen = vec![at]).await;
        let near = |socket: socket2::SockRef<'_>| set_ttl(&socket, v6, 255);
        let mut raw = RawPeer::connect_with(address, rig.address, near).await;
        raw.establish(&says(1, EXTERNAL)).await;
        set_ttl(&socket2::SockRef::from(&raw.stream), v6, 254);
        raw.send_octets(&update(&[], &mandatory(Some(EXTERNAL), HOP), &[24, 10, 1, 0])).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(rig.prefixes(), Vec::<String>::new());
        // What TCP sends again comes from near by.
        set_ttl(&socket2::SockRef::from(&raw.stream), v6, 255);
        rig.until_installed(&["10.1.0.0/24"]).await;
    }
}

#[tokio::test]
async fn b7_a_connection_of_ours_to_a_peer_from_further_away_is_never_made() {
    for (address, _) in families() {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await.unwrap();
        let handle = socket2::SockRef::from(&listener);
        set_ttl(&handle, address.is_ipv6(), 254);
        let mut config = secured(address, 1);
        config.settings.passive = false;
        config.settings.timing.connect = Duration::from_millis(200);
        config.settings.timing.connect_retry = Duration::from_millis(200);
        config.port = listener.local_addr().unwrap().port();
        let _rig = Rig::start(vec![config]).await;
        let made = timeout(Duration::from_secs(1), listener.accept()).await;
        assert!(made.is_err(), "the SYN-ACK came from too far away");
        set_ttl(&handle, address.is_ipv6(), 255);
        timeout(6 * PATIENCE, listener.accept()).await.expect("made in time").unwrap();
    }
}
