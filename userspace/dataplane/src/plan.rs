//! From the maps' contents and the desired state to ordered operations.
//!
//! The order is the promise: backends, then tables, then frontends, then what is gone. Whatever
//! prefix of a plan is carried out, every frontend leads to backends that exist (tested below).

mod wanted;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::{BackendState, MAX_RANGES, MAX_SERVICES, Service, lists, service_flags};
use sluice_services::{
    Backend, Frontend, Protocol, ServicePort, ServicePortKey, State, WhenEmpty, maglev,
};

use crate::Error;
use crate::layout::{
    Endpoint, Held, Kernel, Kind, Layout, Leftover, Placed, Table, TableKey, Ways, choice, encode,
    endpoint,
};
use crate::wire::{Front, from_words};
use wanted::{Room, Wanted, source_ranges, wanted};

/// Seconds before the slots of an unused table are given to another: a program that read the
/// frontend before the change is done in microseconds.
const TABLE_GRACE_S: u64 = 2;
/// Seconds before the id of an unused backend is given to another: TCP flows that name it go on
/// meanwhile, all others are checked by generation.
const BACKEND_GRACE_S: u64 = 60;

/// One change of the maps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    PutBackend { id: u32, backend: sluice_abi::Backend },
    WriteTable { offset: u32, ids: Vec<u32> },
    PutRange { service: u32, range: IpNet },
    PutFrontend { front: Front, service: Service },
    RemoveFrontend { front: Front },
    RemoveRange { service: u32, range: IpNet },
}

/// What is to be done, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Op>,
    /// Frontends that found no room, with the reason.
    pub(crate) skipped: Vec<(Frontend, &'static str)>,
}

impl Op {
    /// Carries the change out.
    pub(crate) fn apply<K: Kernel>(&self, kernel: &mut K) -> Result<(), Error> {
        match self {
            Self::PutBackend { id, backend } => kernel.put_backend(*id, *backend),
            Self::WriteTable { offset, ids } => kernel.write_table(*offset, ids),
            Self::PutRange { service, range } => kernel.put_range(*service, *range),
            Self::PutFrontend { front, service } => kernel.put_frontend(*front, *service),
            Self::RemoveFrontend { front } => kernel.remove_frontend(*front),
            Self::RemoveRange { service, range } => kernel.remove_range(*service, *range),
        }
    }

    /// The UDP endpoint that this takes out of use, with its id.
    pub(crate) fn retired_udp(&self) -> Option<(SocketAddr, u32)> {
        let Self::PutBackend { id, backend } = self else { return None };
        let retired = backend.state == BackendState::Retired as u8;
        (retired && backend.protocol == Protocol::Udp as u8).then(|| {
            let address = from_words(backend.addr, backend.ip_version);
            (SocketAddr::new(address, u16::from_be(backend.port_be)), *id)
        })
    }
}

/// The operations of a plan by kind, in the order in which they are carried out.
#[derive(Default)]
struct Stages {
    backends: Vec<Op>,
    tables: Vec<Op>,
    ranges: Vec<Op>,
    frontends: Vec<Op>,
    removals: Vec<Op>,
    retirements: Vec<Op>,
    skipped: Vec<(Frontend, &'static str)>,
}

impl Layout {
    /// Plans the way from what is to what is desired, and takes it as done. `now_s` is any
    /// monotonic clock in seconds.
    pub(crate) fn plan(&mut self, state: &State, ways: &Ways, now_s: u64) -> Plan {
        let mut stages = Stages::default();
        let wanted = wanted(state, ways);
        self.services.retain(|key, _| state.ports.contains_key(key));
        self.inherit(&wanted);
        let mut dropped = Vec::new();
        let mut ranges = BTreeSet::new();
        let (mut room, mut range_room) = (Room::of(MAX_SERVICES), Room::of(MAX_RANGES));
        let mut left_out = BTreeSet::new();
        for (front, leads_to) in &wanted {
            if !room.take(front.address(), 1) {
                left_out.insert(*front);
                if let Front::Port(frontend) = front {
                    stages.skipped.push((*frontend, "the map of frontends is full"));
                }
                continue;
            }
            let Some((key, port, kind)) = *leads_to else {
                self.place_address(*front, &mut stages);
                continue;
            };
            let id = self.service_id(key);
            if kind == Kind::LoadBalancer {
                let own = source_ranges(port, ways);
                if own.iter().any(|range| ranges.contains(&(id, *range))) {
                    // Those of another address of the same service port.
                } else if range_room.take(front.address(), own.len()) {
                    ranges.extend(own.into_iter().map(|range| (id, range)));
                } else if let Front::Port(frontend) = front {
                    // Nobody may connect, rather than everybody.
                    stages.skipped.push((*frontend, "the map of source ranges is full"));
                }
            }
            let old = self.frontends.get(front).and_then(|old| old.source.as_ref());
            if old.is_some_and(|(source, was)| Arc::ptr_eq(source, port) && *was == kind) {
                continue;
            }
            match self.place(*front, id, port, kind, ways, &mut stages) {
                Ok(placed) => dropped.extend(self.frontends.insert(*front, placed)),
                Err(reason) => {
                    if let Front::Port(frontend) = front {
                        stages.skipped.push((*frontend, reason));
                    }
                    self.abandon(port, id, now_s);
                }
            }
        }
        for &(service, range) in ranges.difference(&self.ranges) {
            stages.ranges.push(Op::PutRange { service, range });
        }
        for &(service, range) in self.ranges.difference(&ranges) {
            stages.retirements.push(Op::RemoveRange { service, range });
        }
        self.ranges = ranges;
        let stays = |key: &Front| wanted.contains_key(key) && !left_out.contains(key);
        let gone: Vec<Front> = self.frontends.keys().filter(|key| !stays(key)).copied().collect();
        for front in gone {
            stages.removals.push(Op::RemoveFrontend { front });
            dropped.extend(self.frontends.remove(&front));
        }
        for placed in dropped {
            self.release(&placed, ways, now_s, &mut stages);
        }
        if std::mem::take(&mut self.adopted) {
            self.retire_unused(ways, &mut stages);
        }
        if !self.recognised.is_empty() && !self.frontends.values().any(Placed::has_found) {
            self.recognised.clear();
        }
        let Stages { backends, tables, ranges, frontends, removals, retirements, skipped } = stages;
        let ops = [backends, tables, ranges, frontends, removals, retirements];
        Plan { ops: ops.into_iter().flatten().collect(), skipped }
    }

    /// Gives service ports the ids that an earlier run gave to their frontends, so that affinities and
    /// flows outlive a restart (R23). ClusterIPs tell best who is who.
    fn inherit(&mut self, wanted: &Wanted<'_>) {
        if !self.adopted {
            return;
        }
        let mut taken: HashSet<u32> = self.services.values().copied().collect();
        for clusters in [true, false] {
            for (front, leads_to) in wanted {
                let Some((key, _, kind)) = leads_to else { continue };
                let id = self.frontends.get(front).map_or(0, |placed| placed.service.id);
                if (*kind == Kind::Cluster) == clusters
                    && id != 0
                    && !self.services.contains_key(*key)
                    && taken.insert(id)
                {
                    self.services.insert((*key).clone(), id);
                }
            }
        }
    }

    /// The id of a service port, a new one if it has none.
    fn service_id(&mut self, key: &ServicePortKey) -> u32 {
        if let Some(id) = self.services.get(key) {
            return *id;
        }
        self.last_service = self.last_service.wrapping_add(1).max(1);
        self.services.insert(key.clone(), self.last_service);
        self.last_service
    }

    fn place_address(&mut self, front: Front, stages: &mut Stages) {
        if self.frontends.contains_key(&front) {
            return;
        }
        let service = Service::default();
        let placed = Placed { service, tables: [None, None], endpoints: Vec::new(), source: None };
        self.frontends.insert(front, placed);
        stages.frontends.push(Op::PutFrontend { front, service });
    }

    /// Plans the changes of backends whose way has changed: a pod's veth came or went.
    pub(crate) fn replan_ways(&mut self, ways: &Ways) -> Vec<Op> {
        let mut ops = Vec::new();
        for (key, held) in &mut self.backends {
            let Some(local) = held.local else { continue };
            let retired = held.users == 0;
            let state = if retired { BackendState::Retired } else { BackendState::Serving };
            let state = (state, if retired { 0 } else { held.written.lists });
            let backend = encode(*key, local, held.written.generation, state, ways);
            if backend != held.written {
                held.written = backend;
                ops.push(Op::PutBackend { id: held.id, backend });
            }
        }
        ops
    }

    /// Frees what is due; the operations make ids recognisably unused.
    pub(crate) fn collect(&mut self, now_s: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        let due = self.leftovers.iter().filter(|(_, due_s)| **due_s <= now_s);
        let due: Vec<Leftover> = due.map(|(leftover, _)| *leftover).collect();
        for leftover in due {
            self.leftovers.remove(&leftover);
            match leftover {
                Leftover::Table { offset, len } => self.slots.free(offset, len),
                Leftover::Backend(key) => {
                    let Some(held) = self.backends.remove(&key) else { continue };
                    let generation = held.written.generation;
                    let free = sluice_abi::Backend { generation, ..sluice_abi::Backend::FREE };
                    ops.push(Op::PutBackend { id: held.id, backend: free });
                    self.free_ids.push((held.id, generation));
                }
            }
        }
        ops
    }

    fn place(
        &mut self,
        front: Front,
        id: u32,
        port: &Arc<ServicePort>,
        kind: Kind,
        ways: &Ways,
        stages: &mut Stages,
    ) -> Result<Placed, &'static str> {
        let external = kind != Kind::Cluster;
        let ((_, when_empty), is_local) = if external {
            (port.external(), port.external_local)
        } else {
            (port.internal(), port.internal_local)
        };
        // Pods and the node are not outside: they get the other list of an external address, too.
        let used =
            [(!is_local || external).then_some(&port.cluster), is_local.then_some(&port.local)];
        let affinity_s = port.affinity_s.unwrap_or(0);
        let mut of_port: HashMap<Endpoint, u8> = HashMap::new();
        for (list, bit) in [(&port.cluster, lists::CLUSTER), (&port.local, lists::LOCAL)] {
            for backend in list.iter() {
                *of_port.entry(endpoint(backend, id)).or_default() |= bit;
            }
        }
        let mut endpoints = BTreeSet::new();
        let mut keys = [None, None];
        for (list, key) in used.into_iter().zip(&mut keys) {
            let Some(list) = list.filter(|list| !list.is_empty()) else { continue };
            let held = list.iter().map(|backend| {
                let held = self.hold(backend, id, &of_port, ways, stages)?;
                Some((held, backend.weight))
            });
            let held = held.collect::<Option<Vec<_>>>().ok_or("no backend id is free")?;
            endpoints.extend(list.iter().map(|backend| endpoint(backend, id)));
            *key = Some(TableKey::new(port.scheduler, &held));
        }
        for backend in port.serving.iter() {
            if self.hold(backend, id, &of_port, ways, stages).is_some() {
                endpoints.insert(endpoint(backend, id));
            }
        }
        let flag = |set, flag| if set { flag } else { 0 };
        let mut service = Service {
            flags: flag(when_empty == WhenEmpty::Reject, service_flags::REJECT)
                | choice(port.scheduler)
                | flag(external, service_flags::EXTERNAL)
                | flag(is_local, service_flags::LOCAL)
                | flag(kind == Kind::NodePort, service_flags::NODE_PORT)
                | flag(
                    endpoints.iter().any(|one| ways.is_beyond(one.address)),
                    service_flags::STACK,
                )
                | flag(
                    kind == Kind::LoadBalancer && !port.source_ranges.is_empty(),
                    service_flags::RANGES,
                ),
            affinity_s,
            id,
            ..Service::default()
        };
        let [cluster, local] = &keys;
        let [cluster_list, local_list] = used;
        if let (Some(key), Some(list)) = (cluster, cluster_list) {
            service.cluster = self.table(key, list, stages).ok_or("no slots are free")?;
        }
        if let (Some(key), Some(list)) = (local, local_list) {
            let Some(placed) = self.table(key, list, stages) else {
                if let Some(key) = cluster {
                    self.leave_table(key, 0);
                }
                return Err("no slots are free");
            };
            service.local = placed;
        }
        for key in &endpoints {
            if let Some(held) = self.backends.get_mut(key) {
                held.users += 1;
            }
        }
        if self.frontends.get(&front).is_none_or(|old| old.service != service) {
            stages.frontends.push(Op::PutFrontend { front, service });
        }
        let endpoints = endpoints.into_iter().collect();
        Ok(Placed { service, tables: keys, endpoints, source: Some((Arc::clone(port), kind)) })
    }

    /// The id of a backend, with its entry written as it is to be; `of_port` says which lists the
    /// endpoints of its service port are in.
    fn hold(
        &mut self,
        backend: &Backend,
        service: u32,
        of_port: &HashMap<Endpoint, u8>,
        ways: &Ways,
        stages: &mut Stages,
    ) -> Option<u32> {
        let key = endpoint(backend, service);
        let next = |generation: u32| generation.wrapping_add(1).max(1);
        let (id, generation) = match self.backends.get(&key) {
            // Back again: what was bound to it while it was away is no longer (R23, R31).
            Some(held) if held.written.state == BackendState::Retired as u8 => {
                (held.id, next(held.written.generation))
            }
            Some(held) => (held.id, held.written.generation),
            None => match self.free_ids.pop() {
                Some((id, generation)) => (id, next(generation)),
                None if self.next_id < self.max_backends => {
                    self.next_id += 1;
                    (self.next_id - 1, 1)
                }
                None => return None,
            },
        };
        let state = (BackendState::Serving, of_port.get(&key).copied().unwrap_or(0));
        let written = encode(key, backend.local, generation, state, ways);
        let held = self.backends.entry(key).or_insert(Held {
            id,
            written: sluice_abi::Backend::FREE,
            local: None,
            users: 0,
        });
        self.leftovers.remove(&Leftover::Backend(key));
        held.local = Some(backend.local);
        if held.written != written {
            held.written = written;
            stages.backends.push(Op::PutBackend { id, backend: written });
        }
        Some(id)
    }

    /// Where a table lies, written if it is new.
    fn table(
        &mut self,
        key: &TableKey,
        list: &[Backend],
        stages: &mut Stages,
    ) -> Option<sluice_abi::Table> {
        if let Some(table) = self.tables.get_mut(key) {
            table.users += 1;
            return Some(sluice_abi::Table { offset: table.offset, len: table.len });
        }
        let slots = match key {
            TableKey::Drawn(ids) | TableKey::Found(ids) => ids.clone(),
            TableKey::Maglev(ids) => {
                let mut once = ids.clone();
                once.dedup();
                let places = maglev::for_set(list).into_iter();
                let slots = places.map(|place| once.get(place as usize).copied());
                let slots = slots.collect::<Option<Vec<u32>>>()?;
                let found = TableKey::Found(slots);
                if let Some(Table { offset, len, users }) = self.tables.remove(&found) {
                    self.tables.insert(key.clone(), Table { offset, len, users: users + 1 });
                    self.recognised.insert(found, key.clone());
                    return Some(sluice_abi::Table { offset, len });
                }
                let TableKey::Found(slots) = found else { return None };
                slots
            }
        };
        let len = u32::try_from(slots.len()).ok()?;
        let offset = self.slots.allocate(len)?;
        self.tables.insert(key.clone(), Table { offset, len, users: 1 });
        stages.tables.push(Op::WriteTable { offset, ids: slots });
        Some(sluice_abi::Table { offset, len })
    }

    /// Retires what an earlier run took out of every table but had no time to retire.
    fn retire_unused(&mut self, ways: &Ways, stages: &mut Stages) {
        for (key, held) in self.backends.iter_mut().filter(|(_, held)| held.users == 0) {
            let (local, generation) = (held.local.unwrap_or(false), held.written.generation);
            let retired = encode(*key, local, generation, (BackendState::Retired, 0), ways);
            if held.written.state != retired.state {
                held.written = retired;
                stages.retirements.push(Op::PutBackend { id: held.id, backend: retired });
            }
        }
    }

    /// Ids that were taken for a frontend which then found no room go back in time.
    fn abandon(&mut self, port: &ServicePort, id: u32, now_s: u64) {
        let all = port.cluster.iter().chain(port.local.iter()).chain(port.serving.iter());
        for key in all.map(|backend| endpoint(backend, id)) {
            if self.backends.get(&key).is_some_and(|held| held.users == 0) {
                self.leftovers.insert(Leftover::Backend(key), now_s + BACKEND_GRACE_S);
            }
        }
    }

    /// Ends one use of a table; without any its slots are free from `due_s` on.
    fn leave_table(&mut self, key: &TableKey, due_s: u64) {
        let key = self.recognised.get(key).unwrap_or(key);
        let Some(table) = self.tables.get_mut(key) else { return };
        table.users -= 1;
        if table.users == 0 {
            let leftover = Leftover::Table { offset: table.offset, len: table.len };
            self.leftovers.insert(leftover, due_s);
            self.tables.remove(key);
        }
    }

    /// Lets go of what a former placement used.
    fn release(&mut self, placed: &Placed, ways: &Ways, now_s: u64, stages: &mut Stages) {
        for key in placed.tables.iter().flatten() {
            self.leave_table(key, now_s + TABLE_GRACE_S);
        }
        for slot in placed.distrusted(self.max_slots) {
            let Some(readers) = self.distrusted.get_mut(&slot) else { continue };
            *readers -= 1;
            if *readers == 0 {
                self.distrusted.remove(&slot);
                let leftover = Leftover::Table { offset: slot, len: 1 };
                self.leftovers.insert(leftover, now_s + TABLE_GRACE_S);
            }
        }
        for key in &placed.endpoints {
            let Some(held) = self.backends.get_mut(key) else { continue };
            held.users -= 1;
            if held.users == 0 {
                let local = held.local.unwrap_or(false);
                let generation = held.written.generation;
                held.written = encode(*key, local, generation, (BackendState::Retired, 0), ways);
                stages.retirements.push(Op::PutBackend { id: held.id, backend: held.written });
                self.leftovers.insert(Leftover::Backend(*key), now_s + BACKEND_GRACE_S);
            }
        }
    }
}

#[cfg(test)]
mod tests;
