//! Owns UPDATE (RFC 4271 4.3): its three fields, and what RFC 7606 makes of a malformed one.

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;

use super::{Code, MpReach, MpUnreach, Notification, Params};
use crate::attribute::{self, Action, Attributes, Fault, NextHop, Reason, code};
use crate::family::Family;
use crate::prefix;
use crate::reader::{Reader, Short};

/// An UPDATE message, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 prefixes of the withdrawn routes field.
    pub withdrawn: Vec<IpNet>,
    /// MP_UNREACH_NLRI
    pub mp_unreach: Option<MpUnreach>,
    /// MP_REACH_NLRI
    pub mp_reach: Option<MpReach>,
    /// NEXT_HOP of the NLRI field.
    pub next_hop: Option<Ipv4Addr>,
    /// All other attributes.
    pub attributes: Attributes,
    /// IPv4 prefixes of the NLRI field.
    pub nlri: Vec<IpNet>,
}

/// An UPDATE as received, with what was wrong with it.
///
/// If a fault says treat-as-withdraw, `update` has already become a withdrawal of all its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedUpdate {
    /// What is to be done.
    pub update: Update,
    /// What was wrong; empty for nearly all messages.
    pub faults: Vec<Fault>,
    /// The family whose End-of-RIB mark this is (B19, RFC 4724 2): nothing at all for IPv4, or an
    /// MP_UNREACH_NLRI of a negotiated family without prefixes, alone. IPv4's is taken in that
    /// form, too. A message that is empty because something in it was discarded is no mark.
    pub end_of_rib: Option<Family>,
}

impl ReceivedUpdate {
    /// Whether announced routes were turned into withdrawn ones.
    #[must_use]
    pub fn is_treated_as_withdraw(&self) -> bool {
        self.faults.iter().any(|fault| fault.action == Action::TreatAsWithdraw)
    }
}

impl Update {
    /// The End-of-RIB mark of a family (B19, RFC 4724 2).
    #[must_use]
    pub fn end_of_rib(family: Family) -> Self {
        let mp_unreach = match family {
            Family::Ipv4Unicast => None,
            Family::Ipv6Unicast => Some(MpUnreach { family, prefixes: Vec::new() }),
        };
        Self { mp_unreach, ..Self::default() }
    }

    /// All withdrawn prefixes that are not announced by the same message (B20).
    pub fn withdrawals(&self) -> impl Iterator<Item = IpNet> {
        let mp = self.mp_unreach.iter().flat_map(|unreach| &unreach.prefixes);
        let any = !self.withdrawn.is_empty() || self.mp_unreach.is_some();
        let announced: std::collections::HashSet<IpNet> =
            self.announcements().filter(|_| any).map(|(prefix, _)| prefix).collect();
        self.withdrawn.iter().chain(mp).copied().filter(move |prefix| !announced.contains(prefix))
    }

    /// All announced prefixes with their next hops.
    pub fn announcements(&self) -> impl Iterator<Item = (IpNet, NextHop)> {
        let mp = self.mp_reach.iter();
        let mp = mp.flat_map(|reach| reach.prefixes.iter().map(|prefix| (*prefix, reach.next_hop)));
        let next_hop = self.next_hop.map(NextHop::V4);
        let nlri = next_hop.into_iter().flat_map(|hop| self.nlri.iter().map(move |p| (*p, hop)));
        mp.chain(nlri)
    }

    /// Withdrawn routes, attributes with MP_REACH first (B12, RFC 7606 5.1), NLRI.
    pub(crate) fn encode_body(&self, params: &Params, out: &mut BytesMut) {
        put_field(out, |field| {
            self.withdrawn.iter().for_each(|prefix| prefix::encode(prefix, field));
        });
        put_field(out, |field| {
            self.mp_reach.iter().for_each(|reach| reach.encode(field));
            self.mp_unreach.iter().for_each(|unreach| unreach.encode(field));
            attribute::encode_all(&self.attributes, self.next_hop.map(NextHop::V4), params, field);
        });
        self.nlri.iter().for_each(|prefix| prefix::encode(prefix, out));
    }
}

/// A field after its two-octet length.
fn put_field(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let mut field = BytesMut::new();
    fill(&mut field);
    // A field that is longer makes the message too long, which is an error there.
    out.put_u16(u16::try_from(field.len()).unwrap_or(u16::MAX));
    out.put(field);
}

/// # Errors
/// A NOTIFICATION where RFC 7606 keeps the session reset.
pub(crate) fn decode(body: &[u8], params: &Params) -> Result<ReceivedUpdate, Notification> {
    let malformed = |Short| Notification::new(Code::MALFORMED_ATTRIBUTES);
    let mut reader = Reader::new(body);
    let length = reader.u16().map_err(malformed)?;
    let withdrawn = reader.part(usize::from(length)).map_err(malformed)?;
    let length = reader.u16().map_err(malformed)?;
    let field = reader.take(usize::from(length)).map_err(malformed)?;
    let bad_network = |Short| Notification::new(Code::INVALID_NETWORK);
    let withdrawn = prefix::decode_all(Family::Ipv4Unicast, withdrawn).map_err(bad_network)?;
    let nlri = prefix::decode_all(Family::Ipv4Unicast, reader).map_err(bad_network)?;
    let mut parsed = attribute::decode_all(field, params)?;
    let end_of_rib = match &parsed.mp_unreach {
        _ if parsed.has_others || !parsed.faults.is_empty() => None,
        _ if !withdrawn.is_empty() || !nlri.is_empty() => None,
        Some(unreach) => unreach.prefixes.is_empty().then_some(unreach.family),
        None => Some(Family::Ipv4Unicast).filter(|family| params.families.contains(*family)),
    };
    // Routes of a family that was not negotiated are passed over, but they are routes.
    let of_other_family = parsed
        .faults
        .iter()
        .any(|fault| (fault.attribute, fault.reason) == (code::MP_REACH, Reason::NotNegotiated));
    let has_routes = !nlri.is_empty() || parsed.mp_reach.is_some();
    if has_routes {
        let missing = [
            (parsed.attributes.origin.is_none(), code::ORIGIN),
            (parsed.attributes.as_path.is_none(), code::AS_PATH),
            (parsed.next_hop.is_none() && !nlri.is_empty(), code::NEXT_HOP),
        ];
        for (_, attribute) in missing.into_iter().filter(|(missing, _)| *missing) {
            // One that was there and is malformed has its fault already.
            if !parsed.faults.iter().any(|fault| fault.attribute == attribute) {
                parsed.faults.push(Fault::new(
                    attribute,
                    Action::TreatAsWithdraw,
                    Reason::Missing,
                    &[],
                ));
            }
        }
    }
    let received = ReceivedUpdate {
        update: Update {
            withdrawn,
            mp_unreach: parsed.mp_unreach,
            mp_reach: parsed.mp_reach,
            next_hop: parsed.next_hop,
            attributes: parsed.attributes,
            nlri,
        },
        faults: parsed.faults,
        end_of_rib,
    };
    if !received.is_treated_as_withdraw() {
        return Ok(received);
    }
    if parsed.has_others && !has_routes && !of_other_family {
        // Nothing that could be withdrawn (RFC 7606 5.2).
        return Err(Notification::new(Code::MALFORMED_ATTRIBUTES));
    }
    Ok(ReceivedUpdate { update: as_withdrawal(received.update), ..received })
}

fn as_withdrawal(update: Update) -> Update {
    let Update { mut withdrawn, mp_unreach, mp_reach, nlri, .. } = update;
    withdrawn.extend(nlri);
    let mp_unreach = match (mp_unreach, mp_reach) {
        (Some(mut unreach), Some(reach)) if unreach.family == reach.family => {
            unreach.prefixes.extend(reach.prefixes);
            Some(unreach)
        }
        (Some(unreach), Some(reach)) => {
            // Two families, and one MP_UNREACH to hold them: IPv4 fits the withdrawn field too.
            let (v4, v6) = match unreach.family {
                Family::Ipv4Unicast => (unreach.prefixes, reach.prefixes),
                Family::Ipv6Unicast => (reach.prefixes, unreach.prefixes),
            };
            withdrawn.extend(v4);
            Some(MpUnreach { family: Family::Ipv6Unicast, prefixes: v6 })
        }
        (unreach, None) => unreach,
        (None, Some(reach)) => Some(MpUnreach { family: reach.family, prefixes: reach.prefixes }),
    };
    Update { withdrawn, mp_unreach, ..Update::default() }
}
