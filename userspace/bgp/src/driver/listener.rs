//! Owns the listening sockets: keys of all peers, and who may connect (B4, B8).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::config::{Password, PeerConfig, Ttl};
use super::sockopt;

/// Connections that may wait for the kernel to hand them over.
const BACKLOG: i32 = 512;
/// Pause after accept failed, e.g. for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Listeners {
    sockets: Vec<socket2::Socket>,
    tasks: JoinSet<()>,
    pub(super) accepted: Option<mpsc::Receiver<(TcpStream, SocketAddr)>>,
}

impl Listeners {
    /// Listens; connections come out at `accepted`.
    ///
    /// # Errors
    /// Of the operating system, with the address.
    pub(super) fn open(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let (tell, accepted) = mpsc::channel(16);
        let (mut sockets, mut tasks) = (Vec::new(), JoinSet::new());
        for address in addresses {
            let (socket, listener) = listen(*address).map_err(|error| (*address, error))?;
            sockets.push(socket);
            let tell = tell.clone();
            tasks.spawn(async move {
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
            });
        }
        Ok(Self { sockets, tasks, accepted: Some(accepted) })
    }

    /// Addresses listened at, with the ports that the kernel chose.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let bound = self.sockets.iter().filter_map(|socket| socket.local_addr().ok());
        bound.filter_map(|address| address.as_socket()).collect()
    }

    /// Sets a peer's key, so that its SYNs are checked; `None` takes it away.
    ///
    /// # Errors
    /// Of the operating system; e.g. no such option in this kernel.
    pub(super) fn set_key(&self, peer: IpAddr, password: Option<&Password>) -> io::Result<()> {
        for socket in &self.sockets {
            let local = socket.local_addr()?.as_socket();
            if local.is_some_and(|local| local.is_ipv4() == peer.is_ipv4()) {
                sockopt::set_md5(socket, peer, password)?;
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.tasks.abort_all();
        self.sockets.clear();
    }
}

fn listen(address: SocketAddr) -> io::Result<(socket2::Socket, TcpListener)> {
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
    socket.listen(BACKLOG)?;
    let handle = socket.try_clone()?;
    Ok((handle, TcpListener::from_std(socket.into())?))
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
