//! The host build: packets in vectors, tables in collections. For tests, properties and fuzzing.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

use sluice_abi::{
    Addr4, Addr6, Affinity, AffinityKey, Backend, Config, Connected, Flow, FlowKey, FragmentKey,
    Held, HeldKey, MAX_HELD_BYTES, MAX_REFUSALS, Peer, Ports, Range, RangeKey, Reason, Service,
    ServiceKey, SocketKey,
};

use crate::checksum::apply;
use crate::wire::{ETHERNET_LEN, Wire};
use crate::{Family, FlowTable, Inserted, Lookup, NextHop, NodeTables, Packet, Tables, V4, V6};

/// A packet in memory. Its checksums are complete, as those of a packet from a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Interface it came in by.
    pub ifindex: u32,
    /// Whether it carries the mark.
    pub marked: bool,
    /// Whether a socket of this node sent it.
    pub own: bool,
    /// The cookie of the socket that sent it.
    pub cookie: u64,
    /// What the routes answer.
    pub routes: Option<NextHop>,
    /// Where it leaves to.
    pub hop: NextHop,
    /// What comes in again, and by which interface.
    pub again: Vec<(u32, Vec<u8>)>,
}

impl HostPacket {
    /// A packet that came in by `ifindex`; the routes know no way.
    #[must_use]
    pub fn new(bytes: Vec<u8>, ifindex: u32) -> Self {
        let (routes, hop) = (None, NextHop::default());
        let again = Vec::new();
        Self { bytes, ifindex, marked: false, own: false, cookie: 0, routes, hop, again }
    }

    fn fix(&mut self, check: usize, diff: u32, udp: bool) -> Option<()> {
        let old: u16 = self.load(check)?;
        if udp && old == 0 {
            return Some(());
        }
        let new = apply(old, diff);
        // As BPF_F_MARK_MANGLED_0: zero would mean that there is none.
        self.store(check, if udp && new == 0 { u16::MAX } else { new })
    }
}

impl Packet for HostPacket {
    fn ether_type(&self) -> u16 {
        self.load(12).map_or(0, u16::from_be)
    }
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
    fn is_own(&self) -> bool {
        self.own
    }
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn is_marked(&self) -> bool {
        self.marked
    }
    fn mark(&mut self) {
        self.marked = true;
    }
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        T::decode(self.bytes.get(offset..)?)
    }
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        value.encode(self.bytes.get_mut(offset..)?)
    }
    fn fix_addresses(&mut self, check: usize, diff: u32, udp: bool, _ipv6: bool) -> Option<()> {
        self.fix(check, diff, udp)
    }
    fn fix_ports(&mut self, check: usize, old: u32, new: u32, udp: bool) -> Option<()> {
        let diff = u64::from(!old) + u64::from(new);
        self.fix(check, ((diff & 0xffff_ffff) + (diff >> 32)) as u32, udp)
    }
    fn fix_body(&mut self, check: usize, diff: u32) -> Option<()> {
        self.fix(check, diff, false)
    }
    fn make_room(&mut self, keep: usize, room: usize) -> Option<()> {
        if keep > self.bytes.len() {
            return None;
        }
        self.bytes.truncate(keep);
        let at = ETHERNET_LEN..ETHERNET_LEN;
        self.bytes.splice(at, std::iter::repeat_n(0, room));
        Some(())
    }
    fn copy(&self, to: &mut Held) -> Option<()> {
        to.bytes.get_mut(..self.bytes.len())?.copy_from_slice(&self.bytes);
        to.len = u32::try_from(self.bytes.len()).ok()?;
        to.ifindex = self.ifindex;
        Some(())
    }
    fn become_copy(&mut self, of: &Held) -> Option<()> {
        self.bytes = of.bytes.get(..of.len as usize)?.to_vec();
        Some(())
    }
    fn again(&mut self, ifindex: u32) {
        self.again.push((ifindex, self.bytes.clone()));
    }
    fn hop(&mut self) -> &mut NextHop {
        &mut self.hop
    }
    fn route(&mut self, _src: &[u32; 4], _class_be: u32, _transport: (u8, usize)) -> bool {
        self.hop = self.routes.unwrap_or_default();
        let fits = self.hop.mtu == 0 || self.bytes.len() - ETHERNET_LEN <= self.hop.mtu.into();
        self.routes.is_some() && fits
    }
}

/// A flow table.
#[derive(Clone, Debug)]
pub struct HostFlows<F: Family>(pub HashMap<FlowKey<F::Addr>, Flow<F::Addr>>);

impl<F: Family> FlowTable<F> for HostFlows<F> {
    type Entry = FlowKey<F::Addr>;
    fn find(&mut self, key: &FlowKey<F::Addr>) -> Option<Self::Entry> {
        self.0.contains_key(key).then_some(*key)
    }
    fn at(&mut self, entry: Self::Entry) -> Option<&mut Flow<F::Addr>> {
        self.0.get_mut(&entry)
    }
    fn insert(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Inserted {
        if self.0.contains_key(key) {
            return Inserted::Exists;
        }
        self.0.insert(*key, *flow);
        Inserted::Done
    }
    fn replace(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> bool {
        self.0.insert(*key, *flow);
        true
    }
    fn remove(&mut self, key: &FlowKey<F::Addr>) {
        self.0.remove(key);
    }
}

/// Everything but the flows.
#[derive(Clone, Debug)]
pub struct HostNode {
    /// IPv4 frontends.
    pub services4: HashMap<ServiceKey<Addr4>, Service>,
    /// IPv6 frontends.
    pub services6: HashMap<ServiceKey<Addr6>, Service>,
    /// Affinities of IPv4 clients.
    pub affinities4: RefCell<HashMap<AffinityKey<Addr4>, Affinity>>,
    /// Affinities of IPv6 clients.
    pub affinities6: RefCell<HashMap<AffinityKey<Addr6>, Affinity>>,
    /// TCP sockets that were connected to IPv4 backends, by place.
    pub connected4: RefCell<HashMap<u32, Connected<Addr4>>>,
    /// TCP sockets that were connected to IPv6 backends, by place.
    pub connected6: RefCell<HashMap<u32, Connected<Addr6>>>,
    /// Peers of IPv4 UDP sockets.
    pub sockets4: RefCell<HashMap<SocketKey<Addr4>, Peer<Addr4>>>,
    /// Peers of IPv6 UDP sockets.
    pub sockets6: RefCell<HashMap<SocketKey<Addr6>, Peer<Addr6>>>,
    /// Ports of IPv4 datagrams in fragments.
    pub fragments4: RefCell<HashMap<FragmentKey<Addr4>, Ports>>,
    /// Ports of IPv6 datagrams in fragments.
    pub fragments6: RefCell<HashMap<FragmentKey<Addr6>, Ports>>,
    /// Held IPv4 fragments.
    pub held4: RefCell<HashMap<HeldKey<Addr4>, Box<Held>>>,
    /// Held IPv6 fragments.
    pub held6: RefCell<HashMap<HeldKey<Addr6>, Box<Held>>>,
    /// IPv4 source ranges.
    pub ranges4: Vec<RangeKey<Addr4>>,
    /// IPv6 source ranges.
    pub ranges6: Vec<RangeKey<Addr6>>,
    /// Refusals since the last full second.
    pub refusals: RefCell<(u32, u32)>,
    /// Slots by index.
    pub slots: Vec<u32>,
    /// Backends by id.
    pub backends: Vec<Backend>,
    /// Connections by backend.
    pub connections: RefCell<HashMap<u32, i64>>,
    /// The node.
    pub config: Config,
    /// Jiffies.
    pub now: u32,
    /// Jiffies a second.
    pub hz: u32,
    /// What `random` answers.
    pub draw: u32,
    /// What it answers first, the last of these at once.
    pub draws: RefCell<Vec<u32>>,
    /// Packets by reason.
    pub counts: RefCell<HashMap<Reason, u64>>,
}

impl Default for HostNode {
    fn default() -> Self {
        Self {
            services4: HashMap::new(),
            services6: HashMap::new(),
            affinities4: RefCell::default(),
            affinities6: RefCell::default(),
            connected4: RefCell::default(),
            connected6: RefCell::default(),
            sockets4: RefCell::default(),
            sockets6: RefCell::default(),
            fragments4: RefCell::default(),
            fragments6: RefCell::default(),
            held4: RefCell::default(),
            held6: RefCell::default(),
            ranges4: Vec::new(),
            ranges6: Vec::new(),
            refusals: RefCell::default(),
            slots: Vec::new(),
            backends: Vec::new(),
            connections: RefCell::default(),
            config: Config::EMPTY,
            now: 0,
            hz: 1_000,
            draw: 0,
            draws: RefCell::default(),
            counts: RefCell::default(),
        }
    }
}

impl NodeTables for HostNode {
    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
    }
    fn connections(&self, backend: u32) -> u64 {
        self.connections.borrow().get(&backend).map_or(0, |number| (*number).max(0).cast_unsigned())
    }
    fn count_connection(&self, backend: u32, opened: bool) {
        *self.connections.borrow_mut().entry(backend).or_default() += if opened { 1 } else { -1 };
    }
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn now(&self) -> u32 {
        self.now
    }
    fn hz(&self) -> u32 {
        self.hz
    }
    fn random(&self) -> u32 {
        self.draws.borrow_mut().pop().unwrap_or(self.draw)
    }
    fn may_refuse(&self, now: u32) -> bool {
        let mut refusals = self.refusals.borrow_mut();
        if now.wrapping_sub(refusals.0) >= self.hz {
            *refusals = (now, 0);
        }
        refusals.1 += 1;
        refusals.1 <= MAX_REFUSALS
    }
    fn buffer<R>(&self, with: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let mut buffer = Box::new(Held { len: 0, ifindex: 0, seen: 0, bytes: [0; MAX_HELD_BYTES] });
        Some(with(&mut buffer))
    }
    fn count(&self, reason: Reason) {
        *self.counts.borrow_mut().entry(reason).or_default() += 1;
    }
}

macro_rules! lookup {
    (
        $family:ty, $addr:ty, $services:ident, $affinities:ident, $connected:ident, $sockets:ident,
        $fragments:ident, $held:ident, $ranges:ident, $octets:expr
    ) => {
        impl Lookup<$family> for HostNode {
            fn service(&self, key: &ServiceKey<$addr>) -> Option<&Service> {
                self.$services.get(key)
            }
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<Affinity> {
                self.$affinities.borrow().get(key).copied()
            }
            fn bind(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                self.$affinities.borrow_mut().insert(*key, *affinity);
            }
            fn connected(&self, cookie: [u32; 2]) -> Option<Connected<$addr>> {
                let place = Connected::<$addr>::index(cookie);
                self.$connected.borrow().get(&place).copied().filter(|it| it.cookie == cookie)
            }
            fn remember_connected(&self, connected: &Connected<$addr>) {
                let place = Connected::<$addr>::index(connected.cookie);
                self.$connected.borrow_mut().insert(place, *connected);
            }
            fn peer(&self, key: &SocketKey<$addr>) -> Option<Peer<$addr>> {
                self.$sockets.borrow().get(key).copied()
            }
            fn remember_peer(&self, key: &SocketKey<$addr>, peer: &Peer<$addr>) -> bool {
                self.$sockets.borrow_mut().insert(*key, *peer);
                true
            }
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<Ports> {
                self.$fragments.borrow().get(key).copied()
            }
            fn remember_fragment(&self, key: &FragmentKey<$addr>, ports: &Ports) {
                self.$fragments.borrow_mut().insert(*key, *ports);
            }
            fn held<R>(&self, key: &HeldKey<$addr>, read: impl FnOnce(&Held) -> R) -> Option<R> {
                self.$held.borrow().get(key).map(|held| read(held))
            }
            fn hold(&self, key: &HeldKey<$addr>, fragment: &Held) -> bool {
                let mut held = self.$held.borrow_mut();
                let free = !held.contains_key(key);
                if free {
                    held.insert(*key, Box::new(*fragment));
                }
                free
            }
            fn release(&self, key: &HeldKey<$addr>) {
                self.$held.borrow_mut().remove(key);
            }
            fn allows(&self, client: &Range<$addr>) -> bool {
                self.$ranges.iter().any(|RangeKey { prefix_len, range }| {
                    range.service == client.service
                        && same_prefix(
                            &$octets(range.addr),
                            &$octets(client.addr),
                            prefix_len.saturating_sub(32),
                        )
                })
            }
        }
    };
}
lookup!(
    V4,
    Addr4,
    services4,
    affinities4,
    connected4,
    sockets4,
    fragments4,
    held4,
    ranges4,
    Addr4::octets
);
lookup!(
    V6,
    Addr6,
    services6,
    affinities6,
    connected6,
    sockets6,
    fragments6,
    held6,
    ranges6,
    Addr6::octets
);

fn same_prefix(a: &[u8], b: &[u8], bits: u32) -> bool {
    a.iter().zip(b).zip((0..).step_by(8)).all(|((a, b), at)| {
        let mask = match bits.saturating_sub(at) {
            0 => 0,
            left @ 1..8 => !(u8::MAX >> left),
            _ => u8::MAX,
        };
        (a ^ b) & mask == 0
    })
}

/// All tables of a node.
#[derive(Clone, Debug)]
pub struct Host {
    /// IPv4 flows.
    pub flows4: HostFlows<V4>,
    /// IPv6 flows.
    pub flows6: HostFlows<V6>,
    /// The rest.
    pub node: HostNode,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            flows4: HostFlows(HashMap::new()),
            flows6: HostFlows(HashMap::new()),
            node: HostNode::default(),
        }
    }
}

impl Tables<V4> for Host {
    type Flows = HostFlows<V4>;
    type Node = HostNode;
    fn split(&mut self) -> (&mut HostFlows<V4>, &HostNode) {
        (&mut self.flows4, &self.node)
    }
}

impl Tables<V6> for Host {
    type Flows = HostFlows<V6>;
    type Node = HostNode;
    fn split(&mut self) -> (&mut HostFlows<V6>, &HostNode) {
        (&mut self.flows6, &self.node)
    }
}
