//! Owns single exchanges with the echo server (see [`crate::echo`]): ask with a number, check that
//! the answer has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::report::Answer;

/// A TCP connection to an echo server.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Connection {
    pub(super) async fn open(target: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = timeout(limit, TcpStream::connect(target)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    /// Asks once; the latency counts from `start`.
    pub(super) async fn ask(
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
        match parse(&self.line) {
            Some((backend, client, n)) if n == number => {
                Ok(Answer { backend, client, latency: start.elapsed() })
            }
            _ => Err(wrong(number, &self.line)),
        }
    }
}

/// A UDP socket of its own (so a flow of its own) toward an echo server.
#[derive(Debug)]
pub(super) struct Flow {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Flow {
    pub(super) async fn open(target: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = if target.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        // Connected, so that ICMP errors are seen, and answers from elsewhere are not.
        socket.connect(target).await?;
        Ok(Self { socket, buffer: vec![0; 2048] })
    }

    /// Asks once. Answers to earlier questions are passed over: those were counted as lost.
    pub(super) async fn ask(
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
    use super::*;

    #[test]
    fn an_answer_names_backend_client_and_question() {
        let (backend, client, n) = parse("web-1 [fd00::7]:4321 17\n").unwrap();
        assert_eq!((backend.as_str(), client.to_string().as_str(), n), ("web-1", "fd00::7", 17));
        for bad in ["", "web-1\n", "web-1 nowhere 17\n", "web-1 10.0.0.1:5 x\n"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
