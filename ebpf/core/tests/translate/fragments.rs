//! Datagrams in fragments: all go where the first one goes.

use sluice_abi::Reason;
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, NO_ENDPOINT, count, frontend, host, nets, run};
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

/// One whose first fragment has not come by does not go with another datagram's.
#[test]
fn fragments_of_others_have_other_ports() {
    for net in nets() {
        let mut host = host(net);
        let [first, _] = parts((net.client, 4000), (net.vip, 80), 1);
        run(&mut host, Hook::FromPod, CLIENT_IF, first);
        let [_, other_id] = parts((net.client, 4000), (net.vip, 80), 9);
        let [_, other_host] = parts((net.office, 4000), (net.vip, 80), 1);
        for bytes in [other_id, other_host] {
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, bytes).action, Action::Drop);
        }
        assert_eq!(count(&host, Reason::FragmentHeld), 2);
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

/// One that comes before the first is held, and comes in again by its interface when the first does.
#[test]
fn a_fragment_before_the_first_waits_for_it() {
    for net in nets() {
        let mut host = host(net);
        let [first, later] = parts((net.client, 4000), (net.vip, 80), 1);
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, later.clone());
        assert_eq!(out.action, Action::Drop, "its copy is kept");
        assert_eq!(count(&host, Reason::FragmentHeld), 1);
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, first);
        assert_eq!(out.packet.again, [(CLIENT_IF, later.clone())]);
        let again = run(&mut host, Hook::FromPod, CLIENT_IF, later);
        assert_eq!((out.action, again.action), (Action::Peer, Action::Peer));
        let got = joined([out.packet.bytes, again.packet.bytes]);
        assert_eq!(ends(&got), ((net.client, 4000), (net.backend, 8080)));
        assert!(host.node.held4.borrow().is_empty() && host.node.held6.borrow().is_empty());
    }
}

/// What is held of a datagram whose first fragment never came is not another's: identifications come
/// round. So are ports.
#[test]
fn fragments_wait_no_longer_than_five_seconds() {
    for net in nets() {
        let mut host = host(net);
        let [first, later] = parts((net.client, 4000), (net.vip, 80), 1);
        run(&mut host, Hook::FromPod, CLIENT_IF, later.clone());
        host.node.now += 5 * host.node.hz + 1;
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, first);
        assert_eq!((out.action, out.packet.again), (Action::Peer, vec![]));
        host.node.now += 5 * host.node.hz + 1;
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, later);
        assert_eq!((out.action, count(&host, Reason::FragmentHeld)), (Action::Drop, 2));
    }
}

/// Of one datagram eight are held; the ninth is left to the stack, as is what leaves the node.
#[test]
fn what_is_not_held_passes() {
    for net in nets() {
        let mut host = host(net);
        let [_, later] = parts((net.client, 4000), (net.vip, 80), 1);
        for _ in 0..8 {
            run(&mut host, Hook::FromPod, CLIENT_IF, later.clone());
        }
        for hook in [Hook::FromPod, Hook::ToNetwork, Hook::ToPods] {
            let out = run(&mut host, hook, CLIENT_IF, later.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, later.clone()), "{hook:?}");
        }
        assert_eq!(count(&host, Reason::FragmentHeld), 8);
        assert_eq!(count(&host, Reason::Fragment), 3);
    }
}
