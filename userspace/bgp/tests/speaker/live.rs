//! What can be changed of a running speaker, without a session that it is none of.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sluice_bgp::driver::{Happening, Password, PeerConfig, Speaker, SpeakerConfig, SpeakerError};
use sluice_bgp::fsm::State;
use sluice_bgp::policy::{Change, Verdict};
use sluice_bgp::rib::{Identity, Unfit};
use sluice_bgp::{Capability, Code, Families, Message, Notification, Params, Received};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, Rig, peer, peer_address, says};
use crate::routes::{announce, connect, local, send};

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
    let without = tokio::time::timeout(Duration::from_millis(500), socket.connect(elsewhere));
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

#[tokio::test]
async fn b9_an_operators_words_reach_the_other_side_and_its_words_are_shown() {
    let mut rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL)]).await;
    let mut one = connect(&rig, 1, EXTERNAL).await;
    assert_eq!(rig.happening().await, Happening::Up);
    rig.speaker.lock().await.shutdown_peer(peer_address(1), "rack 7 is moved").await;
    let told = one.ended().await.expect("a NOTIFICATION");
    assert_eq!((told.code, told.reason()), (Code::SHUTDOWN, Some("rack 7 is moved")));
    assert!(matches!(rig.happening().await, Happening::Down { .. }));
    let mut again = RawPeer::connect(peer_address(1), rig.address).await;
    assert_eq!(again.try_receive().await, None, "down until an operator acts");
    rig.speaker.lock().await.start_peer(peer_address(1)).await;
    let mut one = connect(&rig, 1, EXTERNAL).await;
    assert_eq!(rig.happening().await, Happening::Up);
    // The other way: escaped, in the event and in the status.
    let theirs = Notification::with_reason(Code::RESET, "new \u{1b}[2Jkey \u{e9}");
    one.send(&Message::Notification(theirs)).await;
    let text = "received NOTIFICATION 6/4 (administrative reset): \"new \\u{1b}[2Jkey \u{e9}\"";
    match rig.happening().await {
        Happening::Down { reason, .. } => assert_eq!(reason.to_string(), text),
        other => panic!("{other:?}"),
    }
    let report = rig.speaker.lock().await.peers().await.remove(0);
    assert_eq!(report.status.last_end.as_deref(), Some(text));
}

#[tokio::test]
async fn b9_a_speaker_that_shuts_down_has_told_everybody_when_it_is_over() {
    let config = SpeakerConfig {
        identity: Identity {
            asn: ASN,
            bgp_id: crate::rig::ID,
            cluster_id: None,
            addresses: vec![],
            max_paths: 8,
        },
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        deferral: Duration::from_secs(1),
        seed: 1,
    };
    // In a runtime of its own, which ends as a process would, at once.
    let (tell, address) = tokio::sync::oneshot::channel();
    let (over, wait) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (mut speaker, _outputs, _events) = Speaker::start(config).unwrap();
            speaker.set_peers(vec![peer(1, EXTERNAL), peer(2, EXTERNAL)]).await.unwrap();
            let mut accepted = speaker.take_accepted().unwrap();
            tell.send(speaker.listens_at()[0]).unwrap();
            for _ in 0..2 {
                let (stream, from) = accepted.recv().await.unwrap();
                speaker.accept(stream, from).await;
            }
            wait.await.unwrap();
            speaker.shutdown("cleaned up").await;
        });
    });
    let address = address.await.unwrap();
    let mut peers = Vec::new();
    for n in 1..=2 {
        peers.push(RawPeer::established(peer_address(n), address, &says(n, EXTERNAL)).await);
    }
    over.send(()).unwrap();
    for mut raw in peers {
        let told = raw.ended().await.expect("a NOTIFICATION");
        assert_eq!((told.code, told.reason()), (Code::SHUTDOWN, Some("cleaned up")));
    }
    thread.join().unwrap();
}

#[tokio::test]
async fn each_peer_has_settings_of_its_own() {
    let own = |n: u8, hold_s: u16, restart_s: Option<u16>, first_as: bool, limit: u32, med: u32| {
        let mut config = peer(n, EXTERNAL);
        config.settings.hold_s = hold_s;
        config.settings.graceful_restart_s = restart_s;
        config.policies.enforce_first_as = first_as;
        config.policies.max_prefixes = Some(limit);
        config.policies.export.rules[0].verdict = Verdict::Accept(vec![Change::Med(med)]);
        config
    };
    let peers = [own(1, 30, None, false, 100, 7), own(2, 60, Some(99), true, 1, 8)];
    let mut rig = Rig::start(peers.to_vec()).await;
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    let mut raws = Vec::new();
    for (n, config) in (1u8..).zip(&peers) {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        let Received::Open(open) = raw.receive().await else { panic!("no OPEN") };
        assert_eq!(open.hold_time_s, config.settings.hold_s);
        let restart = open.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart.time_s),
            _ => None,
        });
        assert_eq!(restart, config.settings.graceful_restart_s);
        raw.send(&Message::Open(says(n, EXTERNAL).open())).await;
        raw.send(&Message::Keepalive).await;
        raw.params = Params { four_octet_as: true, families: Families::ALL, ..Params::default() };
        let Verdict::Accept(changes) = &config.policies.export.rules[0].verdict else { panic!() };
        let med = raw.update().await.attributes.med.map(Change::Med);
        assert_eq!(med.as_ref(), changes.first());
        assert_eq!(rig.happening().await, Happening::Up);
        raws.push(raw);
    }
    // The first AS is checked of one, and the limit is the other's.
    for raw in &mut raws {
        send(raw, announce("10.7.0.0/24", &[7, EXTERNAL], [10, 0, 0, 1])).await;
    }
    rig.until_installed(&["10.7.0.0/24"]).await;
    for raw in &mut raws {
        send(raw, announce("10.8.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    assert_eq!(raws[1].ended().await.map(|n| n.code), Some(Code::MAX_PREFIXES));
    rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24"]).await;
    let report = rig.speaker.lock().await.peers().await.remove(0);
    assert_eq!((report.status.state, report.routes.accepted), (State::Established, 2));
}

#[tokio::test]
async fn b4_who_connects_can_be_changed_without_a_reset() {
    let listener = TcpListener::bind("127.0.0.7:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let waits = PeerConfig { address: at.ip(), port: at.port(), ..peer(1, EXTERNAL) };
    let mut connects = waits.clone();
    connects.settings.passive = false;
    let mut rig = Rig::start(vec![waits.clone(), peer(2, EXTERNAL)]).await;
    let _other = connect(&rig, 2, EXTERNAL).await;
    assert_eq!(rig.happening().await, Happening::Up);
    let early = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(early.is_err(), "it waits");
    let both = |first| vec![first, peer(2, EXTERNAL)];
    rig.speaker.lock().await.set_peers(both(connects)).await.unwrap();
    let (stream, _) =
        tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
    let mut raw = RawPeer::of(stream);
    raw.establish(&says(1, EXTERNAL)).await;
    assert_eq!(rig.happening().await, Happening::Up);
    rig.speaker.lock().await.set_peers(both(waits)).await.unwrap();
    assert!(rig.happenings.try_recv().is_err(), "the session stays");
    send(&mut raw, announce("10.8.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.8.0.0/24"]).await;
    assert!(rig.happenings.try_recv().is_err(), "the session stays");
}
