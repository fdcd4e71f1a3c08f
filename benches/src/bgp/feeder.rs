//! Owns the peers: sessions made of Sluice's codec, from as many addresses as there are peers. All is
//! encoded beforehand: while the clock runs, they only write.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use sluice_bgp::fsm::Settings;
use sluice_bgp::{
    AsPath, Attributes, Families, Family, Message, NextHop, Origin, Params, Received, Update,
    decode, next_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::PATIENCE;
use super::site::{FirstRoutes, HOLD_S, PEERS_ASN, SPEAKER, SPEAKER_ASN, Site};

/// First prefix of all; they follow one another.
const FIRST: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
/// Length of all prefixes.
const LENGTH: u8 = 24;
/// Prefixes with the same attributes, in one UPDATE: few, so that attributes count, too.
const ALIKE: usize = 8;
/// How long a session may take to come up: a listener whose queue is full leaves a connection half
/// made for minutes.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause after the speaker did not take the connection.
const AGAIN: Duration = Duration::from_millis(20);

/// Peers that have been told to start.
pub(super) struct Feeders {
    end: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Feeders {
    /// Ends all sessions.
    ///
    /// # Errors
    /// When one has ended before.
    pub(super) fn end(self) -> Result<()> {
        // A thread that has ended early says why.
        let _ = self.end.send(());
        self.thread.join().map_err(|_| anyhow!("a peer panicked"))?
    }
}

/// Starts all peers; returns at the moment from which time counts.
///
/// # Errors
/// When sessions are to be up before and do not come up.
pub(super) fn start(site: &Site, prefixes_each: u32, first: FirstRoutes) -> Result<Feeders> {
    let feeds: Vec<(Ipv4Addr, Vec<u8>)> = (0..)
        .zip(&site.peers)
        .map(|(n, peer)| Ok((*peer, updates(*peer, n * prefixes_each, prefixes_each)?)))
        .collect::<Result<_>>()?;
    let netns = site.feeder.clone();
    let (end, ended) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        netns.enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                result = all(feeds, first, tell) => result,
                _ = ended => Ok(()),
            }
        })
    });
    if told.recv_timeout(PATIENCE).is_err() {
        drop(end);
        return match thread.join() {
            Ok(Err(fault)) => Err(fault),
            _ => bail!("peers do not come up"),
        };
    }
    Ok(Feeders { end, thread })
}

async fn all(
    feeds: Vec<(Ipv4Addr, Vec<u8>)>,
    first: FirstRoutes,
    tell: mpsc::Sender<()>,
) -> Result<()> {
    let mut sessions = JoinSet::new();
    if first == FirstRoutes::AfterSession {
        let mut up = Vec::new();
        for (peer, octets) in feeds {
            up.push((session(peer).await?, octets));
        }
        let _ = tell.send(());
        for (stream, octets) in up {
            sessions.spawn(async move { feed(stream, &octets).await });
        }
    } else {
        let _ = tell.send(());
        for (peer, octets) in feeds {
            sessions.spawn(async move {
                // A speaker that many connect to at once may lose some: they come again, as any would.
                loop {
                    if let Err(fault) = feed(session(peer).await?, &octets).await {
                        eprintln!("{peer}: {fault:#}");
                    }
                }
            });
        }
    }
    while let Some(done) = sessions.join_next().await {
        done??;
    }
    bail!("all sessions have ended")
}

/// Connects until the speaker is there, and exchanges OPENs.
async fn session(peer: Ipv4Addr) -> Result<TcpStream> {
    let speaker = SocketAddr::new(IpAddr::V4(SPEAKER), 179);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(peer), 0))?;
        let attempt = async {
            let mut stream = socket.connect(speaker).await?;
            handshake(&mut stream, peer).await?;
            Ok::<_, anyhow::Error>(stream)
        };
        let result = match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(fault)) => fault,
            Err(late) => late.into(),
        };
        if tokio::time::Instant::now() > deadline {
            return Err(result).with_context(|| format!("the session of {peer}"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What the peer says of itself; every speaker understands it.
fn settings(peer: Ipv4Addr) -> Settings {
    let mut settings = Settings::new(PEERS_ASN, peer, SPEAKER_ASN);
    settings.hold_s = HOLD_S;
    settings.families = Families::from_iter([Family::Ipv4Unicast]);
    settings.extended_messages = false;
    settings
}

async fn handshake(stream: &mut TcpStream, peer: Ipv4Addr) -> Result<()> {
    stream.set_nodelay(true)?;
    let params = Params::default();
    let mut octets = BytesMut::new();
    Message::Open(settings(peer).open()).encode(&params, &mut octets)?;
    stream.write_all(&octets).await?;
    let mut inbox = BytesMut::new();
    let mut opened = false;
    loop {
        let frame = next_frame(&mut inbox, false).map_err(|n| anyhow!("sent us {n}"))?;
        let Some(frame) = frame else {
            if stream.read_buf(&mut inbox).await? == 0 {
                bail!("the speaker has closed the connection");
            }
            continue;
        };
        match decode(&frame, &params).map_err(|n| anyhow!("sent us {n}"))? {
            Received::Open(_) => {
                octets.clear();
                Message::Keepalive.encode(&params, &mut octets)?;
                stream.write_all(&octets).await?;
                opened = true;
            }
            Received::Keepalive if opened => return Ok(()),
            other => bail!("the speaker says {other:?}"),
        }
    }
}

/// Writes all there is, then only listens.
async fn feed(mut stream: TcpStream, octets: &[u8]) -> Result<()> {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        writer.write_all(octets).await?;
        std::future::pending::<Result<()>>().await
    };
    let read = async {
        let mut buffer = [0; 4096];
        while reader.read(&mut buffer).await? > 0 {}
        bail!("the speaker has ended a session")
    };
    tokio::select! { result = write => result, result = read => result }
}

/// All UPDATEs of a peer, and End-of-RIB, as octets.
fn updates(peer: Ipv4Addr, from: u32, count: u32) -> Result<Vec<u8>> {
    let params = Params { four_octet_as: true, ..Params::default() };
    let mut octets = BytesMut::new();
    let prefixes: Vec<IpNet> = (from..from + count).map(prefix).collect::<Result<_>>()?;
    for (group, alike) in (0..).zip(prefixes.chunks(ALIKE)) {
        let path = [PEERS_ASN, 3000 + group % 1000, 4_200_000_000 + group];
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(&path)),
            ..Attributes::default()
        };
        let hop = NextHop::V4(peer);
        for update in Update::announce(Family::Ipv4Unicast, &attributes, hop, alike, &params)? {
            Message::Update(Box::new(update)).encode(&params, &mut octets)?;
        }
    }
    Message::Update(Box::default()).encode(&params, &mut octets)?;
    Ok(octets.to_vec())
}

fn prefix(n: u32) -> Result<IpNet> {
    let address = Ipv4Addr::from_bits(FIRST.to_bits() + (n << (32 - LENGTH)));
    Ok(IpNet::V4(Ipv4Net::new(address, LENGTH)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_hold_every_prefix_once() {
        let octets = updates(Ipv4Addr::new(10, 66, 1, 1), 100, 50).unwrap();
        let mut inbox = BytesMut::from(&octets[..]);
        let params = Params { four_octet_as: true, ..Params::default() };
        let mut prefixes = Vec::new();
        while let Some(frame) = next_frame(&mut inbox, false).unwrap() {
            let Received::Update(update) = decode(&frame, &params).unwrap() else {
                panic!("an UPDATE")
            };
            assert!(update.faults.is_empty());
            prefixes.extend(update.update.nlri);
        }
        let expected: Vec<IpNet> = (100..150).map(|n| prefix(n).unwrap()).collect();
        assert_eq!(prefixes, expected);
        assert_eq!(expected[0].to_string(), "20.0.100.0/24");
    }
}
