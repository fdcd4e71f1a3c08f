//! Owns the server that pods run: every line (TCP) or datagram (UDP) is answered with who answers,
//! which client address it saw, and what was sent.
//!
//! On standard output it tells its kubelet about readiness: `ready` once all ports listen, and
//! `not-ready` on SIGTERM. Like a service that is shut down with care it then serves on for a
//! while, so that those who still come are answered, and ends with status 0.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// The longest line that is read, bytes; a client that sends more is cut off.
const MAX_LINE: usize = 64 * 1024;

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
    /// Milliseconds to serve on after SIGTERM
    #[arg(long, default_value_t = 3000)]
    pub drain_ms: u64,
}

/// Serves until SIGTERM and the time to drain are over.
///
/// # Errors
/// When a port can't be had.
pub async fn serve(config: Config) -> Result<()> {
    for port in &config.tcp_ports {
        let listener =
            TcpListener::bind(any(*port)).await.with_context(|| format!("TCP port {port}"))?;
        tokio::spawn(accept(listener, config.name.clone()));
    }
    for port in &config.udp_ports {
        let socket =
            UdpSocket::bind(any(*port)).await.with_context(|| format!("UDP port {port}"))?;
        tokio::spawn(answer_datagrams(socket, config.name.clone()));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tell("ready")?;
    terminate.recv().await;
    tell("not-ready")?;
    tokio::time::sleep(Duration::from_millis(config.drain_ms)).await;
    Ok(())
}

/// All addresses of both families (`net.ipv6.bindv6only` is 0 by default).
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn tell(state: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{state}").and_then(|()| out.flush()).context("tell the kubelet")
}

async fn accept(listener: TcpListener, name: String) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let name = name.clone();
                tokio::spawn(async move {
                    // An error here is the client's end of it: it counts its failures itself.
                    let _ = answer_lines(stream, client, &name).await;
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
    name: &str,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).await? == 0 || line.len() > MAX_LINE {
            return Ok(());
        }
        let mut answer = greeting(name, client);
        answer.extend_from_slice(&line);
        writer.write_all(&answer).await?;
    }
}

async fn answer_datagrams(socket: UdpSocket, name: String) {
    let mut buffer = vec![0; MAX_LINE];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                let mut answer = greeting(&name, client);
                answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
                if let Err(e) = socket.send_to(&answer, client).await {
                    tracing::warn!("answer to {client}: {e}");
                }
            }
            // ICMP errors for earlier answers show up here.
            Err(e) => tracing::debug!("receive: {e}"),
        }
    }
}

fn greeting(name: &str, client: SocketAddr) -> Vec<u8> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    format!("{name} {client} ").into_bytes()
}
