//! B28: the speaker against TCP as it is: octet by octet, all at once, gone in every state, floods,
//! strangers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use sluice_bgp::driver::Happening;
use sluice_bgp::fsm::{Reason, Settings, State};
use sluice_bgp::policy::Tag;
use sluice_bgp::rib::LocalRoute;
use sluice_bgp::{
    AsPath, Attributes, Code, Family, LargeCommunity, Message, NextHop, Notification, Origin,
    Received, Update,
};
use tokio::io::AsyncReadExt;

use crate::peer::{PATIENCE, RawPeer, mandatory, update};
use crate::rig::{EXTERNAL, Rig, peer, peer_address, says};

const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

#[tokio::test]
async fn messages_in_pieces_of_every_size_and_many_in_one() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    raw.stream.set_nodelay(true).unwrap();
    let good = mandatory(Some(EXTERNAL), HOP);
    let octets: Vec<u8> = (0..3).flat_map(|n| update(&[], &good, &[24, 10, 1, n])).collect();
    for piece in octets.chunks(1) {
        raw.send_octets(piece).await;
        tokio::task::yield_now().await;
    }
    rig.until_installed(&["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24"]).await;
    let gone: Vec<u8> = (0..3).flat_map(|n| update(&[24, 10, 1, n], &[], &[])).collect();
    // Cut at every offset in turn.
    for cut in 0..octets.len() {
        raw.send_octets(&octets[..cut]).await;
        tokio::task::yield_now().await;
        raw.send_octets(&octets[cut..]).await;
        raw.send_octets(&gone).await;
    }
    raw.send_octets(&octets).await;
    rig.until_installed(&["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24"]).await;
    let report = rig.speaker.lock().await.peers().await.remove(0);
    assert_eq!(report.status.state, State::Established);
    let expected = 3 + octets.len() as u64 * 6 + 3;
    assert_eq!(report.status.counters.updates_received, expected, "none lost, none twice");
}

#[tokio::test]
async fn a_connection_reset_in_every_state_leaves_the_peer_able_to_come_back() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    for stage in 0..4 {
        let mut raw = RawPeer::connect(peer_address(1), rig.address).await;
        if stage >= 1 {
            raw.receive().await;
        }
        if stage >= 2 {
            raw.send(&Message::Open(says(1, EXTERNAL).open())).await;
            raw.receive().await;
        }
        if stage >= 3 {
            raw.send(&Message::Keepalive).await;
        }
        socket2::SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(raw);
    }
    RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
}

#[tokio::test]
async fn b4_strangers_are_refused_and_told_nothing() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut stranger = RawPeer::connect(peer_address(99), rig.address).await;
    let mut octets = [0; 1];
    let end = tokio::time::timeout(PATIENCE, stranger.stream.read(&mut octets)).await.unwrap();
    assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
}

/// UPDATEs with 500 prefixes each, of 10.0.0.0/8.
fn flood(count: u32, settings: &Settings) -> Vec<u8> {
    let params = sluice_bgp::Params {
        four_octet_as: true,
        families: settings.families,
        ..sluice_bgp::Params::default()
    };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(&[EXTERNAL])),
        ..Attributes::default()
    };
    let mut octets = BytesMut::new();
    let prefixes: Vec<_> = (0..count)
        .map(|n| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + n * 16);
            ipnet::IpNet::new(IpAddr::V4(address), 28).unwrap()
        })
        .collect();
    for part in prefixes.chunks(500) {
        let hop = NextHop::V4(HOP);
        let updates =
            Update::announce(Family::Ipv4Unicast, &attributes, hop, part, &params).unwrap();
        for update in updates {
            Message::Update(Box::new(update)).encode(&params, &mut octets).unwrap();
        }
    }
    octets.to_vec()
}

/// A thread that sleeps again and again, and sees how late it is woken at the worst.
struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Watch {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let nap = Duration::from_millis(5);
            let mut late = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(nap);
                late = late.max(before.elapsed().saturating_sub(nap));
            }
            late
        });
        Self { over, thread }
    }

    fn join(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepalives_are_on_time_while_a_full_table_comes_in_and_the_hold_timer_knows_of_it() {
    let mut config = peer(1, EXTERNAL);
    config.settings.hold_s = 3;
    let rig = Rig::start(vec![config]).await;
    let mut settings = says(1, EXTERNAL);
    settings.hold_s = 3;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &settings).await;
    let octets = flood(200_000, &settings);
    let (mut reader, mut writer) = raw.stream.split();
    let watch = Watch::start();
    let started = Instant::now();
    let mut times = Vec::new();
    let mut inbox = BytesMut::new();
    let write = async {
        use tokio::io::AsyncWriteExt;
        writer.write_all(&octets).await.unwrap();
        started.elapsed()
    };
    tokio::pin!(write);
    let mut written = None;
    // For as long as three hold times, or as the table takes.
    while written.is_none() || started.elapsed() < Duration::from_millis(2500) {
        tokio::select! {
            took = &mut write, if written.is_none() => written = Some(took),
            read = tokio::time::timeout(Duration::from_millis(2900), reader.read_buf(&mut inbox)) => {
                assert!(read.expect("something in time").unwrap() > 0, "the session stays");
                times.push(started.elapsed());
            }
        }
    }
    // What any thread had to wait for a processor is not the speaker's doing.
    let late = watch.join();
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        let limit = Duration::from_millis(1600) + late * 4;
        assert!(pause < limit, "a KEEPALIVE a second, not {pause:?}; threads were {late:?} late");
    }
    assert!(times.len() >= 2, "{times:?}");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        raw.send(&Message::Keepalive).await;
        let count = rig.installed.lock().unwrap().len();
        if count == 200_000 {
            break;
        }
        assert!(Instant::now() < until, "{count} of 200000");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("200,000 prefixes at the installer after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_harms_no_other() {
    let rig =
        Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL + 1), peer(3, EXTERNAL + 2)]).await;
    rig.set_locals(vec![]).await;
    // Small buffers on the way to it.
    let mut slow = RawPeer::connect(peer_address(2), rig.address).await;
    socket2::SockRef::from(&slow.stream).set_recv_buffer_size(4096).unwrap();
    slow.establish(&says(2, EXTERNAL + 1)).await;
    let mut fast = RawPeer::established(peer_address(3), rig.address, &says(3, EXTERNAL + 2)).await;
    let mut source = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    source.send_octets(&flood(100_000, &says(1, EXTERNAL))).await;
    let mut heard = 0;
    while heard < 100_000 {
        if let Received::Update(update) = fast.receive().await {
            heard += update.update.nlri.len();
        }
    }
    let peers = rig.speaker.lock().await.peers().await;
    assert!(peers.iter().all(|peer| peer.status.state == State::Established));
    // And catches up once it reads.
    let mut heard = 0;
    while heard < 100_000 {
        if let Received::Update(update) = slow.receive().await {
            heard += update.update.nlri.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_a_peer_that_reads_nothing_for_the_send_hold_time_is_given_up_and_the_operator_told() {
    let mut config = peer(1, EXTERNAL);
    config.settings.timing.send_hold = Duration::from_secs(1);
    // No hold timer, which the peer's silence would run down, too.
    config.settings.hold_s = 0;
    let mut rig = Rig::start(vec![config]).await;
    let mut slow = RawPeer::connect(peer_address(1), rig.address).await;
    socket2::SockRef::from(&slow.stream).set_recv_buffer_size(4096).unwrap();
    slow.establish(&says(1, EXTERNAL)).await;
    assert_eq!(rig.happening().await, Happening::Up);
    // More than any socket takes: an UPDATE of 800 octets for each prefix.
    let route = |n: u32| {
        let community = |k| LargeCommunity { global: n, local1: k, local2: 0 };
        let large_communities = (0..60).map(community).collect();
        LocalRoute {
            prefix: ipnet::Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 + n * 16), 28)
                .unwrap()
                .into(),
            tag: Tag(1),
            attributes: Attributes { large_communities, ..Attributes::default() },
        }
    };
    rig.set_locals((0..15_000).map(route).collect()).await;
    let down = Happening::Down { reason: Reason::SendStuck, graceful: false };
    assert_eq!(rig.happening().await, down);
    let report = rig.speaker.lock().await.peers().await.remove(0);
    let last_end = report.status.last_end.unwrap();
    assert!(last_end.contains("8/0"), "{last_end}");
    assert_eq!(report.status.counters.lost, 1);
}

#[tokio::test]
async fn what_came_before_the_end_of_a_connection_counts_however_much_it_is() {
    let mut config = peer(1, EXTERNAL);
    config.settings.graceful_restart_s = Some(120);
    let mut settings = says(1, EXTERNAL);
    settings.graceful_restart_s = Some(100);
    let mut rig = Rig::start(vec![config]).await;
    let good = mandatory(Some(EXTERNAL), HOP);
    let octets: Vec<u8> = (0..5000_u32)
        .flat_map(|n| update(&[], &good, &[&[24, 10][..], &n.to_be_bytes()[2..]].concat()))
        .collect();
    let mut all = 0;
    for last in [None, Some(Notification::new(Code::RESET))] {
        let mut raw = RawPeer::established(peer_address(1), rig.address, &settings).await;
        assert_eq!(rig.happening().await, Happening::Up);
        raw.send_octets(&octets).await;
        if let Some(notification) = &last {
            raw.send(&Message::Notification(notification.clone())).await;
        }
        use tokio::io::AsyncWriteExt;
        raw.stream.shutdown().await.unwrap();
        let reason = last.map_or(Reason::Lost, Reason::Received);
        assert_eq!(rig.happening().await, Happening::Down { reason, graceful: true });
        all += 5000;
        let report = rig.speaker.lock().await.peers().await.remove(0);
        assert_eq!(report.status.counters.updates_received, all);
        assert_eq!(report.routes.received, [5000, 0]);
    }
}
