//! Owns writing of path attributes, in the order of their codes, for old and new peers (RFC 6793).

use bytes::{BufMut, BytesMut};

use super::{Attributes, NextHop, Origin, code, flag};
use crate::message::{AS_TRANS, Params};

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const OPTIONAL: u8 = flag::OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// Flags, code and length of an attribute; the length has two octets only where it needs them.
pub(crate) fn put_header(out: &mut BytesMut, flags: u8, code: u8, length: usize) {
    if let Ok(length) = u8::try_from(length) {
        out.put_slice(&[flags & !flag::EXTENDED, code, length]);
    } else {
        out.put_slice(&[flags | flag::EXTENDED, code]);
        out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
    }
}

fn put(out: &mut BytesMut, flags: u8, code: u8, value: &[u8]) {
    put_header(out, flags, code, value.len());
    out.put_slice(value);
}

/// A list attribute; nothing for an empty list.
fn put_list<const N: usize>(
    out: &mut BytesMut,
    flags: u8,
    code: u8,
    items: impl Iterator<Item = [u8; N]>,
) {
    let value: Vec<u8> = items.flatten().collect();
    if !value.is_empty() {
        put(out, flags, code, &value);
    }
}

/// Writes everything but MP_REACH and MP_UNREACH. `next_hop` is the NEXT_HOP attribute, for
/// routes in the NLRI field.
pub(crate) fn encode_all(
    attributes: &Attributes,
    next_hop: Option<NextHop>,
    params: &Params,
    out: &mut BytesMut,
) {
    let a = attributes;
    let wide = params.four_octet_as;
    if let Some(origin) = a.origin {
        let value = match origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        };
        put(out, WELL_KNOWN, code::ORIGIN, &[value]);
    }
    if let Some(path) = &a.as_path {
        let mut value = BytesMut::new();
        path.encode(wide, &mut value);
        put(out, WELL_KNOWN, code::AS_PATH, &value);
    }
    if let Some(NextHop::V4(address)) = next_hop {
        put(out, WELL_KNOWN, code::NEXT_HOP, &address.octets());
    }
    if let Some(med) = a.med {
        put(out, OPTIONAL, code::MED, &med.to_be_bytes());
    }
    if let Some(preference) = a.local_pref {
        put(out, WELL_KNOWN, code::LOCAL_PREF, &preference.to_be_bytes());
    }
    if a.atomic_aggregate {
        put(out, WELL_KNOWN, code::ATOMIC_AGGREGATE, &[]);
    }
    let mut as4_aggregator = None;
    if let Some(aggregator) = a.aggregator {
        let mut value = BytesMut::new();
        match (wide, u16::try_from(aggregator.asn)) {
            (true, _) => value.put_u32(aggregator.asn),
            (false, Ok(asn)) => value.put_u16(asn),
            (false, Err(_)) => {
                value.put_u16(AS_TRANS);
                as4_aggregator = Some(aggregator);
            }
        }
        value.put_u32(aggregator.id.to_bits());
        put(out, OPTIONAL_TRANSITIVE, code::AGGREGATOR, &value);
    }
    let communities = a.communities.iter().map(|community| community.0.to_be_bytes());
    put_list(out, OPTIONAL_TRANSITIVE, code::COMMUNITIES, communities);
    if let Some(originator) = a.originator_id {
        put(out, OPTIONAL, code::ORIGINATOR_ID, &originator.octets());
    }
    put_list(out, OPTIONAL, code::CLUSTER_LIST, a.cluster_list.iter().map(|id| id.octets()));
    put_list(out, OPTIONAL_TRANSITIVE, code::EXT_COMMUNITIES, a.ext_communities.iter().copied());
    if let (false, Some(path)) = (wide, a.as_path.as_ref().filter(|path| path.needs_as4())) {
        let mut value = BytesMut::new();
        path.without_confed().encode(true, &mut value);
        put(out, OPTIONAL_TRANSITIVE, code::AS4_PATH, &value);
    }
    if let Some(aggregator) = as4_aggregator {
        let mut value = BytesMut::new();
        value.put_u32(aggregator.asn);
        value.put_u32(aggregator.id.to_bits());
        put(out, OPTIONAL_TRANSITIVE, code::AS4_AGGREGATOR, &value);
    }
    let v6 = a.ipv6_ext_communities.iter().copied();
    put_list(out, OPTIONAL_TRANSITIVE, code::IPV6_EXT_COMMUNITIES, v6);
    let large = a.large_communities.iter().flat_map(|c| [c.global, c.local1, c.local2]);
    put_list(out, OPTIONAL_TRANSITIVE, code::LARGE_COMMUNITIES, large.map(u32::to_be_bytes));
    if let Some(asn) = a.otc {
        put(out, OPTIONAL_TRANSITIVE, code::OTC, &asn.to_be_bytes());
    }
    for opaque in &a.opaque {
        put(out, opaque.flags, opaque.code, &opaque.value);
    }
}
