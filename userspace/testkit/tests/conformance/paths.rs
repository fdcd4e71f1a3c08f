//! The way between client and backend: how long a packet may be on it, and who is on it. Both are known
//! by ICMP errors about translated packets.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use serde_json::json;
use sluice_testkit::cluster::topology::{ROUTER_V4, ROUTER_V6};
use socket2::SockRef;

use crate::flags::{addresses, node_port_to};
use crate::raw::any;
use crate::rig::{Rig, WAYS, Way, patient, rig};

const NAME: &str = "far";
const CLIENT: &str = "client-n1";
/// Octets of a packet on narrow ways, each less than those before: what IPv6 has learned nobody makes it
/// forget, and it takes no less than 1,280.
const NARROW: [usize; 3] = [1_300, 1_290, 1_285];

/// Lines of 1,900 octets each, all sent before one is read; whether all came back.
fn transferred(target: SocketAddr) -> io::Result<()> {
    const LINES: usize = 60;
    let line = [vec![b'x'; 1_899], vec![b'\n']].concat();
    let mut stream = TcpStream::connect_timeout(&target, patient(Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(patient(Duration::from_secs(5))))?;
    stream.write_all(&line.repeat(LINES))?;
    let mut left = LINES;
    let mut buffer = [0; 8_192];
    while left > 0 {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= buffer[..length].iter().filter(|octet| **octet == b'\n').count();
    }
    Ok(())
}

/// A socket asks by datagrams of 1,400 octets; the errors about the first ones teach it and the server.
fn asked(target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((any(target.ip()), 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(patient(Duration::from_millis(300))))?;
    let question = [b'y'; 1_400];
    let mut last = io::ErrorKind::TimedOut.into();
    for _ in 0..10 {
        let mut answer = [0; 2_048];
        match socket.send(&question).and_then(|_| socket.recv(&mut answer)) {
            Ok(length) if answer[..length].ends_with(&question) => return Ok(()),
            Ok(length) => return Err(io::Error::other(format!("{length} octets"))),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// What a namespace has learned of the way to an address, as `ip route get` says it.
fn route(rig: &Rig, from: &str, to: IpAddr) -> String {
    let output = rig.netns(from).run(|| {
        Command::new("ip").args(["route", "get", &to.to_string()]).output().unwrap().stdout
    });
    String::from_utf8_lossy(&output.unwrap()).into_owned()
}

/// Forgets what all have learned of ways, by IPv4.
fn forget(rig: &Rig) {
    for name in ["office", CLIENT, "web-2", "web-3", "n1", "n2"] {
        rig.netns(name).ip("route flush cache\n").unwrap();
    }
}

/// Sends a body both ways, where only packets of `narrow` octets come through in one direction: who sends
/// them must have been told.
fn fits(
    rig: &Rig,
    from: &str,
    target: SocketAddr,
    way: Way,
    narrow: usize,
    told: (&str, IpAddr),
) -> Option<String> {
    let run = if way.udp { asked } else { transferred };
    let done = rig.netns(from).run(|| run(target)).unwrap();
    let known = route(rig, told.0, told.1);
    let learned = known.contains(&format!("mtu {narrow}"));
    (done.is_err() || !learned)
        .then(|| format!("{way:?} from {from} to {target}: {done:?}, {} knows {known}", told.0))
}

fn router(rig: &Rig, lines: &str) {
    rig.cluster.network().router.ip(lines).unwrap();
}

/// The way between node and client is narrow: as a router beyond has it, which
/// tells the node (who masquerades) or the service's address (of a local backend), and as the node itself
/// has it. The backend must learn of it.
#[test]
fn backends_learn_the_path_mtu_to_clients() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (node, _) = addresses(rig);
    let mut faults = Vec::new();
    // A Service each: of one that changes, the slices may be seen before the policy.
    let cases =
        [("far", "Cluster", "web-2"), ("farther", "Cluster", "web-3"), ("kept", "Local", "web-2")];
    let at = cases.map(|(name, policy, backend)| node_port_to(rig, name, policy, &[backend]));
    let narrow = |verb: &str, by_node: bool| {
        let narrow = NARROW[usize::from(by_node)];
        let (v4, v6) = if by_node {
            (format!("via {ROUTER_V4}"), format!("via {ROUTER_V6}"))
        } else {
            ("dev office".to_owned(), "dev office".to_owned())
        };
        let lines = format!(
            "route {verb} 192.168.88.10/32 {v4} mtu lock {narrow}\n\
             route {verb} fd00:88::10/128 {v6} mtu lock {narrow}\n"
        );
        if by_node { rig.netns("n1").ip(&lines).unwrap() } else { router(rig, &lines) }
    };
    let places = if sees_routes() { vec![false, true] } else { vec![false] };
    for by_node in places {
        narrow("add", by_node);
        for ((_, policy, backend), at) in cases.iter().zip(&at) {
            for way in WAYS {
                rig.settle("office", at(&node, way), way, &[backend]);
                forget(rig);
                let client: IpAddr =
                    if way.v4 { "192.168.88.10" } else { "fd00:88::10" }.parse().unwrap();
                let sees = if *policy == "Local" { client } else { way.pick(&node) };
                let octets = NARROW[usize::from(by_node)];
                let fault = fits(rig, "office", at(&node, way), way, octets, (backend, sees));
                faults.extend(
                    fault.map(|fault| format!("{policy}, by the node: {by_node}: {fault}")),
                );
            }
        }
        narrow("del", by_node);
    }
    forget(rig);
    for (name, ..) in cases {
        rig.remove(name);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The node's own way to a backend is narrow, and what it sends there comes from itself: by masquerade, or
/// since it asks itself. No stack says so then, the programs do.
#[test]
fn clients_learn_what_their_node_can_not_send_on() {
    if !sees_routes() {
        println!("SKIP: programs of this kernel see no MTU of a route");
        return;
    }
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (node, _) = addresses(rig);
    let at = node_port_to(rig, NAME, "Cluster", &["web-3"]);
    let ips = rig.cluster.api().cluster_ips(NAME).unwrap();
    let to = rig.cluster.pod("web-3").unwrap().addresses;
    let n2 = rig.cluster.node("n2").unwrap().plan();
    let [.., octets] = NARROW;
    let narrow = |verb: &str| -> String {
        let lines = to.iter().zip([IpAddr::from(n2.v4), n2.v6.into()]);
        lines.map(|(to, via)| format!("route {verb} {to} via {via} mtu lock {octets}\n")).collect()
    };
    let n1 = rig.netns("n1");
    n1.ip(&narrow("add")).unwrap();
    let mut faults = Vec::new();
    for way in WAYS {
        let cluster_ip = SocketAddr::new(way.pick(&ips), way.port());
        for (from, target) in
            [(CLIENT, at(&node, way)), ("office", at(&node, way)), ("n1", cluster_ip)]
        {
            rig.settle(from, target, way, &["web-3"]);
            forget(rig);
            faults.extend(fits(rig, from, target, way, octets, (from, target.ip())));
        }
    }
    n1.ip(&narrow("del")).unwrap();
    forget(rig);
    rig.remove(NAME);
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Here the way between two nodes is narrow: as the node itself has it, and as a router beyond has it.
/// Both tell the client of the address that they know, the backend's.
#[test]
fn pods_learn_the_path_mtu_to_backends() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-3"]);
    rig.settle_all(CLIENT, &ips, &["web-3"]);
    let to = rig.cluster.pod("web-3").unwrap().addresses;
    let n2 = rig.cluster.node("n2").unwrap().plan();
    let hops: [(IpAddr, IpAddr); 2] =
        [(n2.v4.into(), ROUTER_V4.into()), (n2.v6.into(), ROUTER_V6.into())];
    let routes = |verb: &str, router: bool, octets: Option<usize>| -> String {
        let options = octets.map(|octets| format!("mtu lock {octets}")).unwrap_or_default();
        let lines = to.iter().zip(hops).map(|(to, (node, gateway))| {
            let via = if router { gateway } else { node };
            format!("route {verb} {to} via {via} {options}\n")
        });
        lines.collect()
    };
    let n1 = rig.netns("n1");
    let mut faults = Vec::new();
    for by_router in [false, true] {
        let octets = NARROW[usize::from(by_router)];
        let own = (!by_router).then_some(octets);
        n1.ip(&routes("add", by_router, own)).unwrap();
        if by_router {
            router(rig, &routes("add", false, Some(octets)));
        }
        for way in WAYS {
            forget(rig);
            let target = SocketAddr::new(way.pick(&ips), way.port());
            let fault = fits(rig, CLIENT, target, way, octets, (CLIENT, target.ip()));
            faults.extend(fault.map(|fault| format!("by a router: {by_router}: {fault}")));
        }
        n1.ip(&routes("del", by_router, own)).unwrap();
        if by_router {
            router(rig, &routes("del", false, Some(octets)));
        }
    }
    forget(rig);
    rig.remove(NAME);
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Whether programs see the MTU of routes, and not that of interfaces only (`bpf_fib_lookup`, 5.12).
fn sees_routes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(12))
}

/// Who is on the way, by datagrams that live for one hop, for two, and so on: the address that an error
/// about them comes from, or the answer's.
fn trace(rig: &Rig, from: &str, target: SocketAddr) -> Vec<String> {
    let traced = rig.netns(from).run(|| -> io::Result<Vec<String>> {
        let socket = UdpSocket::bind((any(target.ip()), 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(patient(Duration::from_millis(500))))?;
        if target.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        let mut hops = Vec::new();
        for limit in 1..=6 {
            let raw = SockRef::from(&socket);
            if target.is_ipv4() {
                raw.set_ttl_v4(limit)?;
            } else {
                raw.set_unicast_hops_v6(limit)?;
            }
            let question = format!("{limit}\n");
            let mut answer = [0; 256];
            match socket.send(question.as_bytes()).and_then(|_| socket.recv(&mut answer)) {
                Ok(length) if answer[..length].ends_with(question.as_bytes()) => {
                    hops.push("answer".to_owned());
                    break;
                }
                Ok(length) => hops.push(format!("{:?}", &answer[..length])),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    hops.push("*".to_owned())
                }
                Err(_) => hops.push(offender(&socket)?),
            }
        }
        Ok(hops)
    });
    traced.unwrap().unwrap()
}

/// Whom the error came from that stands in a socket's queue (ip(7), IP_RECVERR).
fn offender(socket: &UdpSocket) -> io::Result<String> {
    let mut space = nix::cmsg_space!([u8; 256]);
    let flags = MsgFlags::MSG_ERRQUEUE;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut space), flags)?;
    let mut offenders = message.cmsgs()?.filter_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(_, Some(address)) => {
            Some(IpAddr::from(u32::from_be(address.sin_addr.s_addr).to_be_bytes()).to_string())
        }
        ControlMessageOwned::Ipv6RecvErr(_, Some(address)) => {
            Some(IpAddr::from(address.sin6_addr.s6_addr).to_string())
        }
        _ => None,
    });
    Ok(offenders.next().unwrap_or_else(|| "nobody".to_owned()))
}

#[test]
fn traceroute_shows_who_is_on_the_way() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (n1, bridge) = addresses(rig);
    let n2 = rig.cluster.node("n2").unwrap().plan();
    let n2 = [n2.v4.into(), n2.v6.into()];
    let router = ["192.168.88.1", "fd00:88::1"].map(|ip| ip.parse().unwrap());
    let mut faults = Vec::new();
    let cases = [("far", "Cluster", "web-3"), ("kept", "Local", "web-2")];
    for (name, policy, backend) in cases {
        let at = node_port_to(rig, name, policy, &[backend]);
        let ips = rig.cluster.api().cluster_ips(name).unwrap();
        for way in WAYS.into_iter().filter(|way| way.udp) {
            let cluster_ip = SocketAddr::new(way.pick(&ips), way.port());
            let of = |addresses: &[IpAddr]| way.pick(addresses).to_string();
            // A pod of the node itself is no hop away.
            let (inside, outside) = if backend == "web-3" {
                (vec![of(&bridge), of(&n2)], vec![of(&router), of(&n1), of(&n2)])
            } else {
                (vec![], vec![of(&router)])
            };
            for (from, target, hops) in
                [(CLIENT, cluster_ip, inside), ("office", at(&n1, way), outside)]
            {
                rig.settle(from, target, way, &[backend]);
                let expected = [hops, vec!["answer".to_owned()]].concat();
                let seen = trace(rig, from, target);
                if seen != expected {
                    faults.push(format!(
                        "{from} to {target} of {backend}: {seen:?}, not {expected:?}"
                    ));
                }
            }
        }
    }
    for (name, ..) in cases {
        rig.remove(name);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
