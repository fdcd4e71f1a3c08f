//! Source ranges of a load balancer's addresses (R17, R48).

use std::net::IpAddr;

use sluice_abi::{Addr4, Addr6, Range, RangeKey, Reason, Service, Table, service_flags};
use sluice_core::host::Host;
use sluice_core::wire::{ACK, SYN};
use sluice_core::{Action, Hook};

use crate::build::{CLIENT_IF, NO_ENDPOINT, Net, count, frontend, host, nets, run};
use crate::octets::packet;

const SERVICE: u32 = 77;
const FLAGS: u32 = service_flags::EXTERNAL | service_flags::RANGES;

/// `vip:80` is an address with source ranges; `other_vip:80` of the same service has none.
fn guarded(net: Net) -> Host {
    let mut host = host(net);
    for backend in &mut host.node.backends {
        backend.service = SERVICE;
    }
    for (protocol, offset) in [(6, 0), (17, 1)] {
        let cluster = Table { offset, len: 1 };
        let service = Service { cluster, id: SERVICE, ..Service::default() };
        frontend(&mut host, net.vip, protocol, Service { flags: FLAGS, ..service });
        let open = Service { flags: service_flags::EXTERNAL, ..service };
        frontend(&mut host, net.other_vip, protocol, open);
    }
    host
}

/// Allows the clients of a range, of so many bits.
fn allow(host: &mut Host, service: u32, address: IpAddr, bits: u32) {
    let prefix_len = 32 + bits;
    match address {
        IpAddr::V4(v4) => {
            let range = Range { service, addr: Addr4::from_octets(v4.octets()) };
            host.node.ranges4.push(RangeKey { prefix_len, range });
        }
        IpAddr::V6(v6) => {
            let range = Range { service, addr: Addr6::from_octets(v6.octets()) };
            host.node.ranges6.push(RangeKey { prefix_len, range });
        }
    }
}

/// Whole address and a prefix that ends within an octet, in bits.
fn bits(net: Net) -> (u32, u32) {
    if net.vip.is_ipv4() { (32, 23) } else { (128, 31) }
}

fn ask(host: &mut Host, (hook, client): (Hook, IpAddr), vip: IpAddr, flags: Option<u8>) -> Action {
    run(host, hook, CLIENT_IF, packet((client, 4000), (vip, 80), flags)).action
}

/// Who is outside is dropped, pods and the node itself, too; who is inside is served.
#[test]
fn only_clients_within_the_ranges_connect() {
    for net in nets() {
        let clients = [
            (Hook::FromNetwork, net.office),
            (Hook::FromPod, net.client),
            (Hook::ToNetwork, net.node),
        ];
        let (whole, part) = bits(net);
        for (client, flags) in clients.into_iter().flat_map(|it| [(it, Some(SYN)), (it, None)]) {
            let mut host = guarded(net);
            for other in clients.iter().filter(|other| other.1 != client.1) {
                allow(&mut host, SERVICE, other.1, whole);
            }
            assert_eq!(ask(&mut host, client, net.vip, flags), Action::Drop, "{client:?}");
            assert_eq!(count(&host, Reason::SourceRange), 1);
            assert!(host.flows4.0.is_empty() && host.flows6.0.is_empty());
            allow(&mut host, SERVICE, client.1, part);
            let served = ask(&mut host, client, net.vip, flags);
            assert!(matches!(served, Action::Peer | Action::Neighbour), "{client:?} {served:?}");
        }
    }
}

/// Ranges are those of one service, and of the addresses that have them.
#[test]
fn ranges_are_of_one_service_and_address() {
    for net in nets() {
        let mut host = guarded(net);
        let client = (Hook::FromNetwork, net.office);
        allow(&mut host, SERVICE + 1, net.office, bits(net).0);
        assert_eq!(ask(&mut host, client, net.vip, Some(SYN)), Action::Drop);
        assert_eq!(count(&host, Reason::SourceRange), 1);
        assert_eq!(ask(&mut host, client, net.other_vip, Some(SYN)), Action::Peer);
    }
}

/// R17: the ranges come before the lists. Who is outside is not told that there is no endpoint.
#[test]
fn who_is_outside_is_not_refused() {
    for net in nets() {
        let mut host = guarded(net);
        let flags = NO_ENDPOINT.flags | FLAGS;
        frontend(&mut host, net.vip, 6, Service { flags, id: SERVICE, ..NO_ENDPOINT });
        let client = (Hook::FromNetwork, net.office);
        assert_eq!(ask(&mut host, client, net.vip, Some(SYN)), Action::Drop);
        assert_eq!(count(&host, Reason::SourceRange), 1);
        allow(&mut host, SERVICE, net.office, bits(net).0);
        assert_eq!(ask(&mut host, client, net.vip, Some(SYN)), Action::Back);
    }
}

/// R48: narrower ranges cut nothing that is established, and meet what is new.
#[test]
fn established_flows_are_not_judged_again() {
    for net in nets() {
        for (first, more) in [(Some(SYN), Some(ACK)), (None, None)] {
            let mut host = guarded(net);
            let client = (Hook::FromNetwork, net.office);
            allow(&mut host, SERVICE, net.office, bits(net).0);
            assert_eq!(ask(&mut host, client, net.vip, first), Action::Peer);
            host.node.ranges4.clear();
            host.node.ranges6.clear();
            for _ in 0..3 {
                host.node.now += 20 * host.node.hz;
                assert_eq!(ask(&mut host, client, net.vip, more), Action::Peer);
            }
            let fresh = packet((net.office, 4001), (net.vip, 80), first);
            assert_eq!(run(&mut host, Hook::FromNetwork, 3, fresh).action, Action::Drop);
            assert_eq!(count(&host, Reason::SourceRange), 1);
        }
    }
}
