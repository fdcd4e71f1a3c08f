//! B21: many prefixes per message, never more octets than the session allows; AS4 both ways (B13).

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sluice_bgp::{
    Aggregator, AsPath, Attributes, Community, EncodeError, Family, Message, NextHop, Origin,
    Params, Received, Update,
};

use crate::{ebgp, message, receive, update_body};

fn attributes(path: &[u32]) -> Attributes {
    let as_path = Some(AsPath::sequence(path));
    Attributes { origin: Some(Origin::Igp), as_path, ..Attributes::default() }
}

fn v4(count: u32) -> Vec<IpNet> {
    (0..count).map(|i| Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + i), 32).unwrap().into()).collect()
}

fn v6(count: u128) -> Vec<IpNet> {
    (0..count).map(|i| Ipv6Net::new(Ipv6Addr::from(0xfd << 120 | i), 128).unwrap().into()).collect()
}

/// What arrives of the messages, and the length of each.
fn arrive(updates: Vec<Update>, params: &Params) -> (Vec<Update>, Vec<usize>) {
    let mut lengths = Vec::new();
    let arrived = updates.into_iter().map(|update| {
        let mut octets = BytesMut::new();
        Message::Update(Box::new(update)).encode(params, &mut octets).unwrap();
        lengths.push(octets.len());
        match receive(&octets, params).unwrap() {
            Received::Update(received) => {
                assert!(received.faults.is_empty(), "{:?}", received.faults);
                received.update
            }
            other => panic!("{other:?}"),
        }
    });
    (arrived.collect(), lengths)
}

#[test]
fn b21_messages_are_filled_and_never_too_long() {
    let params = ebgp();
    let hops: [(Family, NextHop, Vec<IpNet>); 2] = [
        (Family::Ipv4Unicast, NextHop::V4(Ipv4Addr::new(10, 9, 9, 9)), v4(5000)),
        (
            Family::Ipv6Unicast,
            NextHop::V6 { address: "fd00::9".parse().unwrap(), link_local: "fe80::9".parse().ok() },
            v6(1000),
        ),
    ];
    for (family, next_hop, prefixes) in hops {
        let updates =
            Update::announce(family, &attributes(&[64512]), next_hop, &prefixes, &params).unwrap();
        let (arrived, lengths) = arrive(updates, &params);
        let announced: Vec<_> = arrived.iter().flat_map(Update::announcements).collect();
        assert_eq!(announced, prefixes.iter().map(|p| (*p, next_hop)).collect::<Vec<_>>());
        assert!(lengths.iter().all(|len| *len <= 4096), "{lengths:?}");
        let (_, full) = lengths.split_last().unwrap();
        assert!(full.iter().all(|len| *len > 4096 - 18), "room left: {lengths:?}");
        let withdrawals = Update::withdraw(family, &prefixes, &params).unwrap();
        let (arrived, lengths) = arrive(withdrawals, &params);
        assert_eq!(arrived.iter().flat_map(Update::withdrawals).collect::<Vec<_>>(), prefixes);
        assert!(lengths.iter().all(|len| *len <= 4096), "{lengths:?}");
    }
}

#[test]
fn b21_attributes_that_leave_no_room_are_an_error() {
    let communities = vec![Community::NO_EXPORT; 1020];
    let attributes = Attributes { communities, ..attributes(&[64512]) };
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 9, 9, 9));
    let announce = |params: &Params| {
        Update::announce(Family::Ipv4Unicast, &attributes, next_hop, &v4(1), params)
    };
    assert!(matches!(announce(&ebgp()), Err(EncodeError::TooLong { max: 4096, .. })));
    let extended = Params { extended_messages: true, ..ebgp() };
    assert_eq!(announce(&extended).unwrap().len(), 1);
}

#[test]
fn b13_wide_ases_cross_an_old_session() {
    let old = Params { four_octet_as: false, ..ebgp() };
    let aggregator = Some(Aggregator { asn: 4_200_000_000, id: Ipv4Addr::new(1, 1, 1, 1) });
    let sent = Attributes { aggregator, ..attributes(&[64512, 70000, 65001]) };
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 9, 9, 9));
    let updates = Update::announce(Family::Ipv4Unicast, &sent, next_hop, &v4(1), &old).unwrap();
    let mut octets = BytesMut::new();
    Message::Update(Box::new(updates[0].clone())).encode(&old, &mut octets).unwrap();
    let as_path = [0x40, 2, 8, 2, 3, 0xfc, 0, 0x5b, 0xa0, 0xfd, 0xe9];
    assert!(octets.windows(as_path.len()).any(|window| window == as_path), "23456 for 70000");
    assert_eq!(arrive(updates, &old).0[0].attributes, sent);
}

#[test]
fn rfc8950_v4_routes_with_a_v6_next_hop() {
    let params = Params { extended_next_hop: true, ..ebgp() };
    let next_hop = NextHop::V6 { address: "fd00::1".parse().unwrap(), link_local: None };
    let updates =
        Update::announce(Family::Ipv4Unicast, &attributes(&[1]), next_hop, &v4(2), &params)
            .unwrap();
    assert_eq!(arrive(updates.clone(), &params).0, updates);
    let mut octets = BytesMut::new();
    Message::Update(Box::new(updates[0].clone())).encode(&params, &mut octets).unwrap();
    assert!(receive(&octets, &ebgp()).is_err(), "not negotiated");
}

/// RFC 4760, RFC 2545 and RFC 8950: which lengths a next hop may have; 3/1 for any other.
#[test]
fn lengths_of_a_next_hop() {
    let extended = Params { extended_next_hop: true, ..ebgp() };
    for (afi, params, allowed) in
        [(1, ebgp(), &[4][..]), (1, extended, &[4, 16, 32]), (2, ebgp(), &[16, 32])]
    {
        for length in 0..=33_u8 {
            let field = [10; 33];
            let reach = [&[0, afi, 1, length], &field[..usize::from(length)], &[0]].concat();
            let header = [0x80, 14, u8::try_from(reach.len()).unwrap()];
            let body = update_body(&[], &[&header, &reach[..]].concat(), &[]);
            let fault = receive(&message(2, &body), &params).err();
            let code = fault.map(|error| (error.code.code, error.code.subcode));
            let expected = if allowed.contains(&length) { None } else { Some((3, 1)) };
            assert_eq!(code, expected, "AFI {afi}, {length} octets");
        }
    }
}
