//! B22 with a real agent: a router that floods.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use serde_json::json;
use sluice_bgp::fsm::Settings;
use sluice_bgp::{
    AsPath, Attributes, Code, Families, Family, Message, NextHop, Notification, Origin, Params,
    Received, Update, decode, next_frame,
};
use sluice_testkit::cluster::bgp_router::{NODES_ASN, routes_of};
use sluice_testkit::cluster::wait_for;

use crate::{PATIENCE, ask, cluster};

/// The router that floods, beside the site's own.
const FLOODER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 250);
const ASN: u32 = 65009;
const PORT: u16 = 1179;
/// Prefixes it would send.
const PREFIXES: u32 = 1_000_000;
/// Of those in one UPDATE.
const IN_ONE: u32 = 500;

fn says() -> Settings {
    let mut settings = Settings::new(ASN, FLOODER, NODES_ASN);
    settings.families = Families::from_iter([Family::Ipv4Unicast]);
    settings.extended_messages = false;
    settings
}

/// UPDATE by UPDATE, so that the flood itself takes no memory.
fn flood(params: &Params) -> impl Iterator<Item = BytesMut> {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(&[ASN])),
        ..Attributes::default()
    };
    (0..PREFIXES / IN_ONE).map(move |n| {
        let address = |k| Ipv4Addr::from_bits(0x1400_0000 + (n * IN_ONE + k) * 16);
        let prefixes: Vec<IpNet> =
            (0..IN_ONE).map(|k| Ipv4Net::new(address(k), 28).unwrap().into()).collect();
        let hop = NextHop::V4(FLOODER);
        let updates =
            Update::announce(Family::Ipv4Unicast, &attributes, hop, &prefixes, params).unwrap();
        let mut octets = BytesMut::new();
        for update in updates {
            Message::Update(Box::new(update)).encode(params, &mut octets).unwrap();
        }
        octets
    })
}

/// Takes one session, floods it, and returns what the agent said at its end.
fn session(mut stream: TcpStream) -> Option<Notification> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let params = Params { four_octet_as: true, ..Params::default() };
    let mut reader = stream.try_clone().unwrap();
    let mut octets = BytesMut::new();
    Message::Open(says().open()).encode(&params, &mut octets).unwrap();
    Message::Keepalive.encode(&params, &mut octets).unwrap();
    stream.write_all(&octets).ok()?;
    std::thread::spawn(move || {
        for update in flood(&params) {
            if stream.write_all(&update).is_err() {
                return;
            }
        }
    });
    let (mut inbox, mut buffer) = (BytesMut::new(), [0; 4096]);
    loop {
        while let Some(frame) = next_frame(&mut inbox, false).unwrap() {
            if let Received::Notification(notification) = decode(&frame, &params).unwrap() {
                return Some(notification);
            }
        }
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => inbox.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn b22_a_router_that_floods_a_million_prefixes_is_cut_off_and_nothing_reaches_the_kernel() {
    let Some(cluster) = cluster() else { return };
    let router = &cluster.network().router;
    router.ip(&format!("address add {FLOODER}/24 dev lan\n")).unwrap();
    let listener = router.run(|| TcpListener::bind((FLOODER, PORT))).unwrap().unwrap();
    let node = cluster.node("n1").unwrap();
    let before = routes_of(node.netns(), "92").unwrap();
    let peers = json!([{ "remoteip": FLOODER, "remoteasn": ASN, "port": PORT }]).to_string();
    let patch = json!({ "metadata": { "annotations": { "sluice.io/peers": peers } } });
    cluster.store().merge("nodes", "", "n1", "", &patch).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let told = std::thread::spawn(move || session(stream));
    let deadline = Instant::now() + PATIENCE;
    while !told.is_finished() && Instant::now() < deadline {
        assert_eq!(routes_of(node.netns(), "92").unwrap(), before, "nothing reaches the kernel");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A flood that is cut off may be answered by a reset that overtakes the word.
    if let Some(notification) = told.join().unwrap() {
        assert_eq!(notification.code, Code::MAX_PREFIXES);
    }
    let flooder = SocketAddr::from((FLOODER, PORT)).ip().to_string();
    wait_for("the session to end by 6/1, and only that one", || {
        let rows = ask(&cluster, "n1", &["bgp", "neighbors"]);
        let rows = rows.as_array().cloned().unwrap_or_default();
        let (flooders, others): (Vec<_>, Vec<_>) =
            rows.iter().partition(|row| row["address"] == flooder.as_str());
        let ended = flooders.iter().all(|row| {
            row["state"] == "Idle"
                && row["received"] == json!([0, 0])
                && row["last_end"].as_str().is_some_and(|end| end.contains("6/1"))
        });
        let stand = others.iter().all(|row| row["state"] == "Established");
        Ok((flooders.len() == 1 && others.len() == 3 && ended && stand).then_some(()))
    })
    .unwrap();
    assert_eq!(routes_of(node.netns(), "92").unwrap(), before, "nothing reaches the kernel");
}
