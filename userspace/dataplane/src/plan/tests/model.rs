//! What the tests of plans are made of: the maps as collections, and services as a test writes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::*;

/// The maps as collections.
#[derive(Default)]
pub(super) struct Model {
    pub(super) frontends: BTreeMap<Front, Service>,
    pub(super) ranges: BTreeSet<(u32, IpNet)>,
    pub(super) slots: HashMap<u32, u32>,
    pub(super) backends: BTreeMap<u32, sluice_abi::Backend>,
}

pub(super) const SLOTS: u32 = 4_096;
/// Ids enough for a history whose backends all change with each step, none of them free again before its end.
pub(super) const BACKENDS: u32 = 1_024;

impl Kernel for Model {
    fn ranges(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        Ok(self.ranges.iter().copied().collect())
    }
    fn put_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        self.ranges.insert((service, range));
        Ok(())
    }
    fn remove_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        self.ranges.remove(&(service, range));
        Ok(())
    }
    fn frontends(&self) -> Result<Vec<(Front, Service)>, Error> {
        Ok(self.frontends.iter().map(|(frontend, service)| (*frontend, *service)).collect())
    }
    fn slot(&self, index: u32) -> Option<u32> {
        Some(self.slots.get(&index).copied().unwrap_or(0))
    }
    fn backend(&self, id: u32) -> Option<sluice_abi::Backend> {
        let known = self.backends.get(&id).copied().unwrap_or(sluice_abi::Backend::FREE);
        (id < BACKENDS).then_some(known)
    }
    fn put_backend(&mut self, id: u32, backend: sluice_abi::Backend) -> Result<(), Error> {
        self.backends.insert(id, backend);
        Ok(())
    }
    fn write_table(&mut self, offset: u32, ids: &[u32]) -> Result<(), Error> {
        self.slots.extend((offset..).zip(ids.iter().copied()));
        Ok(())
    }
    fn put_frontend(&mut self, front: Front, service: Service) -> Result<(), Error> {
        self.frontends.insert(front, service);
        Ok(())
    }
    fn remove_frontend(&mut self, front: Front) -> Result<(), Error> {
        self.frontends.remove(&front);
        Ok(())
    }
}

impl Model {
    /// Addresses that a frontend's table leads to; fails on a slot of an unused backend.
    pub(super) fn reachable(&self, service: Service) -> Result<Vec<u8>, TestCaseError> {
        let mut found = Vec::new();
        let sluice_abi::Table { offset, len } = service.cluster;
        for index in offset..offset + len {
            let id = self.slots.get(&index);
            let backend = id.and_then(|id| self.backends.get(id));
            let Some(backend) = backend else {
                return Err(TestCaseError::fail(format!("slot {index} leads nowhere")));
            };
            prop_assert_eq!(backend.state, BackendState::Serving as u8, "slot {}", index);
            let [.., last] = backend.addr[0].to_ne_bytes();
            found.push(last);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// A service as a test writes it: which endpoints are listed, which only serve, and how to choose.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    pub(super) listed: Vec<u8>,
    pub(super) serving: Vec<u8>,
    pub(super) scheduler: Scheduler,
    /// The endpoint with the address n weighs `n * heaviest % 7 + 1`.
    pub(super) heaviest: u8,
}

/// Endpoints that are all listed, chosen at random.
pub(super) fn random(listed: &[u8]) -> Sketch {
    let scheduler = Scheduler::Random;
    Sketch { listed: listed.to_vec(), serving: vec![], scheduler, heaviest: 0 }
}

pub(super) fn sketch() -> impl Strategy<Value = Sketch> {
    let set = || prop::collection::btree_set(1_u8..12, 0..6);
    let scheduler = prop::sample::select(vec![
        Scheduler::Random,
        Scheduler::LeastConnections,
        Scheduler::SourceHash,
        Scheduler::Maglev,
    ]);
    (set(), set(), scheduler, 0_u8..3).prop_map(|(listed, serving, scheduler, heaviest)| Sketch {
        listed: listed.into_iter().collect(),
        serving: serving.into_iter().collect(),
        scheduler,
        heaviest,
    })
}

/// Service ports by the last octet of their address.
pub(super) fn sketches() -> impl Strategy<Value = BTreeMap<u8, Sketch>> {
    prop::collection::btree_map(1_u8..6, sketch(), 0..5)
}

pub(super) fn frontend(octet: u8) -> Front {
    let address = Ipv4Addr::new(10, 96, 0, octet).into();
    Front::Port(Frontend { address, port: 80, protocol: Protocol::Tcp })
}

pub(super) fn backends(octets: &[u8]) -> Arc<[Backend]> {
    weighted(octets, 0)
}

pub(super) fn weighted(octets: &[u8], heaviest: u8) -> Arc<[Backend]> {
    let backend = |octet: &u8| Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, *octet)),
        port: 8080,
        protocol: Protocol::Tcp,
        serving: true,
        local: false,
        weight: octet * heaviest % 7 + 1,
    };
    octets.iter().map(backend).collect()
}

pub(super) fn state(sketches: &BTreeMap<u8, Sketch>) -> State {
    let port = |(octet, sketch): (&u8, &Sketch)| {
        let key = ServicePortKey {
            namespace: "default".into(),
            name: format!("s{octet}"),
            port_name: String::new(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let port = ServicePort {
            addresses: vec![(frontend(*octet).address(), AddressKind::ClusterIp)],
            port: 80,
            node_port: 0,
            cluster: weighted(&sketch.listed, sketch.heaviest),
            local: backends(&[]),
            serving: backends(&sketch.serving),
            internal_local: false,
            external_local: false,
            has_any_endpoint: !sketch.listed.is_empty(),
            scheduler: sketch.scheduler,
            affinity_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
            created_s: 0,
        };
        (key, Arc::new(port))
    };
    State { ports: sketches.iter().map(port).collect() }
}
