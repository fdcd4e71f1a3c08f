//! Balancing at the socket: whom the node's own processes connect to, and whom they think they do.

use std::net::IpAddr;

use sluice_abi::{
    Addr4, Addr6, Backend, BackendState, Deliver, Range, RangeKey, Reason, Service, Table,
    service_flags,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::socket::{Socket, from_backend, to_service};
use sluice_core::{Action, Hook, V4, V6, process};

use crate::build::{NO_ENDPOINT, Net, backend, frontend, host, nets, table, words};
use crate::octets::{End, packet};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ACK: u8 = 16;

/// A socket of the node, and the address of a system call.
struct Call {
    protocol: u8,
    cookie: u64,
    peer: End,
}

macro_rules! socket {
    ($family:ty, $addr:ty, $variant:path) => {
        impl Socket<$family> for Call {
            fn protocol(&self) -> u8 {
                self.protocol
            }
            fn cookie(&self) -> u64 {
                self.cookie
            }
            fn peer(&self) -> ($addr, u16) {
                let $variant(address) = self.peer.0 else { panic!("one family") };
                (<$addr>::from_octets(address.octets()), self.peer.1.to_be())
            }
            fn set_peer(&mut self, addr: $addr, port_be: u16) {
                self.peer = (addr.octets().into(), u16::from_be(port_be));
            }
        }
    };
}
socket!(V4, Addr4, IpAddr::V4);
socket!(V6, Addr6, IpAddr::V6);

/// Whom a socket reaches that connects, or sends without being connected.
fn connect(host: &Host, protocol: u8, cookie: u64, peer: End) -> End {
    let mut call = Call { protocol, cookie, peer };
    match peer.0 {
        IpAddr::V4(_) => to_service::<V4, _, _>(&mut call, &host.node),
        IpAddr::V6(_) => to_service::<V6, _, _>(&mut call, &host.node),
    }
    call.peer
}

/// Whom a socket takes for its peer, or for a datagram's sender.
fn peer_name(host: &Host, protocol: u8, cookie: u64, peer: End) -> End {
    let mut call = Call { protocol, cookie, peer };
    match peer.0 {
        IpAddr::V4(_) => from_backend::<V4, _, _>(&mut call, &host.node),
        IpAddr::V6(_) => from_backend::<V6, _, _>(&mut call, &host.node),
    }
    call.peer
}

/// Gives `vip:80` these lists, with flags and a way to all backends.
fn with_lists(net: Net, flags: u32, deliver: Deliver) -> Host {
    let mut host = host(net);
    (host.node.backends[0].deliver, host.node.backends[0].service) = (deliver as u8, 9);
    let (near, far) = (backend(&mut host, 9001), backend(&mut host, 9002));
    let cluster = table(&mut host, &[near, far]);
    let local = table(&mut host, &[near]);
    for protocol in [TCP, UDP, SCTP] {
        let service = Service { cluster, local, flags, id: 9, ..Service::default() };
        frontend(&mut host, net.vip, protocol, service);
    }
    host
}

/// A connection goes to a backend, and says that it goes to the service; other sockets know nothing
/// of it.
#[test]
fn tcp_connects_to_a_backend() {
    for (net, deliver) in nets()
        .into_iter()
        .flat_map(|net| [Deliver::Peer, Deliver::Route, Deliver::Stack].map(|way| (net, way)))
    {
        let mut host = with_lists(net, 0, deliver);
        let vip = (net.vip, 80);
        host.node.draw = u32::MAX;
        let got = connect(&host, TCP, 1, vip);
        assert_eq!(got, (net.backend, 9002), "{deliver:?}");
        assert_eq!(peer_name(&host, TCP, 1, got), vip);
        assert_eq!(peer_name(&host, TCP, 2, got), got);
        assert_eq!(peer_name(&host, TCP, 1 << 32 | 1, got), got, "all of the cookie counts");
        assert_eq!(peer_name(&host, TCP, 1, (net.backend, 9001)), (net.backend, 9001));
        // One that comes to its place later takes it.
        let later = 1 + sluice_abi::MAX_SOCKETS as u64;
        assert_eq!(peer_name(&host, TCP, later, got), got);
        assert_eq!(connect(&host, TCP, later, vip), got);
        assert_eq!((peer_name(&host, TCP, later, got), peer_name(&host, TCP, 1, got)), (vip, got));
        // A socket may connect again, and is balanced again.
        host.node.draw = 0;
        assert_eq!(connect(&host, TCP, 1, vip), (net.backend, 9001));
        assert!(host.flows4.0.is_empty() && host.flows6.0.is_empty());
    }
}

/// Packets of a socket that got a pod of this node in place of a service go straight out by its veth;
/// all others of the node, and those whose pod is not there any more, are the bridge's.
#[test]
fn packets_of_a_connected_socket_go_straight_to_the_pod() {
    const COOKIE: u64 = 7 << 32 | 1;
    let sent = |host: &mut Host, net: Net, to: End, cookie: u64| {
        let bytes = packet((net.node, 4000), to, Some(ACK));
        let mut packet = HostPacket { own: true, cookie, ..HostPacket::new(bytes.clone(), 5) };
        let action = process(&mut packet, host, Hook::ToPods);
        assert_eq!(packet.bytes, bytes);
        assert!(!packet.marked);
        (action, packet.hop.ifindex)
    };
    for net in nets() {
        let connected = |deliver: Deliver| {
            let mut host = with_lists(net, 0, deliver);
            host.node.draw = u32::MAX;
            let got = connect(&host, TCP, COOKIE, (net.vip, 80));
            // The id of 9002, whose veth is another than the first backend's.
            let id =
                host.node.backends.iter().position(|backend| backend.port_be == 9002_u16.to_be());
            host.node.backends[id.unwrap()].ifindex = 77;
            (host, got, id.unwrap())
        };
        let (mut host, got, id) = connected(Deliver::Peer);
        assert_eq!(sent(&mut host, net, got, COOKIE), (Action::Veth, 77));
        assert_eq!(host.node.counts.borrow().get(&Reason::ForwardPeer), Some(&1));
        let bridged = (Action::Pass, 0);
        for (to, cookie) in
            [(got, 1), (got, 0), ((got.0, 80), COOKIE), ((net.client, got.1), COOKIE)]
        {
            assert_eq!(sent(&mut host, net, to, cookie), bridged, "{to:?} {cookie}");
        }
        // It drains.
        host.node.backends[id].state = BackendState::Retired as u8;
        assert_eq!(sent(&mut host, net, got, COOKIE), (Action::Veth, 77));
        let changes: [fn(&mut Backend); 4] = [
            |backend| backend.state = BackendState::Free as u8,
            |backend| backend.deliver = Deliver::Stack as u8,
            |backend| backend.addr[0] ^= 1,
            |backend| backend.port_be = 1,
        ];
        for change in changes {
            let (mut host, got, id) = connected(Deliver::Peer);
            change(&mut host.node.backends[id]);
            assert_eq!(sent(&mut host, net, got, COOKIE), bridged);
        }
        for deliver in [Deliver::Route, Deliver::Stack] {
            let (mut host, got, _) = connected(deliver);
            assert_eq!(sent(&mut host, net, got, COOKIE), bridged);
        }
    }
}

/// UDP is left to packets, which choose anew once a backend is gone, wherever packets can do it: not
/// at the node's own addresses, and not where the node is one of the backends, whichever is drawn.
#[test]
fn udp_is_translated_where_packets_can_not_be() {
    let node_port = service_flags::NODE_PORT | service_flags::EXTERNAL;
    for net in nets() {
        for (flags, deliver, here) in [
            (0, Deliver::Peer, false),
            (0, Deliver::Route, false),
            (service_flags::STACK, Deliver::Stack, true),
            (service_flags::STACK, Deliver::Peer, true),
            (node_port, Deliver::Peer, true),
            (node_port, Deliver::Route, true),
            (node_port, Deliver::Stack, true),
        ] {
            let host = with_lists(net, flags, deliver);
            let got = connect(&host, UDP, 1, (net.vip, 80));
            let wanted = if here { (net.backend, 9001) } else { (net.vip, 80) };
            assert_eq!(got, wanted, "{flags} {deliver:?}");
            assert_eq!(peer_name(&host, UDP, 1, got), (net.vip, 80));
        }
    }
}

/// A UDP socket stays with its backend from datagram to datagram, until that serves no more or its
/// id is another's.
#[test]
fn a_udp_socket_stays_with_its_backend() {
    for (net, gone) in nets().into_iter().flat_map(|net| [(net, 0), (net, 1), (net, 2)]) {
        let mut host = with_lists(net, service_flags::STACK, Deliver::Stack);
        let vip = (net.vip, 80);
        assert_eq!(connect(&host, UDP, 1, vip), (net.backend, 9001));
        host.node.draw = u32::MAX;
        assert_eq!(connect(&host, UDP, 1, vip), (net.backend, 9001));
        assert_eq!(connect(&host, UDP, 2, vip), (net.backend, 9002), "another socket draws");
        match gone {
            0 => host.node.backends[2].state = BackendState::Retired as u8,
            1 => host.node.backends[2].generation += 1,
            _ => host.node.backends[2].service = 10,
        }
        assert_eq!(connect(&host, UDP, 1, vip), (net.backend, 9002));
        for port in [9001, 9002] {
            let sender = (net.backend, port);
            assert_eq!(peer_name(&host, UDP, 1, sender), vip, "a late answer is one, too");
        }
    }
}

/// The node is never outside: the policy of an external address does not bind it, that of a
/// ClusterIP does.
#[test]
fn the_node_gets_the_list_that_is_its_own() {
    let external = service_flags::EXTERNAL | service_flags::LOCAL;
    for net in nets() {
        for (flags, port) in [
            (0, 9002),
            (service_flags::LOCAL, 9001),
            (service_flags::EXTERNAL, 9002),
            (external, 9002),
        ] {
            let mut host = with_lists(net, flags, Deliver::Peer);
            host.node.draw = u32::MAX;
            assert_eq!(connect(&host, TCP, 1, (net.vip, 80)), (net.backend, port), "{flags}");
        }
    }
}

/// With affinity all sockets of the node are one client (R21), the one that its packets come from.
#[test]
fn all_sockets_are_one_client() {
    for net in nets() {
        let mut host = with_lists(net, 0, Deliver::Peer);
        let cluster = table(&mut host, &[2, 3]);
        let service = Service { cluster, affinity_s: 10, id: 9, ..Service::default() };
        frontend(&mut host, net.vip, TCP, service);
        assert_eq!(connect(&host, TCP, 1, (net.vip, 80)), (net.backend, 9001));
        host.node.draw = u32::MAX;
        assert_eq!(connect(&host, TCP, 2, (net.vip, 80)), (net.backend, 9001));
        let clients: Vec<[u32; 4]> = match net.vip {
            IpAddr::V4(_) => {
                host.node.affinities4.borrow().keys().map(|key| [key.client.0, 0, 0, 0]).collect()
            }
            IpAddr::V6(_) => {
                host.node.affinities6.borrow().keys().map(|key| key.client.0).collect()
            }
        };
        assert_eq!(clients, [words(net.node)]);
    }
}

/// R15: a server of the node must not answer for a node port without endpoints, and port 0 has none. A
/// UDP socket would keep port 0 when there are endpoints again: its packets are refused, but on
/// loopback, where none can be.
#[test]
fn a_node_port_without_endpoints_has_no_server() {
    for net in nets() {
        for protocol in [TCP, UDP] {
            let mut host = with_lists(net, 0, Deliver::Stack);
            let flags = NO_ENDPOINT.flags | service_flags::EXTERNAL;
            frontend(&mut host, net.vip, protocol, Service { flags, ..NO_ENDPOINT });
            assert_eq!(connect(&host, protocol, 1, (net.vip, 80)), (net.vip, 80), "no node port");
            let flags = flags | service_flags::NODE_PORT;
            frontend(&mut host, net.vip, protocol, Service { flags, ..NO_ENDPOINT });
            let port = if protocol == TCP { 0 } else { 80 };
            assert_eq!(connect(&host, protocol, 1, (net.vip, 80)), (net.vip, port));
            let own = if net.vip.is_ipv4() { "127.0.0.1" } else { "::1" }.parse().unwrap();
            frontend(&mut host, own, protocol, Service { flags, ..NO_ENDPOINT });
            assert_eq!(connect(&host, protocol, 1, (own, 80)), (own, 0));
        }
    }
}

/// What is not decided here goes on as it is, to be refused or dropped as a packet.
#[test]
fn the_rest_is_left_to_packets() {
    for net in nets() {
        let plain = || with_lists(net, 0, Deliver::Stack);
        let with = |service: Service| {
            let mut host = plain();
            frontend(&mut host, net.vip, TCP, service);
            host
        };
        let nobody = Table { offset: 900, len: 1 };
        let lists = plain().node.slots.len();
        let cluster = Table { offset: u32::try_from(lists - 3).unwrap(), len: 2 };
        let ranges = service_flags::EXTERNAL | service_flags::RANGES;
        let mut free = plain();
        for backend in &mut free.node.backends {
            backend.state = BackendState::Free as u8;
        }
        let mut nameless = plain();
        (nameless.node.config.node4, nameless.node.config.node6) = (0, [0; 4]);
        for (case, host, protocol, port) in [
            ("no frontend", plain(), TCP, 81),
            ("SCTP", plain(), SCTP, 80),
            ("no endpoint", with(NO_ENDPOINT), TCP, 80),
            ("none by policy", with(Service::default()), TCP, 80),
            ("a slot of nobody", with(Service { cluster: nobody, ..Service::default() }), TCP, 80),
            ("a free backend", free, TCP, 80),
            ("source ranges", with(Service { cluster, flags: ranges, ..NO_ENDPOINT }), TCP, 80),
            ("no address of its own", nameless, TCP, 80),
        ] {
            assert_eq!(connect(&host, protocol, 1, (net.vip, port)), (net.vip, port), "{case}");
            assert!(host.node.sockets4.borrow().is_empty(), "{case}");
            assert!(host.node.sockets6.borrow().is_empty(), "{case}");
        }
        // The same ranges with the node in them.
        let mut allowed = with(Service { cluster, flags: ranges, ..NO_ENDPOINT });
        let [a, ..] = words(net.node);
        let (addr4, addr6) = (Addr4(a), Addr6(words(net.node)));
        let range = Range { service: NO_ENDPOINT.id, addr: addr4 };
        allowed.node.ranges4.push(RangeKey { prefix_len: 64, range });
        let range = Range { service: NO_ENDPOINT.id, addr: addr6 };
        allowed.node.ranges6.push(RangeKey { prefix_len: 160, range });
        assert_eq!(connect(&allowed, TCP, 1, (net.vip, 80)), (net.backend, 9001));
    }
}
