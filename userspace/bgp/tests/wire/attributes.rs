//! Section 3: the RFC 7606 table, row by row, each with its own prefix and a session that stays.

use sluice_bgp::{AttributeAction, Params, Received, ReceivedUpdate};

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

/// The base with `attribute` in place of the one of the same code, or after them.
fn with(flags: u8, code: u8, value: &[u8], params: &Params) -> ReceivedUpdate {
    let mut attributes = base(params.ibgp);
    attributes.retain(|attribute| attribute[1] != code);
    attributes.push([&[flags, code, u8::try_from(value.len()).unwrap()], value].concat());
    update(&attributes, params)
}

#[test]
fn rows_of_treat_as_withdraw() {
    let (i, e) = (ibgp(), ebgp());
    let path = |octets: &[u8]| octets.to_vec();
    let rows: Vec<(u8, u8, Vec<u8>, &Params)> = vec![
        (0xc0, 1, vec![0], &e),
        (0x60, 1, vec![0], &e),
        (0x40, 1, vec![], &e),
        (0x40, 1, vec![0, 0], &e),
        (0x40, 1, vec![3], &e),
        (0x40, 1, vec![4], &e),
        (0x40, 1, vec![255], &e),
        (0xc0, 2, path(&[2, 1, 0, 0, 0xfd, 0xe9]), &e),
        (0x40, 2, path(&[0, 1, 0, 0, 0xfd, 0xe9]), &e),
        (0x40, 2, path(&[5, 1, 0, 0, 0xfd, 0xe9]), &e),
        (0x40, 2, path(&[2, 0]), &e),
        (0x40, 2, path(&[2, 0xff, 0, 0, 0xfd, 0xe9]), &e),
        (0x40, 2, path(&[2, 1, 0, 0, 0, 0]), &e),
        (0x40, 3, vec![10, 0, 0], &e),
        (0x40, 3, vec![10, 0, 0, 1, 1], &e),
        (0x40, 3, vec![0, 0, 0, 0], &e),
        (0x40, 3, vec![127, 0, 0, 1], &e),
        (0x40, 3, vec![224, 0, 0, 1], &e),
        (0xc0, 4, vec![0; 4], &e),
        (0x80, 4, vec![], &e),
        (0x80, 4, vec![0; 3], &e),
        (0x80, 4, vec![0; 5], &e),
        (0x40, 5, vec![], &i),
        (0x40, 5, vec![0; 3], &i),
        (0x40, 5, vec![0; 5], &i),
        (0xc0, 5, vec![0; 4], &i),
        (0x80, 8, vec![0; 4], &e),
        (0xc0, 8, vec![], &e),
        (0xc0, 8, vec![0; 5], &e),
        (0x80, 9, vec![1; 3], &i),
        (0x80, 9, vec![1; 5], &i),
        (0xc0, 9, vec![1; 4], &i),
        (0x80, 10, vec![], &i),
        (0x80, 10, vec![1; 5], &i),
        (0xc0, 10, vec![1; 4], &i),
        (0x80, 16, vec![0; 8], &e),
        (0xc0, 16, vec![], &e),
        (0xc0, 16, vec![0; 9], &e),
        (0x80, 25, vec![0; 20], &e),
        (0xc0, 25, vec![], &e),
        (0xc0, 25, vec![0; 19], &e),
        (0x80, 32, vec![0; 12], &e),
        (0xc0, 32, vec![], &e),
        (0xc0, 32, vec![0; 13], &e),
        (0x80, 35, vec![0, 0, 0, 1], &e),
        (0xc0, 35, vec![0; 3], &e),
        (0xc0, 35, vec![1; 5], &e),
        (0xc0, 35, vec![0; 4], &e),
    ];
    for (flags, code, value, params) in rows {
        let received = with(flags, code, &value, params);
        let row = format!("flags {flags:x}, code {code}, value {value:x?}");
        assert!(received.is_treated_as_withdraw(), "{row}");
        assert_eq!(
            received.faults.iter().map(|f| f.attribute).collect::<Vec<_>>(),
            [code],
            "{row}"
        );
        assert_eq!(received.update.announcements().count(), 0, "{row}");
        let withdrawn: Vec<_> = received.update.withdrawals().map(|p| p.to_string()).collect();
        assert_eq!(withdrawn, ["192.0.2.0/24"], "{row}");
    }
}

#[test]
fn rows_of_attribute_discard() {
    let e = ebgp();
    let rows: Vec<(u8, u8, Vec<u8>)> = vec![
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
        // Decided for RFC 6793 and against FRR.
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
    for (flags, code, value) in rows {
        let received = with(flags, code, &value, &e);
        let row = format!("flags {flags:x}, code {code}, value {value:x?}");
        let faults: Vec<_> = received.faults.iter().map(|f| (f.attribute, f.action)).collect();
        assert_eq!(faults, [(code, AttributeAction::Discard)], "{row}");
        let plain = update(&base(false), &e);
        assert_eq!(received.update, plain.update, "{row}: the route stands without it");
        assert_eq!(received.update.announcements().count(), 1, "{row}");
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
        let received = with(flags, code, &[1, 2], &e);
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
