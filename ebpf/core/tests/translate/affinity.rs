//! Session affinity by client address (R22, R23, R49).

use std::net::IpAddr;

use sluice_abi::{Service, lists, service_flags};
use sluice_core::Hook;
use sluice_core::host::Host;
use sluice_core::wire::{ACK, SYN};

use crate::build::{CLIENT_IF, Net, backend, frontend, host, list, nets, run, table};
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
        let cluster = list(&mut host, lists::CLUSTER, &[a, b]);
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

    /// Makes these the list of policy Cluster, to which `vip:80` leads.
    fn lead_to(&mut self, ids: &[u32]) {
        let cluster = list(&mut self.host, lists::CLUSTER, ids);
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
        let local = list(&mut it.host, lists::LOCAL, &[b]);
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

/// Affinity comes first, whatever the scheduler: only who is bound to nobody is sent as that says.
#[test]
fn it_comes_before_every_scheduler() {
    for flag in [service_flags::HASH, service_flags::SOURCE, service_flags::LEAST] {
        for net in nets() {
            let mut it = Sticky::new(net);
            frontend(&mut it.host, net.vip, 6, Service { flags: flag, ..it.service });
            let first = it.connect(net.client, net.vip, DRAW_A);
            let others = if first == A { [it.b] } else { [it.a] };
            let cluster = table(&mut it.host, &others);
            let service = Service { cluster, flags: flag, ..it.service };
            frontend(&mut it.host, net.vip, 6, service);
            // Drawn anew it could only be the other.
            assert_eq!(it.connect(net.client, net.vip, DRAW_B), first, "{flag}");
            assert_ne!(it.connect(net.office, net.vip, DRAW_B), first, "{flag}");
        }
    }
}
