//! Section 3 of RFC 7606, row by row over TCP: each row's prefix is first announced as it should
//! be, then with the malformed attribute. The session stays in every row; what is withdrawn is gone
//! from the tables and the kernel, what is discarded leaves the route without the attribute.

use std::net::Ipv4Addr;

use sluice_bgp::Attributes;
use sluice_bgp::driver::Happening;
use sluice_bgp::fsm::State;

use crate::peer::{RawPeer, mandatory, update};
use crate::rig::{ASN, EXTERNAL, Rig, peer, peer_address, says};

/// Next hop of everything announced here.
const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const SENTINEL: [u8; 4] = [24, 192, 168, 0];

/// One malformed attribute: flags, code, value.
type Row = (u8, u8, Vec<u8>);

/// What it makes of the route.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Withdrawn,
    Discarded,
}

/// The right attributes, with `row` in place of the one of its code, or after them.
fn with(row: &Row, asn: Option<u32>) -> Vec<u8> {
    let (flags, code, value) = row;
    let attribute = [&[*flags, *code, u8::try_from(value.len()).unwrap()], &value[..]].concat();
    let mut all = Vec::new();
    let mut rest = &mandatory(asn, HOP)[..];
    while let Some((head, _)) = rest.split_first_chunk::<3>() {
        let (this, after) = rest.split_at(3 + usize::from(head[2]));
        if head[1] != *code {
            all.extend(this);
        }
        rest = after;
    }
    all.extend(attribute);
    all
}

/// Sends the rows to a fresh speaker, and looks at the tables.
async fn rows(asn: u32, rows: &[(Row, Outcome)]) {
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
    for (n, (row, _)) in rows.iter().enumerate() {
        raw.send_octets(&update(&[], &with(row, path), &prefix(n))).await;
    }
    raw.send_octets(&update(&[], &mandatory(path, HOP), &SENTINEL)).await;
    let stays: Vec<bool> = rows.iter().map(|(_, outcome)| *outcome == Outcome::Discarded).collect();
    texts = all.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(t, _)| t.as_str()).collect();
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
    let withdrawn = stays.iter().filter(|stays| !**stays).count() as u64;
    assert_eq!(report.status.counters.withdrawn_by_fault, withdrawn);
    assert_eq!(rig.happening().await, Happening::Up);
    let Happening::Fault(fault) = rig.happening().await else { panic!("the first is told") };
    let (first, _) = &rows[0];
    let octets: String = first.2.iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(fault.to_string().ends_with(&format!("value {octets}")), "logged in hex: {fault}");
}

fn withdrawn(list: Vec<Row>) -> Vec<(Row, Outcome)> {
    list.into_iter().map(|row| (row, Outcome::Withdrawn)).collect()
}

fn discarded(list: Vec<Row>) -> Vec<(Row, Outcome)> {
    list.into_iter().map(|row| (row, Outcome::Discarded)).collect()
}

#[tokio::test]
async fn treat_as_withdraw_from_external_peers() {
    let list = vec![
        (0xc0, 1, vec![0]),
        (0x60, 1, vec![0]),
        (0x40, 1, vec![]),
        (0x40, 1, vec![0, 0]),
        (0x40, 1, vec![3]),
        (0x40, 1, vec![4]),
        (0x40, 1, vec![255]),
        (0xc0, 2, vec![2, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![0, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![5, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![2, 0]),
        (0x40, 2, vec![2, 0xff, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![2, 1, 0, 0, 0, 0]),
        (0x40, 3, vec![10, 0, 0]),
        (0x40, 3, vec![10, 0, 0, 1, 1]),
        (0x40, 3, vec![0; 4]),
        (0x40, 3, vec![127, 0, 0, 1]),
        (0x40, 3, vec![224, 0, 0, 1]),
        (0xc0, 4, vec![0; 4]),
        (0x80, 4, vec![]),
        (0x80, 4, vec![0; 3]),
        (0x80, 4, vec![0; 5]),
        (0x80, 8, vec![0; 4]),
        (0xc0, 8, vec![]),
        (0xc0, 8, vec![0; 5]),
        (0x80, 16, vec![0; 8]),
        (0xc0, 16, vec![]),
        (0xc0, 16, vec![0; 9]),
        (0x80, 25, vec![0; 20]),
        (0xc0, 25, vec![]),
        (0xc0, 25, vec![0; 19]),
        (0x80, 32, vec![0; 12]),
        (0xc0, 32, vec![]),
        (0xc0, 32, vec![0; 13]),
        (0x80, 35, vec![0, 0, 0, 1]),
        (0xc0, 35, vec![0; 3]),
        (0xc0, 35, vec![1; 5]),
        (0xc0, 35, vec![0; 4]),
    ];
    rows(EXTERNAL, &withdrawn(list)).await;
}

#[tokio::test]
async fn treat_as_withdraw_from_internal_peers() {
    let list = vec![
        (0x40, 5, vec![]),
        (0x40, 5, vec![0; 3]),
        (0x40, 5, vec![0; 5]),
        (0xc0, 5, vec![0; 4]),
        (0x80, 9, vec![1; 3]),
        (0x80, 9, vec![1; 5]),
        (0xc0, 9, vec![1; 4]),
        (0x80, 10, vec![]),
        (0x80, 10, vec![1; 5]),
        (0xc0, 10, vec![1; 4]),
    ];
    rows(ASN, &withdrawn(list)).await;
}

#[tokio::test]
async fn attribute_discard() {
    let list = vec![
        // Whatever LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from an external peer are.
        (0x40, 5, vec![0; 4]),
        (0x40, 5, vec![0; 3]),
        (0x80, 9, vec![1; 4]),
        (0x80, 9, vec![1; 3]),
        (0x80, 10, vec![1; 4]),
        (0x80, 10, vec![1; 5]),
        (0x40, 6, vec![0]),
        (0xc0, 7, vec![1; 5]),
        (0xc0, 7, vec![1; 7]),
        (0xc0, 7, vec![1; 9]),
        (0xc0, 7, vec![0, 0, 0, 0, 1, 1, 1, 1]),
        // Where the oracles disagree: with RFC 6793 and against FRR.
        (0x80, 17, vec![2, 1, 0, 0, 0xfd, 0xe9]),
        (0xc0, 17, vec![0, 1, 0, 0, 0xfd, 0xe9]),
        (0xc0, 18, vec![1; 7]),
        (0xc0, 18, vec![1; 9]),
        (0xc0, 26, vec![1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]),
        (0x80, 26, vec![1, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1]),
        (0x80, 40, vec![1, 0, 0]),
        (0xc0, 40, vec![1, 0, 1]),
        (0xc0, 29, vec![0, 1, 0, 0]),
        (0x80, 29, vec![0, 1, 0, 1]),
    ];
    rows(EXTERNAL, &discarded(list)).await;
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
