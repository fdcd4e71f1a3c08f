//! The NOTIFICATION table, row by row over TCP: the octets in, code, subcode and data out, then the
//! end of the connection.

use std::net::Ipv4Addr;

use sluice_bgp::fsm::{Role, Settings, State};
use sluice_bgp::{Code, Message, Notification, Received};

use crate::peer::{RawPeer, mandatory, message, update};
use crate::rig::{ASN, EXTERNAL, ID, Rig, peer, peer_address, says};

const HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// An OPEN: version, AS, hold time, identifier, optional parameters.
pub(crate) fn open(version: u8, asn: u16, hold: u16, id: Ipv4Addr, parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![version];
    body.extend(asn.to_be_bytes());
    body.extend(hold.to_be_bytes());
    body.extend(id.octets());
    body.push(u8::try_from(parameters.len()).unwrap());
    body.extend(parameters);
    message(1, &body)
}

fn told(code: Code, data: &[u8]) -> Option<Notification> {
    Some(Notification::with_data(code, data))
}

/// A header that lies about its length.
fn header(length: u16, kind: u8) -> Vec<u8> {
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind]].concat()
}

#[tokio::test]
async fn before_and_in_open() {
    let id = Ipv4Addr::new(10, 0, 0, 1);
    let mut marker = message(4, &[]);
    marker[7] = 0;
    let asn = 64512;
    let capability = |code: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [&[2, length + 2, code, length][..], value].concat()
    };
    let rows: Vec<(&str, Vec<u8>, Option<Notification>)> = vec![
        ("marker not all ones", marker, told(Code::NOT_SYNCHRONIZED, &[])),
        ("length below 19", header(18, 4), told(Code::BAD_LENGTH, &[0, 18])),
        ("length above 4096", header(4097, 1), told(Code::BAD_LENGTH, &[16, 1])),
        ("OPEN below 29", header(28, 1), told(Code::BAD_LENGTH, &[0, 28])),
        ("UPDATE below 23", header(22, 2), told(Code::BAD_LENGTH, &[0, 22])),
        ("KEEPALIVE not 19", header(20, 4), told(Code::BAD_LENGTH, &[0, 20])),
        ("NOTIFICATION below 21", header(20, 3), told(Code::BAD_LENGTH, &[0, 20])),
        ("unknown type", message(9, &[]), told(Code::BAD_TYPE, &[9])),
        ("type 0", message(0, &[]), told(Code::BAD_TYPE, &[0])),
        ("version 3", open(3, asn, 90, id, &[]), told(Code::UNSUPPORTED_VERSION, &[0, 4])),
        ("version 5", open(5, asn, 90, id, &[]), told(Code::UNSUPPORTED_VERSION, &[0, 4])),
        ("another AS", open(4, 64999, 90, id, &[]), told(Code::BAD_PEER_AS, &[])),
        ("AS 0", open(4, 0, 90, id, &[]), told(Code::BAD_PEER_AS, &[])),
        (
            "four-octet AS 0 (RFC 7607)",
            open(4, asn, 90, id, &capability(65, &[0; 4])),
            told(Code::BAD_PEER_AS, &[]),
        ),
        (
            "identifier 0.0.0.0",
            open(4, asn, 90, Ipv4Addr::UNSPECIFIED, &[]),
            told(Code::BAD_BGP_ID, &[]),
        ),
        ("our identifier in our AS", open(4, asn, 90, ID, &[]), told(Code::BAD_BGP_ID, &[])),
        (
            "unknown optional parameter",
            open(4, asn, 90, id, &[1, 1, 0]),
            told(Code::UNSUPPORTED_PARAMETER, &[]),
        ),
        ("hold time 1", open(4, asn, 1, id, &[]), told(Code::BAD_HOLD_TIME, &[])),
        ("hold time 2", open(4, asn, 2, id, &[]), told(Code::BAD_HOLD_TIME, &[])),
        (
            "parameter length beyond the message",
            message(1, &[4, 0xfc, 0, 0, 90, 10, 0, 0, 1, 8, 2, 2, 2, 0]),
            told(Code::OPEN_ERROR, &[]),
        ),
        (
            "capability length beyond its parameter",
            open(4, asn, 90, id, &[2, 2, 65, 4]),
            told(Code::OPEN_ERROR, &[]),
        ),
        ("KEEPALIVE before OPEN", message(4, &[]), told(Code::UNEXPECTED_IN_OPEN_SENT, &[])),
        ("UPDATE before OPEN", update(&[], &[], &[]), told(Code::UNEXPECTED_IN_OPEN_SENT, &[])),
        (
            "malformed UPDATE before OPEN",
            update(&[33], &[], &[]),
            told(Code::UNEXPECTED_IN_OPEN_SENT, &[]),
        ),
        (
            "ROUTE-REFRESH before OPEN",
            message(5, &[0, 1, 0, 1]),
            told(Code::UNEXPECTED_IN_OPEN_SENT, &[]),
        ),
        ("NOTIFICATION", message(3, &[6, 4]), None),
        ("NOTIFICATION with an unknown subcode", message(3, &[6, 99, 1]), None),
    ];
    // One peer per row: a pause after an error refuses the next connection.
    let peers = (0..rows.len()).map(|n| peer(u8::try_from(n + 1).unwrap(), ASN)).collect();
    let rig = Rig::start(peers).await;
    for (n, (name, octets, expected)) in (1u8..).zip(rows) {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        assert!(matches!(raw.receive().await, Received::Open(_)), "{name}");
        raw.send_octets(&octets).await;
        assert_eq!(raw.ended().await, expected, "{name}");
    }
}

#[tokio::test]
async fn open_that_lacks_what_is_required() {
    let mut strict = peer(1, ASN);
    strict.settings.strict = true;
    let mut roles = peer(2, ASN);
    roles.settings.role = Some(Role::Provider);
    let rig = Rig::start(vec![strict, roles]).await;
    let id = Ipv4Addr::new(10, 0, 0, 1);
    let mut raw = RawPeer::connect(peer_address(1), rig.address).await;
    raw.receive().await;
    raw.send_octets(&open(4, 64512, 90, id, &[2, 6, 1, 4, 0, 1, 0, 1])).await;
    let capability = [1, 4, 0, 2, 0, 1];
    assert_eq!(raw.ended().await, told(Code::UNSUPPORTED_CAPABILITY, &capability));
    let mut raw = RawPeer::connect(peer_address(2), rig.address).await;
    raw.receive().await;
    let peer_role = [2, 3, 9, 1, 4];
    raw.send_octets(&open(4, 64512, 90, id, &peer_role)).await;
    assert_eq!(raw.ended().await, told(Code::ROLE_MISMATCH, &[]));
}

#[tokio::test]
async fn in_open_confirm() {
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("UPDATE", update(&[], &[], &[])),
        ("ROUTE-REFRESH", message(5, &[0, 1, 0, 1])),
        ("OPEN again", open(4, 64512, 90, Ipv4Addr::new(10, 0, 0, 1), &[])),
        ("malformed OPEN", open(3, 64512, 90, Ipv4Addr::new(10, 0, 0, 1), &[])),
    ];
    let peers = (0..rows.len()).map(|n| peer(u8::try_from(n + 1).unwrap(), ASN)).collect();
    let rig = Rig::start(peers).await;
    for (n, (name, octets)) in (1u8..).zip(rows) {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        raw.receive().await;
        raw.send(&Message::Open(says(n, ASN).open())).await;
        assert_eq!(raw.receive().await, Received::Keepalive);
        raw.send_octets(&octets).await;
        assert_eq!(raw.ended().await, told(Code::UNEXPECTED_IN_OPEN_CONFIRM, &[]), "{name}");
    }
}

#[tokio::test]
async fn in_established() {
    let good = mandatory(Some(EXTERNAL), HOP);
    let v6 = |value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [&[0x80, 14, length][..], value].concat()
    };
    let reach = [&[0, 2, 1, 16][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[1, 0, 8, 0x20]].concat();
    let unreach = |value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [&[0x80, 15, length][..], value].concat()
    };
    let whole = |attribute: Vec<u8>| (attribute.clone(), attribute);
    let (well_known, well_known_data) = whole(vec![0x40, 0xfc, 1, 7]);
    let (short_reach, short_reach_data) = whole(v6(&[0, 2, 1]));
    let (long_prefix, long_prefix_data) = whole(v6(&[&reach[..21], &[129, 0x20]].concat()));
    let (short_unreach, short_unreach_data) = whole(unreach(&[0, 2]));
    let (bad_unreach, bad_unreach_data) = whole(unreach(&[0, 2, 1, 129]));
    let mut overlong = update(&[], &[], &[]);
    overlong[20] = 9;
    let mut attributes_overlong = update(&[], &[], &[]);
    attributes_overlong[22] = 9;
    let refresh = message(5, &[0, 1, 1]);
    let rows: Vec<(&str, Vec<u8>, Option<Notification>)> = vec![
        ("withdrawn routes overrun", overlong, told(Code::MALFORMED_ATTRIBUTES, &[])),
        ("attributes overrun", attributes_overlong, told(Code::MALFORMED_ATTRIBUTES, &[])),
        (
            "unrecognised well-known attribute",
            update(&[], &[&good[..], &well_known].concat(), &[24, 10, 1, 1]),
            told(Code::UNKNOWN_WELL_KNOWN, &well_known_data),
        ),
        (
            "MP_REACH twice",
            update(&[], &[v6(&reach), v6(&reach)].concat(), &[]),
            told(Code::MALFORMED_ATTRIBUTES, &[]),
        ),
        (
            "MP_UNREACH twice",
            update(&[], &[unreach(&[0, 2, 1]), unreach(&[0, 2, 1])].concat(), &[]),
            told(Code::MALFORMED_ATTRIBUTES, &[]),
        ),
        (
            "NLRI prefix of 33 bits",
            update(&[], &good, &[33, 1, 2, 3, 4, 5]),
            told(Code::INVALID_NETWORK, &[]),
        ),
        ("NLRI overrun", update(&[], &good, &[24, 1, 2]), told(Code::INVALID_NETWORK, &[])),
        (
            "withdrawn prefix of 33 bits",
            update(&[33, 1, 2, 3, 4, 5], &[], &[]),
            told(Code::INVALID_NETWORK, &[]),
        ),
        ("withdrawn overrun", update(&[24, 1, 2], &[], &[]), told(Code::INVALID_NETWORK, &[])),
        (
            "MP_REACH next hop of 5 octets",
            update(&[], &[&good[..], &v6(&[0, 2, 1, 5, 1, 2, 3, 4, 5, 0, 8, 0x20])].concat(), &[]),
            told(Code::MALFORMED_ATTRIBUTES, &[]),
        ),
        (
            "MP_REACH next hop overrun",
            update(&[], &[&good[..], &v6(&[0, 2, 1, 16, 1])].concat(), &[]),
            told(Code::MALFORMED_ATTRIBUTES, &[]),
        ),
        (
            "MP_REACH truncated",
            update(&[], &[&good[..], &short_reach].concat(), &[]),
            told(Code::OPTIONAL_ATTRIBUTE, &short_reach_data),
        ),
        (
            "MP_REACH prefix of 129 bits",
            update(&[], &[&good[..], &long_prefix].concat(), &[]),
            told(Code::OPTIONAL_ATTRIBUTE, &long_prefix_data),
        ),
        (
            "MP_UNREACH truncated",
            update(&[], &short_unreach, &[]),
            told(Code::OPTIONAL_ATTRIBUTE, &short_unreach_data),
        ),
        (
            "MP_UNREACH prefix of 129 bits",
            update(&[], &bad_unreach, &[]),
            told(Code::OPTIONAL_ATTRIBUTE, &bad_unreach_data),
        ),
        (
            "malformed attribute and no routes to withdraw",
            update(&[], &[0x80, 4, 1, 0], &[]),
            told(Code::MALFORMED_ATTRIBUTES, &[]),
        ),
        (
            "ROUTE-REFRESH of wrong length, enhanced",
            refresh.clone(),
            told(Code::REFRESH_LENGTH, &refresh),
        ),
        (
            "OPEN",
            open(4, 64512, 90, Ipv4Addr::new(10, 0, 0, 1), &[]),
            told(Code::UNEXPECTED_IN_ESTABLISHED, &[]),
        ),
        ("marker", [0; 19].to_vec(), told(Code::NOT_SYNCHRONIZED, &[])),
        ("NOTIFICATION", message(3, &[6, 2, 2, b'h', b'i']), None),
    ];
    let peers = (0..rows.len()).map(|n| peer(u8::try_from(n + 1).unwrap(), EXTERNAL)).collect();
    let rig = Rig::start(peers).await;
    rig.set_locals(vec![]).await;
    for (n, (name, octets, expected)) in (1u8..).zip(rows) {
        let mut raw = RawPeer::established(peer_address(n), rig.address, &says(n, EXTERNAL)).await;
        raw.send_octets(&octets).await;
        assert_eq!(raw.ended().await, expected, "{name}");
        assert_eq!(rig.prefixes(), Vec::<String>::new(), "{name}: nothing stays behind");
    }
}

#[tokio::test]
async fn what_is_to_be_ignored_ends_no_session() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut plain = says(1, EXTERNAL).open();
    plain.capabilities.retain(|capability| !matches!(capability.code(), 2 | 70));
    let mut raw = RawPeer::connect(peer_address(1), rig.address).await;
    raw.receive().await;
    raw.send(&Message::Open(plain)).await;
    raw.send(&Message::Keepalive).await;
    for (name, octets) in [
        ("ROUTE-REFRESH without the capability", message(5, &[0, 1, 0, 1])),
        ("ROUTE-REFRESH of wrong length, not enhanced", message(5, &[0, 1, 0])),
        ("ROUTE-REFRESH of a family that was not negotiated", message(5, &[0, 25, 0, 70])),
        ("End-of-RIB without graceful restart", update(&[], &[], &[])),
        ("withdrawal of an unknown prefix (B20)", update(&[24, 10, 9, 9], &[], &[])),
    ] {
        raw.send_octets(&octets).await;
        let prefix = [24, 10, 1, 1];
        raw.send_octets(&update(&[], &mandatory(Some(EXTERNAL), HOP), &prefix)).await;
        rig.until_installed(&["10.1.1.0/24"]).await;
        raw.send_octets(&update(&prefix, &[], &[])).await;
        rig.until_installed(&[]).await;
        let state = rig.speaker.lock().await.peers().await[0].status.state;
        assert_eq!(state, State::Established, "{name}");
    }
}

#[tokio::test]
async fn b1_what_peers_send_in_open_is_accepted() {
    let asn = |n: u32| [&[65, 4][..], &n.to_be_bytes()].concat();
    let (mp, unknown) = ([1, 4, 0, 1, 0, 1], [199, 3, 1, 2, 3]);
    let parameter = |value: &[u8]| [&[2, u8::try_from(value.len()).unwrap()][..], value].concat();
    let extended = {
        let body = [&mp[..], &asn(EXTERNAL)].concat();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let rest = [&[2][..], &length, &body].concat();
        let all = u16::try_from(rest.len()).unwrap().to_be_bytes();
        message(1, &[&[4, 0x5b, 0xa0, 0, 90, 10, 0, 0, 1, 255, 255][..], &all, &rest].concat())
    };
    let id = Ipv4Addr::new(10, 0, 0, 1);
    let one = parameter(&[&mp[..], &unknown, &asn(EXTERNAL)].concat());
    let many = [parameter(&asn(EXTERNAL)), parameter(&mp), parameter(&mp), parameter(&unknown)];
    let rows = [
        ("one parameter", open(4, 23456, 90, id, &one)),
        ("many, any order, twice, unknown", open(4, 23456, 90, id, &many.concat())),
        ("RFC 9072", extended),
        ("hold time 3", open(4, 23456, 3, id, &one)),
        ("hold time 0", open(4, 23456, 0, id, &one)),
    ];
    let peers = (0..rows.len()).map(|n| peer(u8::try_from(n + 1).unwrap(), EXTERNAL)).collect();
    let rig = Rig::start(peers).await;
    for (n, (name, octets)) in (1u8..).zip(rows) {
        let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
        raw.receive().await;
        raw.send_octets(&octets).await;
        assert_eq!(raw.receive().await, Received::Keepalive, "{name}");
    }
}

#[test]
fn settings_of_tests_are_those_of_an_external_peer() {
    assert!(!says(1, EXTERNAL).is_internal());
    assert!(Settings::new(ASN, ID, ASN).is_internal());
}
