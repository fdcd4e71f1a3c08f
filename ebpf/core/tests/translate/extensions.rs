//! IPv6 extension headers (RFC 8200 section 4): passed over, and left as they are.

use sluice_abi::Reason;
use sluice_core::wire::SYN;
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, NO_ENDPOINT, count, frontend, host, nets, run};
use crate::octets::{checksum, packet};

const HOPS: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

/// An extension header of so many octets, with what routing calls "segments left".
type Extension = (u8, usize, u8);

/// The packet with these headers in front of its transport header.
fn with(mut bytes: Vec<u8>, headers: &[Extension]) -> Vec<u8> {
    for (kind, len, left) in headers.iter().rev() {
        let next = std::mem::replace(&mut bytes[20], *kind);
        let mut header = vec![next, u8::try_from(len / 8 - 1).unwrap(), 0, *left];
        header.resize(*len, 0);
        bytes.splice(54..54, header);
    }
    let len = u16::try_from(bytes.len() - 54).unwrap();
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes
}

const PASSED: [&[Extension]; 5] = [
    &[(HOPS, 8, 0)],
    &[(OPTIONS, 24, 9)],
    &[(ROUTING, 24, 0)],
    &[(HOPS, 8, 0), (OPTIONS, 16, 0), (ROUTING, 24, 0), (OPTIONS, 8, 0)],
    &[(OPTIONS, 256, 0)],
];

#[test]
fn what_stands_behind_is_translated() {
    let [_, net] = nets();
    for (headers, flags) in PASSED.iter().flat_map(|all| [(all, Some(SYN)), (all, None)]) {
        let mut host = host(net);
        let ask = packet((net.client, 4000), (net.vip, 80), flags);
        let plain = run(&mut host.clone(), Hook::FromPod, CLIENT_IF, ask.clone());
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, with(ask, headers));
        assert_eq!(out.action, Action::Peer, "{headers:?}");
        assert_eq!(out.packet.bytes, with(plain.packet.bytes, headers), "{headers:?}");
        let answer = packet((net.backend, 8080), (net.client, 4000), flags.map(|it| it | 0x10));
        let plain = run(&mut host.clone(), Hook::FromPod, BACKEND_IF, answer.clone());
        let out = run(&mut host, Hook::FromPod, BACKEND_IF, with(answer, headers));
        assert_eq!(out.packet.bytes, with(plain.packet.bytes, headers), "{headers:?}");
        assert_ne!(count(&host, Reason::ReplyPeer), 0);
    }
}

/// More than four, more than 256 octets, on the way by another host, or not ours to know.
#[test]
fn what_cannot_be_told_is_left_alone() {
    let [_, net] = nets();
    let left: [&[Extension]; 4] = [
        &[(OPTIONS, 8, 0); 5],
        &[(OPTIONS, 264, 0)],
        &[(ROUTING, 24, 1)],
        &[(AUTHENTICATION, 24, 0)],
    ];
    for headers in left {
        let mut host = host(net);
        let bytes = with(packet((net.client, 4000), (net.vip, 80), Some(SYN)), headers);
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes), "{headers:?}");
        assert_eq!(count(&host, Reason::OtherProtocol), 1, "{headers:?}");
    }
}

/// A refusal quotes up to the ports; with more than thirty-two octets before them there is silence.
#[test]
fn refusals_quote_few_of_them() {
    let [_, net] = nets();
    for (len, answer) in [(8, Action::Back), (32, Action::Back), (40, Action::Drop)] {
        let mut host = host(net);
        frontend(&mut host, net.vip, 17, NO_ENDPOINT);
        let headers: &[Extension] = &[(OPTIONS, len, 0)];
        let bytes = with(packet((net.client, 4000), (net.vip, 80), None), headers);
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes);
        assert_eq!(out.action, answer, "{len}");
        if answer == Action::Back {
            let at = 54;
            let got = &out.packet.bytes;
            let pseudo = [&got[22..54], &u32::try_from(got.len() - at).unwrap().to_be_bytes()];
            let all = [pseudo.concat(), vec![0, 0, 0, 58], got[at..].to_vec()].concat();
            assert_eq!(checksum(&all), 0, "{len}");
        }
    }
}
