//! Programs at the root of the cgroups: sockets that connect, send, receive and ask for their peer.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr4, Addr6};
use sluice_core::socket::{Socket, from_backend, to_service};
use sluice_core::{V4, V6};

use crate::maps::{Node, namespace};

/// The system call goes on, with what address ever.
const GO_ON: i32 = 1;
/// The high nibble of an address of 240.0.0.0/4, which nobody connects to but the agent.
const RESERVED: u32 = 0xf000_0000;
/// What comes before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    learn(&ctx);
    send4(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send4(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    receive4(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    receive4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    send6(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send6(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    receive6(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    receive6(&ctx)
}

#[inline(always)]
fn send4(ctx: &SockAddrContext) -> i32 {
    if is_nodes(ctx) {
        to_service::<V4, _, _>(&mut Plain4(ctx.sock_addr), &Node);
    }
    GO_ON
}

#[inline(always)]
fn receive4(ctx: &SockAddrContext) -> i32 {
    if is_nodes(ctx) {
        from_backend::<V4, _, _>(&mut Plain4(ctx.sock_addr), &Node);
    }
    GO_ON
}

#[inline(always)]
fn send6(ctx: &SockAddrContext) -> i32 {
    if is_nodes(ctx) {
        if is_mapped(ctx) {
            to_service::<V4, _, _>(&mut Mapped(ctx.sock_addr), &Node);
        } else {
            to_service::<V6, _, _>(&mut Plain6(ctx.sock_addr), &Node);
        }
    }
    GO_ON
}

#[inline(always)]
fn receive6(ctx: &SockAddrContext) -> i32 {
    if is_nodes(ctx) {
        if is_mapped(ctx) {
            from_backend::<V4, _, _>(&mut Mapped(ctx.sock_addr), &Node);
        } else {
            from_backend::<V6, _, _>(&mut Plain6(ctx.sock_addr), &Node);
        }
    }
    GO_ON
}

/// Whether a socket is in the node's network namespace.
#[inline(always)]
fn is_nodes(ctx: &SockAddrContext) -> bool {
    let Some(namespace) = namespace() else { return false };
    // SAFETY: the map's value; the cookie is written once. A helper on a valid context.
    unsafe {
        let known = (*namespace).cookie;
        known != 0 && known == bpf_get_netns_cookie(ctx.sock_addr.cast())
    }
}

/// Notes the namespace of the socket with which the agent asks to.
#[inline(always)]
fn learn(ctx: &SockAddrContext) {
    let Some(namespace) = namespace() else { return };
    // SAFETY: as above, and reads of a valid context.
    unsafe {
        let token = (*namespace).token;
        if token != 0
            && u32::from_be(token) & RESERVED == RESERVED
            && (*ctx.sock_addr).user_ip4 == token
        {
            (*namespace).cookie = bpf_get_netns_cookie(ctx.sock_addr.cast());
        }
    }
}

#[inline(always)]
fn is_mapped(ctx: &SockAddrContext) -> bool {
    let [a, b, c, _] = address6(ctx.sock_addr);
    a == 0 && b == 0 && c == MAPPED
}

/// An IPv4 socket.
struct Plain4(*mut bpf_sock_addr);
/// An IPv6 socket.
struct Plain6(*mut bpf_sock_addr);
/// An IPv6 socket that talks IPv4.
struct Mapped(*mut bpf_sock_addr);

#[inline(always)]
fn protocol(ctx: *mut bpf_sock_addr) -> u8 {
    // SAFETY: a read of a valid context.
    unsafe { (*ctx).protocol as u8 }
}

#[inline(always)]
fn cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: a helper on a valid context.
    unsafe { bpf_get_socket_cookie(ctx.cast()) }
}

/// Volatile, word by word: the verifier refuses two at once, and pointers into a context.
#[inline(always)]
fn address6(ctx: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: reads of a valid context.
    unsafe {
        [
            (&raw const (*ctx).user_ip6[0]).read_volatile(),
            (&raw const (*ctx).user_ip6[1]).read_volatile(),
            (&raw const (*ctx).user_ip6[2]).read_volatile(),
            (&raw const (*ctx).user_ip6[3]).read_volatile(),
        ]
    }
}

#[inline(always)]
fn port(ctx: *mut bpf_sock_addr) -> u16 {
    // SAFETY: a read of a valid context.
    unsafe { (*ctx).user_port as u16 }
}

impl Socket<V4> for Plain4 {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        protocol(self.0)
    }
    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }
    #[inline(always)]
    fn peer(&self) -> (Addr4, u16) {
        // SAFETY: a read of a valid context.
        (Addr4(unsafe { (*self.0).user_ip4 }), port(self.0))
    }
    #[inline(always)]
    fn set_peer(&mut self, addr: Addr4, port_be: u16) {
        // SAFETY: writes to a valid context, a word each.
        unsafe {
            (*self.0).user_ip4 = addr.0;
            (*self.0).user_port = port_be.into();
        }
    }
}

impl Socket<V4> for Mapped {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        protocol(self.0)
    }
    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }
    #[inline(always)]
    fn peer(&self) -> (Addr4, u16) {
        // SAFETY: a read of a valid context.
        (Addr4(unsafe { (*self.0).user_ip6[3] }), port(self.0))
    }
    #[inline(always)]
    fn set_peer(&mut self, addr: Addr4, port_be: u16) {
        // SAFETY: writes to a valid context, a word each; the rest of the address stays.
        unsafe {
            (*self.0).user_ip6[3] = addr.0;
            (*self.0).user_port = port_be.into();
        }
    }
}

impl Socket<V6> for Plain6 {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        protocol(self.0)
    }
    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }
    #[inline(always)]
    fn peer(&self) -> (Addr6, u16) {
        (Addr6(address6(self.0)), port(self.0))
    }
    #[inline(always)]
    fn set_peer(&mut self, addr: Addr6, port_be: u16) {
        let [a, b, c, d] = addr.0;
        // SAFETY: writes to a valid context; volatile as in `address6`.
        unsafe {
            (&raw mut (*self.0).user_ip6[0]).write_volatile(a);
            (&raw mut (*self.0).user_ip6[1]).write_volatile(b);
            (&raw mut (*self.0).user_ip6[2]).write_volatile(c);
            (&raw mut (*self.0).user_ip6[3]).write_volatile(d);
            (*self.0).user_port = port_be.into();
        }
    }
}
