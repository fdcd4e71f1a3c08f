//! Owns messages: framing, and what octets become which message (RFC 4271 4).
//!
//! [`next_frame`] cuts messages off a stream; [`decode`] reads one, [`Message::encode`] and
//! [`Update::announce`] write them.

mod capability;
mod explain;
mod mp;
mod notification;
mod open;
mod pack;
mod refresh;
mod update;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use capability::{Capability, GracefulRestart, RestartFamily};
pub use mp::{MpReach, MpUnreach};
pub use notification::{Code, Notification};
pub use open::{AS_TRANS, Open};
pub use refresh::{Refresh, RefreshKind};
pub use update::{ReceivedUpdate, Update};

use crate::family::Families;

/// Octets of the header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// Longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;
/// Longest message with RFC 8654; never OPEN or KEEPALIVE.
pub const MAX_EXTENDED_LEN: usize = 65535;

/// What the codec has to know about a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// Both speak four-octet ASes.
    pub four_octet_as: bool,
    /// Both speak extended messages.
    pub extended_messages: bool,
    /// Both speak enhanced route refresh.
    pub enhanced_refresh: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer is in our AS.
    pub ibgp: bool,
    /// Families both announced.
    pub families: Families,
}

impl Params {
    /// The longest message of the session, in octets.
    #[must_use]
    pub fn max_len(&self) -> usize {
        if self.extended_messages { MAX_EXTENDED_LEN } else { MAX_LEN }
    }
}

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// 1
    Open(Open),
    /// 2
    Update(Box<Update>),
    /// 3
    Notification(Notification),
    /// 4
    Keepalive,
    /// 5
    Refresh(Refresh),
}

/// A message as it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// 1
    Open(Open),
    /// 2
    Update(Box<ReceivedUpdate>),
    /// 3
    Notification(Notification),
    /// 4
    Keepalive,
    /// 5; `None` is one to be ignored.
    Refresh(Option<Refresh>),
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Longer than the session allows.
    #[error("message of {len} octets, the session allows {max}")]
    TooLong {
        /// Octets it would have.
        len: usize,
        /// Octets it may have.
        max: usize,
    },
}

/// A message cut off the stream: type and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type, known to us.
    pub kind: u8,
    /// What follows the header.
    pub body: Bytes,
}

/// Cuts the next whole message off the front of `buffer`; `None` if more octets are needed.
///
/// # Errors
/// 1/1, 1/2 with the length field as data, 1/3 with the type as data. The session is lost then.
pub fn next_frame(buffer: &mut BytesMut, extended: bool) -> Result<Option<Frame>, Notification> {
    let mut header = crate::reader::Reader::new(buffer);
    let (Ok(marker), Ok(length), Ok(kind)) = (header.array::<16>(), header.u16(), header.u8())
    else {
        return Ok(None);
    };
    if marker != [0xff; 16] {
        return Err(Notification::new(Code::NOT_SYNCHRONIZED));
    }
    let len = usize::from(length);
    let max = if extended && !matches!(kind, 1 | 4) { MAX_EXTENDED_LEN } else { MAX_LEN };
    if !(HEADER_LEN..=max).contains(&len) {
        return Err(Notification::with_data(Code::BAD_LENGTH, &length.to_be_bytes()));
    }
    let in_range = match kind {
        1 => len >= 29,
        2 => len >= 23,
        3 => len >= 21,
        4 => len == HEADER_LEN,
        // RFC 7313 5: a wrong length has a NOTIFICATION of its own, or is ignored.
        5 => true,
        _ => return Err(Notification::with_data(Code::BAD_TYPE, &[kind])),
    };
    if !in_range {
        return Err(Notification::with_data(Code::BAD_LENGTH, &length.to_be_bytes()));
    }
    if buffer.len() < len {
        return Ok(None);
    }
    let mut body = buffer.split_to(len);
    body.advance(HEADER_LEN);
    Ok(Some(Frame { kind, body: body.freeze() }))
}

/// Reads the body of a message.
///
/// # Errors
/// The NOTIFICATION that ends the session. Errors that end no session are in [`ReceivedUpdate`].
pub fn decode(frame: &Frame, params: &Params) -> Result<Received, Notification> {
    match frame.kind {
        1 => Open::decode(&frame.body).map(Received::Open),
        2 => update::decode(&frame.body, params).map(|update| Received::Update(Box::new(update))),
        3 => match frame.body.get(..2) {
            Some([code, subcode]) => Ok(Received::Notification(Notification {
                code: Code { code: *code, subcode: *subcode },
                // It is kept for the operator, and must not keep all that was read with it.
                data: Bytes::copy_from_slice(frame.body.get(2..).unwrap_or_default()),
            })),
            _ => Err(Notification::new(Code::BAD_LENGTH)),
        },
        4 => Ok(Received::Keepalive),
        5 => Refresh::decode(&frame.body, params.enhanced_refresh).map(Received::Refresh),
        kind => Err(Notification::with_data(Code::BAD_TYPE, &[kind])),
    }
}

impl Message {
    /// Appends the message with its header.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`]; nothing is written then.
    pub fn encode(&self, params: &Params, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        let kind = match self {
            Self::Open(_) => 1,
            Self::Update(_) => 2,
            Self::Notification(_) => 3,
            Self::Keepalive => 4,
            Self::Refresh(_) => 5,
        };
        out.put_bytes(0xff, 16);
        out.put_u16(0);
        out.put_u8(kind);
        match self {
            Self::Open(open) => open.encode_body(out),
            Self::Update(update) => update.encode_body(params, out),
            Self::Notification(notification) => notification.encode_body(out),
            Self::Keepalive => {}
            Self::Refresh(refresh) => refresh.encode_body(out),
        }
        let len = out.len() - start;
        let max = if matches!(kind, 1 | 4) { MAX_LEN } else { params.max_len() };
        match (u16::try_from(len), out.get_mut(start + 16..start + 18)) {
            (Ok(length), Some(field)) if len <= max => field.copy_from_slice(&length.to_be_bytes()),
            _ => {
                out.truncate(start);
                return Err(EncodeError::TooLong { len, max });
            }
        }
        Ok(())
    }
}
