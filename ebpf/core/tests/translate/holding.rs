//! What holds a flow: a client that is there, and a frontend that is there.

use std::net::IpAddr;

use sluice_abi::{Reason, Service, service_flags, tcp};
use sluice_core::wire::{ACK, SYN};
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, Net, count, frontend, host, nets, run};
use crate::octets::{ends, packet};

/// A client of the office on a node port: all of them share the node's address and 4,096 ports.
fn from_office(host: &mut sluice_core::host::Host, net: Net, port: u16, flags: u8) -> Action {
    let bytes = packet((net.office, port), (net.vip, 80), Some(flags));
    run(host, Hook::FromNetwork, 3, bytes).action
}

/// 5,000 forged SYNs that the backend answers keep nobody out for longer than seconds, and push no
/// client out that has finished its handshake.
#[test]
fn half_open_connections_do_not_hold_ports() {
    for net in nets() {
        let mut host = host(net);
        assert_eq!(from_office(&mut host, net, 3000, SYN), Action::Peer);
        assert_eq!(from_office(&mut host, net, 3000, ACK), Action::Peer);
        for port in 10_000..15_000 {
            let bytes = packet((net.office, port), (net.vip, 80), Some(SYN));
            let out = run(&mut host, Hook::FromNetwork, 3, bytes);
            if out.action == Action::Peer {
                let (source, _) = ends(&out.packet.bytes);
                let answer = packet((net.backend, 8080), source, Some(SYN | ACK));
                run(&mut host, Hook::FromPod, BACKEND_IF, answer);
            }
        }
        assert!(count(&host, Reason::NoPort) > 0, "the ports are used up");
        host.node.now += 6 * host.node.hz;
        for port in 20_000..20_050 {
            assert_eq!(from_office(&mut host, net, port, SYN), Action::Peer, "port {port}");
        }
        assert_eq!(from_office(&mut host, net, 3000, ACK), Action::Peer, "who was there stays");
    }
}

/// That the client is there reaches both halves at its first segment after the SYN.
#[test]
fn both_halves_know_that_the_client_is_there() {
    for net in nets() {
        let mut host = host(net);
        let confirmed = |host: &sluice_core::host::Host| {
            let v4 = host.flows4.0.values().map(|flow| flow.state);
            let all: Vec<u8> = v4.chain(host.flows6.0.values().map(|flow| flow.state)).collect();
            (all.len(), all.iter().filter(|state| **state & tcp::CONFIRMED != 0).count())
        };
        from_office(&mut host, net, 3000, SYN);
        from_office(&mut host, net, 3000, SYN);
        assert_eq!(confirmed(&host), (2, 0));
        from_office(&mut host, net, 3000, ACK);
        assert_eq!(confirmed(&host), (2, 2));
    }
}

/// R54: a UDP flow ends with its frontend, and with its frontend's becoming another service's.
#[test]
fn udp_flows_end_with_their_frontend() {
    for (net, moved) in nets().into_iter().flat_map(|net| [(net, false), (net, true)]) {
        let mut host = host(net);
        let ask = |host: &mut sluice_core::host::Host| {
            let bytes = packet((net.office, 4000), (net.vip, 80), None);
            run(host, Hook::FromNetwork, 3, bytes).action
        };
        assert_eq!(ask(&mut host), Action::Peer);
        host.node.now += 2 * host.node.hz;
        assert_eq!(ask(&mut host), Action::Peer, "it stays while the frontend does");
        let flags = service_flags::REJECT;
        frontend(&mut host, net.vip, 17, Service { id: 77, flags, ..Service::default() });
        if !moved {
            host.node.services4.clear();
            host.node.services6.clear();
        }
        host.node.now += 2 * host.node.hz;
        assert_eq!(ask(&mut host), Action::Drop, "the one that finds out");
        let wanted = if moved { Action::Back } else { Action::Pass };
        assert_eq!(ask(&mut host), wanted);
    }
}

/// A backend that is the node itself sees its clients: masqueraded they would be the node, too.
#[test]
fn nobody_is_masqueraded_to_the_node_itself() {
    for net in nets() {
        let mut host = host(net);
        let set = |host: &mut sluice_core::host::Host, address: IpAddr| {
            host.node.backends[0].addr = crate::build::words(address);
        };
        set(&mut host, net.node);
        let bytes = packet((net.office, 4000), (net.vip, 80), Some(SYN));
        let out = run(&mut host, Hook::FromNetwork, 3, bytes);
        assert_eq!(ends(&out.packet.bytes), ((net.office, 4000), (net.node, 8080)));
    }
}

/// A configuration of zeros, as a new map has it, has no ranges of services: everything passes.
#[test]
fn a_new_node_drops_nothing() {
    for net in nets() {
        let mut host = host(net);
        host.node.config.services4 = [[0; 2]; 4];
        host.node.config.services6 = [[[0; 4]; 2]; 4];
        for flags in [Some(SYN), Some(ACK), None] {
            let bytes = packet((net.office, 4000), (net.node, 22), flags);
            assert_eq!(run(&mut host, Hook::FromNetwork, 3, bytes).action, Action::Pass);
        }
    }
}
