//! Owns the listening sockets: keys of all peers, and who may connect (B4, B8).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::config::{Password, PeerConfig, Ttl};
use super::sockopt;

/// Connections that may wait for the kernel to hand them over.
const BACKLOG: i32 = 512;
/// Pause after accept failed, e.g. for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Why an address is not listened at.
#[derive(Debug)]
pub(super) enum Fault {
    Listen(SocketAddr, io::Error),
    /// The key of this peer cannot be set there: it could connect without.
    Key(IpAddr, io::Error),
}

/// A socket with the task that takes connections from it.
struct Listening {
    socket: socket2::Socket,
    task: JoinHandle<()>,
}

impl Listening {
    /// Closes the socket; the address is free then.
    async fn end(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Listeners {
    /// By the address asked for, whose port may be 0.
    sockets: BTreeMap<SocketAddr, Listening>,
    tell: mpsc::Sender<(TcpStream, SocketAddr)>,
    pub(super) accepted: Option<mpsc::Receiver<(TcpStream, SocketAddr)>>,
}

impl Listeners {
    /// Listens nowhere yet; connections will come out at `accepted`.
    pub(super) fn new() -> Self {
        let (tell, accepted) = mpsc::channel(16);
        Self { sockets: BTreeMap::new(), tell, accepted: Some(accepted) }
    }

    /// Listens at these addresses and no others, with these keys from the first SYN on. Sockets of
    /// addresses that stay are not touched. Where it cannot listen it does not; all else is done.
    pub(super) async fn set(
        &mut self,
        addresses: &[SocketAddr],
        keys: &[(IpAddr, &Password)],
    ) -> Vec<Fault> {
        let wanted: BTreeSet<SocketAddr> = addresses.iter().copied().collect();
        let had: Vec<SocketAddr> = self.sockets.keys().copied().collect();
        // An address among those that go may be part of a new one, as 0.0.0.0 is of all.
        for address in had.into_iter().filter(|address| !wanted.contains(address)) {
            if let Some(listening) = self.sockets.remove(&address) {
                listening.end().await;
            }
        }
        self.add(&wanted, keys)
    }

    /// Listens at these addresses, too.
    pub(super) fn add(
        &mut self,
        addresses: &BTreeSet<SocketAddr>,
        keys: &[(IpAddr, &Password)],
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        for address in addresses {
            if self.sockets.contains_key(address) {
                continue;
            }
            match listen(*address, keys) {
                Ok((socket, listener)) => {
                    let task = tokio::spawn(take(listener, self.tell.clone()));
                    self.sockets.insert(*address, Listening { socket, task });
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// Addresses listened at, with the ports that the kernel chose.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.sockets.values();
        let bound = all.filter_map(|listening| listening.socket.local_addr().ok());
        bound.filter_map(|address| address.as_socket()).collect()
    }

    /// Sets a peer's key, so that its SYNs are checked; `None` takes it away.
    ///
    /// # Errors
    /// Of the operating system; e.g. no such option in this kernel.
    pub(super) fn set_key(&self, peer: IpAddr, password: Option<&Password>) -> io::Result<()> {
        for (address, listening) in &self.sockets {
            if address.is_ipv4() == peer.is_ipv4() {
                sockopt::set_md5(&listening.socket, peer, password)?;
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }
}

async fn take(listener: TcpListener, tell: mpsc::Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if tell.send(connection).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

fn listen(
    address: SocketAddr,
    keys: &[(IpAddr, &Password)],
) -> Result<(socket2::Socket, TcpListener), Fault> {
    let at = |error| Fault::Listen(address, error);
    let socket = bind(address).map_err(at)?;
    // Before it listens: there is no moment without them.
    for (peer, key) in keys.iter().filter(|(peer, _)| peer.is_ipv4() == address.is_ipv4()) {
        sockopt::set_md5(&socket, *peer, Some(key)).map_err(|error| Fault::Key(*peer, error))?;
    }
    socket.listen(BACKLOG).map_err(at)?;
    let handle = socket.try_clone().map_err(at)?;
    Ok((handle, TcpListener::from_std(socket.into()).map_err(at)?))
}

fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // SYN-ACKs come from this socket, and a peer with TTL security drops all below 255. The TTL
    // that a peer is configured with is set on its connection.
    sockopt::set_ttl(&socket, address.ip(), Ttl::Send(255))?;
    sockopt::save_syn(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Makes an accepted connection one of the peer; false if it is from further away than it may be.
///
/// The listener takes a SYN of any TTL, for it serves all peers, and what followed may have been
/// received before the limit is set here. So the SYN itself is looked at; one that the kernel has
/// not kept is none that is near.
///
/// # Errors
/// Of the operating system.
pub(super) fn adjust(stream: &TcpStream, config: &PeerConfig) -> io::Result<bool> {
    let ttl = match config.ttl {
        // Not the listener's 255.
        Ttl::Any => Ttl::Send(64),
        ttl => ttl,
    };
    sockopt::set_ttl(stream, config.address, ttl)?;
    let Ttl::Security(hops) = ttl else { return Ok(true) };
    let least = sockopt::least_ttl(hops);
    Ok(sockopt::ttl_of_syn(stream)?.is_some_and(|ttl| ttl >= least))
}
