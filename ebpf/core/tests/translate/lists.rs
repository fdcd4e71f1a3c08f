//! Which list a new connection draws from, and whom its backend sees: the table of section 4.

use std::net::IpAddr;

use sluice_abi::{Reason, Service, Table, service_flags};
use sluice_core::host::Host;
use sluice_core::wire::SYN;
use sluice_core::{Action, Hook};

use crate::build::{BACKEND_IF, CLIENT_IF, Net, backend, count, frontend, host, nets, run, table};
use crate::octets::{ends, packet};

const CLUSTER_IP: u32 = 0;
const INTERNAL_LOCAL: u32 = service_flags::LOCAL;
const EXTERNAL: u32 = service_flags::EXTERNAL;
const EXTERNAL_LOCAL: u32 = service_flags::EXTERNAL | service_flags::LOCAL;

/// Ports of the one backend that each list has.
const CLUSTER: u16 = 8081;
const LOCAL: u16 = 8082;

/// Whom a backend sees as the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Client,
    Node,
    Bridge,
}

/// Where a client asks from.
#[derive(Clone, Copy, Debug)]
enum From {
    Pod,
    PodOfAnotherNode,
    Outside,
    /// A process of this node, at an uplink.
    Node,
}

impl From {
    fn arrives(self, net: Net) -> (Hook, u32, IpAddr) {
        match self {
            Self::Pod => (Hook::FromPod, CLIENT_IF, net.client),
            Self::PodOfAnotherNode => (Hook::FromNetwork, 3, net.client),
            Self::Outside => (Hook::FromNetwork, 3, net.office),
            Self::Node => (Hook::ToNetwork, 3, net.node),
        }
    }
}

/// A frontend of this kind, with one backend in each list.
fn with_lists(net: Net, flags: u32) -> Host {
    let mut host = host(net);
    let cluster = backend(&mut host, CLUSTER);
    let local = backend(&mut host, LOCAL);
    let cluster = table(&mut host, &[cluster]);
    let local = table(&mut host, &[local]);
    for protocol in [6, 17] {
        let service = Service { cluster, local, flags, ..Service::default() };
        frontend(&mut host, net.vip, protocol, service);
    }
    host
}

fn without_detector(host: &mut Host) {
    host.node.config.pods4 = [0; 2];
    host.node.config.pods6 = [[0; 4]; 2];
}

fn ask(host: &mut Host, net: Net, from: From, flags: Option<u8>) -> (u16, Seen) {
    let (hook, ifindex, client) = from.arrives(net);
    let out = run(host, hook, ifindex, packet((client, 4000), (net.vip, 80), flags));
    let (seen, to) = ends(&out.packet.bytes);
    assert_eq!(to.0, net.backend);
    let seen = match seen.0 {
        address if address == client => Seen::Client,
        address if address == net.node => Seen::Node,
        address => {
            assert_eq!(address, net.gateway);
            Seen::Bridge
        }
    };
    (to.1, seen)
}

fn check(rows: &[(u32, From, u16, Seen)], prepare: impl Fn(&mut Host)) {
    for net in nets() {
        for (flags, from, list, seen) in rows {
            for protocol in [Some(SYN), None] {
                let mut host = with_lists(net, *flags);
                prepare(&mut host);
                let got = ask(&mut host, net, *from, protocol);
                assert_eq!(got, (*list, *seen), "{flags} {from:?} {protocol:?} {}", net.vip);
            }
        }
    }
}

/// Every row of the table. A node's own process needs no masquerade: its address is the node's.
#[test]
fn the_policy_and_the_client_decide() {
    check(
        &[
            (CLUSTER_IP, From::Pod, CLUSTER, Seen::Client),
            (CLUSTER_IP, From::PodOfAnotherNode, CLUSTER, Seen::Client),
            (CLUSTER_IP, From::Outside, CLUSTER, Seen::Node),
            (CLUSTER_IP, From::Node, CLUSTER, Seen::Client),
            // R11: the policy does not change who is masqueraded.
            (INTERNAL_LOCAL, From::Pod, LOCAL, Seen::Client),
            (INTERNAL_LOCAL, From::PodOfAnotherNode, LOCAL, Seen::Client),
            (INTERNAL_LOCAL, From::Outside, LOCAL, Seen::Node),
            (INTERNAL_LOCAL, From::Node, LOCAL, Seen::Client),
            (EXTERNAL, From::Pod, CLUSTER, Seen::Node),
            (EXTERNAL, From::PodOfAnotherNode, CLUSTER, Seen::Node),
            (EXTERNAL, From::Outside, CLUSTER, Seen::Node),
            (EXTERNAL, From::Node, CLUSTER, Seen::Client),
            (EXTERNAL_LOCAL, From::Outside, LOCAL, Seen::Client),
            // The short cut: who is inside gets all endpoints.
            (EXTERNAL_LOCAL, From::Pod, CLUSTER, Seen::Client),
            (EXTERNAL_LOCAL, From::Node, CLUSTER, Seen::Client),
            // But not a pod of another node: a third node would answer it past this one.
            (EXTERNAL_LOCAL, From::PodOfAnotherNode, LOCAL, Seen::Client),
        ],
        |_| {},
    );
}

/// R11: that all are masqueraded concerns ClusterIPs only.
#[test]
fn masquerade_all_is_for_cluster_ips() {
    check(
        &[
            (CLUSTER_IP, From::Pod, CLUSTER, Seen::Node),
            (CLUSTER_IP, From::PodOfAnotherNode, CLUSTER, Seen::Node),
            (CLUSTER_IP, From::Outside, CLUSTER, Seen::Node),
            (INTERNAL_LOCAL, From::Pod, LOCAL, Seen::Node),
            (EXTERNAL_LOCAL, From::Pod, CLUSTER, Seen::Client),
            (EXTERNAL_LOCAL, From::Outside, LOCAL, Seen::Client),
        ],
        |host| host.node.config.masquerade_all = 1,
    );
}

/// R12: without a pod network all clients of ClusterIPs are taken as pods, and none of external
/// addresses; the node itself is known without one.
#[test]
fn without_a_detector_only_the_node_is_inside() {
    let rows = [
        (CLUSTER_IP, From::Pod, CLUSTER, Seen::Client),
        (CLUSTER_IP, From::Outside, CLUSTER, Seen::Client),
        (EXTERNAL, From::Pod, CLUSTER, Seen::Node),
        (EXTERNAL, From::Outside, CLUSTER, Seen::Node),
        (EXTERNAL_LOCAL, From::Pod, LOCAL, Seen::Client),
        (EXTERNAL_LOCAL, From::Outside, LOCAL, Seen::Client),
        (EXTERNAL_LOCAL, From::Node, CLUSTER, Seen::Client),
    ];
    check(&rows, without_detector);
    let all = |host: &mut Host| {
        without_detector(host);
        host.node.config.masquerade_all = 1;
    };
    check(&[(CLUSTER_IP, From::Outside, CLUSTER, Seen::Node)], all);
}

/// R12: where interfaces tell, addresses don't: a pod of another node is outside, and what comes by a
/// pod's interface is a pod.
#[test]
fn by_interface_pods_are_those_of_this_node() {
    let rows = [
        (CLUSTER_IP, From::Pod, CLUSTER, Seen::Client),
        (CLUSTER_IP, From::PodOfAnotherNode, CLUSTER, Seen::Node),
        (CLUSTER_IP, From::Outside, CLUSTER, Seen::Node),
        (CLUSTER_IP, From::Node, CLUSTER, Seen::Client),
        (EXTERNAL, From::Pod, CLUSTER, Seen::Node),
        (EXTERNAL_LOCAL, From::Pod, CLUSTER, Seen::Client),
        (EXTERNAL_LOCAL, From::PodOfAnotherNode, LOCAL, Seen::Client),
        (EXTERNAL_LOCAL, From::Outside, LOCAL, Seen::Client),
        (EXTERNAL_LOCAL, From::Node, CLUSTER, Seen::Client),
    ];
    let by_interface = |host: &mut Host| {
        without_detector(host);
        host.node.config.pods_by_interface = 1;
    };
    check(&rows, by_interface);
}

/// R46: a pod that is sent to itself sees its node's bridge, through whatever address it asked.
#[test]
fn hairpin_is_masqueraded_through_every_address() {
    for net in nets() {
        for flags in [CLUSTER_IP, INTERNAL_LOCAL, EXTERNAL, EXTERNAL_LOCAL] {
            for (hook, ifindex) in [(Hook::FromPod, BACKEND_IF), (Hook::FromNetwork, 3)] {
                let mut host = with_lists(net, flags);
                let bytes = packet((net.backend, 4000), (net.vip, 80), Some(SYN));
                let out = run(&mut host, hook, ifindex, bytes);
                let (seen, to) = ends(&out.packet.bytes);
                assert_eq!((seen.0, to.0), (net.gateway, net.backend), "{flags} {hook:?}");
            }
        }
    }
}

/// Two clients that ask from one port stay two, though both are seen as the node.
#[test]
fn masqueraded_clients_are_kept_apart() {
    for net in nets() {
        let mut host = with_lists(net, EXTERNAL);
        let mut seen = Vec::new();
        for (hook, ifindex, client) in
            [(Hook::FromNetwork, 3, net.office), (Hook::FromPod, CLIENT_IF, net.client)]
        {
            let bytes = packet((client, 4000), (net.vip, 80), Some(SYN));
            let (from, to) = ends(&run(&mut host, hook, ifindex, bytes).packet.bytes);
            seen.push((client, from, to));
        }
        assert_ne!(seen[0].1, seen[1].1);
        for (client, from, to) in seen {
            let answer = run(&mut host, Hook::FromPod, BACKEND_IF, packet(to, from, Some(0x12)));
            assert_eq!(ends(&answer.packet.bytes), ((net.vip, 80), (client, 4000)));
        }
    }
}

/// Section 5: a list without endpoints is silent, and refuses where there is none anywhere. The
/// short cut works all the same.
#[test]
fn an_empty_list_is_silent_unless_all_are() {
    for net in nets() {
        let cases = [
            (INTERNAL_LOCAL, From::Pod),
            (INTERNAL_LOCAL, From::Outside),
            (INTERNAL_LOCAL, From::Node),
            (EXTERNAL_LOCAL, From::Outside),
            (EXTERNAL_LOCAL, From::PodOfAnotherNode),
        ];
        for (flags, from) in cases {
            let mut host = with_lists(net, flags);
            let mut empty = host.clone();
            for (host, reject) in [(&mut host, 0), (&mut empty, service_flags::REJECT)] {
                let local = Table::default();
                let cluster = if reject == 0 { Table { offset: 2, len: 1 } } else { local };
                let flags = flags | reject;
                let service = Service { cluster, local, flags, ..Service::default() };
                frontend(host, net.vip, 6, service);
            }
            let (hook, ifindex, client) = from.arrives(net);
            let bytes = || packet((client, 4000), (net.vip, 80), Some(SYN));
            assert_eq!(run(&mut host, hook, ifindex, bytes()).action, Action::Drop);
            assert_eq!(count(&host, Reason::NoEndpoints), 1, "{flags} {from:?}");
            assert_eq!(run(&mut empty, hook, ifindex, bytes()).action, Action::Back);
            assert_eq!(count(&empty, Reason::Refused), 1, "{flags} {from:?}");
            if flags == EXTERNAL_LOCAL {
                for inside in [From::Pod, From::Node] {
                    let got = ask(&mut host, net, inside, Some(SYN));
                    assert_eq!(got, (CLUSTER, Seen::Client), "{inside:?}");
                }
            }
        }
    }
}

/// R44: what chance says picks the slot, and every slot can be picked. With `mh` the tuple picks it,
/// the same on every node, whatever chance says.
#[test]
fn chance_or_the_tuple_picks_the_slot() {
    for net in nets() {
        let mut host = host(net);
        let ids: Vec<u32> = (9000..9003).map(|port| backend(&mut host, port)).collect();
        let cluster = table(&mut host, &ids);
        frontend(&mut host, net.vip, 6, Service { cluster, ..Service::default() });
        let hashed = Service { cluster, flags: service_flags::HASH, ..Service::default() };
        frontend(&mut host, net.other_vip, 6, hashed);
        let third = u32::MAX / 3;
        let draws = [(0, 9000), (third, 9000), (third + 1, 9001), (u32::MAX, 9002)];
        let mut picked = Vec::new();
        for (client_port, (draw, port)) in (4000..).zip(draws) {
            host.node.draw = draw;
            let mut to = |vip, from_port| {
                let bytes = packet((net.client, from_port), (vip, 80), Some(SYN));
                let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes);
                host.flows4.0.clear();
                host.flows6.0.clear();
                ends(&out.packet.bytes).1.1
            };
            assert_eq!(to(net.vip, client_port), port, "{draw}");
            picked.push((4000..4064).map(|port| to(net.other_vip, port)).collect::<Vec<_>>());
        }
        assert!(picked.iter().all(|other| *other == picked[0]), "the same for every draw");
        assert!((9000..9003).all(|port| picked[0].contains(&port)), "{picked:?}");
    }
}
