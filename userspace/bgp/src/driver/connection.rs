//! Owns one TCP connection: octets in both directions and what waits to be written. Reading and
//! writing never wait; the caller waits for readiness.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::config::PeerConfig;
use super::sockopt;
use crate::fsm::{LinkId, Time};

/// Octets read at once.
const READ: usize = 64 * 1024;
/// How long a closing connection may take to deliver its last words.
const LINGER: Duration = Duration::from_secs(3);

pub(super) struct Connection {
    pub(super) id: LinkId,
    stream: TcpStream,
    /// Read, but not yet taken as messages.
    pub(super) inbox: BytesMut,
    outbox: BytesMut,
    /// Writing has failed: what the peer sent before that is still read, then it is over.
    mute: bool,
    /// Nothing more comes; what was read still counts.
    ended: bool,
    /// When octets were last taken by the socket, or the outbox was empty.
    pub(super) progress_at: Time,
    pub(super) local_address: Option<IpAddr>,
}

impl Connection {
    pub(super) fn new(id: LinkId, stream: TcpStream, now: Time) -> Self {
        // Small messages are not to wait for each other; without it they are late, not lost.
        drop(stream.set_nodelay(true));
        let local_address = stream.local_addr().ok().map(|address| address.ip());
        Self {
            id,
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            mute: false,
            ended: false,
            progress_at: now,
            local_address,
        }
    }

    /// Completes when there is something to read or write; never once all was read.
    pub(super) async fn ready(&self, read: bool) {
        let readable = async {
            match (read && !self.ended, self.mute) {
                (false, _) => std::future::pending::<()>().await,
                (true, true) => {}
                // Errors show when reading.
                (true, false) => drop(self.stream.readable().await),
            }
        };
        let writable = async {
            if self.outbox.is_empty() {
                std::future::pending::<()>().await;
            } else {
                drop(self.stream.writable().await);
            }
        };
        tokio::select! { () = readable => {}, () = writable => {} }
    }

    /// Reads what is there, at most so much at once; sees the end.
    pub(super) fn read(&mut self) {
        self.inbox.reserve(READ);
        self.ended |= match self.stream.try_read_buf(&mut self.inbox) {
            Ok(count) => count == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.mute,
            Err(_) => true,
        };
    }

    /// Whether nothing more will be read.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Appends to what is written.
    pub(super) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    pub(super) fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// Writes what the socket takes. After an error there is nobody to write to.
    pub(super) fn write(&mut self, now: Time) {
        while !self.mute && !self.outbox.is_empty() {
            match self.stream.try_write(&self.outbox) {
                Ok(count) => {
                    self.outbox.advance(count);
                    self.progress_at = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.mute = true,
            }
        }
        self.outbox.clear();
        self.progress_at = now;
    }

    /// Changes the key of a connection that stands.
    pub(super) fn set_password(&self, config: &PeerConfig) -> io::Result<()> {
        sockopt::set_md5(&self.stream, config.address, config.password.as_ref())
    }

    /// Delivers what waits, then closes; in a task of its own, and not for long. What the peer
    /// still sends is read, for a socket closed over unread octets sends RST, which takes the
    /// NOTIFICATION from the peer's reader. `closing` is held until then.
    pub(super) fn close(mut self, closing: mpsc::Sender<()>) {
        tokio::spawn(tokio::time::timeout(LINGER, async move {
            let _closing = closing;
            if self.stream.write_all(&self.outbox).await.is_ok()
                && self.stream.shutdown().await.is_ok()
            {
                let mut rest = vec![0; 4096];
                while matches!(self.stream.read(&mut rest).await, Ok(count) if count > 0) {}
            }
        }));
    }
}

/// Connects to a peer as it is configured.
///
/// # Errors
/// Of the operating system, with what was being done.
pub(super) async fn connect(config: PeerConfig) -> io::Result<TcpStream> {
    let socket = match config.address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if config.password.is_some() {
        sockopt::set_md5(&socket, config.address, config.password.as_ref())?;
    }
    sockopt::set_ttl(&socket, config.address, config.ttl)?;
    if let Some(local) = config.local_address {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(SocketAddr::new(config.address, config.port)).await
}
