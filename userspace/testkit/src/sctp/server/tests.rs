//! The server by itself, and with clients over loopback.

use std::net::IpAddr;

use rand::SeedableRng;
use socket2::{Domain, Protocol, Socket, Type};

use super::super::Client;
use super::*;
use crate::traffic::Failure;

const CLIENT: &str = "192.0.2.7";
const SERVER: &str = "192.0.2.1";

fn echo(_: SocketAddr, message: &[u8]) -> Vec<u8> {
    message.to_vec()
}

fn received(tag: u32, destination: u16, chunk: Chunk) -> Received {
    let packet = Packet { source: 4000, destination, tag, chunks: vec![chunk] };
    Received { from: CLIENT.parse().unwrap(), to: SERVER.parse().unwrap(), packet }
}

/// The answers to a packet at port 90.
fn ask(server: &mut Server, tag: u32, chunk: Chunk) -> Vec<Packet> {
    let mut rng = StdRng::seed_from_u64(1);
    let packets = server.take(&received(tag, 90, chunk), Instant::now(), &mut rng, echo);
    packets.into_iter().map(|(_, packet)| packet).collect()
}

fn init_ack(server: &mut Server) -> Init {
    let init = Chunk::Init(Init { tag: 7, tsn: 1, cookie: None });
    let packet = ask(server, 0, init).remove(0);
    assert_eq!((packet.tag, packet.source, packet.destination), (7, 90, 4000));
    match packet.chunks.into_iter().next() {
        Some(Chunk::InitAck(init)) => init,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_kept_before_the_cookie_comes_back_unchanged() {
    let mut server = Server::new([90].into());
    let init = init_ack(&mut server);
    let cookie = init.cookie.unwrap();
    assert!(server.associations.is_empty());
    for at in 0..cookie.len() {
        let mut bad = cookie.clone();
        bad[at] ^= 1;
        ask(&mut server, init.tag, Chunk::CookieEcho(bad));
    }
    ask(&mut server, init.tag ^ 1, Chunk::CookieEcho(cookie.clone()));
    assert!(server.associations.is_empty());
    for _ in 0..2 {
        let answers = ask(&mut server, init.tag, Chunk::CookieEcho(cookie.clone()));
        assert_eq!(answers[0].chunks, [Chunk::CookieAck]);
        assert_eq!(server.associations.len(), 1);
    }
}

/// RFC 9260 section 8.4; other ports may be another server's, on the same host.
#[test]
fn what_is_of_no_association_is_aborted_and_what_is_for_other_ports_is_not() {
    let mut server = Server::new([90].into());
    let abort = Chunk::Abort { reflected: true };
    assert_eq!(ask(&mut server, 5, Chunk::Sack { cumulative: 1 })[0].chunks, [abort]);
    assert!(ask(&mut server, 5, Chunk::Abort { reflected: false }).is_empty());
    let other = received(5, 91, Chunk::Sack { cumulative: 1 });
    let mut rng = StdRng::seed_from_u64(1);
    assert!(server.take(&other, Instant::now(), &mut rng, echo).is_empty());
}

/// Ports of both tests here, which run at once: all raw sockets hear all.
const PORTS: [u16; 2] = [9090, 9091];

fn has_raw_sockets() -> bool {
    let has = Raw::any(true).is_ok();
    if !has {
        println!("SKIP: raw sockets need root");
    }
    has
}

#[tokio::test]
async fn messages_of_all_sizes_are_echoed_over_loopback() {
    if !has_raw_sockets() {
        return;
    }
    let listener = Listener::bind(&PORTS[..1]).unwrap();
    let serving = tokio::spawn(listener.serve(echo));
    for loopback in ["127.0.0.1", "127.0.0.9", "::1"] {
        let target = SocketAddr::new(loopback.parse().unwrap(), PORTS[0]);
        let mut client = Client::connect(target, None).await.unwrap();
        for length in [1_usize, 3, 1200, 1201, 100_000] {
            let message: Vec<u8> = (0..length).map(|n| n as u8).collect();
            client.send(&message).unwrap();
            assert_eq!(client.receive().await.unwrap(), message);
        }
        client.close().await.unwrap();
    }
    serving.abort();
}

/// An ICMP error is told to all raw sockets of these addresses: only the one it is about may mind.
#[tokio::test]
async fn a_refusal_is_told_to_the_association_that_it_is_about() {
    if !has_raw_sockets() {
        return;
    }
    let listener = Listener::bind(&PORTS[1..]).unwrap();
    let serving = tokio::spawn(listener.serve(echo));
    for loopback in ["127.0.0.1", "::1"] {
        let at = |port| SocketAddr::new(loopback.parse().unwrap(), port);
        let mut client = Client::connect(at(PORTS[1]), None).await.unwrap();
        let host = Raw::any(at(0).is_ipv4()).unwrap();
        let other = tokio::spawn(Client::connect(at(9999), None));
        refuse(&host, 9999).await;
        let error = other.await.unwrap().unwrap_err();
        assert_eq!(Failure::of(&error), Failure::Refused, "{loopback}");
        client.send(b"still there").unwrap();
        assert_eq!(client.receive().await.unwrap(), b"still there");
    }
    serving.abort();
}

/// Waits for a packet to this port, and does what a kernel does at whose port nobody listens.
async fn refuse(host: &Raw, port: u16) {
    let asked = loop {
        let asked = host.receive().await.unwrap();
        if asked.packet.destination == port {
            break asked;
        }
    };
    let quoted = &asked.packet.write()[..8];
    let (domain, protocol, message) = match (asked.from, asked.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
            message.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 132, 0, 0]);
            message.extend([from.octets(), to.octets()].concat());
            message.extend(quoted);
            let words = message.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum: u32 = words.sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            (Domain::IPV4, Protocol::ICMPV4, message)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
            message.extend([0x60, 0, 0, 0, 0, 40, 132, 64]);
            message.extend([from.octets(), to.octets()].concat());
            message.extend(quoted);
            (Domain::IPV6, Protocol::ICMPV6, message)
        }
        _ => unreachable!("one family"),
    };
    let icmp = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    icmp.bind(&SocketAddr::new(asked.to, 0).into()).unwrap();
    icmp.send_to(&message, &SocketAddr::new(asked.from, 0).into()).unwrap();
}
