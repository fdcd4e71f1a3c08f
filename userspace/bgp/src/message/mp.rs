//! Owns MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760, RFC 2545, RFC 8950).

use std::net::Ipv6Addr;

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;

use super::{Code, Notification, Params};
use crate::attribute::{Action, Fault, NextHop, Parsed, Reason, code, flag, put_header};
use crate::family::{AfiSafi, Family};
use crate::prefix;
use crate::reader::{Reader, Short};

/// Routes announced in MP_REACH_NLRI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpReach {
    /// Their family.
    pub family: Family,
    /// Their next hop.
    pub next_hop: NextHop,
    /// The prefixes.
    pub prefixes: Vec<IpNet>,
}

/// Routes withdrawn in MP_UNREACH_NLRI; without prefixes the End-of-RIB mark (RFC 4724 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpUnreach {
    /// Their family.
    pub family: Family,
    /// The prefixes.
    pub prefixes: Vec<IpNet>,
}

fn family_of(reader: &mut Reader<'_>) -> Result<Result<Family, AfiSafi>, Short> {
    let (afi, safi) = (reader.u16()?, reader.u8()?);
    Ok(Family::try_from(AfiSafi { afi, safi }))
}

/// The next hop of a field: IPv4, or IPv6 with or without a link-local address (RFC 2545 3), for
/// IPv4 routes only where that was negotiated (RFC 8950).
fn next_hop(family: Family, mut field: Reader<'_>, params: &Params) -> Result<NextHop, Short> {
    let next_hop = if family == Family::Ipv4Unicast && field.len() == 4 {
        NextHop::V4(field.v4()?)
    } else if family == Family::Ipv6Unicast || params.extended_next_hop {
        let address = field.v6()?;
        let second = if field.is_empty() { None } else { Some(field.v6()?) };
        // Anything but a link-local address in the second half says nothing.
        NextHop::V6 { address, link_local: second.filter(Ipv6Addr::is_unicast_link_local) }
    } else {
        return Err(Short);
    };
    if field.is_empty() { Ok(next_hop) } else { Err(Short) }
}

impl MpReach {
    /// Adds the routes, or a fault for a family that was not negotiated.
    ///
    /// # Errors
    /// 3/1 for the next hop, 3/9 for anything else that keeps the routes from being read.
    pub(crate) fn decode(
        value: &[u8],
        whole: &[u8],
        params: &Params,
        parsed: &mut Parsed,
    ) -> Result<(), Notification> {
        let unreadable = |Short| Notification::with_data(Code::OPTIONAL_ATTRIBUTE, whole);
        let bad_next_hop = || Notification::new(Code::MALFORMED_ATTRIBUTES);
        let mut reader = Reader::new(value);
        let family = family_of(&mut reader).map_err(unreadable)?;
        let length = reader.u8().map_err(unreadable)?;
        let field = reader.part(usize::from(length)).map_err(|Short| bad_next_hop())?;
        reader.u8().map_err(unreadable)?;
        let Some(family) = family.ok().filter(|family| params.families.contains(*family)) else {
            parsed.faults.push(Fault::new(
                code::MP_REACH,
                Action::Discard,
                Reason::NotNegotiated,
                value,
            ));
            return Ok(());
        };
        let next_hop = next_hop(family, field, params).map_err(|Short| bad_next_hop())?;
        let prefixes = prefix::decode_all(family, reader).map_err(unreadable)?;
        if next_hop.is_martian() {
            parsed.faults.push(Fault::new(
                code::MP_REACH,
                Action::TreatAsWithdraw,
                Reason::Value,
                value,
            ));
        }
        parsed.mp_reach = Some(Self { family, next_hop, prefixes });
        Ok(())
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        put_family(self.family, &mut value);
        match self.next_hop {
            NextHop::V4(address) => {
                value.put_u8(4);
                value.put_u32(address.to_bits());
            }
            NextHop::V6 { address, link_local } => {
                value.put_u8(if link_local.is_some() { 32 } else { 16 });
                value.put_u128(address.to_bits());
                link_local.iter().for_each(|half| value.put_u128(half.to_bits()));
            }
        }
        value.put_u8(0);
        self.prefixes.iter().for_each(|prefix| prefix::encode(prefix, &mut value));
        put_header(out, flag::OPTIONAL, code::MP_REACH, value.len());
        out.put(value);
    }
}

impl MpUnreach {
    /// Adds the withdrawn routes, or a fault for a family that was not negotiated.
    ///
    /// # Errors
    /// 3/9 if the routes cannot be read.
    pub(crate) fn decode(
        value: &[u8],
        whole: &[u8],
        params: &Params,
        parsed: &mut Parsed,
    ) -> Result<(), Notification> {
        let unreadable = |Short| Notification::with_data(Code::OPTIONAL_ATTRIBUTE, whole);
        let mut reader = Reader::new(value);
        let family = family_of(&mut reader).map_err(unreadable)?;
        let Some(family) = family.ok().filter(|family| params.families.contains(*family)) else {
            parsed.faults.push(Fault::new(
                code::MP_UNREACH,
                Action::Discard,
                Reason::NotNegotiated,
                value,
            ));
            return Ok(());
        };
        let prefixes = prefix::decode_all(family, reader).map_err(unreadable)?;
        parsed.mp_unreach = Some(Self { family, prefixes });
        Ok(())
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        put_family(self.family, &mut value);
        self.prefixes.iter().for_each(|prefix| prefix::encode(prefix, &mut value));
        put_header(out, flag::OPTIONAL, code::MP_UNREACH, value.len());
        out.put(value);
    }
}

fn put_family(family: Family, out: &mut BytesMut) {
    let wire = AfiSafi::from(family);
    out.put_u16(wire.afi);
    out.put_u8(wire.safi);
}
