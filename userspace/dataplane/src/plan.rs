//! From the maps' contents and the desired state to ordered operations.
//!
//! The order is the promise: backends, then tables, then frontends, then what is gone. Whatever
//! prefix of a plan is carried out, every frontend leads to backends that exist (tested below).

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_abi::{BackendState, Service, service_flags};
use sluice_services::{
    AddressKind, Backend, Frontend, Scheduler, ServicePort, State, WhenEmpty, maglev,
};

use crate::Error;
use crate::layout::{
    Endpoint, Held, Kernel, Layout, Leftover, Placed, Table, TableKey, Ways, encode, endpoint,
};

/// Seconds before the slots of an unused table are given to another: a program that read the
/// frontend before the change is done in microseconds.
const TABLE_GRACE_S: u64 = 2;
/// Seconds before the id of an unused backend is given to another: flows that name it are
/// checked by generation, so this only spares live UDP flows a needless choice on a flap.
const BACKEND_GRACE_S: u64 = 60;

/// One change of the maps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    PutBackend { id: u32, backend: sluice_abi::Backend },
    WriteTable { offset: u32, ids: Vec<u32> },
    PutFrontend { frontend: Frontend, service: Service },
    RemoveFrontend { frontend: Frontend },
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
            Self::PutFrontend { frontend, service } => kernel.put_frontend(*frontend, *service),
            Self::RemoveFrontend { frontend } => kernel.remove_frontend(*frontend),
        }
    }
}

/// The operations of a plan by kind, in the order in which they are carried out.
#[derive(Default)]
struct Stages {
    backends: Vec<Op>,
    tables: Vec<Op>,
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
        let wanted: BTreeMap<Frontend, &Arc<ServicePort>> = state
            .frontends()
            .into_iter()
            .filter(|(_, (_, _, kind))| *kind == AddressKind::ClusterIp)
            .map(|(frontend, (_, port, _))| (frontend, port))
            .collect();
        let mut dropped = Vec::new();
        for (frontend, port) in &wanted {
            let old = self.frontends.get(frontend);
            if old.and_then(|old| old.source.as_ref()).is_some_and(|s| Arc::ptr_eq(s, port)) {
                continue;
            }
            match self.place(*frontend, port, ways, &mut stages) {
                Ok(placed) => dropped.extend(self.frontends.insert(*frontend, placed)),
                Err(reason) => {
                    stages.skipped.push((*frontend, reason));
                    self.abandon(port, now_s);
                }
            }
        }
        let gone: Vec<Frontend> =
            self.frontends.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        for frontend in gone {
            stages.removals.push(Op::RemoveFrontend { frontend });
            dropped.extend(self.frontends.remove(&frontend));
        }
        for placed in dropped {
            self.release(&placed, ways, now_s, &mut stages);
        }
        if std::mem::take(&mut self.adopted) {
            self.retire_unused(ways, &mut stages);
        }
        let Stages { backends, tables, frontends, removals, retirements, skipped } = stages;
        let ops = [backends, tables, frontends, removals, retirements].into_iter().flatten();
        Plan { ops: ops.collect(), skipped }
    }

    /// Plans the changes of backends whose way has changed: a pod's veth came or went.
    pub(crate) fn replan_ways(&mut self, ways: &Ways) -> Vec<Op> {
        let mut ops = Vec::new();
        for (key, held) in &mut self.backends {
            let Some(local) = held.local else { continue };
            let state = if held.users == 0 { BackendState::Retired } else { BackendState::Serving };
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
        frontend: Frontend,
        port: &Arc<ServicePort>,
        ways: &Ways,
        stages: &mut Stages,
    ) -> Result<Placed, &'static str> {
        let (list, when_empty) = port.internal();
        let ids = list
            .iter()
            .map(|backend| self.hold(backend, ways, stages))
            .collect::<Option<Vec<u32>>>()
            .ok_or("no backend id is free")?;
        let mut endpoints: Vec<Endpoint> = list.iter().map(endpoint).collect();
        for backend in port.serving.iter() {
            let key = endpoint(backend);
            if !endpoints.contains(&key) && self.hold(backend, ways, stages).is_some() {
                endpoints.push(key);
            }
        }
        let reject = if when_empty == WhenEmpty::Reject { service_flags::REJECT } else { 0 };
        let hash = if port.scheduler == Scheduler::Maglev { service_flags::HASH } else { 0 };
        let mut service = Service { offset: 0, len: 0, flags: reject | hash };
        let mut table = None;
        if !ids.is_empty() {
            let key = (port.scheduler, ids);
            let placed = self.table(&key, list, stages).ok_or("no slots are free")?;
            (service.offset, service.len) = placed;
            table = Some(key);
        }
        for key in &endpoints {
            if let Some(held) = self.backends.get_mut(key) {
                held.users += 1;
            }
        }
        if self.frontends.get(&frontend).is_none_or(|old| old.service != service) {
            stages.frontends.push(Op::PutFrontend { frontend, service });
        }
        Ok(Placed { service, table, endpoints, source: Some(Arc::clone(port)) })
    }

    /// The id of a backend, with its entry written as it is to be.
    fn hold(&mut self, backend: &Backend, ways: &Ways, stages: &mut Stages) -> Option<u32> {
        let key = endpoint(backend);
        let (id, generation) = match self.backends.get(&key) {
            Some(held) => (held.id, held.written.generation),
            None => match self.free_ids.pop() {
                Some((id, generation)) => (id, generation.wrapping_add(1).max(1)),
                None if self.next_id < self.max_backends => {
                    self.next_id += 1;
                    (self.next_id - 1, 1)
                }
                None => return None,
            },
        };
        let written = encode(key, backend.local, generation, BackendState::Serving, ways);
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
    ) -> Option<(u32, u32)> {
        if let Some(table) = self.tables.get_mut(key) {
            table.users += 1;
            return Some((table.offset, table.len));
        }
        let (scheduler, ids) = key;
        let slots = match scheduler {
            Scheduler::Random => ids.clone(),
            Scheduler::Maglev => maglev::for_set(list)
                .into_iter()
                .map(|index| ids.get(index as usize).copied())
                .collect::<Option<_>>()?,
        };
        let len = u32::try_from(slots.len()).ok()?;
        let offset = self.slots.allocate(len)?;
        self.tables.insert(key.clone(), Table { offset, len, users: 1 });
        stages.tables.push(Op::WriteTable { offset, ids: slots });
        Some((offset, len))
    }

    /// Retires what an earlier run took out of every table but had no time to retire.
    fn retire_unused(&mut self, ways: &Ways, stages: &mut Stages) {
        for (key, held) in self.backends.iter_mut().filter(|(_, held)| held.users == 0) {
            let (local, generation) = (held.local.unwrap_or(false), held.written.generation);
            let retired = encode(*key, local, generation, BackendState::Retired, ways);
            if held.written.state != retired.state {
                held.written = retired;
                stages.retirements.push(Op::PutBackend { id: held.id, backend: retired });
            }
        }
    }

    /// Ids that were taken for a frontend which then found no room go back in time.
    fn abandon(&mut self, port: &ServicePort, now_s: u64) {
        let (list, _) = port.internal();
        for key in list.iter().chain(port.serving.iter()).map(endpoint) {
            if self.backends.get(&key).is_some_and(|held| held.users == 0) {
                self.leftovers.insert(Leftover::Backend(key), now_s + BACKEND_GRACE_S);
            }
        }
    }

    /// Lets go of what a former placement used.
    fn release(&mut self, placed: &Placed, ways: &Ways, now_s: u64, stages: &mut Stages) {
        if let Some(key) = &placed.table
            && let Some(table) = self.tables.get_mut(key)
        {
            table.users -= 1;
            if table.users == 0 {
                let leftover = Leftover::Table { offset: table.offset, len: table.len };
                self.leftovers.insert(leftover, now_s + TABLE_GRACE_S);
                self.tables.remove(key);
            }
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
                held.written = encode(*key, local, generation, BackendState::Retired, ways);
                stages.retirements.push(Op::PutBackend { id: held.id, backend: held.written });
                self.leftovers.insert(Leftover::Backend(*key), now_s + BACKEND_GRACE_S);
            }
        }
    }
}

#[cfg(test)]
mod tests;
