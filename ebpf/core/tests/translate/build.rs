//! The node and its tables in these tests, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{
    Addr4, Addr6, Backend, BackendState, Deliver, Mac, Reason, Service, ServiceKey, Table, lists,
    service_flags,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::{Action, Hook, NextHop, process};

pub(crate) const CLIENT_IF: u32 = 7;
pub(crate) const BACKEND_IF: u32 = 8;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

/// The addresses of a test, in one family.
#[derive(Clone, Copy)]
pub(crate) struct Net {
    pub(crate) client: IpAddr,
    pub(crate) backend: IpAddr,
    pub(crate) vip: IpAddr,
    pub(crate) other_vip: IpAddr,
    pub(crate) gateway: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) office: IpAddr,
}

pub(crate) fn nets() -> [Net; 2] {
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let v6 = |high, low| IpAddr::V6(Ipv6Addr::new(0xfd00, high, 0, 0, 0, 0, 0, low));
    [
        Net {
            client: v4(10, 244, 1, 7),
            backend: v4(10, 244, 1, 8),
            vip: v4(10, 96, 0, 10),
            other_vip: v4(10, 96, 0, 11),
            gateway: v4(10, 244, 1, 1),
            node: v4(192, 168, 77, 11),
            office: v4(192, 168, 88, 2),
        },
        Net {
            client: v6(0x244, 7),
            backend: v6(0x244, 8),
            vip: v6(0x96, 10),
            other_vip: v6(0x96, 11),
            gateway: v6(0x244, 1),
            node: v6(0x77, 11),
            office: v6(0x88, 2),
        },
    ]
}

pub(crate) fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => Addr6::from_octets(v6.octets()).0,
    }
}

/// A node with one pod as client, one as backend of `vip:80` and `other_vip:80`, port 8080. Both are
/// ClusterIPs of one service, whose port of a protocol has the protocol's number as its id.
pub(crate) fn host(net: Net) -> Host {
    let mut host = Host::default();
    for protocol in [6, 17] {
        serve(&mut host, net, protocol);
    }
    let config = &mut host.node.config;
    match net.gateway {
        IpAddr::V4(_) => {
            [config.gateway4, ..] = words(net.gateway);
            [config.node4, ..] = words(net.node);
            config.pods4 = [[10, 244, 0, 0], [255, 255, 0, 0]].map(u32::from_ne_bytes);
        }
        IpAddr::V6(_) => {
            config.gateway6 = words(net.gateway);
            config.node6 = words(net.node);
            let mask = u32::from_ne_bytes([255; 4]);
            config.pods6 =
                [words(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0).into()), [mask, 0, 0, 0]];
        }
    }
    config.bridge_ifindex = 5;
    host.node.now = 1_000_000;
    host
}

/// The client's service, by one more protocol.
pub(crate) fn serve(host: &mut Host, net: Net, protocol: u8) {
    host.node.backends.push(Backend {
        addr: words(net.backend),
        port_be: 8080_u16.to_be(),
        protocol,
        state: BackendState::Serving as u8,
        generation: 1,
        ifindex: BACKEND_IF,
        mac: Mac::from_octets(BACKEND_MAC),
        deliver: Deliver::Peer as u8,
        ip_version: if net.vip.is_ipv4() { 4 } else { 6 },
        lists: lists::CLUSTER,
        pad: 0,
        service: protocol.into(),
    });
    let id = u32::try_from(host.node.backends.len() - 1).unwrap();
    host.node.slots.push(id);
    for vip in [net.vip, net.other_vip] {
        let cluster = Table { offset: id, len: 1 };
        let service = Service { cluster, id: protocol.into(), ..Service::default() };
        frontend(host, vip, protocol, service);
    }
}

/// What `vip:80` leads to.
pub(crate) fn frontend(host: &mut Host, vip: IpAddr, protocol: u8, service: Service) {
    insert(host, (vip, 80, protocol), service);
}

/// Knows an address as one that a service has, whatever its ports.
pub(crate) fn known(host: &mut Host, vip: IpAddr) {
    insert(host, (vip, 0, 0), Service::default());
}

fn insert(host: &mut Host, (vip, port, protocol): (IpAddr, u16, u8), service: Service) {
    let port_be = port.to_be();
    match vip {
        IpAddr::V4(v4) => {
            let addr = Addr4::from_octets(v4.octets());
            host.node.services4.insert(ServiceKey { addr, port_be, protocol, pad: 0 }, service);
        }
        IpAddr::V6(v6) => {
            let addr = Addr6::from_octets(v6.octets());
            host.node.services6.insert(ServiceKey { addr, port_be, protocol, pad: 0 }, service);
        }
    }
}

/// One more backend, for both protocols: the pod at another port, told apart by it.
pub(crate) fn backend(host: &mut Host, port: u16) -> u32 {
    let port_be = port.to_be();
    host.node.backends.push(Backend { port_be, ..host.node.backends[0] });
    u32::try_from(host.node.backends.len() - 1).unwrap()
}

/// A balancing table of these backends.
pub(crate) fn table(host: &mut Host, ids: &[u32]) -> Table {
    let offset = u32::try_from(host.node.slots.len()).unwrap();
    host.node.slots.extend(ids);
    Table { offset, len: u32::try_from(ids.len()).unwrap() }
}

/// The table of a list, and the backends' word that they are in it, and no others.
pub(crate) fn list(host: &mut Host, bit: u8, ids: &[u32]) -> Table {
    for (id, backend) in (0..).zip(&mut host.node.backends) {
        backend.lists &= !bit;
        backend.lists |= if ids.contains(&id) { bit } else { 0 };
    }
    table(host, ids)
}

/// Nothing leads anywhere from `vip:80`, and a client is told so.
pub(crate) const NO_ENDPOINT: Service = Service {
    cluster: Table { offset: 0, len: 0 },
    local: Table { offset: 0, len: 0 },
    flags: service_flags::REJECT,
    affinity_s: 0,
    id: 1,
};

/// ClusterIPs are those of 10.96.0.0/16 and fd00:96::/32.
pub(crate) fn service_range(host: &mut Host) {
    let config = &mut host.node.config;
    let ones = u32::from_ne_bytes([255; 4]);
    config.services4[0] = [[10, 96, 0, 0], [255, 255, 0, 0]].map(u32::from_ne_bytes);
    let net = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0);
    config.services6[0] = [words(net.into()), [ones, 0, 0, 0]];
}

pub(crate) struct Run {
    pub(crate) packet: HostPacket,
    pub(crate) action: Action,
    pub(crate) ifindex: u32,
}

/// A packet at a hook; the routes know a way, and what leaves for the network is the node's own.
pub(crate) fn run(host: &mut Host, hook: Hook, ifindex: u32, bytes: Vec<u8>) -> Run {
    let mut packet = HostPacket::new(bytes, ifindex);
    packet.own = hook == Hook::ToNetwork;
    packet.routes = Some(NextHop { ifindex: 3, address: [9; 4], ipv6: false, mtu: 0 });
    let action = process(&mut packet, host, hook);
    Run { ifindex: packet.hop.ifindex, packet, action }
}

pub(crate) fn count(host: &Host, reason: Reason) -> u64 {
    host.node.counts.borrow().get(&reason).copied().unwrap_or(0)
}
