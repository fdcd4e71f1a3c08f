//! Packets as octets: those that tests send, and what they check of those that come out.

use std::net::IpAddr;

use crate::build::CLIENT_MAC;

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An address and a port.
pub(crate) type End = (IpAddr, u16);

/// A TCP segment with these flags, or a UDP datagram.
pub(crate) fn packet(from: End, to: End, flags: Option<u8>) -> Vec<u8> {
    match flags {
        Some(flags) => tcp(from, to, flags, (1, 2), &[], b"hello"),
        None => udp(from, to, b"hello"),
    }
}

/// A TCP segment; `options` are whole words.
pub(crate) fn tcp(
    from: End,
    to: End,
    flags: u8,
    (seq, ack): (u32, u32),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = ports(from, to);
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    summed(from.0, to.0, 6, segment, 16)
}

pub(crate) fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports(from, to);
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    summed(from.0, to.0, 17, datagram, 6)
}

fn ports(from: End, to: End) -> Vec<u8> {
    [from.1.to_be_bytes(), to.1.to_be_bytes()].concat()
}

/// With the checksum at this offset, over the pseudo header.
pub(crate) fn summed(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    mut content: Vec<u8>,
    check: usize,
) -> Vec<u8> {
    let sum = transport_checksum(&[octets(src), octets(dst)].concat(), protocol, &content);
    content[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    frame(src, dst, protocol, &content)
}

/// Ethernet and IP around this content.
pub(crate) fn frame(src: IpAddr, dst: IpAddr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(GATEWAY_MAC);
    bytes.extend(CLIENT_MAC);
    if src.is_ipv4() {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend(u16::try_from(20 + content.len()).unwrap().to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend([protocol, 64]);
    }
    bytes.extend(octets(src));
    bytes.extend(octets(dst));
    bytes.extend(content);
    fix_header(&mut bytes);
    bytes
}

/// The packet in an Ethernet frame the other way.
pub(crate) fn turned(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..12].rotate_left(6);
    bytes
}

/// Offset of the time to live, or hop limit.
pub(crate) fn hops(bytes: &[u8]) -> usize {
    if is_ipv4(bytes) { 22 } else { 21 }
}

/// Makes the header's own checksum right, where it has one.
pub(crate) fn fix_header(bytes: &mut [u8]) {
    if is_ipv4(bytes) {
        bytes[24..26].fill(0);
        let end = transport(bytes);
        let sum = checksum(&bytes[14..end]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

pub(crate) fn is_ipv4(bytes: &[u8]) -> bool {
    bytes[12..14] == [8, 0]
}

/// Offset of what follows the IP header.
pub(crate) fn transport(bytes: &[u8]) -> usize {
    if is_ipv4(bytes) { 14 + usize::from(bytes[14] & 0x0f) * 4 } else { 54 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap())
}

fn transport_checksum(pseudo: &[u8], protocol: u8, content: &[u8]) -> u16 {
    let len = u32::try_from(content.len()).unwrap();
    checksum(&[pseudo, &len.to_be_bytes(), &[0, 0, 0, protocol], content].concat())
}

/// Source and destination of a TCP or UDP packet whose checksums are right.
pub(crate) fn ends(bytes: &[u8]) -> (End, End) {
    let at = transport(bytes);
    let (pseudo, protocol) =
        if is_ipv4(bytes) { (&bytes[26..34], bytes[23]) } else { (&bytes[22..54], bytes[20]) };
    assert_eq!(transport_checksum(pseudo, protocol, &bytes[at..]), 0, "transport checksum");
    ends_unchecked(bytes)
}

/// Source and destination of a packet with ports, whose IPv4 header is right.
pub(crate) fn ends_unchecked(bytes: &[u8]) -> (End, End) {
    let at = transport(bytes);
    let (src, dst): (IpAddr, IpAddr) = if is_ipv4(bytes) {
        assert_eq!(checksum(&bytes[14..at]), 0, "IPv4 header checksum");
        let octets = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        (octets(26).into(), octets(30).into())
    } else {
        let octets = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        (octets(22).into(), octets(38).into())
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    ((src, port(at)), (dst, port(at + 2)))
}
