//! Section 3 of RFC 7606, row by row over TCP: each row's prefix is first announced as it should
//! be, then with the malformed attribute. The session stays in every row; what is withdrawn is gone
//! from the tables and the kernel, what is discarded leaves the route without the attribute.

use std::net::Ipv4Addr;

use sluice_bgp::driver::Happening;
use sluice_bgp::fsm::State;
use sluice_bgp::{Aggregator, Attributes, Message};

use crate::peer::{RawPeer, mandatory, update};
use crate::rig::{ASN, EXTERNAL, Rig, peer, peer_address, says};
use crate::rows::{self, Row};

/// Next hop of everything announced here.
const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const SENTINEL: [u8; 4] = [24, 192, 168, 0];

/// What it makes of the route.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Withdrawn,
    Discarded,
}

/// Sends the rows to a fresh speaker, and looks at the tables.
async fn check(asn: u32, rows: &[Row], outcome: Outcome) {
    let internal = asn == ASN;
    let path = (!internal).then_some(asn);
    let mut rig = Rig::start(vec![peer(1, asn)]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &says(1, asn)).await;
    let prefix = |n: usize| [24, 10, 1, u8::try_from(n).unwrap()];
    for n in 0..rows.len() {
        raw.send_octets(&update(&[], &mandatory(path, HOP), &prefix(n))).await;
    }
    let all: Vec<String> = (0..rows.len()).map(|n| format!("10.1.{n}.0/24")).collect();
    let mut texts: Vec<&str> = all.iter().map(String::as_str).collect();
    rig.until_installed(&texts).await;
    for (n, row) in rows.iter().enumerate() {
        let attributes = rows::with(row, &mandatory(path, HOP));
        raw.send_octets(&update(&[], &attributes, &prefix(n))).await;
    }
    raw.send_octets(&update(&[], &mandatory(path, HOP), &SENTINEL)).await;
    if outcome == Outcome::Withdrawn {
        texts.clear();
    }
    texts.push("192.168.0.0/24");
    rig.until_installed(&texts).await;
    let plain = Attributes {
        origin: Some(sluice_bgp::Origin::Igp),
        as_path: Some(sluice_bgp::AsPath::sequence(&path.into_iter().collect::<Vec<_>>())),
        ..Attributes::default()
    };
    for view in rig.routes().await {
        assert_eq!(view.route.received.attributes, plain, "{}: without the attribute", view.prefix);
    }
    let report = rig.speaker.lock().await.peers().await.remove(0);
    assert_eq!(report.status.state, State::Established);
    assert_eq!(report.status.counters.faults, rows.len() as u64, "each is counted");
    let withdrawn = if outcome == Outcome::Withdrawn { rows.len() } else { 0 };
    let counters = report.status.counters;
    assert_eq!(counters.withdrawn_by_fault, withdrawn as u64);
    assert_eq!(counters.discarded_by_fault, (rows.len() - withdrawn) as u64);
    assert_eq!(rig.happening().await, Happening::Up);
    let Happening::Fault(fault) = rig.happening().await else { panic!("the first is told") };
    let octets: String = rows[0].2.iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(fault.to_string().ends_with(&format!("value {octets}")), "logged in hex: {fault}");
    assert!(rig.happenings.try_recv().is_err(), "one a minute");
}

#[tokio::test]
async fn treat_as_withdraw_from_external_peers() {
    check(EXTERNAL, &rows::withdrawn_external(), Outcome::Withdrawn).await;
}

#[tokio::test]
async fn treat_as_withdraw_from_internal_peers() {
    check(ASN, &rows::withdrawn_internal(), Outcome::Withdrawn).await;
}

#[tokio::test]
async fn attribute_discard() {
    check(EXTERNAL, &rows::discarded_external(), Outcome::Discarded).await;
}

#[tokio::test]
async fn any_missing_overrun_duplicate_and_the_strongest_action_wins() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let good = mandatory(Some(EXTERNAL), HOP);
    let (origin, path, hop) = (&good[..4], &good[4..13], &good[13..]);
    let then = |tail: &[u8]| [&good[..], tail].concat();
    let bad = [
        [path, hop].concat(),
        [origin, hop].concat(),
        [origin, path].concat(),
        then(&[0x80, 4, 9, 1]),
        then(&[0x80, 4]),
        then(&[0x90, 4, 0]),
        then(&[0x40, 6, 1, 0, 0x80, 4, 1, 0]),
    ];
    for (n, attributes) in (0u8..).zip(&bad) {
        raw.send_octets(&update(&[], &good, &[24, 10, 1, n])).await;
        raw.send_octets(&update(&[], attributes, &[24, 10, 1, n])).await;
    }
    // A duplicate: the first stands.
    raw.send_octets(&update(&[], &then(&[0x40, 1, 1, 2]), &SENTINEL)).await;
    rig.until_installed(&["192.168.0.0/24"]).await;
    let routes = rig.routes().await;
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].route.received.attributes.origin, Some(sluice_bgp::Origin::Igp));
}

#[tokio::test]
async fn unknown_attributes_pass_if_transitive_and_are_partial_then() {
    let rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL + 1)]).await;
    rig.set_locals(vec![]).await;
    let mut one = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let mut two = RawPeer::established(peer_address(2), rig.address, &says(2, EXTERNAL + 1)).await;
    let unknown = [0x80, 0xfd, 1, 7, 0xc0, 0xfe, 2, 8, 9];
    let attributes = [&mandatory(Some(EXTERNAL), HOP)[..], &unknown].concat();
    one.send_octets(&update(&[], &attributes, &SENTINEL)).await;
    let told = two.update().await;
    let [opaque] = &told.attributes.opaque[..] else { panic!("{told:?}") };
    assert_eq!((opaque.flags, opaque.code, &opaque.value[..]), (0xe0, 0xfe, &[8, 9][..]));
}

#[tokio::test]
async fn b15_med_and_local_pref_end_at_the_border_of_an_as() {
    let rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL + 1), peer(3, ASN)]).await;
    rig.set_locals(vec![]).await;
    let mut one = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let mut outside =
        RawPeer::established(peer_address(2), rig.address, &says(2, EXTERNAL + 1)).await;
    let mut inside = RawPeer::established(peer_address(3), rig.address, &says(3, ASN)).await;
    let med = [0x80, 4, 4, 0, 0, 0, 33];
    let attributes = [&mandatory(Some(EXTERNAL), HOP)[..], &med].concat();
    one.send_octets(&update(&[], &attributes, &SENTINEL)).await;
    let told = outside.update().await.attributes;
    assert_eq!((told.med, told.local_pref), (None, None));
    let told = inside.update().await;
    assert_eq!((told.attributes.med, told.attributes.local_pref), (Some(33), Some(100)));
    assert_eq!(told.next_hop, Some(HOP), "the next hop stays");
    // What the internal peer prefers is its own affair.
    let preferred = [&mandatory(None, HOP)[..], &med, &[0x40, 5, 4, 0, 0, 1, 0]].concat();
    inside.send_octets(&update(&[], &preferred, &[24, 10, 9, 0])).await;
    let told = outside.update().await.attributes;
    assert_eq!((told.med, told.local_pref), (None, None));
}

#[tokio::test]
async fn b13_an_old_speakers_aggregator_has_six_octets_and_no_others() {
    // 64999 in two octets.
    const HIGH: u8 = 0xfd;
    const LOW: u8 = 0xe7;
    let old = 64999;
    let rig = Rig::start(vec![peer(1, old)]).await;
    let mut open = says(1, old).open();
    open.capabilities.retain(|capability| capability.code() != 65);
    let mut raw = RawPeer::connect(peer_address(1), rig.address).await;
    raw.receive().await;
    raw.send(&Message::Open(open)).await;
    raw.send(&Message::Keepalive).await;
    let good = [&[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, HIGH, LOW, 0x40, 3, 4][..], &HOP.octets()];
    let good = good.concat();
    let id = Ipv4Addr::new(1, 1, 1, 1);
    let aggregator = |asn| Some(Aggregator { asn, id });
    // AGGREGATOR, AS4_AGGREGATOR, what is left of them, attributes discarded so far.
    type Old = (&'static [u8], &'static [u8], Option<Aggregator>, u64);
    let rows: [Old; 6] = [
        (&[HIGH, LOW, 1, 1, 1, 1], &[], aggregator(64999), 0),
        // RFC 6793 4.2.3: 23456 stands for what AS4_AGGREGATOR says.
        (&[0x5b, 0xa0, 1, 1, 1, 1], &[0, 1, 0, 0, 1, 1, 1, 1], aggregator(65536), 0),
        (&[HIGH, LOW, 1, 1, 1, 1], &[0, 1, 0, 0, 2, 2, 2, 2], aggregator(64999), 0),
        (&[0, 0, HIGH, LOW, 1, 1, 1, 1], &[], None, 1),
        (&[HIGH, LOW, 1, 1, 1], &[], None, 2),
        (&[0, 0, 1, 1, 1, 1], &[], None, 3),
    ];
    for (n, (value, as4, expected, faults)) in (0u8..).zip(rows) {
        let attribute = |code: u8, value: &[u8]| match u8::try_from(value.len()).unwrap() {
            0 => Vec::new(),
            length => [&[0xc0, code, length][..], value].concat(),
        };
        let attributes = [good.clone(), attribute(7, value), attribute(18, as4)].concat();
        raw.send_octets(&update(&[], &attributes, &[24, 10, 1, n])).await;
        let prefix = format!("10.1.{n}.0/24");
        while !rig.prefixes().contains(&prefix) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let routes = rig.routes().await;
        let view = routes.iter().find(|view| view.prefix.to_string() == prefix).unwrap();
        assert_eq!(view.route.received.attributes.aggregator, expected, "{value:x?}, {as4:x?}");
        let report = rig.speaker.lock().await.peers().await.remove(0);
        assert_eq!(report.status.counters.discarded_by_fault, faults, "{value:x?}, {as4:x?}");
        assert_eq!(report.status.state, State::Established);
    }
}
