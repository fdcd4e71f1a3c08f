//! Owns raw sockets of SCTP's protocol number: packets with both their addresses, and the ICMP
//! errors about them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{
    c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo, sock_extended_err, sockaddr_in6,
};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::wire::Packet;

/// IANA's number.
const SCTP: c_int = 132;
/// Octets of the longest packet there is.
const LONGEST: usize = 65_535;
/// Octets that wait to be read: all sockets of a namespace get all packets.
const BUFFER: usize = 4 << 20;

/// How many errors about others' packets are passed over before one is taken for the socket's own.
const ERRORS: u32 = 8;

/// A packet that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) packet: Packet,
}

/// A raw socket of one family.
#[derive(Debug)]
pub(super) struct Raw {
    /// To tokio a socket of datagrams is one of UDP; it is only waited for.
    socket: UdpSocket,
    v4: bool,
    /// Where packets go to if it is connected, and from where.
    ends: Option<(IpAddr, IpAddr)>,
    /// The ports whose ICMP errors are this socket's: others get them too.
    ports: (u16, u16),
    /// Room for what is read; once, since all sockets of a namespace read all packets.
    octets: tokio::sync::Mutex<Vec<u8>>,
}

impl Raw {
    /// For whatever comes to any address.
    pub(super) fn any(v4: bool) -> io::Result<Self> {
        Ok(Self { socket: waited_for(open(v4)?)?, v4, ends: None, ports: (0, 0), octets: room() })
    }

    /// For what comes from `peer`, and errors about what goes from the port `local` to its port.
    pub(super) fn connected(
        source: Option<IpAddr>,
        local: u16,
        peer: SocketAddr,
    ) -> io::Result<Self> {
        let socket = open(peer.is_ipv4())?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&SocketAddr::new(peer.ip(), 0).into())?;
        if peer.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        let own = socket.local_addr()?.as_socket().map(|own| own.ip());
        let own = own.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (socket, ports) = (waited_for(socket)?, (local, peer.port()));
        Ok(Self { socket, v4: peer.is_ipv4(), ends: Some((own, peer.ip())), ports, octets: room() })
    }

    /// The next packet whose checksum is right; an error when somebody refuses what was sent.
    pub(super) async fn receive(&self) -> io::Result<Received> {
        let interest = Interest::READABLE | Interest::ERROR;
        let mut octets = self.octets.lock().await;
        loop {
            let read = self.socket.async_io(interest, || self.read(&mut octets)).await?;
            let Some((from, to, content)) = read else { continue };
            match Packet::read(content.of(&octets)) {
                Ok(packet) => return Ok(Received { from, to, packet }),
                Err(fault) => tracing::warn!("SCTP from {from} to {to}: {fault}"),
            }
        }
    }

    /// Sends a packet from one address to another.
    pub(super) fn send(&self, from: IpAddr, to: IpAddr, packet: &Packet) -> io::Result<()> {
        let octets = packet.write();
        let content = [IoSlice::new(&octets)];
        let (source4, source6);
        let control = match from {
            IpAddr::V4(ip) => {
                let any = in_addr { s_addr: 0 };
                let own = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                source4 = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: any };
                ControlMessage::Ipv4PacketInfo(&source4)
            }
            IpAddr::V6(ip) => {
                let own = in6_addr { s6_addr: ip.octets() };
                source6 = in6_pktinfo { ipi6_addr: own, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&source6)
            }
        };
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        let fd = self.socket.as_raw_fd();
        let mut errors = 0;
        loop {
            // A connected socket has its addresses.
            let sent = match self.ends {
                Some(_) => sendmsg::<()>(fd, &content, &[], MsgFlags::MSG_DONTWAIT, None),
                None => sendmsg(fd, &content, &[control], MsgFlags::MSG_DONTWAIT, Some(&address)),
            };
            match sent {
                // What the host itself drops is lost as on any wire (EPERM: by netfilter).
                Ok(_) | Err(Errno::ENOBUFS | Errno::EPERM) => return Ok(()),
                // It may tell of an error about another's packet; then nothing was sent.
                Err(errno) if self.ends.is_some() && errors < ERRORS && is_of_icmp(errno) => {
                    if let Some(error) = self.refused() {
                        return Err(error);
                    }
                    errors += 1;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The addresses of a connected socket: its own, and its peer's.
    pub(super) fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        self.ends
    }

    /// `None` for what is to be passed over.
    fn read(&self, octets: &mut [u8]) -> io::Result<Option<(IpAddr, IpAddr, Content)>> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(octets)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            flags,
        ) {
            Ok(message) => message,
            // An ICMP error that came since.
            Err(errno) if self.ends.is_some() && is_of_icmp(errno) => {
                return self.refused().map_or(Ok(None), Err);
            }
            Err(errno) => return Err(errno.into()),
        };
        let length = message.bytes;
        let from = message.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
        });
        let to = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(to) => {
                Some(IpAddr::from(Ipv4Addr::from(to.ipi_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6PacketInfo(to) => {
                Some(Ipv6Addr::from(to.ipi6_addr.s6_addr).into())
            }
            _ => None,
        });
        let (Some(from), Some(to)) = (from, to) else { return Ok(None) };
        // Over IPv4 raw sockets get the IP header, too.
        let begin = match (self.v4, octets.first()) {
            (true, Some(first)) => usize::from(first & 0x0f) * 4,
            _ => 0,
        };
        Ok(Some((from, to, Content { begin, end: length })))
    }

    /// The first ICMP error about what this end sent; those about others' are passed over.
    fn refused(&self) -> Option<io::Error> {
        self.ends?;
        loop {
            let mut octets = [0; 8];
            let mut control = nix::cmsg_space!(sock_extended_err, sockaddr_in6, in6_pktinfo);
            let mut parts = [IoSliceMut::new(&mut octets)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
            let message =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
                    .ok()?;
            let errno = message.cmsgs().ok()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    i32::try_from(error.ee_errno).ok().map(Errno::from_raw)
                }
                _ => None,
            });
            let [a, b, c, d, ..] = octets;
            let about = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            match errno {
                _ if about != self.ports => {}
                Some(Errno::ECONNREFUSED) => return Some(Errno::ECONNREFUSED.into()),
                // Nobody there takes such packets: protocol unreachable, or unknown next header.
                Some(Errno::ENOPROTOOPT | Errno::EPROTO) => {
                    return Some(io::Error::new(
                        io::ErrorKind::HostUnreachable,
                        "no SCTP at that address",
                    ));
                }
                // What may pass, as the kernel's own protocols judge.
                _ => {}
            }
        }
    }
}

/// Errors that a socket has by ICMP and not by a call.
fn is_of_icmp(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::ENOPROTOOPT
            | Errno::EPROTO
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EMSGSIZE
            | Errno::EACCES
    )
}

/// Where in what was read the packet is.
#[derive(Clone, Copy, Debug)]
struct Content {
    begin: usize,
    end: usize,
}

impl Content {
    fn of(self, octets: &[u8]) -> &[u8] {
        octets.get(self.begin..self.end).unwrap_or_default()
    }
}

fn room() -> tokio::sync::Mutex<Vec<u8>> {
    tokio::sync::Mutex::new(vec![0; LONGEST])
}

fn waited_for(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

fn open(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::from(SCTP)))?;
    socket.set_recv_buffer_size(BUFFER)?;
    if v4 {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(socket)
}
