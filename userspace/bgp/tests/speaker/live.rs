//! What can be changed of a running speaker, without a session that it is none of.

use std::net::{Ipv4Addr, SocketAddr};

use sluice_bgp::driver::{Happening, Password, SpeakerError};
use sluice_bgp::rib::Unfit;
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, Rig, peer, peer_address, says};
use crate::routes::{announce, connect, send};

#[tokio::test]
async fn rfc4456_another_cluster_counts_at_once_and_touches_no_session() {
    let mut client = peer(1, ASN);
    client.policies.client = true;
    let mut rig = Rig::start(vec![client, peer(2, ASN), peer(3, EXTERNAL)]).await;
    rig.set_locals(vec![]).await;
    let mut client = connect(&rig, 1, ASN).await;
    let mut other = connect(&rig, 2, ASN).await;
    let mut outside = connect(&rig, 3, EXTERNAL).await;
    for _ in 0..3 {
        assert_eq!(rig.happening().await, Happening::Up);
    }
    let (own, theirs) = (Ipv4Addr::new(7, 7, 7, 7), Ipv4Addr::new(8, 8, 8, 8));
    send(&mut client, announce("10.7.0.0/24", &[], [10, 0, 0, 1])).await;
    assert_eq!(other.update().await.nlri, [net("10.7.0.0/24")]);
    assert_eq!(outside.update().await.nlri, [net("10.7.0.0/24")]);
    let mut through = announce("10.8.0.0/24", &[], [10, 0, 0, 2]);
    through.attributes.cluster_list = vec![theirs];
    send(&mut other, through).await;
    rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24"]).await;
    assert_eq!(outside.update().await.nlri, [net("10.8.0.0/24")]);
    rig.speaker.lock().await.set_cluster_id(Some(own)).await;
    assert_eq!(other.update().await.attributes.cluster_list, [own]);
    // Now it is ours: a loop.
    rig.speaker.lock().await.set_cluster_id(Some(theirs)).await;
    assert_eq!(other.update().await.attributes.cluster_list, [theirs]);
    rig.until_installed(&["10.7.0.0/24"]).await;
    let unfit: Vec<_> =
        rig.routes().await.into_iter().filter_map(|view| view.route.unfit).collect();
    assert_eq!(unfit, [Unfit::ClusterLoop]);
    // An external peer has nothing of it but the route that went.
    assert_eq!(outside.update().await.withdrawn, [net("10.8.0.0/24")]);
    assert!(rig.happenings.try_recv().is_err(), "no session was touched");
}

#[tokio::test]
async fn b4_b8_listening_elsewhere_takes_keys_along_and_touches_no_session() {
    let key = Password::new("secret").unwrap();
    let mut keyed = peer(2, EXTERNAL);
    keyed.password = Some(key);
    let mut rig = Rig::start(vec![peer(1, EXTERNAL), keyed]).await;
    let first = rig.address;
    let raw = RawPeer::established(peer_address(1), first, &says(1, EXTERNAL)).await;
    assert_eq!(rig.happening().await, Happening::Up);
    // All addresses with the same port, which overlap with what there was.
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, first.port()));
    rig.speaker.lock().await.set_listen(vec![all]).await.unwrap();
    assert_eq!(rig.speaker.lock().await.listens_at(), [all]);
    assert!(rig.happenings.try_recv().is_err(), "the session stays");
    let elsewhere = SocketAddr::from(([127, 0, 0, 5], first.port()));
    assert!(TcpStream::connect(elsewhere).await.is_ok());
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(peer_address(2), 0)).unwrap();
    let without =
        tokio::time::timeout(std::time::Duration::from_millis(500), socket.connect(elsewhere));
    assert!(without.await.is_err(), "a SYN without the key is not answered");
    // One that is taken: the others are listened at, and later it is tried again.
    let taken = TcpListener::bind("127.0.0.6:0").await.unwrap();
    let busy = taken.local_addr().unwrap();
    let result = rig.speaker.lock().await.set_listen(vec![busy, first]).await;
    assert!(matches!(result, Err(SpeakerError::Listen { address, .. }) if address == busy));
    assert_eq!(rig.speaker.lock().await.listens_at(), [first]);
    drop(taken);
    rig.speaker.lock().await.set_listen(vec![busy, first]).await.unwrap();
    assert_eq!(rig.speaker.lock().await.listens_at(), [first, busy]);
    rig.speaker.lock().await.set_listen(vec![]).await.unwrap();
    assert!(TcpStream::connect(first).await.is_err());
    assert!(rig.happenings.try_recv().is_err(), "the session stays");
    drop(raw);
}
