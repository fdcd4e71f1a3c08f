//! Ends connected UDP sockets of the node whose backend is gone: they were translated once, when they
//! connected, and would ask it for ever. Their process gets ECONNABORTED (EDESTADDRREQ from the next send
//! on) and connects anew.
//!
//! By `SOCK_DESTROY` (linux/sock_diag.h), which kernels have from 4.5 on if built with
//! CONFIG_INET_DIAG_DESTROY.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SOCK_DESTROY, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Kernel};

/// Octets of the buffer for answers: what the kernel fills at once (net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;
/// Offset of a message's type in its header (linux/netlink.h).
const TYPE: usize = 4;

/// A connected socket as the kernel lists it.
#[derive(Clone, Debug)]
struct Connected {
    family: u8,
    id: SocketId,
}

impl Connected {
    /// The peer; an IPv4-mapped address as what it is.
    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.id.destination_address.to_canonical(), self.id.destination_port)
    }

    /// As `bpf_get_socket_cookie` tells it.
    fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    fn request(self) -> SockDiagMessage {
        SockDiagMessage::InetRequest(InetRequest {
            family: self.family,
            protocol: IPPROTO_UDP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::ESTABLISHED,
            socket_id: self.id,
        })
    }
}

/// Ends the UDP sockets of this network namespace that are connected to one of `gone` and were
/// translated when they did so, as `is_translated` knows of a cookie and a peer. How many.
///
/// # Errors
/// The kernel has no `SOCK_DESTROY`, or no list of UDP sockets (module `udp_diag`).
pub(crate) fn destroy(
    gone: &HashSet<SocketAddr>,
    is_translated: impl Fn(u64, SocketAddr) -> bool,
) -> io::Result<usize> {
    let (mut ended, mut refused) = (0, None);
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let all = Connected { family, id: any };
        let mut sockets: Vec<Connected> = Vec::new();
        ask(all.request(), None, |found| sockets.push(found))?;
        sockets.retain(|one| gone.contains(&one.peer()) && is_translated(one.cookie(), one.peer()));
        for socket in sockets {
            match ask(socket.request(), Some(SOCK_DESTROY), |_| ()) {
                Ok(()) => ended += 1,
                // Closed by its process meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => refused = Some(error),
            }
        }
    }
    refused.map_or(Ok(ended), Err)
}

/// Sends one request, of a type of its own or for a list, and reads to the end of the answer.
fn ask(
    request: SockDiagMessage,
    kind: Option<u16>,
    mut found: impl FnMut(Connected),
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Kernel::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | if kind.is_some() { NLM_F_ACK } else { NLM_F_DUMP };
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // The library makes requests for lists only.
    if let (Some(kind), Some(place)) = (kind, bytes.get_mut(TYPE..TYPE + 2)) {
        place.copy_from_slice(&kind.to_ne_bytes());
    }
    socket.send(&bytes, 0)?;
    loop {
        let mut buffer = Vec::with_capacity(BUFFER);
        let length = socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let family = response.header.family;
                    found(Connected { family, id: response.header.socket_id });
                }
                _ => {}
            }
            // Messages begin at multiples of four.
            let step = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(step..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

    use super::*;

    /// In a namespace of its own, with two sockets that differ in nothing but whether they were
    /// translated.
    #[test]
    fn only_translated_sockets_of_a_gone_backend_are_ended() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP: ending sockets needs root");
            return;
        }
        for loopback in ["127.0.0.1", "::1"] {
            let loopback: IpAddr = loopback.parse().unwrap();
            let server = UdpSocket::bind((loopback, 0)).unwrap();
            let at = server.local_addr().unwrap();
            let [ours, theirs] = [(); 2].map(|()| {
                let socket = UdpSocket::bind((loopback, 0)).unwrap();
                socket.connect(at).unwrap();
                socket
            });
            let own = ours.local_addr().unwrap().port();
            let cookies = std::cell::RefCell::new(Vec::new());
            let note = |cookie, peer| {
                assert_eq!(peer, at);
                cookies.borrow_mut().push(cookie);
                false
            };
            assert_eq!(destroy(&[at].into(), note).unwrap(), 0);
            assert_eq!(cookies.borrow().len(), 2);
            // A socket's cookie is drawn when it is first asked for: the kernel lists by it.
            let first = cookies.borrow()[0];
            let elsewhere = SocketAddr::new(loopback, own);
            assert_eq!(destroy(&[elsewhere].into(), |_, _| true).unwrap(), 0);
            match destroy(&[at].into(), |known, _| known == first) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    println!("SKIP: this kernel ends no sockets");
                    return;
                }
                ended => assert_eq!(ended.unwrap(), 1),
            }
            let errors = [ours, theirs].map(|socket| socket.take_error().unwrap());
            let kinds: Vec<_> = errors.iter().flatten().map(io::Error::kind).collect();
            assert_eq!(kinds, [io::ErrorKind::ConnectionAborted]);
        }
    }
}
