//! ICMP and ICMPv6 errors about translated packets: to the sender, about what it sent.

use std::net::IpAddr;

use sluice_abi::Reason;
use sluice_core::host::Host;
use sluice_core::wire::SYN;
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, Net, count, host, nets, run};
use crate::octets::{checksum, fix_header, frame, packet, summed, transport};

/// An error of this type about a packet, sent to who is its source there.
fn error(from: IpAddr, to: IpAddr, kind: u8, about: &[u8]) -> Vec<u8> {
    let quoted = &about[14..transport(about) + 8];
    let mut content = [&[kind, 4, 0, 0, 0, 0, 5, 0xdc], quoted].concat();
    if from.is_ipv4() {
        let sum = checksum(&content);
        content[2..4].copy_from_slice(&sum.to_be_bytes());
        frame(from, to, 1, &content)
    } else {
        summed(from, to, 58, content, 2)
    }
}

/// "Too big" of either family.
fn too_big(net: Net) -> u8 {
    if net.vip.is_ipv4() { 3 } else { 2 }
}

/// The client's first packet to the service, and what became of it.
fn opened(net: Net, flags: Option<u8>) -> (Host, Vec<u8>, Vec<u8>) {
    let mut host = host(net);
    let asked = packet((net.client, 4000), (net.vip, 80), flags);
    let out = run(&mut host, Hook::FromPod, CLIENT_IF, asked.clone());
    assert_eq!(out.action, Action::Peer);
    (host, asked, out.packet.bytes)
}

/// The network part of a packet, without the hop limit's and the sender's checksums.
fn seen(bytes: &[u8]) -> &[u8] {
    &bytes[14..]
}

/// A router on the way to the backend can't pass a packet on: the client learns it of the packet to the
/// service's address, from that router.
#[test]
fn an_error_of_a_router_is_about_what_the_client_sent() {
    for net in nets() {
        for flags in [Some(SYN), None] {
            let (mut host, asked, sent) = opened(net, flags);
            let about = error(net.office, net.client, too_big(net), &sent);
            let out = run(&mut host, Hook::FromNetwork, 3, about);
            assert_eq!(out.action, Action::Peer);
            let mut expected = error(net.office, net.client, too_big(net), &asked);
            // The transport checksum of what is quoted is the backend's; nobody looks at it.
            let quoted = expected.len() - 8;
            let received = &out.packet.bytes;
            if flags.is_none() {
                let check = quoted + 6;
                expected[check..check + 2].copy_from_slice(&received[check..check + 2]);
                let mut content = expected[transport(&expected)..].to_vec();
                content[2..4].fill(0);
                expected = if net.vip.is_ipv4() {
                    let sum = checksum(&content);
                    content[2..4].copy_from_slice(&sum.to_be_bytes());
                    frame(net.office, net.client, 1, &content)
                } else {
                    summed(net.office, net.client, 58, content, 2)
                };
            }
            assert_eq!(seen(received), seen(&expected));
        }
    }
}

/// The backend itself answers with an error: for the client it comes from the service.
#[test]
fn an_error_of_the_backend_comes_from_the_service() {
    for net in nets() {
        let (mut host, _, sent) = opened(net, None);
        let kind = if net.vip.is_ipv4() { 3 } else { 1 };
        let about = error(net.backend, net.client, kind, &sent);
        let out = run(&mut host, Hook::FromPod, BACKEND_IF, about);
        assert_eq!(out.action, Action::Peer);
        let mut bytes = out.packet.bytes;
        let from_service = error(net.vip, net.client, kind, &sent);
        let addresses = if net.vip.is_ipv4() { 26..34 } else { 22..54 };
        assert_eq!(bytes[addresses.clone()], from_service[addresses]);
        let before = bytes.clone();
        fix_header(&mut bytes);
        assert_eq!(bytes, before, "header checksum");
    }
}

/// Errors about packets of no known flow, and other messages, are left alone.
#[test]
fn other_messages_pass_untouched() {
    for net in nets() {
        let (mut host, asked, sent) = opened(net, None);
        let ping = if net.vip.is_ipv4() { 0 } else { 129 };
        let stranger = packet((net.client, 4001), (net.backend, 8080), None);
        let fine = [
            error(net.office, net.client, ping, &sent),
            error(net.office, net.client, too_big(net), &stranger),
            error(net.office, net.client, too_big(net), &asked),
        ];
        for bytes in fine {
            let out = run(&mut host, Hook::FromNetwork, 3, bytes.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes));
        }
        assert_eq!(count(&host, Reason::OtherProtocol), 3);
        let mut cut = error(net.office, net.client, too_big(net), &sent);
        cut.truncate(cut.len() - 9);
        let out = run(&mut host, Hook::FromNetwork, 3, cut.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Pass, cut));
    }
}
