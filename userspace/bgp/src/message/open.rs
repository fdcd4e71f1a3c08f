//! Owns OPEN (RFC 4271 4.2) and its optional parameters (RFC 5492, RFC 9072).
//!
//! Checks here need nothing but the octets; those that need the configuration (peer AS, equal
//! identifiers, required capabilities) are the state machine's.

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use super::capability::Capability;
use super::notification::{Code, Notification};
use crate::reader::{Reader, Short};

/// Stands for an AS that does not fit two octets (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// An OPEN message of version 4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    /// The two-octet field; [`AS_TRANS`] if the AS is larger. See [`Open::asn`].
    pub my_as: u16,
    /// Proposed hold time in seconds: 0, or 3 and more.
    pub hold_time_s: u16,
    /// BGP identifier, not zero.
    pub bgp_id: Ipv4Addr,
    /// Capabilities in the order given, of all capability parameters.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The sender's AS: capability 65 where it stands, else the two-octet field.
    #[must_use]
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.my_as))
    }

    /// The value of capability 65, if announced.
    #[must_use]
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// All capabilities in one parameter; the extended form (RFC 9072) only if they need it.
    pub(crate) fn encode_body(&self, out: &mut BytesMut) {
        let mut capabilities = BytesMut::new();
        self.capabilities.iter().for_each(|capability| capability.encode(&mut capabilities));
        out.put_u8(4);
        out.put_u16(self.my_as);
        out.put_u16(self.hold_time_s);
        out.put_u32(self.bgp_id.to_bits());
        let length = capabilities.len();
        if length == 0 {
            out.put_u8(0);
        } else if let (Ok(all), Ok(one)) = (u8::try_from(length + 2), u8::try_from(length)) {
            out.put_slice(&[all, 2, one]);
        } else {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            out.put_slice(&[255, 255]);
            out.put_u16(length.saturating_add(3));
            out.put_u8(2);
            out.put_u16(length);
        }
        out.put(capabilities);
    }

    /// # Errors
    /// The NOTIFICATION of the first field that is wrong, in the order of RFC 4271 6.2.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let malformed = |Short| Notification::new(Code::OPEN_ERROR);
        let mut reader = Reader::new(body);
        if reader.u8().map_err(malformed)? != 4 {
            // Data is the largest version we speak.
            return Err(Notification::with_data(Code::UNSUPPORTED_VERSION, &[0, 4]));
        }
        let my_as = reader.u16().map_err(malformed)?;
        let hold_time_s = reader.u16().map_err(malformed)?;
        let bgp_id = reader.v4().map_err(malformed)?;
        let capabilities = decode_parameters(&mut reader)?;
        let open = Self { my_as, hold_time_s, bgp_id, capabilities };
        if my_as == 0 || open.asn() == 0 {
            return Err(Notification::new(Code::BAD_PEER_AS));
        }
        if bgp_id.is_unspecified() {
            return Err(Notification::new(Code::BAD_BGP_ID));
        }
        if matches!(hold_time_s, 1 | 2) {
            return Err(Notification::new(Code::BAD_HOLD_TIME));
        }
        Ok(open)
    }
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = |Short| Notification::new(Code::OPEN_ERROR);
    let short_length = reader.u8().map_err(malformed)?;
    // RFC 9072: the type that follows is 255; the short length should be 255 but any is accepted
    // except 0.
    let extended = short_length != 0 && reader.rest().first() == Some(&255);
    let length = if extended {
        reader.take(1).map_err(malformed)?;
        usize::from(reader.u16().map_err(malformed)?)
    } else {
        usize::from(short_length)
    };
    if length != reader.len() {
        return Err(Notification::new(Code::OPEN_ERROR));
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().map_err(malformed)?;
        let length = if extended { reader.u16() } else { reader.u8().map(u16::from) };
        let mut value = reader.part(usize::from(length.map_err(malformed)?)).map_err(malformed)?;
        if kind != 2 {
            return Err(Notification::new(Code::UNSUPPORTED_PARAMETER));
        }
        while !value.is_empty() {
            let code = value.u8().map_err(malformed)?;
            let length = value.u8().map_err(malformed)?;
            let octets = value.take(usize::from(length)).map_err(malformed)?;
            capabilities.push(Capability::decode(code, octets));
        }
    }
    Ok(capabilities)
}
