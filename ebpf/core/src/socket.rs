//! Balancing at the socket: the node's own processes get their backend when they connect or send, and
//! never see a translated packet. It also reaches what packets cannot: the node's own addresses.
//!
//! What is left alone here (no endpoint, source ranges, strays) goes on as a packet to the programs on
//! interfaces, which refuse or drop it.

use sluice_abi::{
    BackendState, Connected, Deliver, FlowKey, Peer, Range, ServiceKey, SocketKey, service_flags,
};

use crate::family::Family;
use crate::open::{list, pick};
use crate::tables::{Lookup, NodeTables};
use crate::wire;

/// The address that a socket is about to use, or has got a datagram from.
pub trait Socket<F: Family> {
    /// Transport protocol, an IANA number.
    fn protocol(&self) -> u8;
    /// The socket's cookie.
    fn cookie(&self) -> u64;
    /// Address and port, network byte order.
    fn peer(&self) -> (F::Addr, u16);
    /// Replaces both.
    fn set_peer(&mut self, addr: F::Addr, port_be: u16);
}

/// A socket connects, or sends a datagram without being connected.
#[inline(always)]
pub fn to_service<F: Family, S: Socket<F>, N: NodeTables + Lookup<F>>(socket: &mut S, node: &N) {
    let protocol = socket.protocol();
    if protocol != wire::TCP && protocol != wire::UDP {
        return;
    }
    let (addr, port_be) = socket.peer();
    let frontend = ServiceKey { addr, port_be, protocol, pad: 0 };
    let Some(service) = node.service(&frontend) else { return };
    // Packets choose anew as soon as a backend is gone, connected sockets can't: UDP is translated here
    // only where packets can't be, for every backend of the service port alike.
    let only_here = service_flags::NODE_PORT | service_flags::STACK;
    if protocol == wire::UDP && service.flags & only_here == 0 {
        return;
    }
    let cookie = socket.cookie();
    let asked = SocketKey { cookie: halves(cookie), addr, port_be: port_be.into() };
    // A socket stays with its backend as long as that serves; a connection is one question.
    if protocol == wire::UDP
        && let Some(peer) = node.peer(&asked)
        && node.backend(peer.backend).is_some_and(|backend| {
            backend.generation == peer.generation
                && backend.state == BackendState::Serving as u8
                && backend.service == service.id
        })
    {
        socket.set_peer(peer.addr, peer.port_be as u16);
        return;
    }
    let Some(config) = node.config() else { return };
    let Some(own) = F::node(config) else { return };
    if service.flags & service_flags::RANGES != 0
        && !node.allows(&Range { service: service.id, addr: own })
    {
        return;
    }
    // The node is not outside: of an external address it gets all endpoints.
    let inside = service.flags & service_flags::EXTERNAL != 0;
    let local = service.flags & service_flags::LOCAL != 0;
    let local_only = local && !inside;
    if list(service, local_only).len == 0 {
        // On loopback no program refuses, and a listener must not answer for the service: at port 0
        // there is none. So it is told at once, too; but a UDP socket would keep that port for ever.
        let itself = protocol == wire::TCP || F::is_loopback(addr);
        if service.flags & service_flags::NODE_PORT != 0 && itself {
            socket.set_peer(addr, 0);
        }
        return;
    }
    // Its port is not known yet; that of a consistent choice is any that is spread well.
    let key = FlowKey {
        src: own,
        dst: addr,
        sport_be: cookie as u16,
        dport_be: port_be,
        protocol: protocol.into(),
    };
    let id = pick::<F, N>(node, &key, service, local_only, node.now());
    let Some(backend) = node.backend(id) else { return };
    if backend.state == BackendState::Free as u8 {
        return;
    }
    let addr = F::backend_address(backend);
    if protocol == wire::TCP {
        node.remember_connected(&Connected {
            cookie: asked.cookie,
            given: addr,
            asked: asked.addr,
            given_port_be: backend.port_be,
            asked_port_be: port_be,
            backend: id,
        });
        socket.set_peer(addr, backend.port_be);
        return;
    }
    let given = SocketKey { cookie: asked.cookie, addr, port_be: backend.port_be.into() };
    let from = Peer {
        addr: asked.addr,
        port_be: asked.port_be,
        backend: id,
        generation: backend.generation,
    };
    let to = Peer { addr, port_be: backend.port_be.into(), ..from };
    if node.remember_peer(&given, &from) && node.remember_peer(&asked, &to) {
        socket.set_peer(addr, backend.port_be);
    }
}

/// A socket has got a datagram, or asks whom it is connected to: the answer is what it asked for.
#[inline(always)]
pub fn from_backend<F: Family, S: Socket<F>, N: Lookup<F>>(socket: &mut S, node: &N) {
    let (addr, port_be) = socket.peer();
    let cookie = halves(socket.cookie());
    if socket.protocol() == wire::TCP {
        if let Some(connected) = node.connected(cookie)
            && connected.given == addr
            && connected.given_port_be == port_be
        {
            socket.set_peer(connected.asked, connected.asked_port_be);
        }
        return;
    }
    let key = SocketKey { cookie, addr, port_be: port_be.into() };
    if let Some(peer) = node.peer(&key) {
        socket.set_peer(peer.addr, peer.port_be as u16);
    }
}

/// The veth of the pod to which a TCP socket of the node with this cookie was connected in place of a
/// service; its packets have no need of the bridge. `None` for all other packets, and where the pod is not here any more.
#[inline(always)]
pub(crate) fn veth<F: Family, N: NodeTables + Lookup<F>>(
    node: &N,
    cookie: u64,
    peer: (F::Addr, u16),
) -> Option<u32> {
    let connected = node.connected(halves(cookie))?;
    if connected.given != peer.0 || connected.given_port_be != peer.1 {
        return None;
    }
    let backend = node.backend(connected.backend)?;
    (backend.deliver == Deliver::Peer as u8
        && backend.state != BackendState::Free as u8
        && backend.port_be == connected.given_port_be
        && F::backend_address(backend) == connected.given)
        .then_some(backend.ifindex)
}

#[inline(always)]
fn halves(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}
