//! Owns the server that pods run: every line (TCP), datagram (UDP) or message (SCTP) is answered
//! with who answers, which client address it saw, and what was sent.
//!
//! On standard output it tells its kubelet about readiness: `ready` once all ports listen, and
//! `not-ready` on SIGTERM. Like a service that is shut down with care it then serves on until
//! nobody has asked for a while, and ends with status 0.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::sctp::Listener;

/// The longest line that is read, bytes; a client that sends more is cut off.
const MAX_LINE: usize = 2048;
/// The longest datagram there is, bytes.
const MAX_DATAGRAM: usize = 65_535;

/// What to serve.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Name to answer with
    #[arg(long)]
    pub name: String,
    /// TCP port, repeatable
    #[arg(long = "tcp", value_name = "PORT")]
    pub tcp_ports: Vec<u16>,
    /// UDP port, repeatable
    #[arg(long = "udp", value_name = "PORT")]
    pub udp_ports: Vec<u16>,
    /// SCTP port, repeatable
    #[arg(long = "sctp", value_name = "PORT")]
    pub sctp_ports: Vec<u16>,
    /// After SIGTERM, end once nobody has asked for so many milliseconds
    #[arg(long, default_value_t = 2000)]
    pub quiet_ms: u64,
    /// After SIGTERM, end in any case after so many milliseconds
    #[arg(long, default_value_t = 20_000)]
    pub drain_ms: u64,
}

/// What all tasks of a server share.
#[derive(Debug)]
struct Shared {
    name: String,
    /// Changes when somebody asks.
    asked: watch::Sender<()>,
}

impl Shared {
    fn answer(&self, client: SocketAddr, question: &[u8]) -> Vec<u8> {
        self.asked.send_replace(());
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let mut answer = format!("{} {client} ", self.name).into_bytes();
        answer.extend_from_slice(question);
        answer
    }
}

/// Serves until SIGTERM and the time to drain are over.
///
/// # Errors
/// When a port can't be had.
pub async fn serve(config: Config) -> Result<()> {
    let shared = Arc::new(Shared { name: config.name, asked: watch::Sender::new(()) });
    for port in &config.tcp_ports {
        let listener =
            TcpListener::bind(any(*port)).await.with_context(|| format!("TCP port {port}"))?;
        tokio::spawn(accept(listener, shared.clone()));
    }
    for port in &config.udp_ports {
        let socket =
            UdpSocket::bind(any(*port)).await.with_context(|| format!("UDP port {port}"))?;
        tokio::spawn(answer_datagrams(socket, shared.clone()));
    }
    if !config.sctp_ports.is_empty() {
        let ports = &config.sctp_ports;
        let listener = Listener::bind(ports).with_context(|| format!("SCTP ports {ports:?}"))?;
        let shared = shared.clone();
        tokio::spawn(listener.serve(move |client, question| shared.answer(client, question)));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tell("ready")?;
    terminate.recv().await;
    tell("not-ready")?;
    let quiet = Duration::from_millis(config.quiet_ms);
    let drained = drained(shared.asked.subscribe(), quiet);
    // Late or not, whoever still asks then is one too many to wait for.
    let _ = timeout(Duration::from_millis(config.drain_ms), drained).await;
    Ok(())
}

/// Waits until nobody has asked for as long as `quiet`, from now on.
async fn drained(mut asked: watch::Receiver<()>, quiet: Duration) {
    while timeout(quiet, asked.changed()).await.is_ok() {}
}

/// All addresses of both families (`net.ipv6.bindv6only` is 0 by default).
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn tell(state: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{state}").and_then(|()| out.flush()).context("tell the kubelet")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // An error here is the client's end of it: it counts its failures itself.
                    let _ = answer_lines(stream, client, &shared).await;
                });
            }
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn answer_lines(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Shared,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        (&mut reader).take(limit).read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        writer.write_all(&shared.answer(client, &line)).await?;
    }
}

async fn answer_datagrams(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                let answer = shared.answer(client, buffer.get(..length).unwrap_or_default());
                if let Err(e) = socket.send_to(&answer, client).await {
                    tracing::warn!("answer to {client}: {e}");
                }
            }
            // ICMP errors for earlier answers show up here.
            Err(e) => tracing::debug!("receive: {e}"),
        }
    }
}
