//! Datagrams that don't fit into a frame, there and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::rig::{BACKENDS, Rig, WAYS, rig};

/// Sends a datagram of so many bytes from a namespace; whether the same came back.
fn echoed(rig: &Rig, from: &str, target: SocketAddr, size: usize) -> bool {
    let asked = rig.netns(from).run(|| -> std::io::Result<bool> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
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
