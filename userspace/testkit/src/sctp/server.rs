//! Owns the server's end: associations at some ports of all addresses, each message answered.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{MissedTickBehavior, interval};

use super::association::{Association, Beginning};
use super::socket::{Raw, Received};
use super::wire::{Chunk, Init, Packet};

/// How often it is looked for what is to be sent again.
const TICK: Duration = Duration::from_millis(250);

/// Where an association stands: the client, and this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    client: SocketAddr,
    server: SocketAddr,
}

/// Listens at ports.
#[derive(Debug)]
pub(crate) struct Listener {
    sockets: [Raw; 2],
    server: Server,
}

impl Listener {
    /// Listens at all addresses of both families.
    ///
    /// # Errors
    /// When there are no raw sockets: they need root.
    pub(crate) fn bind(ports: &[u16]) -> io::Result<Self> {
        let server = Server::new(ports.iter().copied().collect());
        Ok(Self { sockets: [Raw::any(true)?, Raw::any(false)?], server })
    }

    /// Answers each message, for ever.
    pub(crate) async fn serve(mut self, answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8>) {
        let [v4, v6] = &self.sockets;
        let mut rng: StdRng = rand::SeedableRng::from_os_rng();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                received = v4.receive() => received,
                received = v6.receive() => received,
                _ = ticks.tick() => {
                    send(&self.sockets, self.server.late(Instant::now()));
                    continue;
                }
            };
            match received {
                Ok(received) => {
                    let now = Instant::now();
                    let packets = self.server.take(&received, now, &mut rng, &answer);
                    send(&self.sockets, packets);
                }
                Err(e) => tracing::warn!("SCTP: {e}"),
            }
        }
    }
}

fn send([v4, v6]: &[Raw; 2], packets: Vec<(Ends, Packet)>) {
    for (ends, packet) in packets {
        let socket = if ends.client.is_ipv4() { v4 } else { v6 };
        if let Err(e) = socket.send(ends.server.ip(), ends.client.ip(), &packet) {
            tracing::warn!("SCTP to {}: {e}", ends.client);
        }
    }
}

/// What is known of all associations. Pure.
#[derive(Debug)]
struct Server {
    ports: BTreeSet<u16>,
    /// Signs cookies: with nothing else kept an INIT costs nothing (RFC 9260 section 5.1.3).
    secret: RandomState,
    associations: HashMap<Ends, Association>,
}

impl Server {
    fn new(ports: BTreeSet<u16>) -> Self {
        Self { ports, secret: RandomState::new(), associations: HashMap::new() }
    }

    /// What is to be sent for a packet.
    fn take(
        &mut self,
        received: &Received,
        now: Instant,
        rng: &mut impl Rng,
        answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8>,
    ) -> Vec<(Ends, Packet)> {
        let packet = &received.packet;
        if !self.ports.contains(&packet.destination) {
            return Vec::new();
        }
        let ends = Ends {
            client: SocketAddr::new(received.from, packet.source),
            server: SocketAddr::new(received.to, packet.destination),
        };
        let packets = match packet.chunks.first() {
            Some(Chunk::Init(init)) if packet.tag == 0 => vec![self.greet(ends, init, rng)],
            Some(Chunk::CookieEcho(cookie)) => self.admit(ends, packet.tag, cookie, now),
            _ => Vec::new(),
        };
        let packets =
            if packets.is_empty() { self.go_on(ends, packet, now, answer) } else { packets };
        packets.into_iter().map(|packet| (ends, packet)).collect()
    }

    /// INIT ACK. All that is to be known later is in its cookie.
    fn greet(&self, ends: Ends, init: &Init, rng: &mut impl Rng) -> Packet {
        let beginning = Beginning {
            local_tag: rng.random_range(1..=u32::MAX),
            peer_tag: init.tag,
            local_tsn: rng.random(),
            peer_tsn: init.tsn,
        };
        let cookie = Some(self.cookie(ends, beginning));
        let Beginning { local_tag, local_tsn, .. } = beginning;
        let chunk = Chunk::InitAck(Init { tag: local_tag, tsn: local_tsn, cookie });
        let (source, destination) = (ends.server.port(), ends.client.port());
        Packet { source, destination, tag: init.tag, chunks: vec![chunk] }
    }

    fn cookie(&self, ends: Ends, beginning: Beginning) -> Vec<u8> {
        let Beginning { local_tag, peer_tag, local_tsn, peer_tsn } = beginning;
        let told = [local_tag, peer_tag, local_tsn, peer_tsn];
        let mut cookie = Vec::new();
        told.iter().for_each(|word| cookie.put_u32(*word));
        cookie.put_u64(self.secret.hash_one((ends, told)));
        cookie
    }

    /// COOKIE ACK, if the cookie is one of this server's.
    fn admit(&mut self, ends: Ends, tag: u32, cookie: &[u8], now: Instant) -> Vec<Packet> {
        let mut rest = cookie;
        let mut word = || rest.try_get_u32().unwrap_or_default();
        let (local_tag, peer_tag) = (word(), word());
        let (local_tsn, peer_tsn) = (word(), word());
        let beginning = Beginning { local_tag, peer_tag, local_tsn, peer_tsn };
        if tag != local_tag || cookie != self.cookie(ends, beginning) {
            return Vec::new();
        }
        let fresh = || Association::new(ends.server.port(), ends.client.port(), beginning, now);
        let association = self.associations.entry(ends).or_insert_with(fresh);
        // Not one that is sent again: the client begins anew.
        if association.beginning() != beginning {
            *association = fresh();
        }
        vec![association.packet(vec![Chunk::CookieAck])]
    }

    fn go_on(
        &mut self,
        ends: Ends,
        packet: &Packet,
        now: Instant,
        answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8>,
    ) -> Vec<Packet> {
        let Some(association) = self.associations.get_mut(&ends) else {
            return out_of_the_blue(packet).into_iter().collect();
        };
        let mut packets = Vec::new();
        if let Ok(taken) = association.take(packet, now) {
            packets = taken.answers;
            for message in taken.messages {
                packets.extend(association.send(&answer(ends.client, &message), now));
            }
        }
        if association.is_closed() {
            self.associations.remove(&ends);
        }
        packets
    }

    /// What is to be sent again.
    fn late(&mut self, now: Instant) -> Vec<(Ends, Packet)> {
        let mut packets = Vec::new();
        self.associations.retain(|ends, association| {
            let late = association.late(now).unwrap_or_default();
            packets.extend(late.into_iter().map(|packet| (*ends, packet)));
            !association.is_closed()
        });
        packets
    }
}

/// What a packet of no association is answered with (section 8.4).
fn out_of_the_blue(packet: &Packet) -> Option<Packet> {
    let chunk = match packet.chunks.first()? {
        Chunk::Abort { .. } | Chunk::ShutdownComplete { .. } | Chunk::Init(_) => return None,
        Chunk::CookieAck | Chunk::Error => return None,
        Chunk::ShutdownAck => Chunk::ShutdownComplete { reflected: true },
        _ => Chunk::Abort { reflected: true },
    };
    let (source, destination) = (packet.destination, packet.source);
    Some(Packet { source, destination, tag: packet.tag, chunks: vec![chunk] })
}

#[cfg(test)]
mod tests;
