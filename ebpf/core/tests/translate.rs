//! What happens to packets, on the host build: translation both ways, checksums, flow state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{
    Addr4, Addr6, Backend, BackendState, Deliver, Mac, Reason, Service, ServiceKey, service_flags,
    tcp,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::wire::{ACK, FIN, RST, SYN};
use sluice_core::{Action, Hook, NextHop, process};

const CLIENT_IF: u32 = 7;
const BACKEND_IF: u32 = 8;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The addresses of a test, in one family.
#[derive(Clone, Copy)]
struct Net {
    client: IpAddr,
    backend: IpAddr,
    vip: IpAddr,
    other_vip: IpAddr,
    gateway: IpAddr,
    node: IpAddr,
    office: IpAddr,
}

fn nets() -> [Net; 2] {
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let v6 = |high, low| IpAddr::V6(Ipv6Addr::new(0xfd00, high, 0, 0, 0, 0, 0, low));
    [
        Net {
            client: v4(10, 244, 1, 7),
            backend: v4(10, 244, 1, 8),
            vip: v4(10, 96, 0, 10),
            other_vip: v4(10, 96, 0, 11),
            gateway: v4(10, 244, 1, 1),
            node: v4(192, 168, 77, 11),
            office: v4(192, 168, 88, 2),
        },
        Net {
            client: v6(0x244, 7),
            backend: v6(0x244, 8),
            vip: v6(0x96, 10),
            other_vip: v6(0x96, 11),
            gateway: v6(0x244, 1),
            node: v6(0x77, 11),
            office: v6(0x88, 2),
        },
    ]
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => Addr6::from_octets(v6.octets()).0,
    }
}

/// A node with one pod as client, one as backend of `vip:80` and `other_vip:80`, port 8080.
fn host(net: Net) -> Host {
    let mut host = Host::default();
    for protocol in [6, 17] {
        host.node.backends.push(Backend {
            addr: words(net.backend),
            port_be: 8080_u16.to_be(),
            protocol,
            state: BackendState::Serving as u8,
            generation: 1,
            ifindex: BACKEND_IF,
            mac: Mac::from_octets(BACKEND_MAC),
            deliver: Deliver::Peer as u8,
            ip_version: if net.vip.is_ipv4() { 4 } else { 6 },
            pad: 0,
        });
        let id = u32::try_from(host.node.backends.len() - 1).unwrap();
        host.node.slots.push(id);
        for vip in [net.vip, net.other_vip] {
            frontend(&mut host, vip, protocol, Service { offset: id, len: 1, flags: 0 });
        }
    }
    let config = &mut host.node.config;
    match net.gateway {
        IpAddr::V4(_) => {
            [config.gateway4, ..] = words(net.gateway);
            [config.node4, ..] = words(net.node);
            config.pods4 = [[10, 244, 0, 0], [255, 255, 0, 0]].map(u32::from_ne_bytes);
        }
        IpAddr::V6(_) => {
            config.gateway6 = words(net.gateway);
            config.node6 = words(net.node);
            let mask = u32::from_ne_bytes([255; 4]);
            config.pods6 =
                [words(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0).into()), [mask, 0, 0, 0]];
        }
    }
    config.bridge_ifindex = 5;
    host.node.now = 1_000_000;
    host
}

fn frontend(host: &mut Host, vip: IpAddr, protocol: u8, service: Service) {
    let port_be = 80_u16.to_be();
    match vip {
        IpAddr::V4(v4) => {
            let addr = Addr4::from_octets(v4.octets());
            host.node.services4.insert(ServiceKey { addr, port_be, protocol, pad: 0 }, service);
        }
        IpAddr::V6(v6) => {
            let addr = Addr6::from_octets(v6.octets());
            host.node.services6.insert(ServiceKey { addr, port_be, protocol, pad: 0 }, service);
        }
    }
}

/// A TCP segment with these flags, or a UDP datagram.
fn packet(from: (IpAddr, u16), to: (IpAddr, u16), flags: Option<u8>) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    let check = match flags {
        Some(flags) => {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        None => {
            l4.extend([0, 8 + 5, 0, 0]);
            6
        }
    };
    l4.extend(b"hello");
    let protocol = if flags.is_some() { 6 } else { 17 };
    let mut bytes = Vec::from(GATEWAY_MAC);
    bytes.extend(CLIENT_MAC);
    let pseudo: Vec<u8> = match (from.0, to.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([8, 0, 0x45, 0]);
            let len = u16::try_from(20 + l4.len()).unwrap();
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let sum = checksum(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            [src.octets(), dst.octets()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            [src.octets(), dst.octets()].concat()
        }
        _ => panic!("one family"),
    };
    let sum = transport_checksum(&pseudo, protocol, &l4);
    l4[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(l4);
    bytes
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap())
}

fn transport_checksum(pseudo: &[u8], protocol: u8, l4: &[u8]) -> u16 {
    let len = u32::try_from(l4.len()).unwrap();
    checksum(&[pseudo, &len.to_be_bytes(), &[0, 0, 0, protocol], l4].concat())
}

/// Source and destination of a packet whose checksums are right.
fn ends(bytes: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let (src, dst, pseudo, at): (IpAddr, IpAddr, &[u8], usize) = if bytes[12..14] == [8, 0] {
        assert_eq!(checksum(&bytes[14..34]), 0, "IPv4 header checksum");
        let octets = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        (octets(26).into(), octets(30).into(), &bytes[26..34], 34)
    } else {
        let octets = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        (octets(22).into(), octets(38).into(), &bytes[22..54], 54)
    };
    let protocol = if bytes[12..14] == [8, 0] { bytes[23] } else { bytes[20] };
    assert_eq!(transport_checksum(pseudo, protocol, &bytes[at..]), 0, "transport checksum");
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    ((src, port(at)), (dst, port(at + 2)))
}

struct Run {
    packet: HostPacket,
    action: Action,
    ifindex: u32,
}

fn run(host: &mut Host, hook: Hook, ifindex: u32, bytes: Vec<u8>) -> Run {
    let mut packet = HostPacket::new(bytes, ifindex);
    packet.routes = Some(NextHop { ifindex: 3, address: [9; 4], ipv6: false });
    let action = process(&mut packet, host, hook);
    Run { ifindex: packet.hop.ifindex, packet, action }
}

fn count(host: &Host, reason: Reason) -> u64 {
    host.node.counts.borrow().get(&reason).copied().unwrap_or(0)
}

/// Pod to pod through a ClusterIP, both directions, TCP and UDP, IPv4 and IPv6.
#[test]
fn both_directions_go_straight_into_the_pods() {
    for net in nets() {
        for flags in [Some(SYN), None] {
            let mut host = host(net);
            let out = run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (net.vip, 80), flags),
            );
            assert_eq!((out.action, out.ifindex), (Action::Peer, BACKEND_IF));
            assert_eq!(out.packet.bytes[..6], BACKEND_MAC);
            assert_eq!(ends(&out.packet.bytes), ((net.client, 4000), (net.backend, 8080)));
            let answer = flags.map(|_| SYN | ACK);
            let back = run(
                &mut host,
                Hook::FromPod,
                BACKEND_IF,
                packet((net.backend, 8080), (net.client, 4000), answer),
            );
            assert_eq!((back.action, back.ifindex), (Action::Peer, CLIENT_IF));
            assert_eq!(back.packet.bytes[..6], CLIENT_MAC);
            assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.client, 4000)));
        }
    }
}

/// A backend on another node is routed, with one hop less to live.
#[test]
fn a_remote_backend_is_routed() {
    for net in nets() {
        let mut host = host(net);
        for backend in &mut host.node.backends {
            backend.deliver = Deliver::Route as u8;
        }
        let bytes = packet((net.client, 4000), (net.vip, 80), Some(SYN));
        let ttl = if net.vip.is_ipv4() { 22 } else { 21 };
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes.clone());
        assert_eq!((out.action, out.ifindex), (Action::Neighbour, 3));
        assert_eq!(out.packet.bytes[ttl], 63);
        ends(&out.packet.bytes);
        // At the end of its hops it is left to the stack, which answers.
        let mut last = HostPacket::new(bytes, CLIENT_IF);
        last.bytes[ttl] = 1;
        last.routes = Some(NextHop { ifindex: 3, address: [9; 4], ipv6: false });
        assert_eq!(process(&mut last, &mut host, Hook::FromPod), Action::Pass);
        assert!(last.marked);
        // The reply arrives by the uplink, and goes straight into the pod.
        let back = run(
            &mut host,
            Hook::FromNetwork,
            3,
            packet((net.backend, 8080), (net.client, 4000), Some(SYN | ACK)),
        );
        assert_eq!((back.action, back.ifindex), (Action::Peer, CLIENT_IF));
        assert_eq!(ends(&back.packet.bytes).0, (net.vip, 80));
    }
}

/// R46: a pod that reaches itself is seen as coming from the node's bridge.
#[test]
fn hairpin_is_masqueraded() {
    for net in nets() {
        let mut host = host(net);
        let out = run(
            &mut host,
            Hook::FromPod,
            BACKEND_IF,
            packet((net.backend, 4000), (net.vip, 80), Some(SYN)),
        );
        let (from, to) = ends(&out.packet.bytes);
        assert_eq!((from.0, to), (net.gateway, (net.backend, 8080)));
        assert!((61_000..65_096).contains(&from.1), "reserved port: {}", from.1);
        assert_eq!((out.action, out.ifindex), (Action::Peer, BACKEND_IF));
        let back = run(
            &mut host,
            Hook::FromPod,
            BACKEND_IF,
            packet((net.backend, 8080), from, Some(SYN | ACK)),
        );
        assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.backend, 4000)));
        assert_eq!((back.action, back.ifindex), (Action::Peer, BACKEND_IF));
    }
}

/// Section 4: from outside the pod network, the backend sees the node.
#[test]
fn from_outside_is_masqueraded() {
    for net in nets() {
        let mut host = host(net);
        let out = run(
            &mut host,
            Hook::FromNetwork,
            3,
            packet((net.office, 4000), (net.vip, 80), Some(SYN)),
        );
        let (from, to) = ends(&out.packet.bytes);
        assert_eq!((from.0, to), (net.node, (net.backend, 8080)));
        let back = run(
            &mut host,
            Hook::FromPod,
            BACKEND_IF,
            packet((net.backend, 8080), from, Some(SYN | ACK)),
        );
        assert_eq!((back.action, back.ifindex), (Action::Neighbour, 3));
        assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.office, 4000)));
        // Without an address of its own the node can not stand in.
        host.node.config = sluice_abi::Config::EMPTY;
        host.node.config.pods4 = [1, u32::MAX];
        host.node.config.pods6 = [[1; 4], [u32::MAX; 4]];
        let out = run(
            &mut host,
            Hook::FromNetwork,
            3,
            packet((net.office, 4001), (net.vip, 80), Some(SYN)),
        );
        assert_eq!((out.action, count(&host, Reason::NoNodeAddress)), (Action::Drop, 1));
    }
}

/// One client reaches one backend by two VIPs from one port: the second gets a port of its own
/// (cilium#11810), and each answer goes to its own connection.
#[test]
fn colliding_tuples_are_kept_apart() {
    for net in nets() {
        let mut host = host(net);
        let first = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(SYN)),
        );
        let second = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.other_vip, 80), Some(SYN)),
        );
        let (first, second) = (ends(&first.packet.bytes).0, ends(&second.packet.bytes).0);
        assert_eq!(first, (net.client, 4000));
        assert_eq!(second.0, net.client);
        assert_ne!(second.1, 4000);
        for (seen, vip) in [(first, net.vip), (second, net.other_vip)] {
            let back = run(
                &mut host,
                Hook::FromPod,
                BACKEND_IF,
                packet((net.backend, 8080), seen, Some(ACK)),
            );
            assert_eq!(ends(&back.packet.bytes), ((vip, 80), (net.client, 4000)));
        }
    }
}

/// The same for a direct connection while the service's flow is open; once that is over, a direct
/// connection is left alone.
#[test]
fn a_direct_connection_is_not_taken_for_the_service() {
    for net in nets() {
        let mut host = host(net);
        run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(SYN)),
        );
        let direct = packet((net.client, 4000), (net.backend, 8080), Some(SYN));
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, direct.clone());
        let (from, to) = ends(&out.packet.bytes);
        assert_eq!((from.0, to, out.action), (net.client, (net.backend, 8080), Action::Pass));
        assert_ne!(from.1, 4000);
        let back = run(
            &mut host,
            Hook::FromPod,
            BACKEND_IF,
            packet((net.backend, 8080), from, Some(SYN | ACK)),
        );
        assert_eq!(ends(&back.packet.bytes), ((net.backend, 8080), (net.client, 4000)));
        // The service's connection ends, then the direct one; the next direct one is untouched.
        for (ifindex, bytes) in [
            (CLIENT_IF, packet((net.client, 4000), (net.vip, 80), Some(RST))),
            (BACKEND_IF, packet((net.backend, 8080), from, Some(RST))),
        ] {
            run(&mut host, Hook::FromPod, ifindex, bytes);
        }
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, direct.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Pass, direct));
    }
}

/// TCP towards a service without a flow is dropped unless it opens one (R35).
#[test]
fn only_a_syn_opens_a_flow() {
    for net in nets() {
        let mut host = host(net);
        for flags in [ACK, SYN | ACK, RST, FIN | ACK] {
            let out = run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (net.vip, 80), Some(flags)),
            );
            assert_eq!(out.action, Action::Drop, "{flags:#x}");
        }
        assert_eq!(count(&host, Reason::NoFlow), 4);
    }
}

/// R36: a retired backend keeps its TCP connections and gets no new ones. R31: UDP moves at once.
#[test]
fn a_retired_backend_keeps_tcp_and_loses_udp() {
    for net in nets() {
        let mut host = host(net);
        for flags in [Some(SYN), None] {
            run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (net.vip, 80), flags),
            );
        }
        for id in 0..2 {
            let mut moved = host.node.backends[id];
            host.node.backends[id].state = BackendState::Retired as u8;
            moved.port_be = 9090_u16.to_be();
            host.node.backends.push(moved);
            host.node.slots[id] = u32::try_from(id + 2).unwrap();
        }
        let data = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(ACK)),
        );
        assert_eq!(ends(&data.packet.bytes).1, (net.backend, 8080));
        let datagram = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), None),
        );
        assert_eq!(ends(&datagram.packet.bytes).1, (net.backend, 9090));
        let fresh = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4001), (net.vip, 80), Some(SYN)),
        );
        assert_eq!(ends(&fresh.packet.bytes).1, (net.backend, 9090));
    }
}

/// An id that has been given to another endpoint does not draw the old UDP flow to it (cilium#48714).
#[test]
fn a_reused_id_does_not_inherit_udp_flows() {
    for net in nets() {
        let mut host = host(net);
        let datagram = || packet((net.client, 4000), (net.vip, 80), None);
        run(&mut host, Hook::FromPod, CLIENT_IF, datagram());
        host.node.backends[1].generation = 2;
        host.node.backends[1].port_be = 9090_u16.to_be();
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, datagram());
        assert_eq!(ends(&out.packet.bytes).1, (net.backend, 9090));
    }
}

/// A SYN on a closed flow chooses anew (cilium#32472, kubernetes#57841); on an open one it does not.
#[test]
fn a_syn_on_a_closed_flow_starts_anew() {
    for net in nets() {
        let mut host = host(net);
        let syn = || packet((net.client, 4000), (net.vip, 80), Some(SYN));
        let answer = |flags| packet((net.backend, 8080), (net.client, 4000), Some(flags));
        run(&mut host, Hook::FromPod, CLIENT_IF, syn());
        host.node.backends.push(Backend { port_be: 9090_u16.to_be(), ..host.node.backends[0] });
        host.node.slots[0] = 2;
        let again = run(&mut host, Hook::FromPod, CLIENT_IF, syn());
        assert_eq!(ends(&again.packet.bytes).1, (net.backend, 8080), "a retransmission");
        run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(FIN | ACK)),
        );
        run(&mut host, Hook::FromPod, BACKEND_IF, answer(FIN | ACK));
        let last = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(ACK)),
        );
        assert_eq!(ends(&last.packet.bytes).1, (net.backend, 8080), "the last ACK still passes");
        let fresh = run(&mut host, Hook::FromPod, CLIENT_IF, syn());
        assert_eq!(ends(&fresh.packet.bytes).1, (net.backend, 9090));
    }
}

/// Either half makes the other again after an eviction, once a second (cilium#31643).
#[test]
fn traffic_heals_an_evicted_half() {
    for net in nets() {
        for reply_first in [false, true] {
            let mut host = host(net);
            let request = || packet((net.client, 4000), (net.vip, 80), Some(ACK));
            let answer = || packet((net.backend, 8080), (net.client, 4000), Some(ACK));
            run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (net.vip, 80), Some(SYN)),
            );
            host.flows4.0.retain(|_, flow| (flow.flags & 1 == 1) == reply_first);
            host.flows6.0.retain(|_, flow| (flow.flags & 1 == 1) == reply_first);
            host.node.now += 1_001;
            let sides = [(CLIENT_IF, request()), (BACKEND_IF, answer())];
            let order = if reply_first { [1, 0] } else { [0, 1] };
            for side in order {
                let (ifindex, bytes) = sides[side].clone();
                let out = run(&mut host, Hook::FromPod, ifindex, bytes);
                assert_eq!(out.action, Action::Peer);
                assert_eq!(out.ifindex, if side == 0 { BACKEND_IF } else { CLIENT_IF });
            }
        }
    }
}

/// FIN and RST reach both halves, so that either tells whether the flow is over.
#[test]
fn the_end_is_noted_in_both_halves() {
    for net in nets() {
        let mut host = host(net);
        run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(SYN)),
        );
        run(
            &mut host,
            Hook::FromPod,
            BACKEND_IF,
            packet((net.backend, 8080), (net.client, 4000), Some(RST)),
        );
        let states: Vec<u8> = host
            .flows4
            .0
            .values()
            .map(|flow| flow.state)
            .chain(host.flows6.0.values().map(|flow| flow.state))
            .collect();
        assert_eq!(states.len(), 2);
        assert!(states.iter().all(|state| tcp::closed(*state)), "{states:?}");
    }
}

/// An idle UDP flow is over though user space has not swept it yet.
#[test]
fn an_idle_udp_flow_chooses_anew() {
    for net in nets() {
        let mut host = host(net);
        let datagram = || packet((net.client, 4000), (net.vip, 80), None);
        run(&mut host, Hook::FromPod, CLIENT_IF, datagram());
        host.node.backends.push(Backend { port_be: 9090_u16.to_be(), ..host.node.backends[1] });
        host.node.slots[1] = 2;
        host.node.now += 119_000;
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, datagram());
        assert_eq!(ends(&out.packet.bytes).1, (net.backend, 8080));
        host.node.now += 121_000;
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, datagram());
        assert_eq!(ends(&out.packet.bytes).1, (net.backend, 9090));
    }
}

/// Egress of the bridge: only replies are translated, and they go on their way.
#[test]
fn replies_of_the_node_itself_are_translated_at_the_bridge() {
    for net in nets() {
        let mut host = host(net);
        for backend in &mut host.node.backends {
            (backend.addr, backend.deliver) = (words(net.node), Deliver::Stack as u8);
        }
        let out = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), Some(SYN)),
        );
        assert_eq!((out.action, out.packet.marked), (Action::Pass, true));
        let back = run(
            &mut host,
            Hook::ToPods,
            5,
            packet((net.node, 8080), (net.client, 4000), Some(SYN | ACK)),
        );
        assert_eq!(back.action, Action::Pass);
        assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.client, 4000)));
        let bytes = packet((net.node, 4000), (net.vip, 80), Some(SYN));
        let other = run(&mut host, Hook::ToPods, 5, bytes.clone());
        assert_eq!((other.action, other.packet.bytes), (Action::Pass, bytes));
    }
}

/// A frontend without endpoints, a slot that leads nowhere: counted drops, nothing remembered.
#[test]
fn what_cannot_be_served_is_dropped_and_counted() {
    for net in nets() {
        let mut host = host(net);
        frontend(
            &mut host,
            net.vip,
            6,
            Service { offset: 0, len: 0, flags: service_flags::REJECT },
        );
        frontend(&mut host, net.other_vip, 6, Service { offset: 900, len: 1, flags: 0 });
        for vip in [net.vip, net.other_vip] {
            let out = run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (vip, 80), Some(SYN)),
            );
            assert_eq!(out.action, Action::Drop);
        }
        host.node.backends[1].state = BackendState::Free as u8;
        let out = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), None),
        );
        assert_eq!(out.action, Action::Drop);
        assert_eq!((count(&host, Reason::NoEndpoints), count(&host, Reason::StaleSlot)), (1, 2));
        assert!(host.flows4.0.is_empty() && host.flows6.0.is_empty());
    }
}

/// A UDP datagram over IPv4 may come without a checksum (RFC 768), and goes without.
#[test]
fn no_udp_checksum_stays_none() {
    let [net, _] = nets();
    let mut host = host(net);
    let mut bytes = packet((net.client, 4000), (net.vip, 80), None);
    bytes[40..42].copy_from_slice(&[0, 0]);
    let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes);
    assert_eq!(out.action, Action::Peer);
    assert_eq!(out.packet.bytes[40..42], [0, 0]);
}

/// What is not ours is not touched: other protocols, fragments, marked and malformed packets.
#[test]
fn everything_else_passes_untouched() {
    for net in nets() {
        let good = packet((net.client, 4000), (net.vip, 80), Some(SYN));
        let v4 = net.vip.is_ipv4();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let (protocol, version) = if v4 { (23, 0x65) } else { (20, 0x45) };
        let cases = [
            (with(13, 0x42), Reason::NotIp),
            (with(protocol, 1), Reason::OtherProtocol),
            (with(14, version), Reason::Malformed),
            (good[..40].to_vec(), Reason::Malformed),
            (if v4 { with(20, 0x20) } else { with(20, 44) }, Reason::Fragment),
            (packet((net.client, 4000), (net.backend, 80), Some(SYN)), Reason::NotService),
        ];
        for (bytes, reason) in cases {
            let mut host = host(net);
            let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes), "{reason:?}");
            assert_eq!(count(&host, reason), 1, "{reason:?}");
        }
        let mut host = host(net);
        let mut marked = HostPacket { marked: true, ..HostPacket::new(good.clone(), CLIENT_IF) };
        assert_eq!(process(&mut marked, &mut host, Hook::FromPod), Action::Pass);
        assert_eq!(marked.bytes, good);
    }
}
