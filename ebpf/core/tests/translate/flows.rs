//! How flows begin, move, heal and end.

use sluice_abi::{Backend, BackendState, Reason, tcp};
use sluice_core::wire::{ACK, FIN, RST, SYN};
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, NO_ENDPOINT, count, frontend, host, nets, run};
use crate::octets::{ends, packet};

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

/// R33: with no endpoint left a UDP flow is refused, so that its client hears of it; TCP goes on
/// (R14) until it is reset.
#[test]
fn without_endpoints_udp_is_refused_and_tcp_goes_on() {
    for net in nets() {
        let mut host = host(net);
        let ask = |flags| packet((net.client, 4000), (net.vip, 80), flags);
        for flags in [Some(SYN), None] {
            run(&mut host, Hook::FromPod, CLIENT_IF, ask(flags));
        }
        for backend in &mut host.node.backends {
            backend.state = BackendState::Retired as u8;
        }
        for protocol in [6, 17] {
            frontend(&mut host, net.vip, protocol, NO_ENDPOINT);
        }
        let data = run(&mut host, Hook::FromPod, CLIENT_IF, ask(Some(ACK)));
        assert_eq!(ends(&data.packet.bytes).1, (net.backend, 8080));
        let datagram = run(&mut host, Hook::FromPod, CLIENT_IF, ask(None));
        assert_eq!(datagram.action, Action::Back);
        let again = run(&mut host, Hook::FromPod, CLIENT_IF, ask(Some(SYN)));
        assert_eq!(again.action, Action::Back);
        assert_eq!(count(&host, Reason::Refused), 2);
    }
}
