//! Session affinity by client address (R22, R23, R49).

use std::net::IpAddr;

use sluice_abi::{Service, Table, service_flags};
use sluice_core::Hook;
use sluice_core::host::Host;
use sluice_core::wire::{ACK, SYN};

use crate::build::{CLIENT_IF, Net, backend, frontend, host, nets, run, table};
use crate::octets::{ends, packet};

/// Ports of the two backends, and what to draw for them.
const A: u16 = 9001;
const B: u16 = 9002;
const DRAW_A: u32 = 0;
const DRAW_B: u32 = u32::MAX;

const TIMEOUT_S: u32 = 10_800;

/// `vip:80` and `other_vip:80`, frontends of one service port with affinity and two backends.
struct Sticky {
    host: Host,
    net: Net,
    a: u32,
    b: u32,
    service: Service,
    next_port: u16,
}

impl Sticky {
    fn new(net: Net) -> Self {
        let mut host = host(net);
        let (a, b) = (backend(&mut host, A), backend(&mut host, B));
        let cluster = table(&mut host, &[a, b]);
        let service = Service { cluster, affinity_s: TIMEOUT_S, id: 5, ..Service::default() };
        for vip in [net.vip, net.other_vip] {
            frontend(&mut host, vip, 6, service);
        }
        Self { host, net, a, b, service, next_port: 4000 }
    }

    /// Opens a connection, and says to which backend it went.
    fn connect(&mut self, client: IpAddr, vip: IpAddr, draw: u32) -> u16 {
        self.host.node.draw = draw;
        self.next_port += 1;
        let hook = if client == self.net.client { Hook::FromPod } else { Hook::FromNetwork };
        let bytes = packet((client, self.next_port), (vip, 80), Some(SYN));
        ends(&run(&mut self.host, hook, CLIENT_IF, bytes).packet.bytes).1.1
    }

    fn wait(&mut self, seconds: u32) {
        self.host.node.now += seconds * self.host.node.hz;
    }

    /// Gives `vip:80` a table of its own.
    fn lead_to(&mut self, ids: &[u32]) {
        let cluster = table(&mut self.host, ids);
        frontend(&mut self.host, self.net.vip, 6, Service { cluster, ..self.service });
    }
}

/// A client stays where it was sent first, another one draws.
#[test]
fn a_client_stays() {
    for net in nets() {
        let mut it = Sticky::new(net);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), A);
        assert_eq!(it.connect(net.office, net.vip, DRAW_B), B);
        assert_eq!(it.connect(net.office, net.vip, DRAW_A), B);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), A);
    }
}

/// The client is the one before masquerade: all that come from outside are not one.
#[test]
fn masqueraded_clients_are_many() {
    for net in nets() {
        let mut it = Sticky::new(net);
        assert_eq!(it.connect(net.office, net.vip, DRAW_A), A);
        let another = match net.office {
            IpAddr::V4(v4) => IpAddr::from((v4.to_bits() + 1).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((v6.to_bits() + 1).to_be_bytes()),
        };
        assert_eq!(it.connect(another, net.vip, DRAW_B), B);
    }
}

/// The time runs from the last new connection, not from the last packet.
#[test]
fn it_expires() {
    for net in nets() {
        let mut it = Sticky::new(net);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        for _ in 0..3 {
            it.wait(TIMEOUT_S - 1);
            assert_eq!(it.connect(net.client, net.vip, DRAW_B), A, "kept by a new connection");
        }
        let old = (net.client, it.next_port);
        it.wait(TIMEOUT_S - 1);
        let data =
            run(&mut it.host, Hook::FromPod, CLIENT_IF, packet(old, (net.vip, 80), Some(ACK)));
        assert_eq!(ends(&data.packet.bytes).1.1, A, "the connection itself goes on");
        it.wait(2);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), B);
        let data =
            run(&mut it.host, Hook::FromPod, CLIENT_IF, packet(old, (net.vip, 80), Some(ACK)));
        assert_eq!(ends(&data.packet.bytes).1.1, A, "as ever");
    }
}

/// R23: a backend that has left the list is left for good, and so is one whose id is another's now.
#[test]
fn it_is_bound_anew_when_the_backend_is_gone() {
    for net in nets() {
        let mut it = Sticky::new(net);
        let both = [it.a, it.b];
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        it.lead_to(&both[1..]);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), B);
        it.lead_to(&both);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), B, "the newest binding counts (R49)");
        let b = usize::try_from(it.b).unwrap();
        it.host.node.backends[b].generation += 1;
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), A, "and is noted");
    }
}

/// All frontends of a service port share what is known of a client; another service port does not.
#[test]
fn frontends_of_one_service_share_it() {
    for net in nets() {
        let mut it = Sticky::new(net);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        assert_eq!(it.connect(net.client, net.other_vip, DRAW_B), A);
        let another = Service { id: it.service.id + 1, ..it.service };
        frontend(&mut it.host, net.other_vip, 6, another);
        assert_eq!(it.connect(net.client, net.other_vip, DRAW_B), B);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), A);
        assert_eq!(it.connect(net.client, net.other_vip, DRAW_A), B);
    }
}

/// R23: only a backend of the list that applies to the packet is kept.
#[test]
fn the_list_that_applies_counts() {
    for net in nets() {
        let mut it = Sticky::new(net);
        let b = it.b;
        let local = table(&mut it.host, &[b]);
        let flags = service_flags::EXTERNAL | service_flags::LOCAL;
        let external = Service { local, flags, ..it.service };
        frontend(&mut it.host, net.other_vip, 6, external);
        assert_eq!(it.connect(net.office, net.vip, DRAW_A), A);
        assert_eq!(it.connect(net.office, net.other_vip, DRAW_A), B);
        assert_eq!(it.connect(net.office, net.vip, DRAW_A), B);
        // A pod is not outside: for it the frontend has all backends.
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        assert_eq!(it.connect(net.client, net.other_vip, DRAW_B), A);
    }
}

/// Without affinity nothing is remembered, and what was is not asked.
#[test]
fn turned_off_it_ends_at_once() {
    for net in nets() {
        let mut it = Sticky::new(net);
        assert_eq!(it.connect(net.client, net.vip, DRAW_A), A);
        frontend(&mut it.host, net.vip, 6, Service { affinity_s: 0, ..it.service });
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), B);
        frontend(&mut it.host, net.vip, 6, it.service);
        assert_eq!(it.connect(net.client, net.vip, DRAW_B), A);
    }
}

/// Any backend of a table of any length is found in it, and none that is not in it.
#[test]
fn every_slot_of_a_table_is_found() {
    for net in nets() {
        for len in [1_u32, 2, 3, 7, 64, 100] {
            let mut it = Sticky::new(net);
            // Every second id: between any two there is one that the table has not.
            let all: Vec<u32> = (0..2 * len)
                .map(|at| backend(&mut it.host, 20_000 + u16::try_from(at).unwrap()))
                .collect();
            let (even, odd): (Vec<u32>, Vec<u32>) =
                all.iter().partition(|id| (*id - all[0]).is_multiple_of(2));
            let even = table(&mut it.host, &even);
            let odd = table(&mut it.host, &odd);
            let lead = |it: &mut Sticky, cluster: Table| {
                frontend(&mut it.host, net.vip, 6, Service { cluster, ..it.service });
            };
            for slot in 0..len {
                let draw = u32::try_from((u64::from(slot) << 32).div_ceil(len.into())).unwrap();
                it.host.node.affinities4.borrow_mut().clear();
                it.host.node.affinities6.borrow_mut().clear();
                lead(&mut it, even);
                let port = 20_000 + 2 * u16::try_from(slot).unwrap();
                assert_eq!(it.connect(net.client, net.vip, draw), port, "{slot} of {len}");
                assert_eq!(it.connect(net.client, net.vip, !draw), port, "{slot} of {len}");
                lead(&mut it, odd);
                assert_eq!(it.connect(net.client, net.vip, draw), port + 1, "{slot} of {len}");
            }
        }
    }
}
