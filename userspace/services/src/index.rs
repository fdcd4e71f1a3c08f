//! The index: takes objects as they come, keeps what is read of them, and brings the [`State`] up
//! to date by computing touched Services only.
//!
//! Owned by one task of the agent. Whether both lists have been received in full, and hence whether
//! the state may be written (R37), is the agent's to know.

mod compute;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::problem::{Kind, ObjectRef, Problem, Problems, Reason};
use crate::service::{self, Service};
use crate::slice::{self, Slice};
use crate::state::{HealthChecks, State};

pub use compute::Update;

/// The node label that zone hints are compared with; the only one that is read (section 3).
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What the index has to know of the node and of the operator's wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node as configured, else the host name; [`Index::new`] trims blanks and makes
    /// it lower case (R8). With an empty name no endpoint is local.
    pub node_name: String,
    /// Whether IPv6 is served: not where the kernel has it off (R3).
    pub ipv6: bool,
    /// Whether `spec.externalIPs` are served (R18, KEP-5707).
    pub external_ips: bool,
    /// Ranges that `spec.externalIPs` have to lie in; none: anywhere. With ranges of one family
    /// only, every address of the other is outside.
    pub external_ranges: Vec<IpNet>,
    /// The same for addresses of load balancers.
    pub load_balancer_ranges: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            ipv6: true,
            external_ips: true,
            external_ranges: Vec::new(),
            load_balancer_ranges: Vec::new(),
        }
    }
}

/// Namespace and name of a Service or slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: String,
    name: String,
}

impl Name {
    fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// Services, their slices and this node, and the state that follows from them.
///
/// `apply_*` adds or replaces an object, `delete_*` removes one, `replace_*` takes a complete list:
/// what is missing in it is gone. Each returns whether the state may have changed; nothing is
/// computed before [`Index::state`] or [`Index::update`], so a burst of events costs one computation.
///
/// ```
/// use sluice_services::{Config, Index};
/// use k8s_openapi::api::core::v1::Service;
///
/// let mut index = Index::new(Config { node_name: "n1".into(), ..Config::default() });
/// index.replace_services(Vec::<Service>::new());
/// assert!(index.state().ports.is_empty());
/// ```
#[derive(Debug)]
pub struct Index {
    config: Config,
    zone: Option<String>,
    services: BTreeMap<Name, Service>,
    /// Slices by Service, then by slice name: the order in which they are merged.
    slices: BTreeMap<Name, BTreeMap<String, Slice>>,
    /// The Service each slice counts for.
    slice_owners: BTreeMap<Name, String>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Objects whose problems have not been taken yet.
    untold: BTreeSet<ObjectRef>,
    /// Services whose ports must be computed anew.
    touched: BTreeSet<Name>,
    state: Arc<State>,
    health_checks: Arc<HealthChecks>,
}

impl Index {
    /// An index without objects.
    #[must_use]
    pub fn new(mut config: Config) -> Self {
        config.node_name = config.node_name.trim().to_lowercase();
        Self {
            config,
            zone: None,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slice_owners: BTreeMap::new(),
            problems: BTreeMap::new(),
            untold: BTreeSet::new(),
            touched: BTreeSet::new(),
            state: Arc::default(),
            health_checks: Arc::default(),
        }
    }

    /// This node's name as compared with endpoints' and hints' (R8).
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.config.node_name
    }

    /// Adds or replaces a Service. One that is not for this proxy counts as deleted (R1).
    pub fn apply_service(&mut self, service: &core::Service) -> bool {
        let Some((name, mut problems)) = self.identify(Kind::Service, &service.metadata) else {
            return false;
        };
        let before = self.services.get(&name);
        let parsed = service::parse(service, &self.config, before, &mut problems);
        self.note(problems);
        let changed = match parsed {
            None => self.services.remove(&name).is_some(),
            Some(parsed) if self.services.get(&name) == Some(&parsed) => false,
            Some(parsed) => {
                self.services.insert(name.clone(), parsed);
                true
            }
        };
        if changed {
            self.touched.insert(name);
        }
        changed
    }

    /// Removes a Service; its slices stay and lead nowhere. An unknown one is no error.
    pub fn delete_service(&mut self, namespace: &str, name: &str) -> bool {
        let name = Name::new(namespace, name);
        self.forget(Kind::Service, &name);
        let changed = self.services.remove(&name).is_some();
        if changed {
            self.touched.insert(name);
        }
        changed
    }

    /// Adds or replaces a slice: all its former content goes, also from the Service it counted for
    /// before (R10). One that is not for proxies counts as deleted (R1).
    pub fn apply_slice(&mut self, slice: &discovery::EndpointSlice) -> bool {
        let Some((name, mut problems)) = self.identify(Kind::EndpointSlice, &slice.metadata) else {
            return false;
        };
        let parsed = slice::parse(slice, &self.config, &mut problems);
        self.note(problems);
        let Some(parsed) = parsed else { return self.remove_slice(&name) };
        let service = Name::new(&name.namespace, &parsed.service);
        if self.slices.get(&service).and_then(|slices| slices.get(&name.name)) == Some(&parsed) {
            return false;
        }
        if self.slice_owners.get(&name).is_some_and(|owner| *owner != parsed.service) {
            self.remove_slice(&name);
        }
        self.slice_owners.insert(name.clone(), parsed.service.clone());
        self.slices.entry(service.clone()).or_default().insert(name.name, parsed);
        self.touched.insert(service);
        true
    }

    /// Removes a slice. An unknown one is no error (R10).
    pub fn delete_slice(&mut self, namespace: &str, name: &str) -> bool {
        let name = Name::new(namespace, name);
        self.forget(Kind::EndpointSlice, &name);
        self.remove_slice(&name)
    }

    fn remove_slice(&mut self, name: &Name) -> bool {
        let Some(owner) = self.slice_owners.remove(name) else { return false };
        let service = Name::new(&name.namespace, &owner);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.touched.insert(service);
        true
    }

    /// Reads the zone of this node; other nodes do not matter (section 3, R40).
    pub fn apply_node(&mut self, node: &core::Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() || name != self.config.node_name {
            return false;
        }
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        self.set_zone(zone.filter(|zone| !zone.is_empty()).cloned())
    }

    /// Forgets the zone if the node is this one: without its Node there is no zone filtering.
    pub fn delete_node(&mut self, name: &str) -> bool {
        name == self.config.node_name && self.set_zone(None)
    }

    fn set_zone(&mut self, zone: Option<String>) -> bool {
        if self.zone == zone {
            return false;
        }
        self.zone = zone;
        self.touched.extend(self.services.keys().cloned());
        true
    }

    /// Takes a complete list of Services: those missing are deleted (K5).
    pub fn replace_services(&mut self, services: Vec<core::Service>) -> bool {
        let listed: BTreeSet<Name> = services.iter().filter_map(|s| name_of(&s.metadata)).collect();
        let known = self.services.keys().cloned().chain(self.with_problems(Kind::Service));
        let gone: BTreeSet<Name> = known.filter(|name| !listed.contains(name)).collect();
        let mut changed = false;
        for name in gone {
            changed |= self.delete_service(&name.namespace, &name.name);
        }
        for service in &services {
            changed |= self.apply_service(service);
        }
        changed
    }

    /// Takes a complete list of slices: those missing are deleted (K5).
    pub fn replace_slices(&mut self, slices: Vec<discovery::EndpointSlice>) -> bool {
        let listed: BTreeSet<Name> = slices.iter().filter_map(|s| name_of(&s.metadata)).collect();
        let known =
            self.slice_owners.keys().cloned().chain(self.with_problems(Kind::EndpointSlice));
        let gone: BTreeSet<Name> = known.filter(|name| !listed.contains(name)).collect();
        let mut changed = false;
        for name in gone {
            changed |= self.delete_slice(&name.namespace, &name.name);
        }
        for slice in &slices {
            changed |= self.apply_slice(slice);
        }
        changed
    }

    /// Takes a complete list of Nodes, or of this node alone: if it is missing it is gone.
    pub fn replace_nodes(&mut self, nodes: Vec<core::Node>) -> bool {
        let own = |node: &&core::Node| node.metadata.name.as_deref() == Some(self.node_name());
        match nodes.iter().find(own) {
            Some(node) => self.apply_node(node),
            None => self.set_zone(None),
        }
    }

    /// The state of now. [`Index::update`] also tells what has changed.
    #[must_use]
    pub fn state(&mut self) -> Arc<State> {
        self.update().state
    }

    /// What is wrong with the objects of now, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Problems of objects whose problems have changed since the last call: to be logged once.
    #[must_use]
    pub fn take_problems(&mut self) -> Vec<Problem> {
        let untold = mem::take(&mut self.untold);
        untold.iter().filter_map(|object| self.problems.get(object)).flatten().cloned().collect()
    }

    /// The object's name and a place for its problems; without a name only the problem (R5).
    fn identify(&mut self, kind: Kind, metadata: &ObjectMeta) -> Option<(Name, Problems)> {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let mut problems = Problems::new(kind, namespace, name);
        let found = name_of(metadata);
        if found.is_none() {
            let field = if name.is_empty() { "metadata.name" } else { "metadata.namespace" };
            problems.add(|| field.into(), Reason::Unnamed);
            self.note(problems);
            return None;
        }
        found.map(|name| (name, problems))
    }

    fn note(&mut self, problems: Problems) {
        let (object, problems) = problems.finish();
        if problems.is_empty() {
            self.problems.remove(&object);
            self.untold.remove(&object);
        } else if self.problems.get(&object) != Some(&problems) {
            self.untold.insert(object.clone());
            self.problems.insert(object, problems);
        }
    }

    fn forget(&mut self, kind: Kind, name: &Name) {
        self.note(Problems::new(kind, &name.namespace, &name.name));
    }

    fn with_problems(&self, kind: Kind) -> impl Iterator<Item = Name> {
        let objects = self.problems.keys().filter(move |object| object.kind == kind);
        objects.map(|object| Name::new(&object.namespace, &object.name))
    }
}

fn name_of(metadata: &ObjectMeta) -> Option<Name> {
    let namespace = metadata.namespace.as_deref().filter(|text| !text.is_empty())?;
    let name = metadata.name.as_deref().filter(|text| !text.is_empty())?;
    Some(Name::new(namespace, name))
}
