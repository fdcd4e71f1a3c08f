//! Section 0 of the contract: a router that announces what is not its own changes nothing on a node,
//! whatever `--import-allow` says.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use bytes::BytesMut;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::json;
use sluice_bgp::fsm::Settings;
use sluice_bgp::{AsPath, Attributes, Family, Message, NextHop, Origin, Params, Update};
use sluice_testkit::cluster::bgp_router::NODES_ASN;
use sluice_testkit::cluster::{Cluster, wait_for};

use crate::ibgp::tables;
use crate::{PATIENCE, addresses, ask, cluster};

/// A router beside the site's own, and what it names as next hops.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 251);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
const ASN: u32 = 65010;
const PORT: u16 = 1180;
/// Prefixes that no node has a reason to refuse but that nobody allowed them.
const FOREIGN: [&str; 2] = ["203.0.113.0/24", "2001:db8:99::/64"];

/// Takes a session and announces the prefixes, each by itself; reads until the end.
fn serve(mut stream: TcpStream, prefixes: &[IpNet]) -> std::io::Result<()> {
    let mut settings = Settings::new(ASN, ROUTER, NODES_ASN);
    // It never has anything more to say.
    settings.hold_s = 0;
    let params = Params { four_octet_as: true, ..Params::default() };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(&[ASN])),
        ..Attributes::default()
    };
    let mut octets = BytesMut::new();
    Message::Open(settings.open()).encode(&params, &mut octets).unwrap();
    Message::Keepalive.encode(&params, &mut octets).unwrap();
    for prefix in prefixes {
        let (family, hop) = match prefix {
            IpNet::V4(_) => (Family::Ipv4Unicast, IpAddr::V4(ROUTER)),
            IpNet::V6(_) => (Family::Ipv6Unicast, IpAddr::V6(ROUTER_V6)),
        };
        let hop = NextHop::from(hop);
        for update in Update::announce(family, &attributes, hop, &[*prefix], &params).unwrap() {
            Message::Update(Box::new(update)).encode(&params, &mut octets).unwrap();
        }
    }
    stream.write_all(&octets)?;
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Waits until the first node has heard all of the router, and takes so many of it; what it shows.
fn heard(cluster: &Cluster, count: [usize; 2], accepted: usize) {
    let address = ROUTER.to_string();
    wait_for(&format!("{count:?} of the router, {accepted} of them accepted"), || {
        let rows = ask(cluster, "n1", &["bgp", "neighbors"]);
        let found = rows
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["address"] == address.as_str()).cloned());
        Ok(found
            .filter(|row| row["received"] == json!(count) && row["accepted"] == json!(accepted)))
    })
    .unwrap();
}

#[test]
fn contract_a_router_that_announces_what_is_ours_changes_nothing_on_a_node() {
    let Some(cluster) = cluster() else { return };
    cluster.wait_for_pod_routes().unwrap();
    let node = cluster.node("n1").unwrap();
    let mut prefixes: Vec<IpNet> = ["0.0.0.0/0", "::/0", "10.96.0.0/12", "192.168.77.11/32"]
        .iter()
        .chain(&FOREIGN)
        .map(|text| text.parse().unwrap())
        .collect();
    for range in node.pod_cidrs() {
        prefixes.push(*range);
        // A pod's own address would draw its traffic away.
        let pod = range.hosts().nth(4).unwrap();
        prefixes.push(IpNet::from(pod));
    }
    prefixes.extend(addresses(&cluster, "web").into_iter().map(IpNet::from));
    let v4 = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4()).count();
    let count = [v4, prefixes.len() - v4];
    let lan = &cluster.network().router;
    lan.ip(&format!("address add {ROUTER}/24 dev lan\n")).unwrap();
    let listener = lan.run(|| TcpListener::bind((ROUTER, PORT))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let prefixes = prefixes.clone();
            // The agent says itself how its sessions end.
            std::thread::spawn(move || drop(serve(stream, &prefixes)));
        }
    });
    let before = tables(&cluster);
    let peers = json!([{ "remoteip": ROUTER, "remoteasn": ASN, "port": PORT }]).to_string();
    let patch = json!({ "metadata": { "annotations": { "sluice.io/peers": peers } } });
    cluster.store().merge("nodes", "", "n1", "", &patch).unwrap();
    heard(&cluster, count, 0);
    assert_eq!(tables(&cluster), before);
    // With everything allowed what is ours stays ours.
    node.stop_agent(Signal::SIGTERM).unwrap();
    node.start_agent_with(&["--import-allow=0.0.0.0/0,::/0"]).unwrap();
    node.wait_agent_ready(PATIENCE).unwrap();
    heard(&cluster, count, FOREIGN.len());
    cluster.wait_for_pod_routes().unwrap();
    let without_foreign = || -> Vec<String> {
        let one = |table: &String| {
            let lines = table.lines().filter(|line| !FOREIGN.iter().any(|net| line.contains(net)));
            lines.collect::<Vec<_>>().join("\n")
        };
        tables(&cluster).iter().map(one).collect()
    };
    wait_for("the foreign prefixes, and nothing else", || {
        let news = tables(&cluster);
        let all = FOREIGN.iter().all(|net| news[0].contains(net));
        Ok((all && without_foreign() == before).then_some(()))
    })
    .unwrap_or_else(|fault| panic!("{fault:#}: {:#?}, before {before:#?}", tables(&cluster)));
}
