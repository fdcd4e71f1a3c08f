//! Owns the task of BFD: one socket per family to hear at, one per session to speak from (RFC 5881
//! 4), and the sessions' timers. A session that goes down ends the BGP session above it (B11).

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::Ttl;
use super::session::Command;
use super::sockopt;
use super::tables::sleep_until;
use crate::bfd::{Action, PORT, Packet, Session, Settings, State};
use crate::message::{Code, Notification};

/// First port to speak from (RFC 5881 4: 49152 to 65535).
const FIRST_PORT: u16 = 49152;
/// Ports tried before giving up.
const PORTS: u16 = 1000;
/// Packets that came over a hop have less (RFC 5881 5).
const TTL: i32 = 255;
/// Pause of BGP after BFD ended its session.
const AGAIN: Duration = Duration::from_secs(1);

/// A session that is wanted.
pub(super) struct Wanted {
    pub(super) peer: IpAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) settings: Settings,
    /// Weak: a peer's task ends with its owner, not with BFD.
    pub(super) commands: mpsc::WeakSender<Command>,
}

/// States by peer.
pub(super) type States = BTreeMap<IpAddr, State>;

struct Running {
    session: Session,
    wanted: Wanted,
    socket: UdpSocket,
}

pub(super) struct Bfd {
    sessions: BTreeMap<IpAddr, Running>,
    hears: Vec<UdpSocket>,
    next: u32,
    epoch: Instant,
    states: watch::Sender<States>,
}

impl Bfd {
    /// Opens the sockets; families that this host lacks are left out.
    ///
    /// # Errors
    /// Of the operating system, e.g. another BFD has the port.
    pub(super) fn open(
        epoch: Instant,
        seed: u32,
        states: watch::Sender<States>,
    ) -> io::Result<Self> {
        let mut hears = vec![listen(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?];
        hears.extend(listen(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).ok());
        Ok(Self { sessions: BTreeMap::new(), hears, next: seed, epoch, states })
    }

    pub(super) async fn run(mut self, mut wanted: mpsc::Receiver<Vec<Wanted>>) {
        loop {
            let deadline = self.sessions.values().map(|running| running.session.deadline()).min();
            tokio::select! {
                list = wanted.recv() => match list {
                    Some(list) => self.set(list),
                    None => break,
                },
                index = readable(&self.hears) => self.hear(index).await,
                () = sleep_until(self.epoch, deadline) => self.tick().await,
            }
            self.publish();
        }
        for running in self.sessions.values() {
            let (_, packet) = running.session.clone().admin_down(self.epoch.elapsed());
            send(running, &packet);
        }
    }

    fn set(&mut self, list: Vec<Wanted>) {
        let mut before = std::mem::take(&mut self.sessions);
        for wanted in list {
            let same = |running: &Running| {
                (running.wanted.local, running.wanted.settings) == (wanted.local, wanted.settings)
            };
            let peer = wanted.peer;
            match before.remove(&peer) {
                Some(running) if same(&running) => {
                    self.sessions.insert(peer, Running { wanted, ..running });
                }
                _ => {
                    self.next = self.next.wrapping_add(1).max(1);
                    let session = Session::new(wanted.settings, self.next, self.epoch.elapsed());
                    // Without a socket there is no session, and BGP's own timers remain.
                    if let Ok(socket) = speak(&wanted) {
                        self.sessions.insert(peer, Running { session, wanted, socket });
                    }
                }
            }
        }
        for running in before.values() {
            let (_, packet) = running.session.clone().admin_down(self.epoch.elapsed());
            send(running, &packet);
        }
    }

    async fn hear(&mut self, index: usize) {
        let Some(socket) = self.hears.get(index) else { return };
        let mut octets = [0; 128];
        let read = socket.try_io(Interest::READABLE, || receive(socket, &mut octets));
        // Errors of one datagram are no errors of the socket.
        let Ok((from, ttl, count)) = read else { return };
        if ttl != Some(TTL) {
            return;
        }
        let Some(Ok(packet)) = octets.get(..count).map(Packet::decode) else { return };
        if let Some(running) = self.sessions.get_mut(&from) {
            let (session, actions) = running.session.clone().receive(&packet, self.epoch.elapsed());
            running.session = session;
            act(running, actions).await;
        }
    }

    async fn tick(&mut self) {
        let now = self.epoch.elapsed();
        for running in self.sessions.values_mut().filter(|r| r.session.deadline() <= now) {
            let (session, actions) = running.session.clone().tick(now);
            running.session = session;
            act(running, actions).await;
        }
    }

    fn publish(&self) {
        let states: States =
            self.sessions.iter().map(|(peer, running)| (*peer, running.session.state())).collect();
        self.states.send_if_modified(|shown| {
            let news = *shown != states;
            if news {
                *shown = states;
            }
            news
        });
    }
}

async fn act(running: &Running, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Send(packet) => send(running, &packet),
            Action::Down(_) => {
                let notification = Notification::new(Code::BFD_DOWN);
                let fail = Command::Fail { notification, again: Some(AGAIN) };
                // A peer that is gone needs no telling.
                if let Some(commands) = running.wanted.commands.upgrade() {
                    drop(commands.send(fail).await);
                }
            }
            Action::Up | Action::AdminDown => {}
        }
    }
}

fn send(running: &Running, packet: &Packet) {
    let to = SocketAddr::new(running.wanted.peer, PORT);
    // A packet that is not sent is one that is lost.
    drop(running.socket.try_send_to(&packet.encode(), to));
}

fn listen(address: IpAddr) -> io::Result<UdpSocket> {
    let at = SocketAddr::new(address, PORT);
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(at),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    sockopt::tell_ttl(&socket, at.is_ipv6())?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

fn speak(wanted: &Wanted) -> io::Result<UdpSocket> {
    let any = match wanted.peer {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = wanted.local.unwrap_or(any);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        match std::net::UdpSocket::bind(SocketAddr::new(from, port)) {
            Ok(socket) => {
                sockopt::set_ttl(&socket, wanted.peer, Ttl::Send(255))?;
                socket.set_nonblocking(true)?;
                return UdpSocket::from_std(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sender, TTL and length of a datagram.
fn receive(socket: &UdpSocket, octets: &mut [u8]) -> io::Result<(IpAddr, Option<i32>, usize)> {
    let mut space = nix::cmsg_space!(i32, i32);
    let mut parts = [IoSliceMut::new(octets)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    Ok((from, ttl, message.bytes))
}

/// Position of a socket with something to read.
async fn readable(sockets: &[UdpSocket]) -> usize {
    let waits = sockets.iter().enumerate().map(|(index, socket)| {
        Box::pin(async move {
            // Errors show when reading.
            drop(socket.readable().await);
            index
        })
    });
    futures::future::select_all(waits).await.0
}
