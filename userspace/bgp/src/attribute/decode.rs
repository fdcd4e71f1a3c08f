//! Owns reading of path attributes: every error is an RFC 7606 action or, where the routes
//! cannot be found any more, a NOTIFICATION.
//! Which action is the table's in `rules`.

use std::fmt;
use std::net::Ipv4Addr;

use bytes::Bytes;

use super::rules::Rule;
use super::{
    Aggregator, AsPath, Attributes, Community, LargeCommunity, NextHop, Opaque, Origin, code, flag,
};
use crate::message::{AS_TRANS, Code, MpReach, MpUnreach, Notification, Params};
use crate::reader::{Reader, Short};

/// What an attribute error does (RFC 7606 2), weakest first; the strongest of a message wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The attribute is left out, the route stands.
    Discard,
    /// The routes of the message count as withdrawn.
    TreatAsWithdraw,
}

/// What is wrong with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Optional, transitive or partial bit.
    Flags,
    /// Length or value.
    Value,
    /// The attribute runs past the attributes' end.
    Overrun,
    /// It stood before.
    Duplicate,
    /// Not allowed from this kind of peer.
    NotFromExternal,
    /// A mandatory one is not there.
    Missing,
    /// A family that was not negotiated.
    NotNegotiated,
}

/// One thing that is wrong with an UPDATE; for the log and the counters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The attribute's code.
    pub attribute: u8,
    /// What was done.
    pub action: Action,
    /// What is wrong.
    pub reason: Reason,
    /// The attribute's value as received, at most 64 octets.
    pub value: Bytes,
}

impl Fault {
    pub(crate) fn new(attribute: u8, action: Action, reason: Reason, value: &[u8]) -> Self {
        let value = value.get(..64).unwrap_or(value);
        Self { attribute, action, reason, value: Bytes::copy_from_slice(value) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attribute, action, reason, value } = self;
        write!(f, "attribute {attribute}: {reason:?}, {action:?}, value {value:x}")
    }
}

/// What the attributes of one UPDATE hold.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) mp_reach: Option<MpReach>,
    pub(crate) mp_unreach: Option<MpUnreach>,
    /// Some attribute other than MP_UNREACH was there.
    pub(crate) has_others: bool,
    pub(crate) faults: Vec<Fault>,
}

/// # Errors
/// 3/1 and 3/9 for MP attributes that cannot be read or stand twice, 3/2 for unknown well-known ones.
pub(crate) fn decode_all(field: &[u8], params: &Params) -> Result<Parsed, Notification> {
    let mut parsed = Parsed::default();
    let mut reader = Reader::new(field);
    let mut seen = [false; 256];
    let mut as4 = As4::default();
    while !reader.is_empty() {
        let whole = reader.rest();
        let Ok((flags, kind, value)) = split(&mut reader) else {
            let kind = whole.get(1).copied().unwrap_or_default();
            if matches!(kind, code::MP_REACH | code::MP_UNREACH) {
                return Err(Notification::with_data(Code::OPTIONAL_ATTRIBUTE, whole));
            }
            parsed.has_others = true;
            parsed.faults.push(Fault::new(kind, Action::TreatAsWithdraw, Reason::Overrun, whole));
            break;
        };
        let octets = whole.get(..whole.len() - reader.len()).unwrap_or(whole);
        parsed.has_others |= kind != code::MP_UNREACH;
        if let Some(seen) = seen.get_mut(usize::from(kind)) {
            if *seen {
                if matches!(kind, code::MP_REACH | code::MP_UNREACH) {
                    return Err(Notification::new(Code::MALFORMED_ATTRIBUTES));
                }
                parsed.faults.push(Fault::new(kind, Action::Discard, Reason::Duplicate, value));
                continue;
            }
            *seen = true;
        }
        let rule = Rule::of(kind);
        if let Some(rule) = rule {
            if !rule.allows(flags) {
                parsed.faults.push(Fault::new(kind, rule.on_flags, Reason::Flags, value));
                // Routes are withdrawn: they must still be read.
                if !matches!(kind, code::MP_REACH | code::MP_UNREACH) {
                    continue;
                }
            }
        } else if flags & flag::OPTIONAL == 0 {
            return Err(Notification::with_data(Code::UNKNOWN_WELL_KNOWN, octets));
        }
        match kind {
            code::MP_REACH => MpReach::decode(value, octets, params, &mut parsed)?,
            code::MP_UNREACH => MpUnreach::decode(value, octets, params, &mut parsed)?,
            _ if !params.ibgp && rule.is_some_and(|rule| !rule.from_external) => {
                let (action, reason) = (Action::Discard, Reason::NotFromExternal);
                parsed.faults.push(Fault::new(kind, action, reason, value));
            }
            _ => {
                if read(kind, flags, value, params, &mut parsed, &mut as4).is_err() {
                    let action = rule.map_or(Action::TreatAsWithdraw, |rule| rule.on_value);
                    parsed.faults.push(Fault::new(kind, action, Reason::Value, value));
                }
            }
        }
    }
    as4.apply(&mut parsed.attributes);
    Ok(parsed)
}

fn split<'a>(reader: &mut Reader<'a>) -> Result<(u8, u8, &'a [u8]), Short> {
    let (flags, kind) = (reader.u8()?, reader.u8()?);
    let length =
        if flags & flag::EXTENDED == 0 { reader.u8().map(u16::from)? } else { reader.u16()? };
    Ok((flags, kind, reader.take(usize::from(length))?))
}

/// AS4 attributes, kept until AS_PATH and AGGREGATOR are known.
#[derive(Default)]
struct As4 {
    path: Option<AsPath>,
    aggregator: Option<Aggregator>,
}

impl As4 {
    /// RFC 6793 4.2.3.
    fn apply(self, attributes: &mut Attributes) {
        if let (Some(aggregator), Some(as4)) = (attributes.aggregator, self.aggregator) {
            if aggregator.asn != u32::from(AS_TRANS) {
                return;
            }
            attributes.aggregator = Some(as4);
        }
        if let (Some(path), Some(as4)) =
            (attributes.as_path.take_if(|_| self.path.is_some()), self.path)
        {
            attributes.as_path = Some(path.merge(&as4));
        }
    }
}

fn read(
    kind: u8,
    flags: u8,
    value: &[u8],
    params: &Params,
    parsed: &mut Parsed,
    as4: &mut As4,
) -> Result<(), Short> {
    let mut reader = Reader::new(value);
    let a = &mut parsed.attributes;
    let wide = params.four_octet_as;
    match kind {
        code::ORIGIN => {
            a.origin = Some(match value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                _ => return Err(Short),
            });
        }
        code::AS_PATH => a.as_path = Some(AsPath::decode(value, wide)?),
        code::NEXT_HOP => {
            let address = Ipv4Addr::from(exact(value)?);
            if NextHop::V4(address).is_martian() {
                return Err(Short);
            }
            parsed.next_hop = Some(address);
        }
        code::MED => a.med = Some(u32::from_be_bytes(exact(value)?)),
        code::LOCAL_PREF => a.local_pref = Some(u32::from_be_bytes(exact(value)?)),
        code::ATOMIC_AGGREGATE => {
            exact::<0>(value)?;
            a.atomic_aggregate = true;
        }
        code::AGGREGATOR => {
            let asn = if wide { reader.u32()? } else { u32::from(reader.u16()?) };
            a.aggregator = Some(aggregator(asn, reader)?);
        }
        code::COMMUNITIES => {
            a.communities =
                list(value)?.map(|octets| Community(u32::from_be_bytes(octets))).collect();
        }
        code::ORIGINATOR_ID => a.originator_id = Some(Ipv4Addr::from(exact(value)?)),
        code::CLUSTER_LIST => {
            a.cluster_list = list(value)?.map(|id: [u8; 4]| Ipv4Addr::from(id)).collect()
        }
        code::EXT_COMMUNITIES => a.ext_communities = list(value)?.collect(),
        code::IPV6_EXT_COMMUNITIES => a.ipv6_ext_communities = list(value)?.collect(),
        code::LARGE_COMMUNITIES => {
            drop(list::<12>(value)?);
            while !reader.is_empty() {
                let (global, local1, local2) = (reader.u32()?, reader.u32()?, reader.u32()?);
                a.large_communities.push(LargeCommunity { global, local1, local2 });
            }
        }
        code::OTC => {
            let asn = u32::from_be_bytes(exact(value)?);
            a.otc = Some(if asn == 0 { return Err(Short) } else { asn });
        }
        // Between two four-octet speakers both are discarded without a word (RFC 6793 6).
        code::AS4_PATH => {
            let path = AsPath::decode(value, true)?;
            as4.path = Some(path.without_confed()).filter(|_| !wide);
        }
        code::AS4_AGGREGATOR => {
            let asn = reader.u32()?;
            as4.aggregator = Some(aggregator(asn, reader)?).filter(|_| !wide);
        }
        _ => {
            match kind {
                code::AIGP => check_tlvs(value, 1, 3)?,
                code::PREFIX_SID => check_tlvs(value, 1, 0)?,
                code::LINK_STATE => check_tlvs(value, 2, 0)?,
                _ => {}
            }
            let value = Bytes::copy_from_slice(value);
            a.opaque.push(Opaque { flags: flags & 0xe0, code: kind, value });
        }
    }
    Ok(())
}

fn aggregator(asn: u32, mut reader: Reader<'_>) -> Result<Aggregator, Short> {
    let id = reader.v4()?;
    if asn == 0 || !reader.is_empty() { Err(Short) } else { Ok(Aggregator { asn, id }) }
}

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Short> {
    value.try_into().map_err(|_| Short)
}

/// Elements of N octets: at least one, nothing left.
fn list<const N: usize>(value: &[u8]) -> Result<impl Iterator<Item = [u8; N]>, Short> {
    let (elements, rest) = value.as_chunks::<N>();
    if elements.is_empty() || !rest.is_empty() { Err(Short) } else { Ok(elements.iter().copied()) }
}

/// TLVs with a type of `type_octets` and a two-octet length that counts `overhead` octets more
/// than the value (AIGP's counts type and length, RFC 7311 3).
fn check_tlvs(value: &[u8], type_octets: usize, overhead: usize) -> Result<(), Short> {
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        reader.take(type_octets)?;
        let length = usize::from(reader.u16()?);
        reader.take(length.checked_sub(overhead).ok_or(Short)?)?;
    }
    Ok(())
}
