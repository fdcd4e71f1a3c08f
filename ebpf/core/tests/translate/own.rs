//! What this node's own processes send to services, met at the egress of an uplink or of loopback.

use std::net::IpAddr;

use sluice_abi::{Deliver, Reason, Service, Table, service_flags};
use sluice_core::host::{Host, HostPacket};
use sluice_core::wire::{ACK, SYN};
use sluice_core::{Action, Hook, LOOPBACK, NextHop, process};

use crate::build::{BACKEND_IF, CLIENT_IF, count, frontend, host, nets, run, words};
use crate::octets::{ends, hops, packet};

const UPLINK: u32 = 3;
const BRIDGE: u32 = 5;

/// To a pod of this node it goes by the bridge, to the pod as neighbour, as if it had been routed
/// there; the pod's answer goes up into the stack.
#[test]
fn a_local_pod_is_a_neighbour_on_the_bridge() {
    for net in nets() {
        for flags in [Some(SYN), None] {
            let mut host = host(net);
            let bytes = packet((net.node, 4000), (net.vip, 80), flags);
            let hop = NextHop {
                ifindex: BRIDGE,
                address: words(net.backend),
                ipv6: net.vip.is_ipv6(),
                mtu: 0,
            };
            for _ in 0..2 {
                let out = run(&mut host, Hook::ToNetwork, UPLINK, bytes.clone());
                assert_eq!((out.action, out.packet.hop), (Action::Neighbour, hop));
                assert_eq!(ends(&out.packet.bytes), ((net.node, 4000), (net.backend, 8080)));
                assert!(out.packet.marked, "the bridge's hook lets it pass");
                assert_eq!(out.packet.bytes[hops(&bytes)], 64, "its first hop");
            }
            let answer = packet((net.backend, 8080), (net.node, 4000), flags.map(|_| SYN | ACK));
            let back = run(&mut host, Hook::FromPod, BACKEND_IF, answer);
            assert_eq!((back.action, back.packet.marked), (Action::Pass, true));
            assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.node, 4000)));
        }
    }
}

/// To another node it goes as the routes say for the backend, not for the service.
#[test]
fn a_remote_backend_is_routed() {
    for net in nets() {
        let mut host = host(net);
        for backend in &mut host.node.backends {
            backend.deliver = Deliver::Route as u8;
        }
        let bytes = packet((net.node, 4000), (net.vip, 80), Some(SYN));
        let out = run(&mut host, Hook::ToNetwork, UPLINK, bytes.clone());
        assert_eq!((out.action, out.ifindex), (Action::Neighbour, UPLINK));
        assert_eq!(ends(&out.packet.bytes), ((net.node, 4000), (net.backend, 8080)));
        let answer = packet((net.backend, 8080), (net.node, 4000), Some(SYN | ACK));
        let back = run(&mut host, Hook::FromNetwork, UPLINK, answer);
        assert_eq!((back.action, back.packet.marked), (Action::Pass, true));
        assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), (net.node, 4000)));
        // Where the stack has sent it, to the service's address, nobody waits for it.
        let mut lost = HostPacket { own: true, ..HostPacket::new(bytes, UPLINK) };
        assert_eq!(process(&mut lost, &mut host, Hook::ToNetwork), Action::Drop);
        assert_eq!(count(&host, Reason::NoRoute), 1);
    }
}

/// A service at the node's own address, asked by the node: met at loopback, and its answers come in there.
#[test]
fn the_nodes_own_address_is_served_on_loopback() {
    for net in nets() {
        for remote in [false, true] {
            let mut host = host(net);
            if remote {
                for backend in &mut host.node.backends {
                    backend.deliver = Deliver::Route as u8;
                }
            }
            let cluster = Table { offset: 0, len: 1 };
            let service = Service { cluster, flags: service_flags::EXTERNAL, ..Service::default() };
            frontend(&mut host, net.node, 6, service);
            let client = (net.node, 4000);
            let bytes = packet(client, (net.node, 80), Some(SYN));
            let out = run(&mut host, Hook::ToNetwork, LOOPBACK, bytes);
            let way = if remote { UPLINK } else { BRIDGE };
            assert_eq!((out.action, out.ifindex), (Action::Neighbour, way));
            assert_eq!(ends(&out.packet.bytes), (client, (net.backend, 8080)));

            let (hook, from) =
                if remote { (Hook::FromNetwork, UPLINK) } else { (Hook::FromPod, BACKEND_IF) };
            let answer = packet((net.backend, 8080), client, Some(SYN | ACK));
            let ttl = answer[hops(&answer)];
            let back = run(&mut host, hook, from, answer);
            assert_eq!((back.action, back.ifindex), (Action::Neighbour, LOOPBACK));
            assert_eq!(ends(&back.packet.bytes), ((net.node, 80), client));
            assert_eq!(back.packet.bytes[..6], [0; 6], "loopback's own address");
            assert_eq!(back.packet.bytes[hops(&back.packet.bytes)], ttl, "no router's hop");
        }
    }
}

/// From another address of its own the node is masqueraded: backends answer to the node's address, which
/// no service has.
#[test]
fn another_own_address_is_masqueraded() {
    for net in nets() {
        let mut host = host(net);
        // Bound on the node, too.
        let own = net.other_vip;
        let bytes = packet((own, 4000), (own, 80), Some(SYN));
        let out = run(&mut host, Hook::ToNetwork, LOOPBACK, bytes);
        let (source, to) = ends(&out.packet.bytes);
        assert_eq!((source.0, to), (net.node, (net.backend, 8080)));
        let answer = packet((net.backend, 8080), source, Some(SYN | ACK));
        let back = run(&mut host, Hook::FromPod, BACKEND_IF, answer);
        assert_eq!((back.action, back.ifindex), (Action::Neighbour, LOOPBACK));
        assert_eq!(ends(&back.packet.bytes), ((own, 80), (own, 4000)));
    }
}

/// A connection to the node's own server that is older than the node port of its number goes on.
#[test]
fn an_older_connection_to_a_node_port_is_the_nodes_own() {
    for net in nets() {
        let mut host = host(net);
        let cluster = Table { offset: 0, len: 1 };
        let flags = service_flags::EXTERNAL | service_flags::NODE_PORT;
        frontend(&mut host, net.node, 6, Service { cluster, flags, ..Service::default() });
        for (hook, ifindex, from) in
            [(Hook::FromNetwork, UPLINK, net.office), (Hook::ToNetwork, LOOPBACK, net.node)]
        {
            let bytes = packet((from, 4000), (net.node, 80), Some(ACK));
            let out = run(&mut host, hook, ifindex, bytes.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes));
        }
    }
}

/// An aggregate that is longer than IPv4 can say has length 0 until it is segmented.
#[test]
fn an_aggregate_without_a_length_is_translated() {
    let [net, _] = nets();
    let mut host = host(net);
    let client = (net.node, 4000);
    run(&mut host, Hook::ToNetwork, UPLINK, packet(client, (net.vip, 80), Some(SYN)));
    let mut bytes = packet(client, (net.vip, 80), Some(ACK));
    // RFC 791: total length; then the header's checksum, which covers it.
    let len = u16::from_be_bytes([bytes[16], bytes[17]]);
    let check = u16::from_be_bytes([bytes[24], bytes[25]]);
    bytes[16..18].fill(0);
    let sum = u32::from(check) + u32::from(len);
    bytes[24..26].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
    let out = run(&mut host, Hook::ToNetwork, UPLINK, bytes);
    assert_eq!(out.action, Action::Neighbour);
    assert_eq!(ends(&out.packet.bytes), (client, (net.backend, 8080)));
}

/// To a backend that is the node itself, and back, all stays on loopback; there is no way anywhere for
/// what comes from a loopback address, and it is left alone.
#[test]
fn what_the_node_tells_itself_stays_on_loopback() {
    for net in nets() {
        let mut host = host(net);
        for backend in &mut host.node.backends {
            (backend.addr, backend.deliver) = (words(net.node), Deliver::Stack as u8);
        }
        let cluster = Table { offset: 0, len: 1 };
        let service = Service { cluster, flags: service_flags::EXTERNAL, ..Service::default() };
        let (client, server) = ((net.node, 4000), (net.node, 8080));
        frontend(&mut host, net.node, 6, service);
        let lo = |host: &mut Host, bytes: Vec<u8>| {
            let mut packet = HostPacket { own: true, ..HostPacket::new(bytes, LOOPBACK) };
            let action = process(&mut packet, host, Hook::ToNetwork);
            (action, packet.bytes)
        };
        let (action, bytes) = lo(&mut host, packet(client, (net.node, 80), Some(SYN)));
        assert_eq!((action, ends(&bytes)), (Action::Pass, (client, server)));
        let (action, bytes) = lo(&mut host, packet(server, client, Some(SYN | ACK)));
        assert_eq!((action, ends(&bytes)), (Action::Pass, ((net.node, 80), client)));

        let own = if net.node.is_ipv4() { "127.0.0.1" } else { "::1" };
        let own: IpAddr = own.parse().unwrap();
        frontend(&mut host, own, 6, service);
        let bytes = packet((own, 4000), (own, 80), Some(SYN));
        assert_eq!(lo(&mut host, bytes.clone()), (Action::Pass, bytes));
    }
}

/// The answer of a server on the node itself, to a client outside whose address it has seen.
#[test]
fn answers_of_the_nodes_own_servers_are_translated_back() {
    for net in nets() {
        let mut host = host(net);
        for backend in &mut host.node.backends {
            (backend.addr, backend.deliver) = (words(net.node), Deliver::Stack as u8);
        }
        let local = Table { offset: 0, len: 1 };
        let flags = service_flags::EXTERNAL | service_flags::LOCAL;
        frontend(&mut host, net.vip, 6, Service { local, flags, ..Service::default() });
        let (client, server) = ((net.office, 4000), (net.node, 8080));
        let out =
            run(&mut host, Hook::FromNetwork, UPLINK, packet(client, (net.vip, 80), Some(SYN)));
        assert_eq!((out.action, out.packet.marked), (Action::Pass, true));
        assert_eq!(ends(&out.packet.bytes), (client, server));
        let answer = packet(server, client, Some(SYN | ACK));
        let back = run(&mut host, Hook::ToNetwork, UPLINK, answer);
        assert_eq!((back.action, back.ifindex), (Action::Neighbour, UPLINK));
        assert_eq!(ends(&back.packet.bytes), ((net.vip, 80), client));
    }
}

/// What others send through this node has met its ingress; nothing is done to it again.
#[test]
fn forwarded_packets_are_left_alone() {
    for net in nets() {
        let mut host = host(net);
        run(&mut host, Hook::FromPod, CLIENT_IF, packet((net.client, 1), (net.vip, 80), Some(SYN)));
        let flows = host.clone();
        for bytes in [
            packet((net.client, 4000), (net.vip, 80), Some(SYN)),
            packet((net.client, 4000), (net.vip, 80), None),
            packet((net.client, 1), (net.vip, 80), Some(ACK)),
            packet((net.backend, 8080), (net.client, 1), Some(ACK)),
        ] {
            let mut forwarded = HostPacket::new(bytes.clone(), UPLINK);
            assert_eq!(process(&mut forwarded, &mut host, Hook::ToNetwork), Action::Pass);
            assert_eq!((forwarded.bytes, forwarded.marked), (bytes, false));
        }
        assert_eq!(count(&host, Reason::NotService), 4);
        assert_eq!((host.flows4.0, host.flows6.0), (flows.flows4.0, flows.flows6.0));
    }
}

/// All else that the node sends is not touched.
#[test]
fn what_is_no_service_passes() {
    for net in nets() {
        let mut host = host(net);
        let bytes = packet((net.node, 4000), (net.office, 80), Some(SYN));
        let out = run(&mut host, Hook::ToNetwork, UPLINK, bytes.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes));
        assert!(!out.packet.marked);
    }
}
