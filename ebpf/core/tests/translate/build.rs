//! The node, its tables and the packets of these tests, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_abi::{
    Addr4, Addr6, Backend, BackendState, Deliver, Mac, Reason, Service, ServiceKey, Table,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::{Action, Hook, NextHop, process};

pub(crate) const CLIENT_IF: u32 = 7;
pub(crate) const BACKEND_IF: u32 = 8;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

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
            pad: 0,
            service: protocol.into(),
        });
        let id = u32::try_from(host.node.backends.len() - 1).unwrap();
        host.node.slots.push(id);
        for vip in [net.vip, net.other_vip] {
            let cluster = Table { offset: id, len: 1 };
            let service = Service { cluster, id: protocol.into(), ..Service::default() };
            frontend(&mut host, vip, protocol, service);
        }
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

pub(crate) fn frontend(host: &mut Host, vip: IpAddr, protocol: u8, service: Service) {
    let port_be = 80_u16.to_be();
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

/// A TCP segment with these flags, or a UDP datagram.
pub(crate) fn packet(from: (IpAddr, u16), to: (IpAddr, u16), flags: Option<u8>) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    let check = match flags {
        Some(flags) => {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        None => {
            l4.extend([0, 8 + 5, 0, 0]);
            6
        }
    };
    l4.extend(b"hello");
    let protocol = if flags.is_some() { 6 } else { 17 };
    let mut bytes = Vec::from(GATEWAY_MAC);
    bytes.extend(CLIENT_MAC);
    let pseudo: Vec<u8> = match (from.0, to.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([8, 0, 0x45, 0]);
            let len = u16::try_from(20 + l4.len()).unwrap();
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let sum = checksum(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            [src.octets(), dst.octets()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            [src.octets(), dst.octets()].concat()
        }
        _ => panic!("one family"),
    };
    let sum = transport_checksum(&pseudo, protocol, &l4);
    l4[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(l4);
    bytes
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap())
}

fn transport_checksum(pseudo: &[u8], protocol: u8, l4: &[u8]) -> u16 {
    let len = u32::try_from(l4.len()).unwrap();
    checksum(&[pseudo, &len.to_be_bytes(), &[0, 0, 0, protocol], l4].concat())
}

/// Source and destination of a packet whose checksums are right.
pub(crate) fn ends(bytes: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let (src, dst, pseudo, at): (IpAddr, IpAddr, &[u8], usize) = if bytes[12..14] == [8, 0] {
        assert_eq!(checksum(&bytes[14..34]), 0, "IPv4 header checksum");
        let octets = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        (octets(26).into(), octets(30).into(), &bytes[26..34], 34)
    } else {
        let octets = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        (octets(22).into(), octets(38).into(), &bytes[22..54], 54)
    };
    let protocol = if bytes[12..14] == [8, 0] { bytes[23] } else { bytes[20] };
    assert_eq!(transport_checksum(pseudo, protocol, &bytes[at..]), 0, "transport checksum");
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    ((src, port(at)), (dst, port(at + 2)))
}

pub(crate) struct Run {
    pub(crate) packet: HostPacket,
    pub(crate) action: Action,
    pub(crate) ifindex: u32,
}

pub(crate) fn run(host: &mut Host, hook: Hook, ifindex: u32, bytes: Vec<u8>) -> Run {
    let mut packet = HostPacket::new(bytes, ifindex);
    packet.routes = Some(NextHop { ifindex: 3, address: [9; 4], ipv6: false });
    let action = process(&mut packet, host, hook);
    Run { ifindex: packet.hop.ifindex, packet, action }
}

pub(crate) fn count(host: &Host, reason: Reason) -> u64 {
    host.node.counts.borrow().get(&reason).copied().unwrap_or(0)
}
