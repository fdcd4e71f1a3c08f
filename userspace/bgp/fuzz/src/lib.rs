//! What every fuzz target does with octets: decoding never panics, and what was understood is written
//! and understood again as the same. One function per target, called by libFuzzer and by
//! `tests/corpus.rs`.

use bytes::{Bytes, BytesMut};
use sluice_bgp::bfd::Packet;
use sluice_bgp::{Families, Frame, Message, Params, Received, decode, next_frame};

/// The first octet says what the session has negotiated, the rest is a message's body.
fn session(octets: &[u8]) -> Option<(Params, Bytes)> {
    let (bits, body) = octets.split_first()?;
    let params = Params {
        four_octet_as: bits & 1 != 0,
        extended_messages: bits & 2 != 0,
        enhanced_refresh: bits & 4 != 0,
        extended_next_hop: bits & 8 != 0,
        ibgp: bits & 16 != 0,
        families: Families::ALL,
    };
    Some((params, Bytes::copy_from_slice(body)))
}

/// What would be sent to say the same; `None` for what is never sent.
fn again(received: Received) -> Option<Message> {
    match received {
        Received::Open(open) => Some(Message::Open(open)),
        Received::Update(update) => Some(Message::Update(Box::new(update.update))),
        Received::Notification(notification) => Some(Message::Notification(notification)),
        Received::Keepalive => Some(Message::Keepalive),
        Received::Refresh(refresh) => refresh.map(Message::Refresh),
    }
}

/// Writes a message; `None` if it does not fit into the session.
fn encode(message: &Message, params: &Params) -> Option<Vec<u8>> {
    let mut octets = BytesMut::new();
    message.encode(params, &mut octets).ok()?;
    Some(octets.to_vec())
}

fn message(kind: u8, octets: &[u8]) {
    let Some((params, body)) = session(octets) else { return };
    check(&Frame { kind, body }, &params);
}

fn check(frame: &Frame, params: &Params) {
    let Ok(received) = decode(frame, params) else { return };
    if let Received::Notification(notification) = &received {
        let text = notification.to_string();
        assert!(text.len() < 1024 && !text.chars().any(char::is_control), "a line: {text:?}");
    }
    let Some(written) = again(received).and_then(|message| encode(&message, params)) else {
        return;
    };
    let mut inbox = BytesMut::from(&written[..]);
    let frame = next_frame(&mut inbox, params.extended_messages);
    let frame = frame.expect("our own framing").expect("a whole message");
    assert!(inbox.is_empty(), "one message");
    let read = decode(&frame, params).expect("what we write, we read");
    if let Received::Update(update) = &read {
        assert_eq!(update.faults, [], "what we write has no faults");
    }
    let once_more = again(read).and_then(|message| encode(&message, params));
    assert_eq!(once_more, Some(written), "stable");
}

/// OPEN, after an octet of flags.
pub fn open(octets: &[u8]) {
    message(1, octets);
}

/// UPDATE, likewise.
pub fn update(octets: &[u8]) {
    message(2, octets);
}

/// NOTIFICATION, likewise.
pub fn notification(octets: &[u8]) {
    message(3, octets);
}

/// ROUTE-REFRESH, likewise.
pub fn refresh(octets: &[u8]) {
    message(5, octets);
}

/// A stream of messages, headers and all, after an octet of flags.
pub fn frames(octets: &[u8]) {
    let Some((params, body)) = session(octets) else { return };
    let mut inbox = BytesMut::from(&body[..]);
    while let Ok(Some(frame)) = next_frame(&mut inbox, params.extended_messages) {
        check(&frame, &params);
    }
}

/// A BFD control packet.
pub fn bfd(octets: &[u8]) {
    let Ok(packet) = Packet::decode(octets) else { return };
    let written = packet.encode();
    assert_eq!(Packet::decode(&written).ok(), Some(packet), "what we write, we read");
}
