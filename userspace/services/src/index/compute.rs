//! From what the index keeps to service ports: computes those of touched Services and shares the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use super::{Index, Name};
use crate::categorize::{Lists, Policy, categorize};
use crate::slice;
use crate::state::{
    BackendSet, Family, HealthCheck, HealthCheckKey, HealthChecks, Protocol, ServicePort,
    ServicePortKey, State,
};

/// A new state and what is different in it.
#[derive(Clone, Debug)]
pub struct Update {
    /// The state of now; whoever holds an older one keeps that.
    pub state: Arc<State>,
    /// Service ports added, changed or removed since the previous update, in order.
    pub changed: Vec<ServicePortKey>,
    /// The health checks of now.
    pub health_checks: Arc<HealthChecks>,
}

impl Index {
    /// Computes the ports of touched Services; every other `Arc<ServicePort>` stays the same one.
    ///
    /// What is computed is proportional to the touched Services. If an older state is still held
    /// the map of keys and pointers is copied once, not their content.
    pub fn update(&mut self) -> Update {
        let mut changed = BTreeMap::new();
        for name in mem::take(&mut self.touched) {
            self.update_health_checks(&name);
            let wanted = self.service_ports(&name);
            for (key, _) in self.current(&name) {
                if !wanted.contains_key(key) {
                    changed.insert(key.clone(), None);
                }
            }
            for (key, mut port) in wanted {
                match self.state.ports.get(&key) {
                    Some(current) if **current == port => continue,
                    Some(current) => share_lists(&mut port, current),
                    None => {}
                }
                changed.insert(key, Some(Arc::new(port)));
            }
        }
        let keys = changed.keys().cloned().collect();
        if !changed.is_empty() {
            let state = Arc::make_mut(&mut self.state);
            for (key, port) in changed {
                match port {
                    Some(port) => state.ports.insert(key, port),
                    None => state.ports.remove(&key),
                };
            }
        }
        let health_checks = Arc::clone(&self.health_checks);
        Update { state: Arc::clone(&self.state), changed: keys, health_checks }
    }

    fn update_health_checks(&mut self, name: &Name) {
        let wanted = self.health_checks_of(name);
        for family in [Family::V4, Family::V6] {
            let Name { namespace, name } = name.clone();
            let key = HealthCheckKey { namespace, name, family };
            match wanted.get(&key) {
                same if same == self.health_checks.get(&key) => {}
                Some(check) => {
                    Arc::make_mut(&mut self.health_checks).insert(key, *check);
                }
                None => {
                    Arc::make_mut(&mut self.health_checks).remove(&key);
                }
            }
        }
    }

    /// R26: distinct addresses, for one endpoint may serve several ports. Those that get no new
    /// connection here (weight 0) attract none.
    fn health_checks_of(&self, name: &Name) -> HealthChecks {
        let Some(service) = self.services.get(name) else { return HealthChecks::new() };
        let port = service.health_check_node_port;
        let families = service.families.iter().filter(|_| port != 0);
        let check = |family| {
            let mut ready = BTreeSet::new();
            for port in &service.ports {
                let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
                let endpoints = slice::union(slices, family, &port.name, port.protocol);
                let open =
                    |e: &slice::Endpoint| e.local && e.ready && service.annotated.weights.of(e) > 0;
                let local = endpoints.into_iter().filter(|(_, e)| open(e));
                ready.extend(local.map(|((address, _), _)| address));
            }
            let Name { namespace, name } = name.clone();
            let key = HealthCheckKey { namespace, name, family };
            (key, HealthCheck { port, local_ready: ready.len() })
        };
        families.map(|part| check(part.family)).collect()
    }

    /// The service ports of a Service in the state as it is.
    fn current<'a>(
        &'a self,
        name: &'a Name,
    ) -> impl Iterator<Item = (&'a ServicePortKey, &'a Arc<ServicePort>)> {
        let first = ServicePortKey {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            port_name: String::new(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let own = |key: &ServicePortKey| key.namespace == name.namespace && key.name == name.name;
        self.state.ports.range(first..).take_while(move |(key, _)| own(key))
    }

    /// The service ports of a Service as they should be; none if there is no such Service.
    fn service_ports(&self, name: &Name) -> BTreeMap<ServicePortKey, ServicePort> {
        let mut ports = BTreeMap::new();
        let Some(service) = self.services.get(name) else { return ports };
        let zone = self.zone.as_deref();
        for part in &service.families {
            for port in &service.ports {
                let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
                let endpoints = slice::union(slices, part.family, &port.name, port.protocol);
                let policy = Policy {
                    internal_local: service.internal_local,
                    external_local: service.external_local,
                    externally_accessible: port.node_port != 0 || part.external_addresses,
                };
                let Lists { cluster, local, serving, has_any_endpoint } =
                    categorize(&endpoints, &service.annotated.weights, policy, port.protocol, zone);
                let key = ServicePortKey {
                    namespace: name.namespace.clone(),
                    name: name.name.clone(),
                    port_name: port.name.clone(),
                    protocol: port.protocol,
                    family: part.family,
                };
                let service_port = ServicePort {
                    addresses: part.addresses.clone(),
                    port: port.port,
                    node_port: port.node_port,
                    cluster,
                    local,
                    serving,
                    internal_local: service.internal_local,
                    external_local: service.external_local,
                    has_any_endpoint,
                    scheduler: service.annotated.scheduler,
                    affinity_s: service.affinity_s,
                    source_ranges: part.source_ranges.clone(),
                    health_check_node_port: service.health_check_node_port,
                    created_s: service.created_s,
                };
                ports.insert(key, service_port);
            }
        }
        ports
    }
}

/// Lists that stay equal stay the same allocation, so that readers can tell at a glance.
fn share_lists(port: &mut ServicePort, current: &ServicePort) {
    let share = |list: &mut BackendSet, current: &BackendSet| {
        if list == current {
            *list = Arc::clone(current);
        }
    };
    share(&mut port.cluster, &current.cluster);
    share(&mut port.local, &current.local);
    share(&mut port.serving, &current.serving);
}
