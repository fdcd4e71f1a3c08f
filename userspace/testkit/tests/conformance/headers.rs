//! Packets whose headers have more than most: IPv4 options, IPv6 extension headers, tags of VLANs.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use serde_json::json;
use sluice_testkit::cluster::topology::{ROUTER_V4, ROUTER_V6};
use socket2::{Domain, Protocol, Socket, Type};

use crate::flags::{addresses, node_port, with};
use crate::raw::{self, own_address};
use crate::rig::{ALL, Rig, SOON, WAYS, patient, rig};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// IPv4 options (RFC 791 section 3.1), whole words.
fn options() -> Vec<(&'static str, Vec<u8>)> {
    let record_route = [[7, 39, 4].to_vec(), vec![0; 36], vec![0]].concat();
    vec![
        ("no operation", vec![1; 4]),
        ("router alert", vec![148, 4, 0, 0]),
        ("40 octets", vec![1; 40]),
        ("record route", record_route),
    ]
}

/// IPv6 extension headers (RFC 8200 section 4) before `protocol`: the first one's number, and all.
fn extensions(protocol: u8) -> Vec<(&'static str, u8, Vec<u8>)> {
    // Padding, and an option for experiments (RFC 4727), to be skipped by who does not know it.
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let long = |next: u8| [vec![next, 1, 0x1e, 12], vec![7; 12]].concat();
    vec![
        ("for each hop", 0, options(protocol)),
        ("for the destination", 60, long(protocol)),
        ("both", 0, [options(60), long(protocol)].concat()),
    ]
}

/// The packets by which a body is sent: with each of the headers that its family has.
fn dressed(own: IpAddr, target: IpAddr, protocol: u8, body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    if target.is_ipv4() {
        let with = |(name, options): (_, Vec<u8>)| {
            (name, raw::ipv4(own, target, &options, protocol, body))
        };
        return options().into_iter().map(with).collect();
    }
    let with = |(name, next, headers): (_, u8, Vec<u8>)| {
        (name, raw::ipv6(own, target, next, &[&headers, body].concat()))
    };
    extensions(protocol).into_iter().map(with).collect()
}

/// Sends the first segment of a connection; whether the server's comes back from the service.
fn accepted(
    rig: &Rig,
    from: &str,
    target: SocketAddr,
    port: u16,
    dress: impl Fn(IpAddr, &[u8]) -> Vec<u8> + Sync,
) -> bool {
    let asked = rig.netns(from).run(|| -> io::Result<bool> {
        let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let mut socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        let limit = patient(Duration::from_secs(1));
        socket.set_read_timeout(Some(limit))?;
        // What others send it does not hear.
        socket.connect(&SocketAddr::new(target.ip(), 0).into())?;
        let own = own_address(target.ip())?;
        raw::send(target.ip(), &dress(own, &raw::segment((own, port), target, SYN, 7, &[])))?;
        let ports = [target.port().to_be_bytes(), port.to_be_bytes()].concat();
        let mut packet = [0; 256];
        loop {
            let length = socket.read(&mut packet)?;
            // IPv4 comes with its header, which may have the question's options.
            let at = if target.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
            let segment = packet[..length].get(at..).unwrap_or_default();
            if segment.len() >= 20 && segment.starts_with(&ports) {
                return Ok(segment[13] == SYN | ACK);
            }
        }
    });
    asked.unwrap().unwrap_or(false)
}

/// From a pod to a ClusterIP and from outside to a node port, of a backend here and of one elsewhere.
#[test]
fn options_and_extension_headers_are_passed_over() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let mut lost = Vec::new();
    let (node, _) = addresses(rig);
    let at = node_port(rig, "dressed");
    let ips = rig.service("dressed", json!({ "type": "NodePort" }));
    let mut port = 40_000;
    for backend in ["web-2", "web-3"] {
        rig.endpoints("dressed", &[backend]);
        rig.settle_all("client-n1", &ips, &[backend]);
        for way in WAYS {
            let cluster_ip = SocketAddr::new(way.pick(&ips), way.port());
            rig.settle("office", at(&node, way), way, &[backend]);
            for (from, target) in [("client-n1", cluster_ip), ("office", at(&node, way))] {
                let names = dressed(target.ip(), target.ip(), 0, &[]).into_iter().map(|it| it.0);
                for (number, name) in names.enumerate() {
                    port += 1;
                    let dress = |own, protocol, body: &[u8]| {
                        dressed(own, target.ip(), protocol, body).swap_remove(number).1
                    };
                    let answered = if way.udp {
                        raw::answers(rig, from, target, 100, |own, body| vec![dress(own, 17, body)])
                    } else {
                        accepted(rig, from, target, port, |own, body| dress(own, 6, body))
                    };
                    if !answered {
                        lost.push(format!("{name}: {way:?} from {from} to {target} of {backend}"));
                    }
                }
            }
        }
    }
    rig.remove("dressed");
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Moves addresses of n1 and its part of the nodes' network to a VLAN, and back.
fn in_a_vlan(rig: &Rig, work: impl FnOnce()) -> Result<(), String> {
    let netns = rig.netns("n1");
    let router = &rig.cluster.network().router;
    let missing = |fault: anyhow::Error| fault.to_string();
    netns.ip("link add link eth0 name eth0.77 type vlan id 77\n").map_err(missing)?;
    router.ip("link add link n1 name n1.77 type vlan id 77\n").map_err(missing)?;
    let plan = rig.cluster.node("n1").unwrap().plan();
    let others: Vec<_> = ["n2", "n3"].map(|name| rig.cluster.node(name).unwrap()).into();
    let onto = |device: &str| {
        let mut script = String::new();
        for (address, bits) in [(IpAddr::from(plan.v4), 24), (plan.v6.into(), 64)] {
            let options = if bits == 64 { " nodad" } else { "" };
            let _ = writeln!(script, "address add {address}/{bits} dev {device}{options}");
        }
        for gateway in [IpAddr::from(ROUTER_V4), ROUTER_V6.into()] {
            let _ = writeln!(script, "route replace default via {gateway}");
        }
        for other in &others {
            for cidr in other.pod_cidrs() {
                let v4 = cidr.addr().is_ipv4();
                let via: IpAddr = if v4 { other.plan().v4.into() } else { other.plan().v6.into() };
                let _ = writeln!(script, "route replace {cidr} via {via}");
            }
        }
        netns.ip(&script).unwrap();
    };
    netns.ip("link set eth0.77 up\naddress flush dev eth0 scope global\n").unwrap();
    router.ip("link set n1 nomaster\nlink set n1.77 master lan up\n").unwrap();
    onto("eth0.77");
    let result = catch_unwind(AssertUnwindSafe(work));
    netns.ip("link del eth0.77\n").unwrap();
    router.ip("link del n1.77\nlink set n1 master lan\n").unwrap();
    onto("eth0");
    if let Err(panic) = result {
        resume_unwind(panic);
    }
    Ok(())
}

/// The VLAN's interface is the uplink then; what comes with the tag is none of the other's.
#[test]
fn a_node_whose_uplink_is_in_a_vlan_serves_as_others_do() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (node, _) = addresses(rig);
    let at = node_port(rig, "tagged");
    let ips = rig.service("tagged", json!({ "type": "NodePort" }));
    let works = || {
        for way in WAYS {
            let cluster_ip = SocketAddr::new(way.pick(&ips), way.port());
            rig.settle_within("client-n1", cluster_ip, way, &ALL, 2 * SOON);
            rig.settle_within("office", at(&node, way), way, &ALL, 2 * SOON);
        }
    };
    // The cluster's agents know their uplink by its name.
    with(rig, &["--uplink=eth*"], || {
        works();
        if let Err(fault) = in_a_vlan(rig, works) {
            println!("SKIP: this kernel has no VLANs: {fault}");
        }
        works();
    });
    rig.remove("tagged");
}
