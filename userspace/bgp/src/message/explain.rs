//! Owns what a NOTIFICATION's data says, for the operator: shutdown communications (RFC 9003), limits
//! (RFC 4486), capabilities (RFC 5492), and octets in hex where the code defines nothing.

use std::fmt;

use super::capability::Capability;
use super::notification::{Code, Notification};
use crate::family::AfiSafi;
use crate::reader::{Reader, Short};

/// Octets shown in hex.
const OCTETS: usize = 64;
/// Characters shown of a text, escapes counted: it stands in log lines and Events.
const CHARACTERS: usize = 400;
/// Capabilities shown; nobody requires more.
const CAPABILITIES: usize = 8;

/// Code and data, and those within a hard reset. One within another is octets: the peer decides how
/// deep they go.
pub(super) fn explain(notification: &Notification, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(inner) = notification.inner() else { return plain(notification, f) };
    write!(f, "{}: ", notification.code)?;
    plain(&inner, f)
}

fn plain(notification: &Notification, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Notification { code, data } = notification;
    write!(f, "{code}")?;
    if data.is_empty() {
        return Ok(());
    }
    let known = match *code {
        Code::SHUTDOWN | Code::RESET => notification.reason().map(quoted),
        Code::MAX_PREFIXES => limit(data).ok(),
        Code::UNSUPPORTED_CAPABILITY => capabilities(data).ok(),
        _ => None,
    };
    match known {
        Some(text) => write!(f, ": {text}"),
        None => write!(f, ": data {}", hex(data)),
    }
}

/// The peer's words, none of which is a control character here.
fn quoted(text: &str) -> String {
    let escaped: Vec<char> = text.escape_debug().take(CHARACTERS + 1).collect();
    let more = if escaped.len() > CHARACTERS { ".." } else { "" };
    let shown: String = escaped.into_iter().take(CHARACTERS).collect();
    format!("\"{shown}\"{more}")
}

/// RFC 4486 4: AFI, SAFI, upper bound.
fn limit(data: &[u8]) -> Result<String, Short> {
    let mut reader = Reader::new(data);
    let (afi, safi, most) = (reader.u16()?, reader.u8()?, reader.u32()?);
    let rest = reader.is_empty().then_some(()).ok_or(Short);
    rest.map(|()| format!("{}, at most {most}", AfiSafi { afi, safi }))
}

/// RFC 5492 5: those that the sender requires.
fn capabilities(data: &[u8]) -> Result<String, Short> {
    let mut reader = Reader::new(data);
    let mut texts = Vec::new();
    while !reader.is_empty() {
        if texts.len() == CAPABILITIES {
            texts.push("..".to_owned());
            break;
        }
        let (code, length) = (reader.u8()?, reader.u8()?);
        let value = reader.take(usize::from(length))?;
        let what = match Capability::decode(code, value) {
            Capability::Multiprotocol(family) => format!(" ({family})"),
            Capability::RouteRefresh => " (route refresh)".to_owned(),
            Capability::ExtendedNextHop(_) => " (extended next hop)".to_owned(),
            Capability::ExtendedMessages => " (extended messages)".to_owned(),
            Capability::Role(role) => format!(" (role {role})"),
            Capability::GracefulRestart(_) => " (graceful restart)".to_owned(),
            Capability::FourOctetAs(asn) => format!(" (four-octet AS {asn})"),
            Capability::EnhancedRefresh => " (enhanced route refresh)".to_owned(),
            Capability::Fqdn { .. } => " (host name)".to_owned(),
            Capability::Unknown { value, .. } if value.is_empty() => String::new(),
            Capability::Unknown { value, .. } => format!(" ({})", hex_of(&value, 16)),
        };
        texts.push(format!("capability {code}{what}"));
    }
    Ok(texts.join(", "))
}

fn hex(octets: &[u8]) -> String {
    hex_of(octets, OCTETS)
}

fn hex_of(octets: &[u8], most: usize) -> String {
    let shown: String = octets.iter().take(most).map(|octet| format!("{octet:02x}")).collect();
    let more = if octets.len() > most { ".." } else { "" };
    format!("{shown}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b9_data_is_read_where_the_code_says_what_it_is_and_is_hex_else() {
        let with = Notification::with_data;
        let unknown = Code { code: 6, subcode: 77 };
        let rows = [
            (Notification::new(Code::SHUTDOWN), "6/2 (administrative shutdown)"),
            (
                Notification::with_reason(Code::SHUTDOWN, "moving to rack \u{e9}7"),
                "6/2 (administrative shutdown): \"moving to rack \u{e9}7\"",
            ),
            (
                Notification::with_reason(Code::RESET, "a\n\u{1b}[31m\"b\u{202e}"),
                r#"6/4 (administrative reset): "a\n\u{1b}[31m\"b\u{202e}""#,
            ),
            (with(Code::SHUTDOWN, &[2, 0xff, 0xfe]), "6/2 (administrative shutdown): data 02fffe"),
            (with(Code::SHUTDOWN, &[9, b'x']), "6/2 (administrative shutdown): data 0978"),
            (
                with(Code::MAX_PREFIXES, &[0, 2, 1, 0, 0, 3, 0xe8]),
                "6/1 (too many prefixes): ipv6-unicast, at most 1000",
            ),
            (
                with(Code::MAX_PREFIXES, &[0, 25, 70, 0, 0, 0, 9]),
                "6/1 (too many prefixes): AFI 25 SAFI 70, at most 9",
            ),
            (with(Code::MAX_PREFIXES, &[0, 2]), "6/1 (too many prefixes): data 0002"),
            (
                with(
                    Code::UNSUPPORTED_CAPABILITY,
                    &[1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0, 7, 200, 1, 9],
                ),
                "2/7 (required capability missing): capability 1 (ipv6-unicast), capability 65 \
                 (four-octet AS 7), capability 200 (09)",
            ),
            (
                with(Code::UNSUPPORTED_CAPABILITY, &[1, 9]),
                "2/7 (required capability missing): data 0109",
            ),
            (with(Code::UNSUPPORTED_VERSION, &[0, 4]), "2/1 (unsupported version): data 0004"),
            (with(unknown, &[0xab; 70]), &format!("6/77 (cease): data {}..", "ab".repeat(64))),
            (
                Notification::with_reason(Code::SHUTDOWN, "bye").into_hard_reset(),
                "6/9 (hard reset): 6/2 (administrative shutdown): \"bye\"",
            ),
            (with(Code::HARD_RESET, &[6]), "6/9 (hard reset): data 06"),
        ];
        for (notification, text) in rows {
            assert_eq!(notification.to_string(), format!("NOTIFICATION {text}"));
        }
        let long = Notification::with_reason(Code::SHUTDOWN, &"\u{1}".repeat(255)).to_string();
        assert!(long.len() < 500 && long.ends_with("\".."), "{long}");
    }

    #[test]
    fn b9_hard_resets_within_each_other_are_not_followed() {
        let mut nested = Notification::new(Code::SHUTDOWN);
        for _ in 0..3 {
            nested = nested.into_hard_reset();
        }
        let text = "NOTIFICATION 6/9 (hard reset): 6/9 (hard reset): data 06090602";
        assert_eq!(nested.to_string(), text);
    }
}
