//! Section 3: the RFC 7606 table, row by row, each with its own prefix and a session that stays.

use bytes::BytesMut;
use sluice_bgp::{AttributeAction, Family, Message, Params, Received, ReceivedUpdate, Update};

use crate::rows::{self, Row};
use crate::{ebgp, ibgp, message, receive, update_body};

const PREFIX: [u8; 4] = [24, 192, 0, 2];

/// The attributes every row has unless it brings its own.
fn base(ibgp: bool) -> Vec<Vec<u8>> {
    let path = if ibgp { vec![0x40, 2, 0] } else { vec![0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9] };
    vec![vec![0x40, 1, 1, 0], path, vec![0x40, 3, 4, 10, 0, 0, 1]]
}

fn update(attributes: &[Vec<u8>], params: &Params) -> ReceivedUpdate {
    let body = update_body(&[], &attributes.concat(), &PREFIX);
    match receive(&message(2, &body), params).expect("the session stays") {
        Received::Update(update) => *update,
        other => panic!("{other:?}"),
    }
}

/// The base with `row` in place of the one of the same code, or after them.
fn with(row: &Row, params: &Params) -> ReceivedUpdate {
    update(&[rows::with(row, &base(params.ibgp).concat())], params)
}

#[test]
fn rows_of_treat_as_withdraw() {
    let external = rows::withdrawn_external().into_iter().map(|row| (row, ebgp()));
    let internal = rows::withdrawn_internal().into_iter().map(|row| (row, ibgp()));
    for (row, params) in external.chain(internal) {
        let received = with(&row, &params);
        assert!(received.is_treated_as_withdraw(), "{row:x?}");
        let faults: Vec<_> = received.faults.iter().map(|f| f.attribute).collect();
        assert_eq!(faults, [row.1], "{row:x?}");
        assert_eq!(received.update.announcements().count(), 0, "{row:x?}");
        let withdrawn: Vec<_> = received.update.withdrawals().map(|p| p.to_string()).collect();
        assert_eq!(withdrawn, ["192.0.2.0/24"], "{row:x?}");
    }
}

#[test]
fn rows_of_attribute_discard() {
    let e = ebgp();
    for row in rows::discarded_external() {
        let received = with(&row, &e);
        let faults: Vec<_> = received.faults.iter().map(|f| (f.attribute, f.action)).collect();
        assert_eq!(faults, [(row.1, AttributeAction::Discard)], "{row:x?}");
        let plain = update(&base(false), &e);
        assert_eq!(received.update, plain.update, "{row:x?}: the route stands without it");
        assert_eq!(received.update.announcements().count(), 1, "{row:x?}");
    }
}

#[test]
fn row_any_missing_duplicate_and_overrun() {
    let e = ebgp();
    for missing in [1, 2, 3] {
        let mut attributes = base(false);
        attributes.retain(|attribute| attribute[1] != missing);
        assert!(update(&attributes, &e).is_treated_as_withdraw(), "{missing} missing");
    }
    let mut twice = base(false);
    twice.push(vec![0x40, 1, 1, 2]);
    let received = update(&twice, &e);
    assert!(!received.is_treated_as_withdraw());
    assert_eq!(
        received.update.attributes.origin,
        Some(sluice_bgp::Origin::Igp),
        "the first stands"
    );
    for tail in [vec![0x80, 4, 9, 1], vec![0x80, 4], vec![0x90, 4, 0]] {
        let mut attributes = base(false);
        attributes.push(tail.clone());
        assert!(update(&attributes, &e).is_treated_as_withdraw(), "{tail:?}");
    }
}

#[test]
fn rules_strongest_action_wins_and_without_routes_it_is_a_reset() {
    let e = ebgp();
    let mut both = base(false);
    both.extend([vec![0x40, 6, 1, 0], vec![0x80, 4, 1, 0]]);
    let received = update(&both, &e);
    assert_eq!(received.faults.len(), 2);
    assert!(received.is_treated_as_withdraw());
    let body = update_body(&[], &[0x80, 4, 1, 0], &[]);
    assert_eq!(receive(&message(2, &body), &e).unwrap_err().code.code, 3);
}

#[test]
fn rows_of_unknown_attributes() {
    let e = ebgp();
    for (flags, code, transitive) in [(0x80, 0xfd, false), (0xc0, 0xfe, true)] {
        let received = with(&(flags, code, vec![1, 2]), &e);
        assert!(received.faults.is_empty());
        let [opaque] = &received.update.attributes.opaque[..] else { panic!("kept") };
        assert_eq!((opaque.code, opaque.is_transitive()), (code, transitive));
    }
}

#[test]
fn b20_what_is_announced_is_not_withdrawn() {
    let body = update_body(&PREFIX, &base(false).concat(), &PREFIX);
    let Ok(Received::Update(received)) = receive(&message(2, &body), &ebgp()) else {
        panic!("an UPDATE")
    };
    assert_eq!(received.update.withdrawals().count(), 0);
    assert_eq!(received.update.announcements().count(), 1);
}

fn ends(octets: &[u8], params: &Params) -> Option<Family> {
    match receive(octets, params) {
        Ok(Received::Update(received)) => received.end_of_rib,
        other => panic!("{other:?}"),
    }
}

#[test]
fn b19_only_the_mark_itself_ends_a_rib() {
    let e = ebgp();
    for family in Family::ALL {
        let mut octets = BytesMut::new();
        let mark = Message::Update(Box::new(Update::end_of_rib(family)));
        mark.encode(&e, &mut octets).unwrap();
        assert_eq!(ends(&octets, &e), Some(family));
    }
    let v4_only = Params { families: [Family::Ipv4Unicast].into_iter().collect(), ..e };
    let v6_only = Params { families: [Family::Ipv6Unicast].into_iter().collect(), ..e };
    let (v4, v6) = (Some(Family::Ipv4Unicast), Some(Family::Ipv6Unicast));
    let unreach = |rest: &[u8]| [&[0x80, 15, u8::try_from(rest.len()).unwrap()][..], rest].concat();
    let aigp: &[u8] = &[0x80, 26, 3, 1, 0, 0x40];
    let rows: &[(&str, Params, Vec<u8>, Option<Family>)] = &[
        ("nothing at all", e, vec![], v4),
        ("nothing at all, IPv6 only", v6_only, vec![], None),
        ("IPv6's", e, unreach(&[0, 2, 1]), v6),
        ("IPv4's in the other form", e, unreach(&[0, 1, 1]), v4),
        ("with a two-octet length", e, vec![0x90, 15, 0, 3, 0, 2, 1], v6),
        ("of a family that was not negotiated", v4_only, unreach(&[0, 2, 1]), None),
        ("of a family that nobody knows", e, unreach(&[0, 25, 70]), None),
        ("with a prefix", e, unreach(&[0, 2, 1, 16, 0xfd, 0]), None),
        ("another attribute, discarded", e, aigp.to_vec(), None),
        ("both", e, [&unreach(&[0, 2, 1]), aigp].concat(), None),
        ("both, the other way round", e, [aigp, &unreach(&[0, 2, 1])].concat(), None),
        ("an attribute that is right", e, vec![0x40, 1, 1, 0], None),
        ("LOCAL_PREF of an external peer, discarded", e, vec![0x40, 5, 4, 0, 0, 0, 1], None),
    ];
    for (name, params, attributes, expected) in rows {
        let octets = message(2, &update_body(&[], attributes, &[]));
        assert_eq!(ends(&octets, params), *expected, "{name}");
    }
    let withdrawn = message(2, &update_body(&PREFIX, &[], &[]));
    assert_eq!(ends(&withdrawn, &e), None);
}
