//! Owns the client's end: an association made, used and ended over a raw socket of its own.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::Rng;
use tokio::time::timeout;

use super::AGAIN;
use super::association::{Association, Beginning};
use super::socket::Raw;
use super::wire::{Chunk, Init, Packet};

/// Ports that clients take: neither node ports nor those of Sluice's own range.
const PORTS: std::ops::Range<u16> = 32_768..60_999;

/// An association from the client's side. Dropping it aborts it.
#[derive(Debug)]
pub struct Client {
    socket: Raw,
    association: Association,
    messages: VecDeque<Vec<u8>>,
}

impl Client {
    /// Asks until there is an answer: who has no time for that sets a limit.
    ///
    /// # Errors
    /// Connection refused by ICMP port unreachable, or by ABORT; host unreachable where nobody
    /// speaks SCTP; other errors when there is no socket or route. Raw sockets need root.
    pub async fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let (local, local_tag, local_tsn) = {
            let mut rng = rand::rng();
            (rng.random_range(PORTS), rng.random_range(1..=u32::MAX), rng.random())
        };
        let socket = Raw::connected(source, local, target)?;
        let init = Chunk::Init(Init { tag: local_tag, tsn: local_tsn, cookie: None });
        let ask = |tag, chunk| Packet {
            source: local,
            destination: target.port(),
            tag,
            chunks: vec![chunk],
        };
        let of_init_ack = |packet: &Packet| -> Option<io::Result<Init>> {
            match packet.chunks.first() {
                _ if packet.tag != local_tag => None,
                Some(Chunk::InitAck(init)) => Some(Ok(init.clone())),
                Some(Chunk::Abort { .. }) => Some(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => None,
            }
        };
        let init = exchange(&socket, &ask(0, init), of_init_ack).await??;
        let (peer_tag, peer_tsn) = (init.tag, init.tsn);
        let beginning = Beginning { local_tag, peer_tag, local_tsn, peer_tsn };
        // From here on the server may know of it, so it has to hear of its end.
        let association = Association::new(local, target.port(), beginning, Instant::now());
        let client = Self { socket, association, messages: VecDeque::new() };
        let echo = ask(peer_tag, Chunk::CookieEcho(init.cookie.unwrap_or_default()));
        let of_cookie_ack = |packet: &Packet| -> Option<io::Result<()>> {
            match packet.chunks.first() {
                _ if packet.tag != local_tag => None,
                Some(Chunk::CookieAck) => Some(Ok(())),
                Some(Chunk::Abort { .. }) => Some(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => None,
            }
        };
        exchange(&client.socket, &echo, of_cookie_ack).await??;
        Ok(client)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let packets = self.association.send(message, Instant::now());
        packets.iter().try_for_each(|packet| tell(&self.socket, packet))
    }

    /// The next message.
    ///
    /// # Errors
    /// End of file when the peer has shut down, connection reset when it aborts, timed out when it
    /// acknowledges nothing any more, refused when ICMP says so.
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            if self.association.is_closed() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.step().await?;
        }
    }

    /// Shuts down and waits for the peer's consent.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn close(mut self) -> io::Result<()> {
        let packet = self.association.shut_down(Instant::now());
        tell(&self.socket, &packet)?;
        while !self.association.is_closed() {
            self.step().await?;
        }
        Ok(())
    }

    /// Takes a packet, or sends again what is late.
    async fn step(&mut self) -> io::Result<()> {
        if let Ok(received) = timeout(AGAIN / 4, self.socket.receive()).await {
            let taken = self.association.take(&received?.packet, Instant::now())?;
            self.messages.extend(taken.messages);
            taken.answers.iter().try_for_each(|packet| tell(&self.socket, packet))?;
        }
        let late = self.association.late(Instant::now())?;
        late.iter().try_for_each(|packet| tell(&self.socket, packet))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(packet) = self.association.abort() {
            // Who does not hear of it finds out by itself.
            let _ = tell(&self.socket, &packet);
        }
    }
}

fn tell(socket: &Raw, packet: &Packet) -> io::Result<()> {
    let (own, peer) = socket.ends().ok_or(io::ErrorKind::NotConnected)?;
    socket.send(own, peer, packet)
}

/// Sends a packet until one comes that is an answer.
async fn exchange<T>(
    socket: &Raw,
    packet: &Packet,
    answer: impl Fn(&Packet) -> Option<T>,
) -> io::Result<T> {
    let answered = async || {
        loop {
            let came = socket.receive().await?.packet;
            if (came.source, came.destination) == (packet.destination, packet.source)
                && let Some(answer) = answer(&came)
            {
                return Ok::<T, io::Error>(answer);
            }
        }
    };
    loop {
        tell(socket, packet)?;
        if let Ok(answer) = timeout(AGAIN, answered()).await {
            return answer;
        }
    }
}
