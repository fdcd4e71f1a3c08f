//! Datagrams that don't fit into a frame, there and back, their fragments in any order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::packets::checksum;
use crate::rig::{BACKENDS, Rig, WAYS, patient, rig};

/// Sends a datagram of so many bytes from a namespace; whether the same came back.
fn echoed(rig: &Rig, from: &str, target: SocketAddr, size: usize) -> bool {
    let asked = rig.netns(from).run(|| -> std::io::Result<bool> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(patient(Duration::from_secs(1))))?;
        let question: Vec<u8> = (0..size).map(|n| b'a' + (n % 26) as u8).collect();
        socket.send(&question)?;
        let mut answer = vec![0; 65_535];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].ends_with(&question))
    });
    asked.unwrap().unwrap_or(false)
}

#[test]
fn datagrams_of_2000_and_9000_bytes_are_answered_whole() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let mut lost = Vec::new();
    let node = rig.cluster.node("n1").unwrap().plan();
    let node: [IpAddr; 2] = [node.v4.into(), node.v6.into()];
    for (backend, _) in BACKENDS.into_iter().skip(1) {
        rig.remove("large");
        let addresses = rig.service("large", json!({ "type": "NodePort" }));
        rig.endpoints("large", &[backend]);
        rig.settle_all("client-n1", &addresses, &[backend]);
        let object = rig.cluster.store().get("services", "default", "large").unwrap();
        let port = u16::try_from(object["spec"]["ports"][1]["nodePort"].as_u64().unwrap()).unwrap();
        for way in WAYS.into_iter().filter(|way| way.udp) {
            let cluster_ip = SocketAddr::new(way.pick(&addresses), way.port());
            let node_port = SocketAddr::new(way.pick(&node), port);
            for (from, target) in
                [("client-n1", cluster_ip), ("n1", cluster_ip), ("office", node_port)]
            {
                for size in [100, 2000, 9000] {
                    if !echoed(rig, from, target, size) {
                        lost.push(format!("{size} bytes from {from} to {target} of {backend}"));
                    }
                }
            }
        }
    }
    rig.remove("large");
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Octets of a fragment but the last.
const PART: usize = 1_000;

/// Asks by a datagram whose fragments are sent in this order; whether its content came back.
fn echoed_in_order(rig: &Rig, from: &str, target: SocketAddr, order: [usize; 3], id: u8) -> bool {
    let asked = rig.netns(from).run(|| -> std::io::Result<bool> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        let port = socket.local_addr()?.port();
        // Only to learn the own address.
        let probe = UdpSocket::bind((any, 0))?;
        probe.connect(target)?;
        let own = probe.local_addr()?.ip();
        socket.set_read_timeout(Some(patient(Duration::from_secs(1))))?;
        let question: Vec<u8> = (0..2_500).map(|n| b'a' + (n % 26) as u8).collect();
        let datagram = datagram((own, port), target, &question);
        let (domain, protocol) = match target {
            SocketAddr::V4(_) => (Domain::IPV4, Protocol::from(255)),
            SocketAddr::V6(_) => (Domain::IPV6, Protocol::from(255)),
        };
        let raw = Socket::new(domain, Type::RAW, Some(protocol))?;
        match target {
            SocketAddr::V4(_) => raw.set_header_included_v4(true)?,
            SocketAddr::V6(_) => raw.set_header_included_v6(true)?,
        }
        let to = SocketAddr::new(target.ip(), 0).into();
        for part in order {
            raw.send_to(&fragment(own, target.ip(), &datagram, part, id), &to)?;
        }
        let mut answer = vec![0; 65_535];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].ends_with(&question))
    });
    asked.unwrap().unwrap_or(false)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A UDP datagram with its checksum.
fn datagram(from: (IpAddr, u16), to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let mut udp = [from.1.to_be_bytes(), to.port().to_be_bytes()].concat();
    let length = u16::try_from(8 + content.len()).unwrap().to_be_bytes();
    udp.extend([length, [0, 0]].concat());
    udp.extend(content);
    let pseudo = [octets(from.0), octets(to.ip()), vec![0, 17], length.to_vec(), udp.clone()];
    let sum = checksum(&pseudo.concat());
    udp[6..8].copy_from_slice(&sum);
    udp
}

/// One of its three fragments, with its IP header.
fn fragment(src: IpAddr, dst: IpAddr, datagram: &[u8], part: usize, id: u8) -> Vec<u8> {
    let content = &datagram[part * PART..datagram.len().min((part + 1) * PART)];
    let offset = u16::try_from(part * PART).unwrap();
    let more = u16::from(part < 2);
    let length = u16::try_from(content.len()).unwrap();
    let mut bytes = Vec::new();
    if src.is_ipv4() {
        let word = ((offset / 8) | (more << 13)).to_be_bytes();
        bytes.extend([0x45, 0]);
        bytes.extend((length + 20).to_be_bytes());
        bytes.extend([0x77, id, word[0], word[1], 64, 17, 0, 0]);
    } else {
        let word = (offset | more).to_be_bytes();
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend((length + 8).to_be_bytes());
        bytes.extend([44, 64]);
        bytes.extend([octets(src), octets(dst)].concat());
        bytes.extend([17, 0, word[0], word[1], 0, 0, 0x77, id]);
        return [bytes, content.to_vec()].concat();
    }
    bytes.extend([octets(src), octets(dst)].concat());
    [bytes, content.to_vec()].concat()
}

#[test]
fn fragments_may_come_in_any_order() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let mut lost = Vec::new();
    let node = rig.cluster.node("n1").unwrap().plan();
    let node: [IpAddr; 2] = [node.v4.into(), node.v6.into()];
    let mut id = 0;
    for backend in ["web-2", "web-3"] {
        rig.remove("reordered");
        let addresses = rig.service("reordered", json!({ "type": "NodePort" }));
        rig.endpoints("reordered", &[backend]);
        rig.settle_all("client-n1", &addresses, &[backend]);
        let object = rig.cluster.store().get("services", "default", "reordered").unwrap();
        let port = u16::try_from(object["spec"]["ports"][1]["nodePort"].as_u64().unwrap()).unwrap();
        for way in WAYS.into_iter().filter(|way| way.udp) {
            let cluster_ip = SocketAddr::new(way.pick(&addresses), way.port());
            let node_port = SocketAddr::new(way.pick(&node), port);
            for (from, target) in [("client-n1", cluster_ip), ("office", node_port)] {
                for order in ORDERS {
                    id += 1;
                    if !echoed_in_order(rig, from, target, order, id) {
                        lost.push(format!("{order:?} from {from} to {target} of {backend}"));
                    }
                }
            }
        }
    }
    rig.remove("reordered");
    assert!(lost.is_empty(), "{lost:#?}");
}
