//! Properties: decoding never panics, `encode(decode(x))` is stable, and netgauze-bgp-pkt agrees
//! on what our octets mean and we on what theirs mean.

use std::collections::HashMap;
use std::io::Cursor;
use std::net::Ipv4Addr;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;
use sluice_bgp::{
    AfiSafi, Aggregator, AsPath, Attributes, Capability, Code, Community, Family, GracefulRestart,
    LargeCommunity, Message, NextHop, Notification, Opaque, Open, Origin, Params, Received,
    Refresh, RefreshKind, RestartFamily, Segment, SegmentKind, Update,
};

use crate::{ebgp, ibgp, message, receive, update_body};

fn encode(message: &Message, params: &Params) -> BytesMut {
    let mut octets = BytesMut::new();
    message.encode(params, &mut octets).expect("fits");
    octets
}

fn as_sent(received: Received) -> Option<Message> {
    Some(match received {
        Received::Open(open) => Message::Open(open),
        Received::Update(received) => Message::Update(Box::new(received.update)),
        Received::Notification(notification) => Message::Notification(notification),
        Received::Keepalive => Message::Keepalive,
        Received::Refresh(refresh) => Message::Refresh(refresh?),
    })
}

/// Decoded, encoded and decoded again is what was decoded first.
fn is_stable(octets: &[u8], params: &Params) {
    let Ok(received) = receive(octets, params) else { return };
    let Some(first) = as_sent(received) else { return };
    let mut wide = BytesMut::new();
    // Merged attributes can be longer than those received.
    if first.encode(params, &mut wide).is_err() {
        return;
    }
    let again = receive(&wide, params).expect("our own octets decode");
    assert_eq!(as_sent(again), Some(first.clone()));
}

fn params() -> impl Strategy<Value = Params> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(four_octet_as, ibgp, extended_next_hop)| Params {
            four_octet_as,
            ibgp,
            extended_next_hop,
            ..ebgp()
        },
    )
}

/// Octets that look like attributes, so that more than the first length check is reached.
fn attribute_like() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![Just(0x40u8), Just(0x80), Just(0xc0), any::<u8>()];
    let value = prop_oneof![
        proptest::collection::vec(0u8..4, 0..14),
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(vec![2, 1, 0, 0, 0xfd, 0xe9]),
        Just(vec![2, 2, 0x5b, 0xa0, 0xfd, 0xe9]),
        Just(vec![2, 1, 0, 1, 0, 0]),
    ];
    (flags, prop_oneof![1u8..19, 1u8..42], value).prop_map(|(flags, code, value)| {
        [&[flags & !0x10, code, value.len() as u8], &value[..]].concat()
    })
}

/// Unicast only: the oracle refuses to read multicast prefixes in unicast families.
fn v4_prefix() -> impl Strategy<Value = IpNet> {
    (0..0xe000_0000u32, 0u8..=32)
        .prop_map(|(a, len)| Ipv4Net::new(a.into(), len).unwrap().trunc().into())
}

fn v6_prefix() -> impl Strategy<Value = IpNet> {
    (0..0xfe_u128 << 120, 0u8..=128)
        .prop_map(|(a, len)| Ipv6Net::new(a.into(), len).unwrap().trunc().into())
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let path = proptest::collection::vec(1u32.., 0..6);
    let words = || proptest::collection::vec(any::<u32>(), 0..4);
    let large = proptest::collection::vec(any::<[u32; 3]>(), 0..3);
    let ids = (proptest::option::of(any::<u32>()), words());
    let numbers = (proptest::option::of(any::<u32>()), any::<u32>(), any::<bool>());
    (origin, path, words(), large, ids, numbers, proptest::option::of(1u32..)).prop_map(
        |(
            origin,
            path,
            communities,
            large,
            (originator, clusters),
            (med, preference, atomic),
            aggregator,
        )| {
            Attributes {
                origin: Some(origin),
                as_path: Some(AsPath::sequence(&path)),
                med,
                local_pref: Some(preference),
                atomic_aggregate: atomic,
                aggregator: aggregator.map(|asn| Aggregator { asn, id: Ipv4Addr::from(asn) }),
                communities: communities.into_iter().map(Community).collect(),
                originator_id: originator.map(Ipv4Addr::from),
                cluster_list: clusters.into_iter().map(Ipv4Addr::from).collect(),
                large_communities: large
                    .into_iter()
                    .map(|[global, local1, local2]| LargeCommunity { global, local1, local2 })
                    .collect(),
                ..Attributes::default()
            }
        },
    )
}

/// Their reading of our octets, written again by them.
fn through_the_oracle(octets: &[u8], params: &Params) -> Vec<u8> {
    let (labels, add_path, wide) = (HashMap::new(), HashMap::new(), params.four_octet_as);
    let mut context = BgpParsingContext::new(wide, labels, add_path, true, true, true, true);
    let theirs = BgpMessage::parse(&mut SliceReader::new(octets), &mut context)
        .expect("the oracle reads it");
    let mut written = Vec::new();
    theirs.write(&mut Cursor::new(&mut written)).expect("the oracle writes it");
    written
}

/// Sequences and sets; confederations end at the border of one. Two sequences side by side are one
/// after the merge of AS4_PATH, which is the same path.
fn path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![Just(SegmentKind::Sequence), Just(SegmentKind::Set)];
    let ases = proptest::collection::vec(prop_oneof![1u32..0x1_0000, 1u32..], 1..6);
    let segment = (kind, ases).prop_map(|(kind, ases)| Segment { kind, ases });
    proptest::collection::vec(segment, 0..4).prop_map(|mut segments| {
        segments.dedup_by_key(|segment| segment.kind);
        AsPath(segments)
    })
}

/// Route targets and origins of ASes and addresses: of other kinds the oracle forgets octets.
fn ext_community() -> impl Strategy<Value = [u8; 8]> {
    (0u8..3, 2u8..4, any::<[u8; 6]>())
        .prop_map(|(kind, subtype, [a, b, c, d, e, f])| [kind, subtype, a, b, c, d, e, f])
}

/// Codes that nobody has defined, with the flags of those that are passed on and those that are not.
fn opaque() -> impl Strategy<Value = Opaque> {
    let flags = prop_oneof![Just(0x80), Just(0xc0), Just(0xe0)];
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::collection::vec(any::<u8>(), 256..300),
    ];
    (flags, 200u8..255, value).prop_map(|(flags, code, value)| Opaque {
        flags,
        code,
        value: value.into(),
    })
}

fn afi_safi() -> impl Strategy<Value = AfiSafi> {
    prop_oneof![Just((1, 1)), Just((2, 1)), Just((1, 128)), Just((25, 70))]
        .prop_map(|(afi, safi)| AfiSafi { afi, safi })
}

fn capability() -> impl Strategy<Value = Capability> {
    let families = proptest::collection::vec((afi_safi(), any::<bool>()), 0..4);
    let restart = (any::<bool>(), any::<bool>(), 0u16..0x1000, families);
    let restart = restart.prop_map(|(restarted, notification, time_s, families)| {
        let family = |(afi_safi, forwarding)| RestartFamily { afi_safi, forwarding };
        let families = families.into_iter().map(family).collect();
        Capability::GracefulRestart(GracefulRestart { restarted, notification, time_s, families })
    });
    prop_oneof![
        afi_safi().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::EnhancedRefresh),
        Just(Capability::ExtendedMessages),
        Just(Capability::ExtendedNextHop(vec![(AfiSafi { afi: 1, safi: 1 }, 2)])),
        (0u8..5).prop_map(Capability::Role),
        (1u32..).prop_map(Capability::FourOctetAs),
        ("[a-z]{0,20}", "[a-z]{0,20}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        proptest::collection::vec(any::<u8>(), 0..9)
            .prop_map(|value| Capability::Unknown { code: 245, value: value.into() }),
        restart,
    ]
}

/// Every NOTIFICATION that can be sent: 8/0 cannot, and the oracle does not know it.
fn code() -> impl Strategy<Value = Code> {
    proptest::sample::select(vec![
        Code::NOT_SYNCHRONIZED,
        Code::BAD_LENGTH,
        Code::BAD_TYPE,
        Code::OPEN_ERROR,
        Code::UNSUPPORTED_VERSION,
        Code::BAD_PEER_AS,
        Code::BAD_BGP_ID,
        Code::UNSUPPORTED_PARAMETER,
        Code::BAD_HOLD_TIME,
        Code::UNSUPPORTED_CAPABILITY,
        Code::ROLE_MISMATCH,
        Code::MALFORMED_ATTRIBUTES,
        Code::UNKNOWN_WELL_KNOWN,
        Code::MISSING_WELL_KNOWN,
        Code::OPTIONAL_ATTRIBUTE,
        Code::INVALID_NETWORK,
        Code::HOLD_EXPIRED,
        Code::UNEXPECTED_IN_OPEN_SENT,
        Code::UNEXPECTED_IN_OPEN_CONFIRM,
        Code::UNEXPECTED_IN_ESTABLISHED,
        Code::MAX_PREFIXES,
        Code::SHUTDOWN,
        Code::DECONFIGURED,
        Code::RESET,
        Code::REJECTED,
        Code::CONFIG_CHANGE,
        Code::COLLISION,
        Code::OUT_OF_RESOURCES,
        Code::HARD_RESET,
        Code::BFD_DOWN,
        Code::REFRESH_LENGTH,
    ])
}

fn agrees(ours: Message, params: &Params) -> Result<(), TestCaseError> {
    let theirs = through_the_oracle(&encode(&ours, params), params);
    prop_assert_eq!(as_sent(receive(&theirs, params).unwrap()), Some(ours));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decode_never_panics_and_is_stable(kind in 1u8..=5, body in proptest::collection::vec(any::<u8>(), 0..200), params in params()) {
        let octets = message(kind, &body);
        let mut buffer = octets.clone();
        if let Ok(Some(_)) = sluice_bgp::next_frame(&mut buffer, false) {
            is_stable(&octets, &params);
        }
    }

    #[test]
    fn updates_of_attribute_like_octets_are_stable(
        attributes in proptest::collection::vec(attribute_like(), 0..8),
        routes in any::<bool>(),
        params in params(),
    ) {
        let whole = [&[0x40, 1, 1, 0, 0x40, 3, 4, 10, 0, 0, 1][..], &attributes.concat()].concat();
        let nlri: &[u8] = if routes { &[24, 192, 0, 2] } else { &[] };
        is_stable(&message(2, &update_body(&[], &whole, nlri)), &params);
    }

    #[test]
    fn the_oracle_agrees_both_ways(
        attributes in attributes(),
        v4 in proptest::collection::vec(v4_prefix(), 1..6),
        v6 in proptest::collection::vec(v6_prefix(), 1..6),
        hop in 0x0100_0000u32..0x7f00_0000,
    ) {
        let params = ibgp();
        let v6_hop = NextHop::V6 { address: "fd00::1".parse().unwrap(), link_local: None };
        let mut updates = Update::announce(Family::Ipv4Unicast, &attributes, NextHop::V4(hop.into()), &v4, &params).unwrap();
        updates.extend(Update::announce(Family::Ipv6Unicast, &attributes, v6_hop, &v6, &params).unwrap());
        updates.extend(Update::withdraw(Family::Ipv6Unicast, &v6, &params).unwrap());
        for update in updates {
            agrees(Message::Update(Box::new(update)), &params)?;
        }
    }

    #[test]
    fn the_oracle_agrees_on_open(
        asn in 1u16..,
        hold_time_s in prop_oneof![Just(0), 3u16..],
        // RFC 6286 has any but 0; the oracle wants a unicast address.
        id in 1u32..0x7f00_0000,
        capabilities in proptest::collection::vec(capability(), 0..12),
    ) {
        let open = Open { my_as: asn, hold_time_s, bgp_id: id.into(), capabilities };
        agrees(Message::Open(open), &ibgp())?;
    }

    #[test]
    fn the_oracle_agrees_on_notification(
        code in code(),
        data in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        agrees(Message::Notification(Notification::with_data(code, &data)), &ibgp())?;
    }

    #[test]
    fn the_oracle_agrees_on_paths_communities_and_unknown_attributes_old_and_new(
        wide in any::<bool>(),
        as_path in path(),
        aggregator in proptest::option::of(prop_oneof![1u32..0x1_0000, 1u32..]),
        ext_communities in proptest::collection::vec(ext_community(), 0..4),
        opaque in proptest::option::of(opaque()),
        v4 in proptest::collection::vec(v4_prefix(), 1..6),
    ) {
        let params = Params { four_octet_as: wide, ..ebgp() };
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(as_path),
            aggregator: aggregator.map(|asn| Aggregator { asn, id: Ipv4Addr::from(asn) }),
            ext_communities,
            opaque: opaque.into_iter().collect(),
            ..Attributes::default()
        };
        let hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 1));
        for update in Update::announce(Family::Ipv4Unicast, &attributes, hop, &v4, &params).unwrap() {
            agrees(Message::Update(Box::new(update)), &params)?;
        }
    }
}

#[test]
fn the_oracle_agrees_on_route_refresh_and_keepalive() {
    for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End] {
        for (afi, safi) in [(1, 1), (2, 1), (1, 128), (25, 70)] {
            let refresh = Refresh { afi_safi: AfiSafi { afi, safi }, kind };
            agrees(Message::Refresh(refresh), &ibgp()).unwrap();
        }
    }
    agrees(Message::Keepalive, &ibgp()).unwrap();
}
