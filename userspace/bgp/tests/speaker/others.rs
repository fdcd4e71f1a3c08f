//! What other makes of speakers offer in their OPENs and how they send routes.

use std::net::{IpAddr, Ipv4Addr};

use sluice_bgp::policy::Tag;
use sluice_bgp::rib::LocalRoute;
use sluice_bgp::{Attributes, Message, Received};

use crate::notifications::open;
use crate::peer::{RawPeer, mandatory, net, update};
use crate::rig::{EXTERNAL, Rig, peer, peer_address, says};

const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// Code of ADD-PATH (RFC 7911 4).
const ADD_PATH: u8 = 69;
/// An AS that fits into two octets.
const OLD: u16 = 64999;

fn capability(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).unwrap()][..], value].concat()
}

fn parameter(capabilities: &[u8]) -> Vec<u8> {
    [&[2, u8::try_from(capabilities.len()).unwrap()][..], capabilities].concat()
}

#[tokio::test]
async fn b23_b27_what_others_offer_leads_to_a_session_with_plain_routes() {
    let wide = capability(65, &EXTERNAL.to_be_bytes());
    let v4 = capability(1, &[0, 1, 0, 1]);
    let v6 = capability(1, &[0, 2, 0, 1]);
    let each = [&v4, &capability(128, &[]), &capability(2, &[]), &wide];
    let in_one = [
        v4.clone(),
        v6,
        capability(2, &[]),
        capability(128, &[]),
        capability(70, &[]),
        capability(64, &[0x00, 0x78, 0, 1, 1, 0x80]),
        // Both directions, both families: without our own nothing comes of it.
        capability(ADD_PATH, &[0, 1, 1, 3, 0, 2, 1, 3]),
        capability(6, &[]),
        capability(71, &[0, 1, 1, 0, 0, 0, 120]),
        capability(73, b"\x04leaf\x03lab"),
        capability(75, b"\x07EOS 4.3"),
        wide.clone(),
    ];
    let rows = [
        ("no optional parameters", OLD, vec![]),
        ("a parameter for each", 23456, each.map(|one| parameter(one)).concat()),
        ("all in one", 23456, parameter(&in_one.concat())),
    ];
    let asn = |two: u16| if two == OLD { u32::from(OLD) } else { EXTERNAL };
    let peers = (1u8..).zip(&rows).map(|(n, (_, two, _))| peer(n, asn(*two))).collect();
    let rig = Rig::start(peers).await;
    let local =
        LocalRoute { prefix: net("10.9.0.0/24"), tag: Tag(1), attributes: Attributes::default() };
    rig.set_locals(vec![local]).await;
    let (mut sessions, mut expected) = (Vec::new(), Vec::new());
    for (n, (name, two, parameters)) in (1u8..).zip(rows) {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        let Received::Open(ours) = raw.receive().await else { panic!("{name}: no OPEN") };
        assert!(ours.capabilities.iter().all(|one| one.code() != ADD_PATH), "B23");
        let id = Ipv4Addr::new(10, 0, 0, n);
        raw.send_octets(&open(4, two, 90, id, &parameters)).await;
        assert_eq!(raw.receive().await, Received::Keepalive, "{name}");
        raw.send(&Message::Keepalive).await;
        raw.params.four_octet_as = two != OLD;
        // What others have told comes, too. A path identifier would make these prefixes others.
        let own = net("10.9.0.0/24");
        while !raw.update().await.announcements().any(|(prefix, _)| prefix == own) {}
        let attributes = match two {
            OLD => {
                let path = [&[0x40, 2, 4, 2, 1][..], &OLD.to_be_bytes()].concat();
                let hop = [&[0x40, 3, 4][..], &HOP.octets()].concat();
                [&[0x40, 1, 1, 0][..], &path, &hop].concat()
            }
            _ => mandatory(Some(EXTERNAL), HOP),
        };
        raw.send_octets(&update(&[], &attributes, &[24, 10, n, 0])).await;
        expected.push(format!("10.{n}.0.0/24"));
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        rig.until_installed(&expected).await;
        sessions.push(raw);
    }
}

#[tokio::test]
async fn b12_b25_link_local_next_hops_beside_global_ones_and_as_sets_are_taken() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let global: std::net::Ipv6Addr = "fd00::1".parse().unwrap();
    let beside: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let reach = [
        &[0, 2, 1, 32][..],
        &global.octets(),
        &beside.octets(),
        &[0, 64, 0xfd, 1, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let reach = [&[0x80, 14, u8::try_from(reach.len()).unwrap()][..], &reach].concat();
    let good = mandatory(Some(EXTERNAL), HOP);
    // MP_REACH after the others, and no NEXT_HOP.
    let attributes = [&good[..13], &reach].concat();
    raw.send_octets(&update(&[], &attributes, &[])).await;
    // AS_SEQUENCE of the peer, then an AS_SET of two (RFC 9774 would have none, and says no more
    // than that they should go).
    let asn = EXTERNAL.to_be_bytes();
    let set = [&[2, 1][..], &asn, &[1, 2, 0, 0, 0, 7, 0, 0, 0, 8]].concat();
    let path = [&[0x40, 2, u8::try_from(set.len()).unwrap()][..], &set].concat();
    let attributes = [&good[..4], &path, &good[13..]].concat();
    raw.send_octets(&update(&[], &attributes, &[24, 10, 1, 0])).await;
    rig.until_installed(&["10.1.0.0/24", "fd01::/64"]).await;
    let hops = rig.installed.lock().unwrap()[&net("fd01::/64")].next_hops.clone();
    assert_eq!(hops, [IpAddr::V6(global)]);
    let routes = rig.routes().await;
    let path = routes[0].route.received.attributes.as_path.clone().unwrap();
    assert_eq!(path.length(), 2, "a set counts one");
}
