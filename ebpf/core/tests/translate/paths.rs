//! Where packets go, and between which addresses.

use sluice_abi::{Deliver, Reason};
use sluice_core::host::HostPacket;
use sluice_core::wire::{ACK, RST, SYN};
use sluice_core::{Action, Hook, NextHop, process};

use crate::build::{BACKEND_IF, BACKEND_MAC, CLIENT_IF, CLIENT_MAC, count, host, nets, run, words};
use crate::octets::{ends, packet};

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
        last.routes = Some(NextHop { ifindex: 3, address: [9; 4], ipv6: false, mtu: 0 });
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
