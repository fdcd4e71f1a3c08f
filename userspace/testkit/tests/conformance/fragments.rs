//! Datagrams that don't fit into a frame, there and back, their fragments in any order.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::raw::{self, any};
use crate::rig::{BACKENDS, Rig, WAYS, patient, rig};
use serde_json::json;

/// Sends a datagram of so many bytes from a namespace; whether the same came back.
fn echoed(rig: &Rig, from: &str, target: SocketAddr, size: usize) -> bool {
    let asked = rig.netns(from).run(|| -> std::io::Result<bool> {
        let socket = UdpSocket::bind((any(target.ip()), 0))?;
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
    raw::answers(rig, from, target, 2_500, |own, datagram| {
        order.into_iter().map(|part| fragment(own, target.ip(), datagram, part, id)).collect()
    })
}

/// One of its three fragments, with its IP header.
fn fragment(src: IpAddr, dst: IpAddr, datagram: &[u8], part: usize, id: u8) -> Vec<u8> {
    let content = &datagram[part * PART..datagram.len().min((part + 1) * PART)];
    let offset = u16::try_from(part * PART).unwrap();
    let more = u16::from(part < 2);
    if src.is_ipv4() {
        let mut packet = raw::ipv4(src, dst, &[], 17, content);
        packet[5] = id;
        packet[6..8].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
        return packet;
    }
    let [high, low] = (offset | more).to_be_bytes();
    let header = [17, 0, high, low, 0, 0, 0x77, id];
    raw::ipv6(src, dst, 44, &[&header, content].concat())
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
