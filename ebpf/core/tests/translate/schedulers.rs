//! Which of its backends a frontend's connection gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{Service, service_flags};
use sluice_core::Hook;
use sluice_core::host::Host;
use sluice_core::wire::{ACK, FIN, RST, SYN};

use crate::build::{BACKEND_IF, CLIENT_IF, Net, backend, frontend, host, nets, run, table};
use crate::octets::{ends, packet};

/// Backends of the service, told apart by their ports.
const PORTS: std::ops::Range<u16> = 9_000..9_008;

/// `vip:80` with eight backends.
fn scheduled(net: Net, flags: u32) -> Host {
    let mut host = host(net);
    let ids: Vec<u32> = PORTS.map(|port| backend(&mut host, port)).collect();
    let cluster = table(&mut host, &ids);
    frontend(&mut host, net.vip, 6, Service { cluster, flags, id: 5, ..Service::default() });
    host
}

/// The port of the backend that a segment goes to.
fn ask(host: &mut Host, net: Net, client: (IpAddr, u16), flags: u8) -> u16 {
    let bytes = packet(client, (net.vip, 80), Some(flags));
    ends(&run(host, Hook::FromPod, CLIENT_IF, bytes).packet.bytes).1.1
}

fn other_client(net: Net, n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    match net.client {
        IpAddr::V4(_) => Ipv4Addr::new(10, 244, high, low).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, n).into(),
    }
}

#[test]
fn by_source_a_client_keeps_its_backend_and_clients_are_spread() {
    for net in nets() {
        let mut host = scheduled(net, service_flags::SOURCE);
        let mut used = BTreeSet::new();
        for n in 100..160 {
            let client = other_client(net, n);
            let ports: BTreeSet<u16> =
                (4_000..4_010).map(|port| ask(&mut host, net, (client, port), SYN)).collect();
            assert_eq!(ports.len(), 1, "{client}");
            used.extend(ports);
        }
        assert_eq!(used.len(), PORTS.len());
    }
}

/// What to draw for slot `n` of eight.
fn draw(n: u32) -> u32 {
    n << 29
}

#[test]
fn of_two_drawn_the_one_with_fewer_connections_gets_the_next() {
    for net in nets() {
        let mut host = scheduled(net, service_flags::LEAST);
        let mut port = 4_000;
        let mut open = |host: &mut Host, one: u32, other: u32| {
            port += 1;
            *host.node.draws.borrow_mut() = vec![draw(other), draw(one)];
            (port, ask(host, net, (net.client, port), SYN))
        };
        assert_eq!(open(&mut host, 3, 3).1, 9_003);
        assert_eq!(open(&mut host, 3, 5).1, 9_005, "3 has one already");
        assert_eq!(open(&mut host, 5, 3).1, 9_005, "as many: the first");
        let (last, backend) = open(&mut host, 5, 3);
        assert_eq!(backend, 9_003, "5 has two");
        // One that is over counts no more, however often it is said.
        for flags in [RST, RST, FIN | ACK] {
            ask(&mut host, net, (net.client, last), flags);
        }
        assert_eq!(open(&mut host, 5, 3).1, 9_003, "one against two");
    }
}

/// Both ends finish: counted once, at the second.
#[test]
fn a_finished_connection_counts_no_more() {
    for net in nets() {
        let mut host = scheduled(net, service_flags::LEAST);
        let count = |host: &Host| host.node.connections.borrow().values().sum::<i64>();
        let backend = ask(&mut host, net, (net.client, 4000), SYN);
        ask(&mut host, net, (net.client, 4000), ACK);
        assert_eq!(count(&host), 1);
        ask(&mut host, net, (net.client, 4000), FIN | ACK);
        assert_eq!(count(&host), 1);
        let answer = packet((net.backend, backend), (net.client, 4000), Some(FIN | ACK));
        for _ in 0..2 {
            run(&mut host, Hook::FromPod, BACKEND_IF, answer.clone());
        }
        ask(&mut host, net, (net.client, 4000), FIN | ACK);
        assert_eq!(count(&host), 0);
    }
}
