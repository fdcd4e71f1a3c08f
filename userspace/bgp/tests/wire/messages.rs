//! Section 2: the NOTIFICATION per malformed message, row by row; OPEN in its forms.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use sluice_bgp::{
    AfiSafi, Capability, GracefulRestart, Message, Open, Params, Received, Refresh, RefreshKind,
    RestartFamily, next_frame,
};

use crate::{ebgp, message, receive, update_body};

/// Version, AS 64512, hold time, identifier, parameters after their length.
fn open(version: u8, asn: u16, hold: u16, id: u32, parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![version];
    body.extend(asn.to_be_bytes());
    body.extend(hold.to_be_bytes());
    body.extend(id.to_be_bytes());
    body.push(u8::try_from(parameters.len()).unwrap());
    body.extend(parameters);
    message(1, &body).to_vec()
}

fn with_length(mut octets: Vec<u8>, length: u16) -> Vec<u8> {
    octets[16..18].copy_from_slice(&length.to_be_bytes());
    octets
}

/// Name, octets, code and subcode, data.
type Row = (&'static str, Vec<u8>, (u8, u8), &'static [u8]);

#[test]
fn notification_per_malformed_message() {
    let id = 0x0a00_0001;
    let bad_marker = [&[0xfe], &message(4, &[])[1..]].concat();
    let reach = [0x80, 14, 5, 0, 2, 1, 0, 0];
    let rows: &[Row] = &[
        ("marker", bad_marker, (1, 1), &[]),
        ("length 18", with_length(message(4, &[]).to_vec(), 18), (1, 2), &[0, 18]),
        ("length 4097", with_length(message(2, &[]).to_vec(), 4097), (1, 2), &[0x10, 1]),
        ("OPEN of 28", message(1, &[0; 9]).to_vec(), (1, 2), &[0, 28]),
        ("UPDATE of 22", message(2, &[0; 3]).to_vec(), (1, 2), &[0, 22]),
        ("KEEPALIVE of 20", message(4, &[0]).to_vec(), (1, 2), &[0, 20]),
        ("NOTIFICATION of 20", message(3, &[6]).to_vec(), (1, 2), &[0, 20]),
        ("type 0", message(0, &[]).to_vec(), (1, 3), &[0]),
        ("type 6", message(6, &[]).to_vec(), (1, 3), &[6]),
        ("version 3", open(3, 64512, 90, id, &[]), (2, 1), &[0, 4]),
        ("version 5", open(5, 64512, 90, id, &[]), (2, 1), &[0, 4]),
        ("AS 0", open(4, 0, 90, id, &[]), (2, 2), &[]),
        ("AS4 0", open(4, 23456, 90, id, &[2, 6, 65, 4, 0, 0, 0, 0]), (2, 2), &[]),
        ("identifier 0", open(4, 64512, 90, 0, &[]), (2, 3), &[]),
        ("parameter 1", open(4, 64512, 90, id, &[1, 1, 0]), (2, 4), &[]),
        ("hold time 1", open(4, 64512, 1, id, &[]), (2, 6), &[]),
        ("hold time 2", open(4, 64512, 2, id, &[]), (2, 6), &[]),
        ("parameter overrun", open(4, 64512, 90, id, &[2, 9, 65, 4]), (2, 0), &[]),
        ("capability overrun", open(4, 64512, 90, id, &[2, 3, 65, 4, 0]), (2, 0), &[]),
        ("withdrawn too long", message(2, &[0, 9, 0, 0]).to_vec(), (3, 1), &[]),
        ("attributes too long", message(2, &[0, 0, 0, 9]).to_vec(), (3, 1), &[]),
        (
            "unknown well-known attribute",
            message(2, &update_body(&[], &[0x40, 99, 1, 7], &[])).to_vec(),
            (3, 2),
            &[0x40, 99, 1, 7],
        ),
        (
            "MP_UNREACH twice",
            message(2, &update_body(&[], &[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1], &[]))
                .to_vec(),
            (3, 1),
            &[],
        ),
        (
            "NLRI length 33",
            message(2, &update_body(&[], &[], &[33, 1, 2, 3, 4, 5])).to_vec(),
            (3, 10),
            &[],
        ),
        ("NLRI overrun", message(2, &update_body(&[], &[], &[24, 1, 2])).to_vec(), (3, 10), &[]),
        (
            "withdrawn length 33",
            message(2, &update_body(&[33, 1, 2, 3, 4, 5], &[], &[])).to_vec(),
            (3, 10),
            &[],
        ),
        (
            "withdrawn overrun",
            message(2, &update_body(&[24, 1, 2], &[], &[])).to_vec(),
            (3, 10),
            &[],
        ),
        (
            "MP_REACH next hop of 0",
            message(2, &update_body(&[], &reach, &[])).to_vec(),
            (3, 1),
            &[],
        ),
        (
            "MP_UNREACH truncated",
            message(2, &update_body(&[], &[0x80, 15, 2, 0, 2], &[])).to_vec(),
            (3, 9),
            &[0x80, 15, 2, 0, 2],
        ),
    ];
    for (name, octets, (code, subcode), data) in rows {
        let error = receive_prefix(octets).expect_err(name);
        assert_eq!((error.code.code, error.code.subcode), (*code, *subcode), "{name}: {error}");
        assert_eq!(&error.data[..], *data, "{name}");
    }
}

/// Like [`receive`], for messages whose length field lies.
fn receive_prefix(octets: &[u8]) -> Result<Received, sluice_bgp::Notification> {
    let mut buffer = BytesMut::from(octets);
    let frame = next_frame(&mut buffer, false)?.expect("a whole message");
    sluice_bgp::decode(&frame, &ebgp())
}

#[test]
fn b28_a_message_may_come_octet_by_octet() {
    let whole = [message(4, &[]), message(3, &[6, 2])].concat();
    let (mut buffer, mut kinds) = (BytesMut::new(), Vec::new());
    for octet in whole {
        buffer.extend_from_slice(&[octet]);
        kinds.extend(next_frame(&mut buffer, false).unwrap().map(|frame| frame.kind));
    }
    assert_eq!(kinds, [4, 3]);
}

#[test]
fn rfc8654_long_messages_only_where_negotiated_and_never_open() {
    let mut long = message(2, &update_body(&[], &[], &[0; 5000]));
    assert!(next_frame(&mut long.clone(), false).is_err());
    assert!(next_frame(&mut long, true).unwrap().is_some());
    assert!(next_frame(&mut message(1, &[0; 5000]), true).is_err());
}

#[test]
fn rfc7313_refresh_of_wrong_length() {
    let enhanced = Params { enhanced_refresh: true, ..ebgp() };
    let short = message(5, &[0, 1, 0]);
    assert_eq!(receive(&short, &ebgp()), Ok(Received::Refresh(None)));
    let error = receive(&short, &enhanced).unwrap_err();
    assert_eq!((error.code.code, error.code.subcode, &error.data[..]), (7, 1, &short[..]));
    let begin = Refresh { afi_safi: AfiSafi { afi: 2, safi: 1 }, kind: RefreshKind::Begin };
    assert_eq!(receive(&message(5, &[0, 2, 1, 1]), &enhanced), Ok(Received::Refresh(Some(begin))));
    assert_eq!(receive(&message(5, &[0, 2, 9, 1]), &enhanced), Ok(Received::Refresh(None)));
}

#[test]
fn b1_capabilities_in_one_parameter_or_many_are_the_same() {
    let one = open(4, 23456, 90, 1, &[2, 14, 1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 1, 0, 0]);
    let many =
        open(4, 23456, 90, 1, &[2, 6, 1, 4, 0, 1, 0, 1, 2, 0, 2, 2, 2, 0, 2, 6, 65, 4, 0, 1, 0, 0]);
    let extended = {
        let parameters = [2, 0, 14, 1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 1, 0, 0];
        let head = [4, 0x5b, 0xa0, 0, 90, 0, 0, 0, 1, 255, 255, 0, 17];
        message(1, &[&head[..], &parameters].concat())
    };
    let expected = receive(&one, &ebgp()).unwrap();
    assert!(
        matches!(&expected, Received::Open(open) if open.asn() == 65536 && open.capabilities.len() == 3)
    );
    assert_eq!(receive(&many, &ebgp()).unwrap(), expected);
    assert_eq!(receive(&extended, &ebgp()).unwrap(), expected);
}

#[test]
fn b1_unknown_and_unreadable_capabilities_are_kept_and_ignored() {
    let octets = open(4, 64512, 0, 1, &[2, 8, 128, 0, 65, 1, 7, 200, 1, 9]);
    let Received::Open(open) = receive(&octets, &ebgp()).unwrap() else { panic!("an OPEN") };
    assert_eq!(open.asn(), 64512);
    assert_eq!(open.capabilities.iter().map(Capability::code).collect::<Vec<_>>(), [128, 65, 200]);
}

#[test]
fn open_with_every_capability_survives_the_wire() {
    let v4 = AfiSafi { afi: 1, safi: 1 };
    let mut open = Open {
        my_as: 23456,
        hold_time_s: 90,
        bgp_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Capability::Multiprotocol(v4),
            Capability::RouteRefresh,
            Capability::ExtendedNextHop(vec![(v4, 2)]),
            Capability::ExtendedMessages,
            Capability::Role(4),
            Capability::GracefulRestart(GracefulRestart {
                restarted: true,
                notification: true,
                time_s: 0x0fff,
                families: vec![RestartFamily { afi_safi: v4, forwarding: true }],
            }),
            Capability::FourOctetAs(4_200_000_000),
            Capability::EnhancedRefresh,
            Capability::Fqdn { host: "node-1".into(), domain: "example.org".into() },
            Capability::Unknown { code: 200, value: vec![1, 2, 3].into() },
        ],
    };
    // Short form first, then one that needs RFC 9072.
    for _ in 0..2 {
        let mut octets = BytesMut::new();
        Message::Open(open.clone()).encode(&ebgp(), &mut octets).unwrap();
        assert_eq!(receive(&octets, &ebgp()), Ok(Received::Open(open.clone())));
        open.capabilities.push(Capability::Unknown { code: 201, value: vec![7; 250].into() });
    }
}
