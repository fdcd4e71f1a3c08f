//! What a peer sees on the wire: the NOTIFICATION table, the RFC 7606 table, packing, and the
//! codec held to itself and to an oracle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attributes;
mod messages;
mod oracle;
mod packing;
#[path = "../rows/mod.rs"]
mod rows;

use bytes::{BufMut, BytesMut};
use sluice_bgp::{Families, Notification, Params, Received, decode, next_frame};

/// An internal session between four-octet speakers of both families.
fn ibgp() -> Params {
    let families = Families::ALL;
    Params { four_octet_as: true, ibgp: true, families, ..Params::default() }
}

/// The same with an external peer.
fn ebgp() -> Params {
    Params { ibgp: false, ..ibgp() }
}

/// A message of that type with that body.
fn message(kind: u8, body: &[u8]) -> BytesMut {
    let mut octets = BytesMut::new();
    octets.put_bytes(0xff, 16);
    octets.put_u16(u16::try_from(19 + body.len()).unwrap());
    octets.put_u8(kind);
    octets.put_slice(body);
    octets
}

/// Framing and decoding of one whole message.
fn receive(octets: &[u8], params: &Params) -> Result<Received, Notification> {
    let mut buffer = BytesMut::from(octets);
    let frame = next_frame(&mut buffer, params.extended_messages)?.expect("a whole message");
    assert!(buffer.is_empty(), "one message");
    decode(&frame, params)
}

/// The body of an UPDATE.
fn update_body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let field =
        |octets: &[u8]| [&u16::try_from(octets.len()).unwrap().to_be_bytes(), octets].concat();
    [field(withdrawn), field(attributes), nlri.to_vec()].concat()
}
