//! loadBalancerSourceRanges that change under traffic, and the ranges that addresses of Services have to
//! lie in.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use sluice_testkit::traffic::Failure;

use socket2::{Domain, Socket, Type};

use crate::flags::with;
use crate::rig::{ALL, End, Rig, SOON, WAYS, Way, patient, rig, until};

const NAME: &str = "walled";
const ADDRESSES: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

#[test]
fn r17_r48_narrowed_ranges_shut_out_new_connections_and_cut_none() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let router = &rig.cluster.network().router;
    let plan = rig.cluster.node("n1").unwrap().plan();
    router
        .ip(&format!(
            "route replace {}/32 via {}\nroute replace {}/128 via {}\n",
            ADDRESSES[0], plan.v4, ADDRESSES[1], plan.v6
        ))
        .unwrap();
    let spec =
        |ranges: &[String]| json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ranges });
    let office = ["192.168.88.0/24", "fd00:88::/64"].map(str::to_owned).to_vec();
    let pods = |node: &str| -> Vec<String> {
        rig.cluster.node(node).unwrap().pod_cidrs().iter().map(ToString::to_string).collect()
    };
    let addresses = ADDRESSES.map(|ip| ip.parse().unwrap());
    for (from, own, other) in
        [("office", office.clone(), pods("n1")), ("client-n1", pods("n1"), pods("n3"))]
    {
        rig.service(NAME, spec(&own));
        rig.ingress(NAME, &ADDRESSES);
        rig.endpoints(NAME, &ALL);
        rig.settle_all(from, &addresses, &ALL);
        for way in WAYS {
            let target = SocketAddr::new(way.pick(&addresses), way.port());
            let running = rig.start(from, target, way.lasting());
            until("it to be answered", SOON, || running.report().answered > 0);
            rig.service(NAME, spec(&other));
            until("new connections to be met with silence", SOON, || {
                rig.ask(from, target, way) == End::Not(Failure::TimedOut)
            });
            let before = running.report().answered;
            sleep(Duration::from_millis(300));
            let report = running.stop().unwrap();
            assert!(report.answered > before, "{from} {way:?}: {report:?}");
            assert_eq!(report.failed(), 0, "{from} {way:?}: {report:?}");
            rig.service(NAME, spec(&own));
            rig.settle(from, target, way, &ALL);
        }
        rig.remove(NAME);
    }
}

/// The second pair of addresses of the same Service, which the office has.
const OTHERS: [&str; 2] = ["198.18.0.2", "2001:db8:18::2"];

/// Asks from an address that the office has beside its own; whether anybody answered.
fn answered(rig: &Rig, way: Way, source: IpAddr, target: SocketAddr) -> bool {
    let wait = patient(Duration::from_millis(500));
    let from = SocketAddr::new(source, 0);
    let asked = rig.netns("office").run(|| -> std::io::Result<usize> {
        if way.udp {
            let socket = UdpSocket::bind(from)?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(wait))?;
            socket.send(b"who")?;
            return socket.recv(&mut [0; 1500]);
        }
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&target.into(), wait)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(wait))?;
        stream.write_all(b"who\n")?;
        stream.read(&mut [0; 1500])
    });
    asked.unwrap().is_ok_and(|octets| octets > 0)
}

/// Where the node is in the ranges, what comes from the Service's own addresses is let in: some clouds'
/// balancers send with them. Where it is not, it is not.
#[test]
fn r17_with_the_node_in_the_ranges_own_addresses_are_let_in() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (router, office) = (&rig.cluster.network().router, rig.netns("office"));
    let plan = rig.cluster.node("n1").unwrap().plan();
    let to_node = [IpAddr::from(plan.v4), plan.v6.into()];
    let to_office: [IpAddr; 2] = ["192.168.88.10".parse().unwrap(), "fd00:88::10".parse().unwrap()];
    for at in 0..2 {
        let bits = if at == 0 { 32 } else { 128 };
        let route =
            |address: &str, via: IpAddr| format!("route replace {address}/{bits} via {via}\n");
        router.ip(&route(ADDRESSES[at], to_node[at])).unwrap();
        router.ip(&route(OTHERS[at], to_office[at])).unwrap();
        office.ip(&format!("addr replace {}/{bits} dev lo\n", OTHERS[at])).unwrap();
    }
    let all = [ADDRESSES, OTHERS].concat();
    for (ranges, let_in) in [
        (to_node.map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })), true),
        (["192.0.2.0/24".to_owned(), "2001:db8:9::/64".to_owned()], false),
    ] {
        let spec = json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ranges });
        rig.service(NAME, spec);
        rig.ingress(NAME, &all);
        rig.endpoints(NAME, &ALL);
        for way in WAYS {
            let pick = |pair: [&str; 2]| way.pick(&pair.map(|ip| ip.parse().unwrap()));
            let target = SocketAddr::new(pick(ADDRESSES), way.port());
            // The office itself is in neither; without a frontend it would be told so.
            until(&format!("{way:?} to be walled"), SOON, || {
                rig.ask("office", target, way) == End::Not(Failure::TimedOut)
            });
            assert_eq!(answered(rig, way, pick(OTHERS), target), let_in, "{way:?}");
        }
        rig.remove(NAME);
    }
    for (address, bits) in OTHERS.into_iter().zip([32, 128]) {
        office.ip(&format!("addr del {address}/{bits} dev lo\n")).unwrap();
        router.ip(&format!("route del {address}/{bits}\n")).unwrap();
    }
}

/// A load balancer's and an external address that n1 serves or not, by its flags; the ClusterIP it
/// always does.
#[test]
fn addresses_outside_of_the_operators_ranges_are_not_served() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    const EXTERNAL: [&str; 2] = ["198.18.77.1", "2001:db8:77::1"];
    const FROM: &str = "client-n1";
    let parsed = |pair: [&str; 2]| pair.map(|ip| ip.parse::<IpAddr>().unwrap());
    let ips = rig.service("ranged", json!({ "type": "LoadBalancer", "externalIPs": EXTERNAL }));
    rig.ingress("ranged", &ADDRESSES);
    rig.endpoints("ranged", &ALL);
    let holds = |external: [bool; 2], balanced: [bool; 2]| {
        for way in WAYS {
            for (addresses, open) in [(EXTERNAL, external), (ADDRESSES, balanced)] {
                let open = if way.v4 { open[0] } else { open[1] };
                let target = SocketAddr::new(way.pick(&parsed(addresses)), way.port());
                rig.settle(FROM, target, way, if open { &ALL } else { &[] });
            }
        }
        rig.settle_all(FROM, &ips, &ALL);
    };
    holds([true; 2], [true; 2]);
    let balancers =
        ["--loadbalancer-ip-range=192.0.2.0/24", "--loadbalancer-ip-range=2001:db8:18::/64"];
    with(rig, &balancers, || holds([true; 2], [false, true]));
    let strange = "--service-external-ip-range=192.0.2.0/24,198.51.100.0/24";
    with(rig, &[strange], || holds([false; 2], [true; 2]));
    let lax = "--strict-external-ip-validation=false";
    with(rig, &[strange, balancers[0], lax], || holds([true; 2], [true; 2]));
    rig.remove("ranged");
}
