//! Owns capabilities (RFC 5492): each one's value on the wire.

use bytes::{BufMut, Bytes, BytesMut};

use crate::family::AfiSafi;
use crate::reader::{Reader, Short};

/// A family in the graceful restart capability (RFC 4724 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RestartFamily {
    /// The family.
    pub afi_safi: AfiSafi,
    /// F bit: the sender kept forwarding while it restarted.
    pub forwarding: bool,
}

/// The graceful restart capability (RFC 4724 3, RFC 8538 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GracefulRestart {
    /// R bit: the sender has just restarted.
    pub restarted: bool,
    /// N bit: graceful also for NOTIFICATION and hold timer (RFC 8538).
    pub notification: bool,
    /// How long to keep the sender's routes, 12 bits.
    pub time_s: u16,
    /// Families that are kept.
    pub families: Vec<RestartFamily>,
}

/// What a speaker says it can do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// 1 (RFC 4760): exchanges this family.
    Multiprotocol(AfiSafi),
    /// 2 (RFC 2918)
    RouteRefresh,
    /// 5 (RFC 8950): NLRI of the family with a next hop of the AFI in second place.
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// 6 (RFC 8654)
    ExtendedMessages,
    /// 9 (RFC 9234): 0 provider, 1 route server, 2 its client, 3 customer, 4 peer.
    Role(u8),
    /// 64 (RFC 4724)
    GracefulRestart(GracefulRestart),
    /// 65 (RFC 6793): the sender's AS in full.
    FourOctetAs(u32),
    /// 70 (RFC 7313)
    EnhancedRefresh,
    /// 73 (draft-walton-bgp-hostname): host and domain, UTF-8 made good where it was not.
    Fqdn {
        /// Host name, at most 126 octets are sent.
        host: String,
        /// Domain, at most 126 octets are sent.
        domain: String,
    },
    /// Any other code, or one of the above that does not parse: to be ignored (B1).
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

impl Capability {
    /// The code of the capability.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessages => 6,
            Self::Role(_) => 9,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::EnhancedRefresh => 70,
            Self::Fqdn { .. } => 73,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Writes code, length and value. A value beyond 255 octets is cut by whole elements.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        match self {
            Self::Multiprotocol(family) => {
                value.put_u16(family.afi);
                value.put_u8(0);
                value.put_u8(family.safi);
            }
            Self::RouteRefresh | Self::ExtendedMessages | Self::EnhancedRefresh => {}
            Self::ExtendedNextHop(list) => {
                for (family, next_hop_afi) in list.iter().take(42) {
                    value.put_u16(family.afi);
                    value.put_u16(u16::from(family.safi));
                    value.put_u16(*next_hop_afi);
                }
            }
            Self::Role(role) => value.put_u8(*role),
            Self::GracefulRestart(restart) => {
                let flags =
                    u16::from(restart.restarted) << 15 | u16::from(restart.notification) << 14;
                value.put_u16(flags | restart.time_s.min(0x0fff));
                for family in restart.families.iter().take(63) {
                    value.put_u16(family.afi_safi.afi);
                    value.put_u8(family.afi_safi.safi);
                    value.put_u8(u8::from(family.forwarding) << 7);
                }
            }
            Self::FourOctetAs(asn) => value.put_u32(*asn),
            Self::Fqdn { host, domain } => {
                put_text(&mut value, host, 126);
                put_text(&mut value, domain, 126);
            }
            Self::Unknown { value: raw, .. } => value.put(raw.slice(..raw.len().min(255))),
        }
        out.put_u8(self.code());
        out.put_u8(u8::try_from(value.len()).unwrap_or(u8::MAX));
        out.put(value);
    }

    /// Reads a value; what does not parse is [`Capability::Unknown`].
    pub(crate) fn decode(code: u8, value: &[u8]) -> Self {
        Self::parse(code, value)
            .unwrap_or_else(|Short| Self::Unknown { code, value: Bytes::copy_from_slice(value) })
    }

    fn parse(code: u8, value: &[u8]) -> Result<Self, Short> {
        let mut reader = Reader::new(value);
        let capability = match code {
            1 => {
                let afi = reader.u16()?;
                reader.u8()?;
                Self::Multiprotocol(AfiSafi { afi, safi: reader.u8()? })
            }
            2 => Self::RouteRefresh,
            5 => {
                let mut list = Vec::new();
                while !reader.is_empty() {
                    let (afi, safi, next_hop) = (reader.u16()?, reader.u16()?, reader.u16()?);
                    let safi = u8::try_from(safi).map_err(|_| Short)?;
                    list.push((AfiSafi { afi, safi }, next_hop));
                }
                Self::ExtendedNextHop(list)
            }
            6 => Self::ExtendedMessages,
            9 => Self::Role(reader.u8()?),
            64 => {
                let head = reader.u16()?;
                let mut families = Vec::new();
                while !reader.is_empty() {
                    let afi_safi = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    families.push(RestartFamily { afi_safi, forwarding: reader.u8()? & 0x80 != 0 });
                }
                Self::GracefulRestart(GracefulRestart {
                    restarted: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    time_s: head & 0x0fff,
                    families,
                })
            }
            65 => Self::FourOctetAs(reader.u32()?),
            70 => Self::EnhancedRefresh,
            73 => {
                let (host, domain) = (get_text(&mut reader)?, get_text(&mut reader)?);
                if host.len() > 126 || domain.len() > 126 {
                    return Err(Short);
                }
                Self::Fqdn { host, domain }
            }
            _ => return Err(Short),
        };
        if reader.is_empty() { Ok(capability) } else { Err(Short) }
    }
}

/// Length and text, cut at a character so that both names fit into one capability.
fn put_text(out: &mut BytesMut, text: &str, max: usize) {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(u8::try_from(end).unwrap_or_default());
    out.put_slice(text.as_bytes().get(..end).unwrap_or_default());
}

fn get_text(reader: &mut Reader<'_>) -> Result<String, Short> {
    let length = reader.u8()?;
    let text = reader.take(usize::from(length))?;
    Ok(String::from_utf8_lossy(text).into_owned())
}
