//! Refusals, octet by octet: what a client gets where nothing answers (R14, R15).

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use sluice_abi::{Deliver, MAX_REFUSALS, Reason};
use sluice_core::host::{Host, HostPacket};
use sluice_core::wire::{ACK, FIN, RST, SYN};
use sluice_core::{Action, Hook, LOOPBACK, NextHop, process};

use crate::build::{
    CLIENT_IF, NO_ENDPOINT, Net, count, frontend, host, known, nets, run, service_range,
};
use crate::octets::{
    checksum, ends, fix_header, frame, hops, packet, summed, tcp, transport, turned, udp,
};

/// Where a refusal goes straight back to who is refused.
const HOOKS: [Hook; 3] = [Hook::FromPod, Hook::FromNetwork, Hook::ToNetwork];
/// CWR and ECE, as a SYN has them that asks for ECN.
const ECN: u8 = 0xc0;

/// A node whose service has no endpoint at `vip:80`, and no other port.
fn deserted(net: Net) -> Host {
    let mut host = host(net);
    service_range(&mut host);
    known(&mut host, net.vip);
    for protocol in [6, 17] {
        frontend(&mut host, net.vip, protocol, NO_ENDPOINT);
    }
    host
}

/// Protocol number of GRE, and of ICMP with the type of an echo request.
const GRE: u8 = 47;
fn echo_request(v4: bool) -> (u8, u8) {
    if v4 { (1, 8) } else { (58, 128) }
}

/// An ICMP message of this type with six octets of content.
fn icmp(net: Net, kind: u8) -> Vec<u8> {
    let content = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g', b'!', b'?'];
    if net.vip.is_ipv4() {
        let mut content = content;
        let sum = checksum(&content);
        content[2..4].copy_from_slice(&sum.to_be_bytes());
        frame(net.client, net.vip, 1, &content)
    } else {
        summed(net.client, net.vip, 58, content, 2)
    }
}

/// The error that answers a packet: "port unreachable", about its header and what stands behind.
fn unreachable(net: Net, refused: &[u8]) -> Vec<u8> {
    let kind = if net.vip.is_ipv4() { (3, 3) } else { (1, 4) };
    error((net.vip, net.client), kind, 0, refused)
}

/// What an error quotes of a transport header: all of TCP's, eight octets of others. Its checksum is one
/// that completing does not change.
fn quoted(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let (length, check) = match protocol {
        6 => (20, 16),
        17 => (8, 6),
        _ => return transport[..8].to_vec(),
    };
    let mut quoted = transport[..length].to_vec();
    quoted[check..check + 2].fill(0);
    let settled = checksum(&quoted).rotate_right(1);
    quoted[check..check + 2].copy_from_slice(&settled.to_be_bytes());
    assert_eq!(checksum(&quoted) % 0xffff, settled % 0xffff, "completed it is the same");
    quoted
}

/// An error of a type and code between two addresses, about a packet's header and what it quotes.
fn error((from, to): (IpAddr, IpAddr), kind: (u8, u8), mtu: u16, packet: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let header = [kind.0, kind.1, 0, 0, 0, 0, high, low];
    let at = transport(packet);
    let protocol = packet[if from.is_ipv4() { 23 } else { 20 }];
    let mut content = [&header, &packet[14..at], &quoted(protocol, &packet[at..])].concat();
    if from.is_ipv6() {
        return turned(summed(from, to, 58, content, 2));
    }
    let sum = checksum(&content);
    content[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = turned(frame(from, to, 1, &content));
    // Precedence "internetwork control" (RFC 1812 section 4.3.2.5), no identification, may be
    // fragmented.
    bytes[15] = 0xc0;
    bytes[18..22].fill(0);
    fix_header(&mut bytes);
    bytes
}

/// A packet three hops before its end, which shows whether its answer has all of them before it.
fn old(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = hops(&bytes);
    bytes[at] = 3;
    fix_header(&mut bytes);
    bytes
}

/// A SYN comes back as the reset of its own connection, its options and content still on it.
#[test]
fn tcp_gets_a_reset() {
    let options: &[u8] = &[2, 4, 0x05, 0xb4, 4, 2, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0];
    for (net, hook) in nets().into_iter().flat_map(|net| HOOKS.map(|hook| (net, hook))) {
        for (options, payload) in [(&[][..], &b""[..]), (options, b""), (options, b"early")] {
            for (seq, ack) in [(0x0102_0304, 0x0102_0305), (u32::MAX, 0), (0xffff, 0x1_0000)] {
                let (from, to) = ((net.client, 4000), (net.vip, 80));
                let syn = old(tcp(from, to, SYN | ECN, (seq, 0xdead_beef), options, payload));
                let mut host = deserted(net);
                let out = run(&mut host, hook, CLIENT_IF, syn);
                let reset = turned(tcp(to, from, RST | ACK, (0, ack), options, payload));
                assert_eq!((out.action, out.packet.bytes), (Action::Back, reset), "{hook:?}");
                assert_eq!(count(&host, Reason::Refused), 1);
                assert!(host.flows4.0.is_empty() && host.flows6.0.is_empty());
            }
        }
    }
}

proptest! {
    /// Whatever the SYN says, the reset's checksum holds.
    #[test]
    fn a_reset_has_the_right_checksum(
        seq: u32,
        ack: u32,
        options in vec(any::<[u8; 4]>(), 0..10),
        payload in vec(any::<u8>(), 0..40),
    ) {
        for net in nets() {
            let (from, to) = ((net.client, 4000), (net.vip, 80));
            let syn = tcp(from, to, SYN, (seq, ack), &options.concat(), &payload);
            let out = run(&mut deserted(net), Hook::FromPod, CLIENT_IF, syn);
            assert_eq!(out.action, Action::Back);
            assert_eq!(ends(&out.packet.bytes), (to, from));
        }
    }
}

/// All other protocols get an ICMP error, even those that are never translated.
#[test]
fn all_else_gets_port_unreachable() {
    for (net, hook) in nets().into_iter().flat_map(|net| HOOKS.map(|hook| (net, hook))) {
        let client = (net.client, 4000);
        let (_, echo) = echo_request(net.vip.is_ipv4());
        let cases = [
            ("no endpoint", udp(client, (net.vip, 80), b"anybody?")),
            ("no content", udp(client, (net.vip, 80), b"")),
            ("no such port", udp(client, (net.vip, 81), b"anybody there at all?")),
            ("echo", icmp(net, echo)),
            ("GRE", frame(net.client, net.vip, GRE, &[0x55; 40])),
        ];
        for (case, bytes) in cases {
            let bytes = old(bytes);
            let mut host = deserted(net);
            let out = run(&mut host, hook, CLIENT_IF, bytes.clone());
            let error = unreachable(net, &bytes);
            assert_eq!((out.action, out.packet.bytes), (Action::Back, error), "{case} {hook:?}");
            assert_eq!(count(&host, Reason::Refused), 1, "{case}");
        }
    }
}

/// An IPv4 header is quoted with its options, of any number; a reset keeps them.
#[test]
fn ipv4_options_are_quoted() {
    let [net, _] = nets();
    let (from, to) = ((net.client, 4000), (net.vip, 80));
    for words in [1_u8, 3, 10] {
        let with_options = |mut bytes: Vec<u8>| {
            bytes.splice(34..34, std::iter::repeat_n(1, usize::from(words) * 4));
            bytes[14] += words;
            bytes[17] += words * 4;
            fix_header(&mut bytes);
            bytes
        };
        let bytes = with_options(udp(from, to, b"anybody?"));
        let out = run(&mut deserted(net), Hook::FromPod, CLIENT_IF, bytes.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Back, unreachable(net, &bytes)));
        let syn = with_options(tcp(from, to, SYN, (7, 0), &[], b"x"));
        let reset = with_options(turned(tcp(to, from, RST | ACK, (0, 8), &[], b"x")));
        let out = run(&mut deserted(net), Hook::FromPod, CLIENT_IF, syn);
        assert_eq!((out.action, out.packet.bytes), (Action::Back, reset));
    }
}

/// An error is not answered with another, nor is what can't be quoted in full.
#[test]
fn errors_and_stumps_get_no_answer() {
    for net in nets() {
        let (protocol, echo) = echo_request(net.vip.is_ipv4());
        let mut silent: Vec<Vec<u8>> =
            (0..=255).filter(|kind| *kind != echo).map(|kind| icmp(net, kind)).collect();
        silent.push(frame(net.client, net.vip, protocol, &[]));
        silent.push(frame(net.client, net.vip, protocol, &[echo, 0, 0, 0, 0, 0, 0]));
        silent.push(frame(net.client, net.vip, GRE, &[0; 7]));
        let mut host = deserted(net);
        let number = u64::try_from(silent.len()).unwrap();
        for bytes in silent {
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, bytes).action, Action::Drop);
        }
        assert_eq!(count(&host, Reason::RefusedSilently), number);
        assert_eq!(count(&host, Reason::Refused), 0);
    }
}

/// Only what would open a connection is refused (R14): the rest of an unknown one gets no reset,
/// which might end one that lives elsewhere.
#[test]
fn other_segments_than_a_syn_are_dropped() {
    for net in nets() {
        let mut host = deserted(net);
        for port in [80, 81] {
            for flags in [ACK, SYN | ACK, RST, FIN | ACK, SYN | RST, 0] {
                let bytes = packet((net.client, 4000), (net.vip, port), Some(flags));
                let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes);
                assert_eq!(out.action, Action::Drop, "{port} {flags:#x}");
            }
        }
        assert_eq!(count(&host, Reason::NoFlow), 12);
    }
}

/// So many refusals a second, then silence until the next.
#[test]
fn refusals_are_rationed() {
    for net in nets() {
        let mut host = deserted(net);
        let ask = |host: &mut Host| {
            let bytes = udp((net.client, 4000), (net.vip, 80), b"");
            run(host, Hook::FromNetwork, 3, bytes).action
        };
        for _ in 0..MAX_REFUSALS {
            assert_eq!(ask(&mut host), Action::Back);
        }
        host.node.now += host.node.hz - 1;
        assert_eq!(ask(&mut host), Action::Drop);
        assert_eq!(ask(&mut host), Action::Drop);
        assert_eq!(count(&host, Reason::RefusedSilently), 2);
        host.node.now += 1;
        assert_eq!(ask(&mut host), Action::Back);
        assert_eq!(count(&host, Reason::Refused), u64::from(MAX_REFUSALS) + 1);
    }
}

/// What is masqueraded would come to the node's stack from its own address, and be dropped there: the
/// program itself says why it goes no further, as a router (RFC 1812 section 5.3.1, RFC 1191, RFC 8201).
#[test]
fn the_sender_of_what_is_masqueraded_learns_why_it_goes_no_further() {
    for net in nets() {
        let v4 = net.vip.is_ipv4();
        let [expired, too_long] = if v4 { [(11, 0), (3, 4)] } else { [(3, 0), (2, 0)] };
        let datagram = udp((net.office, 4000), (net.vip, 80), &[b'x'; 1_400]);
        let segment = tcp((net.office, 4000), (net.vip, 80), SYN, (1, 0), &[], &[b'x'; 1_400]);
        for bytes in [datagram, segment] {
            let mut whole = bytes;
            if v4 {
                // It must not be fragmented.
                whole[20] |= 0x40;
                fix_header(&mut whole);
            }
            let mut last = whole.clone();
            last[hops(&whole)] = 1;
            fix_header(&mut last);
            for (mtu, bytes, kind) in [(0, &last, expired), (1_300, &whole, too_long)] {
                let mut host = remote(net);
                let (action, answer) = routed(&mut host, Hook::FromNetwork, bytes, mtu);
                let expected = error((net.node, net.office), kind, mtu, bytes);
                assert_eq!((action, answer), (Action::Back, expected), "{kind:?}");
                assert_eq!(count(&host, Reason::Refused), 1);
            }
            // What fits goes on; that routers might cut it says nothing to a stack that does not take it.
            let (action, _) = routed(&mut remote(net), Hook::FromNetwork, &whole, 1_500);
            assert_eq!(action, Action::Neighbour);
            if v4 {
                whole[20] &= !0x40;
                fix_header(&mut whole);
                let (action, answer) = routed(&mut remote(net), Hook::FromNetwork, &whole, 1_300);
                let expected = error((net.node, net.office), too_long, 1_300, &whole);
                assert_eq!((action, answer), (Action::Back, expected));
            }
        }
        // What keeps its source is the stack's, too, which says so itself.
        let bytes = udp((net.client, 4000), (net.vip, 80), &[b'x'; 1_400]);
        let (action, _) = routed(&mut remote(net), Hook::FromPod, &bytes, 1_300);
        assert_eq!(action, Action::Pass);
    }
}

/// The node's own packets have been routed to the service's address, and some by loopback, which takes
/// longer ones than the way to a backend does.
#[test]
fn the_node_itself_learns_that_its_packet_is_too_long() {
    for net in nets() {
        let kind = if net.vip.is_ipv4() { (3, 4) } else { (2, 0) };
        for (ifindex, deliver, answered) in [
            (3, Deliver::Route, true),
            (LOOPBACK, Deliver::Route, true),
            (LOOPBACK, Deliver::Peer, true),
            (3, Deliver::Peer, false),
        ] {
            let mut host = host(net);
            for backend in &mut host.node.backends {
                backend.deliver = deliver as u8;
            }
            let mut bytes = udp((net.node, 4000), (net.vip, 80), &[b'x'; 1_400]);
            if net.vip.is_ipv4() {
                bytes[20] |= 0x40;
                fix_header(&mut bytes);
            }
            let mut packet = HostPacket { own: true, ..HostPacket::new(bytes.clone(), ifindex) };
            packet.routes = Some(NextHop { ifindex: 3, mtu: 1_300, ..NextHop::default() });
            let action = process(&mut packet, &mut host, Hook::ToNetwork);
            if answered {
                let expected = error((net.vip, net.node), kind, 1_300, &bytes);
                assert_eq!((action, packet.bytes), (Action::Back, expected), "{deliver:?}");
            } else {
                assert_eq!((action, packet.hop.ifindex), (Action::Neighbour, 5), "{deliver:?}");
            }
        }
    }
}

/// A node whose backend is on another.
fn remote(net: Net) -> Host {
    let mut host = host(net);
    for backend in &mut host.node.backends {
        backend.deliver = Deliver::Route as u8;
    }
    host
}

/// A packet whose way takes `mtu` octets (0: any).
fn routed(host: &mut Host, hook: Hook, bytes: &[u8], mtu: u16) -> (Action, Vec<u8>) {
    let mut packet = HostPacket::new(bytes.to_vec(), 3);
    packet.routes = Some(NextHop { ifindex: 3, mtu, ..NextHop::default() });
    let action = process(&mut packet, host, hook);
    (action, packet.bytes)
}
