//! Owns single exchanges with the echo server (see [`crate::echo`]): ask with a number, check that
//! the answer has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::report::Answer;
use crate::sctp::Client;

/// A TCP connection to an echo server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Connection {
    pub(crate) async fn open(
        target: SocketAddr,
        source: Option<IpAddr>,
        limit: Duration,
    ) -> io::Result<Self> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = timeout(limit, socket.connect(target)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    /// Asks once; the latency counts from `start`.
    pub(crate) async fn ask(
        &mut self,
        number: u64,
        start: Instant,
        limit: Duration,
    ) -> io::Result<Answer> {
        self.line.clear();
        let asked = async {
            self.stream.write_all(format!("{number}\n").as_bytes()).await?;
            self.stream.read_line(&mut self.line).await
        };
        if timeout(limit, asked).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answered(&self.line, number, start)
    }
}

/// A UDP socket of its own (so a flow of its own) toward an echo server.
#[derive(Debug)]
pub(crate) struct Flow {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Flow {
    pub(crate) async fn open(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = bind_unused(source.unwrap_or(any)).await?;
        // Connected, so that ICMP errors are seen, and answers from elsewhere are not.
        socket.connect(target).await?;
        Ok(Self { socket, buffer: vec![0; 2048] })
    }

    /// Asks once. Answers to earlier questions are passed over: those were counted as lost.
    pub(crate) async fn ask(
        &mut self,
        number: u64,
        start: Instant,
        limit: Duration,
    ) -> io::Result<Answer> {
        let asked = async {
            self.socket.send(format!("{number}\n").as_bytes()).await?;
            loop {
                let length = self.socket.recv(&mut self.buffer).await?;
                let text = String::from_utf8_lossy(self.buffer.get(..length).unwrap_or_default());
                match parse(&text) {
                    Some((backend, client, n)) if n == number => {
                        return Ok(Answer { backend, client, latency: start.elapsed() });
                    }
                    Some((.., n)) if n < number => {}
                    _ => return Err(wrong(number, &text)),
                }
            }
        };
        timeout(limit, asked).await?
    }
}

/// Ports that flows take in turn: below those the kernel gives away, and below node ports.
const SOURCE_PORTS: std::ops::Range<u16> = 11_000..30_000;

/// A socket with a port that no flow of this process had for thousands of flows. One that is drawn by
/// the kernel may be that of an earlier flow, which tables on the way still know: a new socket would
/// not be a new flow.
async fn bind_unused(address: IpAddr) -> io::Result<UdpSocket> {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 64));
    let count = u32::from(SOURCE_PORTS.end - SOURCE_PORTS.start);
    let mut left = count;
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = SOURCE_PORTS.start + u16::try_from(turn).unwrap_or_default();
        match UdpSocket::bind((address, port)).await {
            Err(fault) if fault.kind() == io::ErrorKind::AddrInUse && left > 1 => left -= 1,
            result => return result,
        }
    }
}

/// An SCTP association with an echo server.
#[derive(Debug)]
pub(crate) struct Association(Client);

impl Association {
    pub(crate) async fn open(
        target: SocketAddr,
        source: Option<IpAddr>,
        limit: Duration,
    ) -> io::Result<Self> {
        Ok(Self(timeout(limit, Client::connect(target, source)).await??))
    }

    /// Asks once; the latency counts from `start`.
    pub(crate) async fn ask(
        &mut self,
        number: u64,
        start: Instant,
        limit: Duration,
    ) -> io::Result<Answer> {
        self.0.send(format!("{number}\n").as_bytes())?;
        let text = timeout(limit, self.0.receive()).await??;
        let text = String::from_utf8_lossy(&text);
        answered(&text, number, start)
    }

    /// Shuts down; whoever does not answer that has been aborted after `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        let _ = timeout(limit, self.0.close()).await;
    }
}

/// The answer to the question of this number; an error if it is to another.
fn answered(text: &str, number: u64, start: Instant) -> io::Result<Answer> {
    match parse(text) {
        Some((backend, client, n)) if n == number => {
            Ok(Answer { backend, client, latency: start.elapsed() })
        }
        _ => Err(wrong(number, text)),
    }
}

/// `NAME CLIENT:PORT NUMBER`
fn parse(line: &str) -> Option<(String, IpAddr, u64)> {
    let mut words = line.split_whitespace();
    let backend = words.next()?.to_owned();
    let client: SocketAddr = words.next()?.parse().ok()?;
    Some((backend, client.ip(), words.next()?.parse().ok()?))
}

fn wrong(number: u64, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("asked {number}, was answered {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::Failure;
    use super::*;

    /// Over loopback, where the kernel itself refuses a closed port and nobody answers on others.
    #[tokio::test]
    async fn refusal_and_silence_are_told_apart_for_every_protocol_and_family() {
        let short = Duration::from_millis(100);
        for loopback in ["127.0.0.1", "::1"] {
            let loopback: IpAddr = loopback.parse().unwrap();
            let tcp = std::net::TcpListener::bind((loopback, 0)).unwrap();
            let udp = std::net::UdpSocket::bind((loopback, 0)).unwrap();
            let (tcp_port, udp_port) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
            let mut listening = Some((tcp, udp));
            for (open, expected) in [(true, Failure::TimedOut), (false, Failure::Refused)] {
                let stream = async {
                    let mut stream = Connection::open(tcp_port, Some(loopback), short).await?;
                    stream.ask(1, Instant::now(), short).await
                };
                let flow = async {
                    let mut flow = Flow::open(udp_port, Some(loopback)).await?;
                    flow.ask(1, Instant::now(), short).await
                };
                for (name, result) in [("TCP", stream.await), ("UDP", flow.await)] {
                    let seen = Failure::of(&result.unwrap_err());
                    assert_eq!(seen, expected, "{name} to {loopback}, open: {open}");
                }
                listening.take();
            }
        }
    }

    #[tokio::test]
    async fn a_flows_port_does_not_come_back_soon() {
        let target = (Ipv4Addr::LOCALHOST, 9).into();
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let flow = Flow::open(target, None).await.unwrap();
            assert!(ports.insert(flow.socket.local_addr().unwrap().port()));
        }
        assert!(ports.iter().all(|port| SOURCE_PORTS.contains(port)), "{ports:?}");
    }

    #[test]
    fn an_answer_names_backend_client_and_question() {
        let (backend, client, n) = parse("web-1 [fd00::7]:4321 17\n").unwrap();
        assert_eq!((backend.as_str(), client.to_string().as_str(), n), ("web-1", "fd00::7", 17));
        for bad in ["", "web-1\n", "web-1 nowhere 17\n", "web-1 10.0.0.1:5 x\n"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
