//! Packets that no socket sends by itself: ICMP echo to a service, and a server's TCP segment far
//! outside of its window.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::raw::{self, checksum};
use crate::rig::{Rig, WAYS, patient, rig};

const CLIENT: &str = "client-n1";
const ACK: u8 = 16;

/// Asks for an echo; how that ended.
fn echo(rig: &Rig, from: &str, target: IpAddr) -> Result<(), ErrorKind> {
    let asked = rig.netns(from).run(|| -> std::io::Result<()> {
        let (domain, protocol, kind) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
        };
        let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.connect(&SocketAddr::new(target, 0).into())?;
        socket.set_read_timeout(Some(patient(Duration::from_millis(500))))?;
        let mut request = [kind, 0, 0, 0, 0x51, 0x1c, 0, 1];
        // The kernel does it for ICMPv6, where it needs the addresses.
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum);
        socket.write_all(&request)?;
        socket.read(&mut [0; 128]).map(drop)
    });
    asked.unwrap().map_err(|error| error.kind())
}

#[test]
fn an_icmp_echo_to_a_cluster_ip_is_refused_as_a_port_it_does_not_have() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("pinged", json!({}));
    rig.endpoints("pinged", &["web-3"]);
    rig.settle_all(CLIENT, &addresses, &["web-3"]);
    for pod in rig.cluster.pod("web-3").unwrap().addresses {
        assert_eq!(echo(rig, CLIENT, pod), Ok(()), "the pod itself answers");
    }
    for address in addresses {
        assert_eq!(echo(rig, CLIENT, address), Err(ErrorKind::ConnectionRefused), "{address}");
    }
    rig.remove("pinged");
}

/// Such a segment must come to the client as the service's or not at all: as the pod's it would be
/// answered by a reset, which ends the connection.
#[test]
fn r35_a_servers_segment_outside_of_its_window_ends_no_connection() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("window", json!({}));
    let pods = rig.cluster.pod(CLIENT).unwrap().addresses;
    let (IpAddr::V4(client), way) = (pods[0], WAYS[0]) else { panic!("{pods:?}") };
    for backend in ["web-2", "web-3"] {
        rig.endpoints("window", &[backend]);
        let target = SocketAddr::new(way.pick(&addresses), way.port());
        rig.settle(CLIENT, target, way, &[backend]);
        let open = rig.netns(CLIENT).run(|| TcpStream::connect(target)).unwrap();
        let mut stream = open.unwrap();
        stream.set_read_timeout(Some(patient(Duration::from_secs(2)))).unwrap();
        ask(&mut stream).unwrap();
        let IpAddr::V4(server) = rig.cluster.pod(backend).unwrap().addresses[0] else { panic!() };
        let port = stream.local_addr().unwrap().port();
        for sequence in [1, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
            let reset = inject(rig, backend, (server, 8080), (client, port), sequence);
            assert!(!reset, "{backend}: {sequence:#x}");
        }
        ask(&mut stream).unwrap_or_else(|error| panic!("{backend}: {error}"));
    }
    // What it is like from a pod that the client has no connection to.
    let IpAddr::V4(stranger) = rig.cluster.pod("web-1").unwrap().addresses[0] else { panic!() };
    assert!(inject(rig, "web-1", (stranger, 8080), (client, 40_000), 1));
    rig.remove("window");
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"still there?\n")?;
    let length = stream.read(&mut [0; 256])?;
    if length == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Sends an ACK with data from a pod's own namespace; whether it is answered by a reset.
fn inject(
    rig: &Rig,
    from: &str,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    sequence: u32,
) -> bool {
    let target = SocketAddr::from(dst);
    let segment = raw::segment((src.0.into(), src.1), target, ACK, sequence, b"x\n");
    let answered = rig.netns(from).run(|| -> std::io::Result<bool> {
        let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        socket.set_read_timeout(Some(patient(Duration::from_millis(200))))?;
        socket.send_to(&segment, &SocketAddr::from((dst.0, 0)).into())?;
        let mut packet = [0; 128];
        loop {
            match socket.read(&mut packet) {
                // Behind an IPv4 header of five words: from the client's port, RST.
                Ok(length) if length >= 40 => {
                    let tcp = &packet[20..];
                    if tcp[..2] == dst.1.to_be_bytes() && tcp[13] & 4 != 0 {
                        return Ok(true);
                    }
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    });
    answered.unwrap().unwrap()
}
