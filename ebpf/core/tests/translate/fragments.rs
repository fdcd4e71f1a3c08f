//! Datagrams in fragments: those that follow the first go where it went.

use sluice_abi::Reason;
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, NO_ENDPOINT, Net, count, frontend, host, nets, run};
use crate::octets::{End, ends, fix_header, frame, is_ipv4, udp};

/// A datagram of 1,000 octets cut after its first 512, as two packets of this identification.
fn parts(from: End, to: End, id: u8) -> [Vec<u8>; 2] {
    let whole = udp(from, to, &[b'x'; 992]);
    let at = whole.len() - 1_000;
    let content = &whole[at..];
    [(&content[..512], 0_u16, true), (&content[512..], 512, false)].map(|(part, offset, more)| {
        if from.0.is_ipv4() {
            let mut bytes = frame(from.0, to.0, 17, part);
            let word = (offset / 8) | if more { 0x2000 } else { 0 };
            bytes[18..20].copy_from_slice(&[0, id]);
            bytes[20..22].copy_from_slice(&word.to_be_bytes());
            fix_header(&mut bytes);
            bytes
        } else {
            let word = (offset | u16::from(more)).to_be_bytes();
            let header = [17, 0, word[0], word[1], 0, 0, 0, id];
            frame(from.0, to.0, 44, &[&header[..], part].concat())
        }
    })
}

/// The datagram that two fragments are of; their headers are right, and they go the same way.
fn joined([first, later]: [Vec<u8>; 2]) -> Vec<u8> {
    let v4 = is_ipv4(&first);
    let header = if v4 { 34 } else { 62 };
    let addresses = if v4 { 26..34 } else { 22..54 };
    assert_eq!(first[addresses.clone()], later[addresses.clone()]);
    assert_eq!(first[..12], later[..12]);
    for bytes in [&first, &later] {
        let mut fixed = bytes.clone();
        fix_header(&mut fixed);
        assert_eq!(fixed, *bytes, "header checksum");
    }
    let content = [&first[header..], &later[header..]].concat();
    let address = |range: std::ops::Range<usize>| -> std::net::IpAddr {
        match <[u8; 4]>::try_from(&first[range.clone()]) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 16]>::try_from(&first[range]).unwrap().into(),
        }
    };
    let middle = addresses.start.midpoint(addresses.end);
    frame(address(addresses.start..middle), address(middle..addresses.end), 17, &content)
}

fn pass(
    host: &mut sluice_core::host::Host,
    hook: Hook,
    ifindex: u32,
    parts: [Vec<u8>; 2],
) -> Vec<u8> {
    joined(parts.map(|bytes| {
        let out = run(host, hook, ifindex, bytes);
        assert_eq!(out.action, Action::Peer);
        out.packet.bytes
    }))
}

/// There and back: whole datagrams arrive, with checksums that are right.
#[test]
fn datagrams_in_fragments_arrive_whole() {
    for net in nets() {
        let mut host = host(net);
        let asked = parts((net.client, 4000), (net.vip, 80), 1);
        let got = pass(&mut host, Hook::FromPod, CLIENT_IF, asked);
        assert_eq!(ends(&got), ((net.client, 4000), (net.backend, 8080)));
        let answer = parts((net.backend, 8080), (net.client, 4000), 2);
        let got = pass(&mut host, Hook::FromPod, BACKEND_IF, answer);
        assert_eq!(ends(&got), ((net.vip, 80), (net.client, 4000)));
    }
}

/// One whose first fragment has not come by, or is another datagram's, is left alone and counted.
#[test]
fn fragments_of_unknown_datagrams_pass() {
    for net in nets() {
        let mut host = host(net);
        let [first, _] = parts((net.client, 4000), (net.vip, 80), 1);
        run(&mut host, Hook::FromPod, CLIENT_IF, first);
        let strangers = |net: Net| {
            let [_, other_id] = parts((net.client, 4000), (net.vip, 80), 9);
            let [_, other_host] = parts((net.office, 4000), (net.vip, 80), 1);
            [other_id, other_host]
        };
        for bytes in strangers(net) {
            let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes));
        }
        assert_eq!(count(&host, Reason::Fragment), 2);
    }
}

/// Of a refused datagram the first fragment is answered, the others are not (RFC 1122 section 3.2.2).
#[test]
fn only_the_first_fragment_is_refused() {
    for net in nets() {
        let mut host = host(net);
        frontend(&mut host, net.vip, 17, NO_ENDPOINT);
        let [first, later] = parts((net.client, 4000), (net.vip, 80), 1);
        assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, first).action, Action::Back);
        assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, later).action, Action::Drop);
        assert_eq!((count(&host, Reason::Refused), count(&host, Reason::RefusedSilently)), (1, 1));
    }
}
