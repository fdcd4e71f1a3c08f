//! Packets to everything that may be a frontend, and what becomes of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};

use super::events::{ADDRESSES, NODE_ADDRESSES, NODE_PORTS, PORTS};
use crate::object::classifier;
use crate::plane::Dataplane;

/// Packets by which the backends of a frontend are found; each from another port and client.
const TRIES: u16 = 40;
/// Packets before a difference is believed: every backend of ten has had its chance by then.
const MOST_TRIES: u16 = 2_000;
/// Refusals that a plane makes in a second at most, less some (docs/datapath.md).
const REFUSALS: u32 = 800;
/// Return value of a classifier (linux/pkt_cls.h).
const REDIRECT: i32 = 7;

/// A question: who asks what from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    program: &'static str,
    /// Network of the client, whose last octets are the number of the try.
    client: IpAddr,
    to: (IpAddr, u16),
    udp: bool,
}

/// What becomes of a packet, as far as it does not depend on the try.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Meets {
    verdict: i32,
    protocol: u8,
    /// `None`: the client.
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    /// Of a packet to the client: where it comes from.
    port: u16,
}

impl Meets {
    pub(super) fn is_translated(&self, probe: &Probe) -> bool {
        self.destination.is_some_and(|ip| (ip, self.port) != probe.to)
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.verdict == REDIRECT && self.destination.is_none()
    }
}

/// All questions.
pub(super) fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    let service = ADDRESSES.iter().flatten().flat_map(|ip| PORTS.map(|port| (*ip, port)));
    let node_ports = NODE_PORTS.map(|port| (port, NODE_ADDRESSES));
    let node_ports = node_ports.into_iter().flat_map(|(port, ips)| ips.map(|ip| (ip, port)));
    // Nor may a node port be open on a service's address (R19).
    let strays = [(ADDRESSES[0][0], NODE_PORTS[0]), (ADDRESSES[5][1], NODE_PORTS[0])];
    let clients = [
        ("from_pod", ["10.244.1.0", "fd00:244:0:1::"]),
        // A pod of another node, within source ranges and outside of them.
        ("from_network", ["10.244.3.0", "fd00:244:0:3::"]),
        ("from_network", ["192.168.88.0", "fd00:88::"]),
        ("from_network", ["192.168.99.0", "fd00:99::"]),
    ];
    for (ip, port) in service.chain(node_ports).chain(strays) {
        let to: (IpAddr, u16) = (ip.parse().unwrap(), port);
        for (program, networks) in clients {
            let client = networks[usize::from(to.0.is_ipv6())].parse().unwrap();
            for udp in [false, true] {
                probes.push(Probe { program, client, to, udp });
            }
        }
    }
    probes
}

/// The client of a try: 100 to 199 of its network, apart from pods that serve.
fn client(network: IpAddr, number: u16) -> IpAddr {
    let host = 100 + number % 100;
    match network {
        IpAddr::V4(net) => IpAddr::from((u32::from(net) | u32::from(host)).to_be_bytes()),
        IpAddr::V6(net) => IpAddr::from((u128::from(net) | u128::from(host)).to_be_bytes()),
    }
}

fn packet(probe: &Probe, source: IpAddr, source_port: u16) -> Vec<u8> {
    let (to, port) = probe.to;
    let mut l4 = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    if probe.udp {
        l4.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    } else {
        // A SYN.
        l4.extend([1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
    }
    let protocol = if probe.udp { 17 } else { 6 };
    let mut bytes: Vec<u8> = (1..13).collect();
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend(u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend([source.octets(), to.octets()].concat());
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend([source.octets(), to.octets()].concat());
        }
        _ => panic!("one family"),
    }
    bytes.extend(l4);
    bytes
}

fn read(verdict: i32, bytes: &[u8], client: IpAddr) -> Meets {
    let address = |at: usize, length: usize| -> IpAddr {
        match length {
            4 => <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap().into(),
            _ => <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap().into(),
        }
    };
    let (protocol, at, length) =
        if bytes[12] == 8 { (bytes[23], 26, 4) } else { (bytes[20], 22, 16) };
    let one = |address: IpAddr| (address != client).then_some(address);
    let (source, destination) = (one(address(at, length)), one(address(at + length, length)));
    let ports = at + 2 * length;
    let port = ports + if destination.is_some() { 2 } else { 0 };
    let port = u16::from_be_bytes([bytes[port], bytes[port + 1]]);
    Meets { verdict, protocol, source, destination, port }
}

/// A plane that is asked.
pub(super) struct Prober {
    plane: Dataplane,
    refused: u32,
}

impl Prober {
    pub(super) fn new(plane: Dataplane) -> Self {
        Self { plane, refused: 0 }
    }

    fn ask(&mut self, probe: &Probe, number: u16) -> Meets {
        let client = client(probe.client, number);
        let packet = packet(probe, client, 10_000 + number);
        let mut out = vec![0; packet.len() + 128];
        let options = TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            ctx_in: None,
            ctx_out: None,
            repeat: 1,
            attrs: TestRunAttrs::new(),
        };
        let program = classifier(&mut self.plane.object.ebpf, probe.program).unwrap();
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let meets = read(result.return_value as i32, &out, client);
        if meets.is_refusal() {
            self.refused += 1;
            if self.refused.is_multiple_of(REFUSALS) {
                sleep(Duration::from_millis(1_100));
            }
        }
        meets
    }
}

/// What the packets of a probe meet at two planes. Where that is always the same few packets tell;
/// where they differ, many are asked for more.
pub(super) fn ask_both(
    a: &mut Prober,
    b: &mut Prober,
    probe: &Probe,
) -> (BTreeSet<Meets>, BTreeSet<Meets>) {
    let (mut by_a, mut by_b) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..MOST_TRIES {
        by_a.insert(a.ask(probe, number));
        by_b.insert(b.ask(probe, number));
        let served = by_a.iter().chain(&by_b).any(|meets| meets.is_translated(probe));
        if !served || (number >= TRIES && by_a == by_b) {
            break;
        }
    }
    (by_a, by_b)
}
