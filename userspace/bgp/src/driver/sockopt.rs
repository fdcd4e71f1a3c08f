//! Owns the socket options that the standard library has no names for: TCP MD5 keys (RFC 2385) and
//! TTL limits (RFC 5082), for which it also reads the SYN. The only unsafe code of this crate.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use super::config::{Password, Ttl};

/// Room for the headers of a SYN: IP and TCP with all options, and extension headers of IPv6.
const SYN_HEADERS: usize = 1024;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: c_int,
    key: [u8; Password::MAX_LEN],
}

fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of one live value; the kernel only reads it,
    // and the descriptor is open as long as it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the key for segments from and to an address, or removes it. Removing one that is not there
/// is no error.
pub(super) fn set_md5(
    socket: &impl AsFd,
    peer: IpAddr,
    password: Option<&Password>,
) -> io::Result<()> {
    let mut key = [0; Password::MAX_LEN];
    let octets = password.map(Password::key).unwrap_or_default();
    key.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    let signature = Md5Signature {
        address: storage(peer),
        flags: 0,
        prefix_len: 0,
        key_len: u16::try_from(octets.len()).map_err(io::Error::other)?,
        ifindex: 0,
        key,
    };
    match set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature) {
        Err(error) if password.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        // A kernel without the option has no key to remove.
        Err(error) if password.is_none() && error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Ok(())
        }
        result => result,
    }
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let address = socket2::SockAddr::from(SocketAddr::new(address, 0));
    // SAFETY: zeros are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = (address.len() as usize).min(size_of::<libc::sockaddr_storage>());
    // SAFETY: `len` octets are readable at the source, which is an address of that length, and
    // writable at the target, which is at least as large; they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut storage).cast::<u8>(),
            len,
        );
    }
    storage
}

/// Makes the kernel tell the TTL of each datagram.
pub(super) fn tell_ttl(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVTTL),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    };
    set::<c_int>(socket, level, name, &1)
}

/// Makes the kernel keep the headers of each SYN for [`ttl_of_syn`].
pub(super) fn save_syn(socket: &impl AsFd) -> io::Result<()> {
    set::<c_int>(socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &1)
}

/// TTL or hop limit of the SYN that opened an accepted connection, once. `None` if the kernel has
/// kept none, as with SYN cookies.
pub(super) fn ttl_of_syn(socket: &impl AsFd) -> io::Result<Option<u8>> {
    let mut headers = [0u8; SYN_HEADERS];
    let mut len = libc::socklen_t::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY: `len` octets are writable behind the pointer, which outlives the call, and the
    // descriptor is open as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            std::ptr::from_mut(&mut len),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ttl_in(headers.get(..len as usize).unwrap_or_default()))
}

/// TTL or hop limit of an IP header.
fn ttl_in(header: &[u8]) -> Option<u8> {
    match header.first()? >> 4 {
        4 => header.get(8).copied(),
        6 => header.get(7).copied(),
        _ => None,
    }
}

/// RFC 5082 3: least TTL over this many hops, 255 less those beyond the first.
pub(super) fn least_ttl(hops: u8) -> u8 {
    255 - (hops.max(1) - 1)
}

/// Sets what is sent with, and what is taken.
pub(super) fn set_ttl(socket: &impl AsFd, peer: IpAddr, ttl: Ttl) -> io::Result<()> {
    let (send, least) = match ttl {
        Ttl::Any => return Ok(()),
        Ttl::Send(ttl) => (c_int::from(ttl), None),
        Ttl::Security(hops) => (255, Some(c_int::from(least_ttl(hops)))),
    };
    let (level, name, least_name) = match peer {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_MINTTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, libc::IPV6_MINHOPCOUNT),
    };
    set(socket, level, name, &send)?;
    least.map_or(Ok(()), |least| set(socket, level, least_name, &least))
}
