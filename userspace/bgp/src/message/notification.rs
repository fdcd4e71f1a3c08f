//! Owns NOTIFICATION: the codes a session can end with, their data, and shutdown communications
//! (RFC 4271 6, RFC 4486, RFC 9003).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::explain;

/// Error code and subcode as they stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// Error code.
    pub code: u8,
    /// Error subcode, 0 for unspecific.
    pub subcode: u8,
}

macro_rules! codes {
    ($($name:ident = $code:literal / $subcode:literal, $text:literal;)*) => {
        impl Code {
            $(#[doc = concat!(stringify!($code), "/", stringify!($subcode), ": ", $text)]
            pub const $name: Self = Self { code: $code, subcode: $subcode };)*

            /// What the code means, for the operator; unknown ones too.
            #[must_use]
            pub fn text(self) -> &'static str {
                match (self.code, self.subcode) {
                    $(($code, $subcode) => $text,)*
                    (1, _) => "message header error",
                    (2, _) => "OPEN error",
                    (3, _) => "UPDATE error",
                    (5, _) => "state machine error",
                    (6, _) => "cease",
                    (7, _) => "ROUTE-REFRESH error",
                    _ => "unknown error",
                }
            }
        }
    };
}

codes! {
    NOT_SYNCHRONIZED = 1 / 1, "marker is not all ones";
    BAD_LENGTH = 1 / 2, "bad message length";
    BAD_TYPE = 1 / 3, "unknown message type";
    OPEN_ERROR = 2 / 0, "malformed OPEN";
    UNSUPPORTED_VERSION = 2 / 1, "unsupported version";
    BAD_PEER_AS = 2 / 2, "bad peer AS";
    BAD_BGP_ID = 2 / 3, "bad BGP identifier";
    UNSUPPORTED_PARAMETER = 2 / 4, "unsupported optional parameter";
    BAD_HOLD_TIME = 2 / 6, "unacceptable hold time";
    UNSUPPORTED_CAPABILITY = 2 / 7, "required capability missing";
    ROLE_MISMATCH = 2 / 11, "role mismatch";
    MALFORMED_ATTRIBUTES = 3 / 1, "malformed attribute list";
    UNKNOWN_WELL_KNOWN = 3 / 2, "unrecognised well-known attribute";
    MISSING_WELL_KNOWN = 3 / 3, "missing well-known attribute";
    OPTIONAL_ATTRIBUTE = 3 / 9, "optional attribute error";
    INVALID_NETWORK = 3 / 10, "invalid network field";
    HOLD_EXPIRED = 4 / 0, "hold timer expired";
    UNEXPECTED_IN_OPEN_SENT = 5 / 1, "unexpected message in OpenSent";
    UNEXPECTED_IN_OPEN_CONFIRM = 5 / 2, "unexpected message in OpenConfirm";
    UNEXPECTED_IN_ESTABLISHED = 5 / 3, "unexpected message in Established";
    MAX_PREFIXES = 6 / 1, "too many prefixes";
    SHUTDOWN = 6 / 2, "administrative shutdown";
    DECONFIGURED = 6 / 3, "peer deconfigured";
    RESET = 6 / 4, "administrative reset";
    REJECTED = 6 / 5, "connection rejected";
    CONFIG_CHANGE = 6 / 6, "configuration changed";
    COLLISION = 6 / 7, "connection collision";
    OUT_OF_RESOURCES = 6 / 8, "out of resources";
    HARD_RESET = 6 / 9, "hard reset";
    BFD_DOWN = 6 / 10, "BFD session down";
    REFRESH_LENGTH = 7 / 1, "bad ROUTE-REFRESH length";
    SEND_HOLD_EXPIRED = 8 / 0, "send hold timer expired";
}

impl Code {
    /// Whether it is meant to end a session for longer, so that routes must not stay: RFC 8538 5.1
    /// has a hard reset for these, and RFC 9384 leaves the choice for BFD, which is there for routes to
    /// go at once.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::MAX_PREFIXES | Self::SHUTDOWN | Self::DECONFIGURED | Self::BFD_DOWN)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.code, self.subcode, self.text())
    }
}

/// The message that ends a session. Shown with what its data says, in hex where that is unknown;
/// what the peer wrote is escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// What is wrong.
    pub code: Code,
    /// Data as the code defines it.
    pub data: Bytes,
}

impl Notification {
    /// A notification without data.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, data: Bytes::new() }
    }

    /// A notification with data.
    #[must_use]
    pub fn with_data(code: Code, data: &[u8]) -> Self {
        Self { code, data: Bytes::copy_from_slice(data) }
    }

    /// A shutdown communication (RFC 9003): UTF-8 text cut at a character to at most 255 octets,
    /// after its length. Meant for [`Code::SHUTDOWN`] and [`Code::RESET`].
    #[must_use]
    pub fn with_reason(code: Code, reason: &str) -> Self {
        let mut end = reason.len().min(255);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let text = reason.get(..end).unwrap_or_default();
        let mut data = BytesMut::with_capacity(1 + end);
        data.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
        data.put_slice(text.as_bytes());
        Self { code, data: data.freeze() }
    }

    /// The shutdown communication of a received 6/2 or 6/4, if there is a well-formed one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        if self.code != Code::SHUTDOWN && self.code != Code::RESET {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        std::str::from_utf8(text.get(..usize::from(*length))?).ok()
    }

    /// The NOTIFICATION within a hard reset (RFC 8538 3.1), if this is one that has it.
    #[must_use]
    pub fn inner(&self) -> Option<Self> {
        match (self.code, self.data.as_ref()) {
            (Code::HARD_RESET, [code, subcode, ..]) => {
                let code = Code { code: *code, subcode: *subcode };
                Some(Self { code, data: self.data.slice(2..) })
            }
            _ => None,
        }
    }

    /// The hard reset that says this (RFC 8538 3.1): a peer that takes NOTIFICATIONs gracefully drops
    /// our routes at once.
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let data = [&[self.code.code, self.code.subcode], &self.data[..]].concat();
        Self { code: Code::HARD_RESET, data: data.into() }
    }

    pub(crate) fn encode_body(&self, out: &mut BytesMut) {
        out.put_u8(self.code.code);
        out.put_u8(self.code.subcode);
        out.put_slice(&self.data);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NOTIFICATION ")?;
        explain::explain(self, f)
    }
}

impl std::error::Error for Notification {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b9_a_shutdown_reason_is_cut_at_a_character() {
        let notification = Notification::with_reason(Code::SHUTDOWN, &"é".repeat(200));
        assert_eq!(notification.data.len(), 255);
        assert_eq!(notification.reason(), Some("é".repeat(127).as_str()));
        assert_eq!(Notification::with_data(Code::SHUTDOWN, &[9, b'x']).reason(), None);
        assert_eq!(Notification::with_data(Code::SHUTDOWN, &[1, 0xff]).reason(), None);
        assert_eq!(Notification::with_reason(Code::COLLISION, "x").reason(), None);
    }

    #[test]
    fn b9_unknown_subcodes_have_a_text() {
        assert_eq!(Code { code: 6, subcode: 77 }.to_string(), "6/77 (cease)");
        assert_eq!(Code { code: 99, subcode: 1 }.to_string(), "99/1 (unknown error)");
        let hard = Notification::with_data(Code::HARD_RESET, &[6, 2]);
        assert_eq!(hard.inner(), Some(Notification::new(Code::SHUTDOWN)));
        let wrapped = Notification::with_reason(Code::SHUTDOWN, "bye").into_hard_reset();
        assert_eq!(&wrapped.data[..], b"\x06\x02\x03bye");
        assert_eq!(wrapped.inner(), Some(Notification::with_reason(Code::SHUTDOWN, "bye")));
        assert_eq!(Notification::new(Code::HARD_RESET).inner(), None);
    }
}
