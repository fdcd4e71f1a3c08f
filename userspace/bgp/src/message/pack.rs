//! Owns packing: many prefixes with one set of attributes into as few UPDATEs as hold them (B21).

use bytes::BytesMut;
use ipnet::IpNet;

use super::{EncodeError, Message, MpReach, MpUnreach, Params, Update};
use crate::attribute::{Attributes, NextHop};
use crate::family::Family;
use crate::prefix;

/// What an MP attribute may grow by when its length takes two octets instead of one.
const LENGTH_GROWTH: usize = 1;

impl Update {
    /// UPDATEs that announce the prefixes, all of one family, each within the session's limit.
    /// IPv4 prefixes with an IPv4 next hop stand in the NLRI field, all others in MP_REACH_NLRI.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if the attributes leave no room for a single prefix.
    pub fn announce(
        family: Family,
        attributes: &Attributes,
        next_hop: NextHop,
        prefixes: &[IpNet],
        params: &Params,
    ) -> Result<Vec<Self>, EncodeError> {
        let build = |prefixes: &[IpNet]| {
            let mut update = Self { attributes: attributes.clone(), ..Self::default() };
            match (family, next_hop) {
                (Family::Ipv4Unicast, NextHop::V4(address)) => {
                    update.next_hop = Some(address);
                    update.nlri = prefixes.to_vec();
                }
                _ => {
                    update.mp_reach =
                        Some(MpReach { family, next_hop, prefixes: prefixes.to_vec() })
                }
            }
            update
        };
        split(prefixes, params, build)
    }

    /// UPDATEs that withdraw the prefixes, all of one family.
    ///
    /// # Errors
    /// None in practice: a withdrawal of one prefix fits any message.
    pub fn withdraw(
        family: Family,
        prefixes: &[IpNet],
        params: &Params,
    ) -> Result<Vec<Self>, EncodeError> {
        split(prefixes, params, |prefixes| match family {
            Family::Ipv4Unicast => Self { withdrawn: prefixes.to_vec(), ..Self::default() },
            Family::Ipv6Unicast => {
                let mp_unreach = Some(MpUnreach { family, prefixes: prefixes.to_vec() });
                Self { mp_unreach, ..Self::default() }
            }
        })
    }
}

/// Fills messages one after the other.
fn split(
    prefixes: &[IpNet],
    params: &Params,
    build: impl Fn(&[IpNet]) -> Update,
) -> Result<Vec<Update>, EncodeError> {
    let max = params.max_len();
    let mut bare = BytesMut::new();
    Message::Update(Box::new(build(&[]))).encode(params, &mut bare)?;
    let fixed = bare.len() + LENGTH_GROWTH;
    let mut messages = Vec::new();
    let mut rest = prefixes;
    while let Some(first) = rest.first() {
        let mut len = fixed + prefix::wire_len(first);
        if len > max {
            return Err(EncodeError::TooLong { len, max });
        }
        let mut count = 1;
        for prefix in rest.iter().skip(1) {
            len += prefix::wire_len(prefix);
            if len > max {
                break;
            }
            count += 1;
        }
        let (part, after) = rest.split_at(count);
        messages.push(build(part));
        rest = after;
    }
    Ok(messages)
}
