//! Many peers, many routes: what a large cluster and a large router ask of one process.

use std::time::{Duration, Instant};

use sluice_bgp::driver::PeerConfig;
use sluice_bgp::policy::Tag;
use sluice_bgp::rib::LocalRoute;
use sluice_bgp::{AsPath, Attributes, Message, Origin, Received, Update};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, Rig, open_policies, peer, says};

fn vip(n: u32) -> LocalRoute {
    let address = std::net::Ipv4Addr::from_bits(0x0a60_0000 + n);
    let prefix = net(&format!("{address}/32"));
    LocalRoute { prefix, tag: Tag(2), attributes: Attributes::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_peers_with_twenty_routes_each() {
    const PEERS: u16 = 300;
    let address = |n: u16| std::net::IpAddr::from([127, 0, 2 + (n >> 8) as u8, (n & 0xff) as u8]);
    let configs = (0..PEERS)
        .map(|n| PeerConfig { address: address(n), policies: open_policies(), ..peer(1, ASN) })
        .collect();
    let rig = Rig::start(configs).await;
    rig.set_locals(vec![]).await;
    let started = Instant::now();
    let mut peers = Vec::new();
    for n in 0..PEERS {
        let mut settings = says(1, ASN);
        settings.bgp_id = std::net::Ipv4Addr::from_bits(0x0a00_0001 + u32::from(n));
        let mut raw = RawPeer::established(address(n), rig.address, &settings).await;
        let nlri = (0..20).map(|k| {
            let number = 0x0b00_0000 + (u32::from(n) * 20 + k) * 256;
            net(&format!("{}/24", std::net::Ipv4Addr::from_bits(number)))
        });
        let update = Update {
            attributes: Attributes {
                origin: Some(Origin::Igp),
                as_path: Some(AsPath::default()),
                local_pref: Some(100),
                ..Attributes::default()
            },
            next_hop: Some(settings.bgp_id),
            nlri: nlri.collect(),
            ..Update::default()
        };
        raw.send(&Message::Update(Box::new(update))).await;
        peers.push(raw);
    }
    let expected = usize::from(PEERS) * 20;
    while rig.installed.lock().unwrap().len() < expected {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", rig.prefixes().len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("300 peers with 20 routes each: all {expected} chosen after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_among_ten_thousand_reaches_the_peer_at_once() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut all: Vec<LocalRoute> = (0..10_000).map(vip).collect();
    let started = Instant::now();
    rig.set_locals(all.clone()).await;
    let mut raw =
        RawPeer::established(crate::rig::peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let mut heard = 0;
    while heard < 10_000 {
        if let Received::Update(update) = raw.receive().await {
            heard += update.update.nlri.len();
        }
    }
    println!("10,000 addresses at the peer after {:?}", started.elapsed());
    let mut times = Vec::new();
    for n in 0..100 {
        all.push(vip(20_000 + n));
        let started = Instant::now();
        rig.set_locals(all.clone()).await;
        assert_eq!(raw.update().await.nlri, [vip(20_000 + n).prefix]);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("one more: median {:?}, longest {:?}", times[50], times[99]);
    assert!(times[50] < Duration::from_millis(100), "median {:?}", times[50]);
}
