//! Packets to service addresses that no frontend is for (R41).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{BackendState, Config, Reason};
use sluice_core::host::Host;
use sluice_core::wire::{ACK, SYN};
use sluice_core::{Action, Hook};

use crate::build::{
    BACKEND_IF, CLIENT_IF, Net, count, host, known, nets, run, service_range, words,
};
use crate::octets::{frame, packet};

/// Hooks by which something may come that is meant for a service.
const HOOKS: [Hook; 3] = [Hook::FromPod, Hook::FromNetwork, Hook::ToNetwork];
const GRE: u8 = 47;

/// A node that knows the range of ClusterIPs, and `vip` and `other_vip` in it.
fn strict(net: Net) -> Host {
    let mut host = host(net);
    service_range(&mut host);
    known(&mut host, net.vip);
    known(&mut host, net.other_vip);
    host
}

/// A SYN, a datagram and a packet of a protocol that is never translated.
fn kinds(net: Net, dst: IpAddr) -> [(&'static str, Vec<u8>); 3] {
    [
        ("TCP", packet((net.client, 4000), (dst, 4321), Some(SYN))),
        ("UDP", packet((net.client, 4000), (dst, 4321), None)),
        ("GRE", frame(net.client, dst, GRE, &[0x55; 40])),
    ]
}

/// The first and the last address of the range, or their neighbours outside of it.
fn address(net: Net, inside: bool) -> [IpAddr; 2] {
    match (net.vip.is_ipv4(), inside) {
        (true, true) => [[10, 96, 0, 0], [10, 96, 255, 255]].map(|it| Ipv4Addr::from(it).into()),
        (true, false) => [[10, 95, 255, 255], [10, 97, 0, 0]].map(|it| Ipv4Addr::from(it).into()),
        (false, inside) => {
            let (first, last) = if inside { (0x96, 0x96) } else { (0x97, 0x95) };
            let first = Ipv6Addr::new(0xfd00, first, 0, 0, 0, 0, 0, 0);
            let f = u16::MAX;
            [first.into(), Ipv6Addr::new(0xfd00, last, f, f, f, f, f, f).into()]
        }
    }
}

/// Of a service's address only what is served is open; all else is refused.
#[test]
fn an_unknown_port_of_a_service_is_refused() {
    for (net, hook) in nets().into_iter().flat_map(|net| HOOKS.map(|hook| (net, hook))) {
        for (kind, bytes) in kinds(net, net.vip) {
            let mut host = strict(net);
            assert_eq!(run(&mut host, hook, CLIENT_IF, bytes).action, Action::Back, "{kind}");
            assert_eq!(count(&host, Reason::Refused), 1, "{kind} {hook:?}");
        }
        let mut host = strict(net);
        let served = packet((net.client, 4000), (net.vip, 80), None);
        assert_ne!(run(&mut host, hook, CLIENT_IF, served).action, Action::Back, "{hook:?}");
        assert_eq!(count(&host, Reason::Refused), 0);
    }
}

/// An address that no service has is silent: it may be somebody's a moment later.
#[test]
fn an_unallocated_address_is_silent() {
    for (net, hook) in nets().into_iter().flat_map(|net| HOOKS.map(|hook| (net, hook))) {
        for dst in address(net, true) {
            for (kind, bytes) in kinds(net, dst) {
                let mut host = strict(net);
                let out = run(&mut host, hook, CLIENT_IF, bytes);
                assert_eq!(out.action, Action::Drop, "{kind} {dst} {hook:?}");
                assert_eq!(count(&host, Reason::NoService), 1, "{kind} {dst}");
            }
        }
    }
}

/// What opens no connection is dropped in the whole range, whoever has the address.
#[test]
fn segments_without_a_connection_are_dropped() {
    for net in nets() {
        for dst in [net.vip, address(net, true)[0]] {
            let mut host = strict(net);
            let bytes = packet((net.client, 4000), (dst, 4321), Some(ACK));
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, bytes).action, Action::Drop);
            assert_eq!(count(&host, Reason::NoFlow), 1);
        }
    }
}

/// Nothing of this concerns other addresses, not the ones next to the range, nor a node that knows
/// no range; and a service's address outside of all ranges (an external one) is the node's matter.
#[test]
fn addresses_outside_of_the_range_pass() {
    for net in nets() {
        let mut blind = strict(net);
        blind.node.config.services4 = Config::EMPTY.services4;
        blind.node.config.services6 = Config::EMPTY.services6;
        let all_ones: IpAddr =
            if net.vip.is_ipv4() { [255; 4].into() } else { IpAddr::from([255; 16]) };
        let [one, another] = address(net, false);
        let cases = [
            (strict(net), one),
            (strict(net), another),
            (strict(net), net.office),
            (blind.clone(), net.vip),
            (blind, all_ones),
        ];
        for ((host, dst), hook) in cases.iter().flat_map(|case| HOOKS.map(|hook| (case, hook))) {
            for (kind, bytes) in kinds(net, *dst) {
                let mut host = host.clone();
                let out = run(&mut host, hook, CLIENT_IF, bytes.clone());
                assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes), "{kind} {dst}");
                let reason = if kind == "GRE" { Reason::OtherProtocol } else { Reason::NotService };
                assert_eq!(count(&host, reason), 1, "{kind} {dst}");
            }
        }
    }
}

/// Each of the ranges counts, and up to its last address.
#[test]
fn there_may_be_several_ranges() {
    for net in nets() {
        let mut host = host(net);
        match words(net.office) {
            [word, ..] if net.vip.is_ipv4() => host.node.config.services4[3] = [word, u32::MAX],
            all => host.node.config.services6[3] = [all, [u32::MAX; 4]],
        }
        let [(_, bytes), ..] = kinds(net, net.office);
        assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, bytes).action, Action::Drop);
        assert_eq!(count(&host, Reason::NoService), 1);
    }
}

/// What leaves for pods by the bridge has been seen before, or is an answer.
#[test]
fn nothing_is_turned_away_at_the_egress_of_the_bridge() {
    for net in nets() {
        let mut host = strict(net);
        for dst in [net.vip, address(net, true)[0]] {
            for (kind, bytes) in kinds(net, dst) {
                let out = run(&mut host, Hook::ToPods, 5, bytes.clone());
                assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes), "{kind} {dst}");
            }
        }
    }
}

/// R14, R54: a connection outlives the port that it was opened through; a new one and a UDP flow,
/// whose backend goes with the port, are refused.
#[test]
fn a_port_that_is_gone_keeps_its_connections() {
    for net in nets() {
        let mut host = strict(net);
        let ask = |flags| packet((net.client, 4000), (net.vip, 80), flags);
        for flags in [Some(SYN), None] {
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, ask(flags)).action, Action::Peer);
        }
        host.node.services4.retain(|key, _| key.port_be == 0);
        host.node.services6.retain(|key, _| key.port_be == 0);
        for backend in &mut host.node.backends {
            backend.state = BackendState::Retired as u8;
        }
        let answer = packet((net.backend, 8080), (net.client, 4000), Some(ACK));
        for (ifindex, bytes) in [(CLIENT_IF, ask(Some(ACK))), (BACKEND_IF, answer)] {
            assert_eq!(run(&mut host, Hook::FromPod, ifindex, bytes).action, Action::Peer);
        }
        for bytes in [ask(None), packet((net.client, 4001), (net.vip, 80), Some(SYN))] {
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, bytes).action, Action::Back);
        }
        assert_eq!(count(&host, Reason::Refused), 2);
    }
}
