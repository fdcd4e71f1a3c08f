//! What stands in the maps: which backend has which id, which table lies where, which frontend
//! uses which table. Found again in the maps themselves after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::{BackendState, Deliver, MAX_BACKENDS, MAX_SLOTS, Mac, Service, service_flags};
use sluice_services::{Backend, Frontend, Protocol, Scheduler, ServicePort, ServicePortKey};

use crate::slots::Slots;
use crate::wire::{Front, from_words, protocol, words};

/// How a local pod is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Host-side veth.
    pub ifindex: u32,
    /// The pod's own MAC.
    pub mac: [u8; 6],
}

/// The ways to addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Pods behind veths of the bridge.
    pub pods: HashMap<IpAddr, Pod>,
    /// The node's own addresses.
    pub own: HashSet<IpAddr>,
    /// The pod network: what lies in it is routed past the stack. Empty: everything is.
    pub pod_network: Vec<IpNet>,
    /// Addresses of the node on which node ports are open.
    pub node_ports: Vec<IpAddr>,
    /// The node's addresses in the API, the first of each family being its own (R20).
    pub node: Vec<IpAddr>,
}

impl Ways {
    /// Whether packets reach an address only through the stack: the node's own, and what lies beyond
    /// the pod network.
    pub(crate) fn is_beyond(&self, address: IpAddr) -> bool {
        let inside = self.pod_network.is_empty()
            || self.pod_network.iter().any(|net| net.contains(&address));
        self.own.contains(&address) || !inside
    }
}

/// An endpoint of a service port. Two service ports with the same endpoint have two backends of it,
/// since each may lose it alone (R31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// Id of the service port.
    pub(crate) service: u32,
}

/// A table's identity: whatever has the same shares the table. Ids are repeated by their weights,
/// which have no common divisor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TableKey {
    /// The ids in order, as they stand in the slots: one is drawn.
    Drawn(Vec<u32>),
    /// The ids in the order of their endpoints; the slots are Maglev's.
    Maglev(Vec<u32>),
    /// A Maglev table of an earlier run, as it stands in the slots.
    Found(Vec<u32>),
}

impl TableKey {
    /// Of ids in the order of their endpoints, with their weights; none has weight 0.
    pub(crate) fn new(scheduler: Scheduler, weighted: &[(u32, u8)]) -> Self {
        let divisor =
            weighted.iter().fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight));
        let times = |weight: u8| usize::from(weight.checked_div(divisor).unwrap_or(1));
        let ids = weighted.iter().flat_map(|(id, weight)| std::iter::repeat_n(*id, times(*weight)));
        let mut ids: Vec<u32> = ids.collect();
        if is_maglev(scheduler) {
            Self::Maglev(ids)
        } else {
            ids.sort_unstable();
            Self::Drawn(ids)
        }
    }
}

/// Euclid's; 0 divides into anything.
fn common_divisor(a: u8, b: u8) -> u8 {
    b.checked_rem(a).map_or(b, |rest| if rest == 0 { a } else { common_divisor(rest, a) })
}

/// Whether a scheduler has its backends in a Maglev table: nodes that agree on the hash then agree
/// on the backend.
fn is_maglev(scheduler: Scheduler) -> bool {
    match scheduler {
        Scheduler::Random | Scheduler::LeastConnections => false,
        Scheduler::SourceHash | Scheduler::Maglev => true,
    }
}

/// How the programs are to choose a slot: the flags of a frontend with this scheduler.
pub(crate) fn choice(scheduler: Scheduler) -> u32 {
    match scheduler {
        Scheduler::Random => 0,
        Scheduler::LeastConnections => service_flags::LEAST,
        Scheduler::SourceHash => service_flags::SOURCE,
        Scheduler::Maglev => service_flags::HASH,
    }
}

/// An id in use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) id: u32,
    /// As it stands in the map.
    pub(crate) written: sluice_abi::Backend,
    /// Whether the endpoint runs on this node; unknown after adoption.
    pub(crate) local: Option<bool>,
    /// Frontends that use it.
    pub(crate) users: usize,
}

/// A table in the slots.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// Frontends that use it.
    pub(crate) users: usize,
}

/// A frontend in the maps.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) service: Service,
    /// The tables for policy Cluster and Local; `None` without slots, and where an earlier run's
    /// table is distrusted.
    pub(crate) tables: [Option<TableKey>; 2],
    /// All backends it keeps alive: those of its tables and others that still serve.
    pub(crate) endpoints: Vec<Endpoint>,
    /// What it was made from; `None` after adoption, and for a whole address.
    pub(crate) source: Option<(Arc<ServicePort>, Kind)>,
}

/// What a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    External,
    LoadBalancer,
    NodePort,
}

/// Something that is no longer referred to, but may be in use by packets or flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leftover {
    Table { offset: u32, len: u32 },
    Backend(Endpoint),
}

/// The maps' contents as user space knows them.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) backends: HashMap<Endpoint, Held>,
    pub(crate) tables: HashMap<TableKey, Table>,
    /// What the tables found after a restart turned out to be, while frontends know them as found.
    pub(crate) recognised: HashMap<TableKey, TableKey>,
    pub(crate) frontends: BTreeMap<Front, Placed>,
    /// Ids of service ports.
    pub(crate) services: HashMap<ServicePortKey, u32>,
    /// The last id given to a service port; 0 is none.
    pub(crate) last_service: u32,
    /// Source ranges by service port.
    pub(crate) ranges: BTreeSet<(u32, IpNet)>,
    pub(crate) slots: Slots,
    /// Ids that were used before, and the generation of that use.
    pub(crate) free_ids: Vec<(u32, u32)>,
    pub(crate) next_id: u32,
    /// What is to be freed, and from which second on.
    pub(crate) leftovers: BTreeMap<Leftover, u64>,
    /// Slots of distrusted tables, and how many frontends still read each.
    pub(crate) distrusted: BTreeMap<u32, usize>,
    pub(crate) max_slots: u32,
    pub(crate) max_backends: u32,
    /// Found in the maps, and not planned with since.
    pub(crate) adopted: bool,
}

/// The maps as the plan's executor and adoption need them.
pub(crate) trait Kernel {
    fn frontends(&self) -> Result<Vec<(Front, Service)>, crate::Error>;
    fn ranges(&self) -> Result<Vec<(u32, IpNet)>, crate::Error>;
    fn slot(&self, index: u32) -> Option<u32>;
    fn backend(&self, id: u32) -> Option<sluice_abi::Backend>;
    fn put_backend(&mut self, id: u32, backend: sluice_abi::Backend) -> Result<(), crate::Error>;
    fn write_table(&mut self, offset: u32, ids: &[u32]) -> Result<(), crate::Error>;
    fn put_frontend(&mut self, front: Front, service: Service) -> Result<(), crate::Error>;
    fn remove_frontend(&mut self, front: Front) -> Result<(), crate::Error>;
    fn put_range(&mut self, service: u32, range: IpNet) -> Result<(), crate::Error>;
    fn remove_range(&mut self, service: u32, range: IpNet) -> Result<(), crate::Error>;
}

impl Default for Layout {
    fn default() -> Self {
        Self::with_capacity(MAX_SLOTS as u32, MAX_BACKENDS as u32)
    }
}

impl Layout {
    /// Empty maps of this size.
    pub(crate) fn with_capacity(max_slots: u32, max_backends: u32) -> Self {
        Self {
            backends: HashMap::new(),
            tables: HashMap::new(),
            recognised: HashMap::new(),
            frontends: BTreeMap::new(),
            services: HashMap::new(),
            last_service: 0,
            ranges: BTreeSet::new(),
            slots: Slots::new(max_slots),
            free_ids: Vec::new(),
            next_id: 0,
            leftovers: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            max_slots,
            max_backends,
            adopted: false,
        }
    }

    /// Frontends, whole addresses not counted.
    pub(crate) fn served(&self) -> usize {
        self.frontends.keys().filter(|front| matches!(front, Front::Port(_))).count()
    }

    /// What is served at an address, by which protocol.
    pub(crate) fn served_at(&self, address: IpAddr) -> impl Iterator<Item = (Protocol, Service)> {
        let first = Frontend { address, port: 0, protocol: Protocol::Tcp };
        let here = self.frontends.range(Front::Port(first)..);
        let here = here.take_while(move |(front, _)| front.address() == address);
        here.filter_map(|(front, placed)| match front {
            Front::Port(front) => Some((front.protocol, placed.service)),
            Front::Address(_) => None,
        })
    }

    /// Reads what an earlier run left. A table that contradicts itself (it holds an unused backend,
    /// lies over another's slots, or is there twice) is distrusted: the next plan writes it anew, and
    /// its slots are kept for the packets that read them until then. Backends that no table holds are
    /// freed at `due_s`.
    pub(crate) fn adopt<K: Kernel>(
        kernel: &K,
        max_slots: u32,
        max_backends: u32,
        due_s: u64,
    ) -> Result<Self, crate::Error> {
        let mut layout = Self::with_capacity(max_slots, max_backends);
        layout.adopted = true;
        let mut by_id = HashMap::new();
        for id in 0..max_backends {
            let Some(written) = kernel.backend(id) else { break };
            if written.generation == 0 {
                continue;
            }
            layout.next_id = id + 1;
            let endpoint = protocol(written.protocol)
                .filter(|_| written.state != BackendState::Free as u8)
                .map(|protocol| Endpoint {
                    address: from_words(written.addr, written.ip_version),
                    port: u16::from_be(written.port_be),
                    protocol,
                    service: written.service,
                });
            match endpoint.filter(|endpoint| !layout.backends.contains_key(endpoint)) {
                Some(endpoint) => {
                    by_id.insert(id, endpoint);
                    layout.backends.insert(endpoint, Held { id, written, local: None, users: 0 });
                }
                None => layout.free_ids.push((id, written.generation)),
            }
        }
        // Ids below the highest that were never used.
        let known: HashSet<u32> =
            by_id.keys().copied().chain(layout.free_ids.iter().map(|(id, _)| *id)).collect();
        layout
            .free_ids
            .extend((0..layout.next_id).filter(|id| !known.contains(id)).map(|id| (id, 0)));
        for (front, service) in kernel.frontends()? {
            layout.last_service = layout.last_service.max(service.id);
            let found = [service.cluster, service.local].map(|table| {
                let ids = layout.read_table(kernel, table);
                (table, ids)
            });
            let ids = found.iter().flat_map(|(_, ids)| ids);
            let mut endpoints: Vec<Endpoint> =
                ids.filter_map(|id| by_id.get(id).copied()).collect();
            endpoints.sort_unstable();
            endpoints.dedup();
            for endpoint in &endpoints {
                if let Some(held) = layout.backends.get_mut(endpoint) {
                    held.users += 1;
                }
            }
            let hash = service.flags & (service_flags::HASH | service_flags::SOURCE) != 0;
            let tables = found.map(|(table, ids)| layout.adopt_table(table, hash, ids, &by_id));
            let placed = Placed { service, tables, endpoints, source: None };
            layout.frontends.insert(front, placed);
        }
        layout.ranges = kernel.ranges()?.into_iter().collect();
        let others = layout.backends.keys().map(|endpoint| endpoint.service);
        let others = others.chain(layout.ranges.iter().map(|(service, _)| *service)).max();
        layout.last_service = layout.last_service.max(others.unwrap_or(0));
        // After all others, so that no table is refused for the sake of a distrusted one.
        for placed in layout.frontends.values() {
            for slot in placed.distrusted(max_slots) {
                if let Some(readers) = layout.distrusted.get_mut(&slot) {
                    *readers += 1;
                } else if layout.slots.claim(slot, 1) {
                    layout.distrusted.insert(slot, 1);
                }
            }
        }
        let unused = layout.backends.iter().filter(|(_, held)| held.users == 0);
        layout.leftovers = unused.map(|(key, _)| (Leftover::Backend(*key), due_s)).collect();
        Ok(layout)
    }

    /// The slots of a table found in the maps; empty where they are none or not all there.
    fn read_table<K: Kernel>(&self, kernel: &K, table: sluice_abi::Table) -> Vec<u32> {
        let slots = slots_of(table, self.max_slots);
        slots.map(|index| kernel.slot(index)).collect::<Option<_>>().unwrap_or_default()
    }

    /// A table found in the maps, by what stands in its slots; `None` if there is none or it is
    /// distrusted.
    fn adopt_table(
        &mut self,
        found: sluice_abi::Table,
        hash: bool,
        ids: Vec<u32>,
        by_id: &HashMap<u32, Endpoint>,
    ) -> Option<TableKey> {
        if ids.is_empty() || !ids.iter().all(|id| by_id.contains_key(id)) {
            return None;
        }
        let key = if hash { TableKey::Found(ids) } else { TableKey::Drawn(ids) };
        match self.tables.get_mut(&key) {
            Some(table) if table.offset == found.offset => table.users += 1,
            Some(_) => return None,
            None => {
                if !self.slots.claim(found.offset, found.len) {
                    return None;
                }
                let table = Table { offset: found.offset, len: found.len, users: 1 };
                self.tables.insert(key.clone(), table);
            }
        }
        Some(key)
    }
}

impl Placed {
    /// Whether it reads a table that it only knows as found.
    pub(crate) fn has_found(&self) -> bool {
        self.tables.iter().flatten().any(|key| matches!(key, TableKey::Found(_)))
    }

    /// The slots it reads that no known table holds.
    pub(crate) fn distrusted(&self, max_slots: u32) -> impl Iterator<Item = u32> {
        let [cluster, local] = &self.tables;
        let slots = |table, known: bool| if known { 0..0 } else { slots_of(table, max_slots) };
        slots(self.service.cluster, cluster.is_some())
            .chain(slots(self.service.local, local.is_some()))
    }
}

/// The slots of a table; empty where they would end beyond the last.
fn slots_of(table: sluice_abi::Table, max_slots: u32) -> Range<u32> {
    match table.offset.checked_add(table.len) {
        Some(end) if end <= max_slots => table.offset..end,
        _ => 0..0,
    }
}

/// A backend as the programs are to see it.
pub(crate) fn encode(
    endpoint: Endpoint,
    local: bool,
    generation: u32,
    (state, lists): (BackendState, u8),
    ways: &Ways,
) -> sluice_abi::Backend {
    let Endpoint { address, port, protocol, service } = endpoint;
    // A pod may put any address on its interface: only what the API places on this node is looked for there.
    let own = ways.own.contains(&address);
    let pod = ways.pods.get(&address).filter(|_| local && !own);
    let deliver = if pod.is_some() {
        Deliver::Peer
    } else if local || ways.is_beyond(address) {
        // Beyond the pod network the node's own rules (masquerade) may have a say.
        Deliver::Stack
    } else {
        Deliver::Route
    };
    sluice_abi::Backend {
        addr: words(address),
        port_be: port.to_be(),
        protocol: protocol as u8,
        state: state as u8,
        generation,
        ifindex: pod.map_or(0, |pod| pod.ifindex),
        mac: pod.map_or(Mac::default(), |pod| Mac::from_octets(pod.mac)),
        deliver: deliver as u8,
        ip_version: if address.is_ipv4() { 4 } else { 6 },
        lists,
        pad: 0,
        service,
    }
}

/// An endpoint's identity.
pub(crate) fn endpoint(backend: &Backend, service: u32) -> Endpoint {
    let Backend { address, port, protocol, .. } = *backend;
    Endpoint { address, port, protocol, service }
}
