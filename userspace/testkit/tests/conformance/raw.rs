//! Packets made by hand, for what no socket sends by itself. All octets are in network order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{Rig, patient};

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let low = |word: &[u8]| word.get(1).map_or(0, |low| u32::from(*low));
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | low(word));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The checksum of a TCP segment or UDP datagram (RFC 9293, RFC 768, RFC 8200) whose own is 0.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> [u8; 2] {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let pseudo = [octets(from), octets(to), vec![0, protocol], length.to_vec(), bytes.to_vec()];
    checksum(&pseudo.concat())
}

/// A UDP datagram with its checksum.
pub(crate) fn datagram(from: (IpAddr, u16), to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let mut udp = [from.1.to_be_bytes(), to.port().to_be_bytes()].concat();
    let length = u16::try_from(8 + content.len()).unwrap().to_be_bytes();
    udp.extend([length, [0, 0]].concat());
    udp.extend(content);
    let sum = transport_checksum(from.0, to.ip(), 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    udp
}

/// A TCP segment with its checksum, sequence and acknowledgement number the same.
pub(crate) fn segment(
    from: (IpAddr, u16),
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    content: &[u8],
) -> Vec<u8> {
    let mut tcp = [from.1.to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend([sequence.to_be_bytes(), sequence.to_be_bytes()].concat());
    // Header of five words; window, checksum, urgent pointer.
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(content);
    let sum = transport_checksum(from.0, to.ip(), 6, &tcp);
    tcp[16..18].copy_from_slice(&sum);
    tcp
}

/// An IPv4 packet; the kernel fills in the checksum. `options` are whole words.
pub(crate) fn ipv4(src: IpAddr, dst: IpAddr, options: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let length = u16::try_from(20 + options.len() + body.len()).unwrap();
    let mut bytes = vec![0x40 | words, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0x77, 0, 0, 0, 64, protocol, 0, 0]);
    bytes.extend([octets(src), octets(dst), options.to_vec(), body.to_vec()].concat());
    bytes
}

/// An IPv6 packet whose first header behind its own has the number `next`.
pub(crate) fn ipv6(src: IpAddr, dst: IpAddr, next: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend([octets(src), octets(dst), body.to_vec()].concat());
    bytes
}

/// The address by which the calling thread's namespace reaches another.
pub(crate) fn own_address(target: IpAddr) -> io::Result<IpAddr> {
    let probe = UdpSocket::bind((any(target), 0))?;
    probe.connect((target, 9))?;
    Ok(probe.local_addr()?.ip())
}

/// The unspecified address of an address's family.
pub(crate) fn any(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Sends a packet with its IP header from the calling thread's namespace.
pub(crate) fn send(to: IpAddr, packet: &[u8]) -> io::Result<()> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
    match to {
        IpAddr::V4(_) => raw.set_header_included_v4(true)?,
        IpAddr::V6(_) => raw.set_header_included_v6(true)?,
    }
    raw.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
}

/// Asks a service by packets that `packets` makes of the socket's address, the question and its
/// datagram; whether the question came back to the socket.
pub(crate) fn answers(
    rig: &Rig,
    from: &str,
    target: SocketAddr,
    length: usize,
    packets: impl Fn(IpAddr, &[u8]) -> Vec<Vec<u8>> + Sync,
) -> bool {
    let asked = rig.netns(from).run(|| -> io::Result<bool> {
        let socket = UdpSocket::bind((any(target.ip()), 0))?;
        socket.set_read_timeout(Some(patient(Duration::from_secs(1))))?;
        let own = (own_address(target.ip())?, socket.local_addr()?.port());
        let question: Vec<u8> = (0..length).map(|n| b'a' + (n % 26) as u8).collect();
        for packet in packets(own.0, &datagram(own, target, &question)) {
            send(target.ip(), &packet)?;
        }
        let mut answer = vec![0; 65_535];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].ends_with(&question))
    });
    asked.unwrap().unwrap_or(false)
}
