//! Owns ROUTE-REFRESH (RFC 2918) with its begin and end marks (RFC 7313).

use bytes::{BufMut, BytesMut};

use super::notification::{Code, Notification};
use crate::family::AfiSafi;
use crate::reader::Reader;

/// What a ROUTE-REFRESH says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshKind {
    /// 0: send me everything again.
    Request,
    /// 1: what follows is everything (BoRR).
    Begin,
    /// 2: that was everything (EoRR).
    End,
}

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refresh {
    /// The routes it is about.
    pub afi_safi: AfiSafi,
    /// What it says.
    pub kind: RefreshKind,
}

impl Refresh {
    pub(crate) fn encode_body(self, out: &mut BytesMut) {
        out.put_u16(self.afi_safi.afi);
        out.put_u8(match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        });
        out.put_u8(self.afi_safi.safi);
    }

    /// `None` is a subtype to be ignored (RFC 7313 5).
    ///
    /// # Errors
    /// 7/1 with the whole message as data, if enhanced refresh was negotiated and the body is not 4 octets long,
    /// whatever its subtype; RFC 7313 5 asks it of the marks. Without enhanced refresh a message of a
    /// wrong length is ignored, a plain request (RFC 2918) as well as a mark.
    pub(crate) fn decode(body: &[u8], enhanced: bool) -> Result<Option<Self>, Notification> {
        let mut reader = Reader::new(body);
        let fields = (reader.u16(), reader.u8(), reader.u8(), reader.is_empty());
        let (Ok(afi), Ok(subtype), Ok(safi), true) = fields else {
            if enhanced {
                return Err(Notification::with_data(Code::REFRESH_LENGTH, &whole(body)));
            }
            return Ok(None);
        };
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            _ => return Ok(None),
        };
        Ok(Some(Self { afi_safi: AfiSafi { afi, safi }, kind }))
    }
}

/// The message as it was received: RFC 7313 5 wants all of it in the NOTIFICATION.
fn whole(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(super::HEADER_LEN + body.len()).unwrap_or(u16::MAX);
    [&[0xff; 16], &len.to_be_bytes()[..], &[5], body].concat()
}
