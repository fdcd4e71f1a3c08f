//! What kube-controller-manager does that a dataplane sees: EndpointSlices, ranges for nodes, the
//! not-ready taint, the end of namespaces, garbage; and the API server's own Service (K33).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};

use super::allocate::offset_in;
use super::endpointslices::{self, Input};
use super::json::{array_at, map_at, set, str_at, strings};
use super::patch::Kind;
use super::resource::Resource;
use super::selector::selects;
use super::server::Shared;
use super::store::{Change, Key, State};
use super::write::{self, WriteOptions};
use super::{delete, time};

/// Starts the controllers; they end with the runtime.
pub(crate) fn spawn(runtime: &Runtime, shared: &Arc<Shared>, address: SocketAddr) {
    let Some(types) = Types::known() else { return };
    runtime.spawn(own_service(Arc::clone(shared), address));
    let controllers = Controllers {
        shared: Arc::clone(shared),
        types,
        dirty: BTreeMap::new(),
        garbage: Vec::new(),
        next_range: HashMap::new(),
    };
    runtime.spawn(controllers.run());
}

/// The types the controllers work on.
#[derive(Clone, Copy)]
struct Types {
    services: &'static Resource,
    slices: &'static Resource,
    pods: &'static Resource,
    nodes: &'static Resource,
    namespaces: &'static Resource,
}

impl Types {
    fn known() -> Option<Self> {
        Some(Self {
            services: Resource::by_plural("services")?,
            slices: Resource::by_plural("endpointslices")?,
            pods: Resource::by_plural("pods")?,
            nodes: Resource::by_plural("nodes")?,
            namespaces: Resource::by_plural("namespaces")?,
        })
    }
}

fn as_manager(name: &str) -> WriteOptions {
    WriteOptions { manager: name.to_owned(), ..WriteOptions::direct() }
}

struct Controllers {
    shared: Arc<Shared>,
    types: Types,
    /// Services to look at, with the trigger time if a pod's readiness or their creation is why.
    dirty: BTreeMap<Key, Option<String>>,
    /// Uids of Services that are gone, and when their slices follow.
    garbage: Vec<(Instant, String)>,
    /// A freed range is not given out again at once: counts up per family range.
    next_range: HashMap<IpNet, u64>,
}

impl Controllers {
    async fn run(mut self) {
        let mut versions = self.shared.store.versions();
        let mut cursor = None;
        loop {
            versions.mark_unchanged();
            let (changes, now) = self
                .shared
                .store
                .with(|state| (cursor.and_then(|cursor| state.all_changes(cursor)), state.rv()));
            cursor = Some(now);
            match changes {
                Some(changes) => changes.iter().for_each(|change| self.notice(change)),
                None => self.resync(),
            }
            self.reconcile();
            let next = self.garbage.iter().map(|(at, _)| *at).min();
            let idle = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { return },
                () = sleep_until(next.unwrap_or(idle)) => self.collect(),
            }
        }
    }

    /// Everything is to be looked at.
    fn resync(&mut self) {
        let types = self.types;
        let (services, nodes, namespaces, orphans) = self.shared.store.with(|state| {
            // To a controller that starts, a Service's creation is why it looks at it.
            let services: Vec<(Key, Option<String>)> = state
                .all(types.services)
                .map(|(k, s)| {
                    (k.clone(), Some(str_at(s, "/metadata/creationTimestamp").to_owned()))
                })
                .collect();
            let uids: BTreeSet<String> = state
                .all(types.services)
                .map(|(_, s)| str_at(s, "/metadata/uid").to_owned())
                .collect();
            let mut orphans: BTreeSet<String> =
                state.all(types.slices).filter_map(|(_, s)| owner(s)).collect();
            orphans.retain(|uid| !uids.contains(uid));
            let names = |r| state.all(r).map(|(k, _)| k.clone()).collect::<Vec<Key>>();
            (services, names(types.nodes), names(types.namespaces), orphans)
        });
        self.dirty.extend(services);
        let at = Instant::now() + self.shared.options.garbage_delay;
        self.garbage.extend(orphans.into_iter().map(|uid| (at, uid)));
        nodes.iter().for_each(|key| self.node(key));
        namespaces
            .iter()
            .for_each(|key| self.shared.store.with(|s| delete::finish_namespace(s, &key.name)));
    }

    fn notice(&mut self, change: &Change) {
        match change.table {
            "services" => match (&change.after, &change.before) {
                (None, Some(last)) => {
                    let at = Instant::now() + self.shared.options.garbage_delay;
                    self.garbage.push((at, str_at(last, "/metadata/uid").to_owned()));
                }
                (Some(new), None) => {
                    self.mark(
                        change.key.clone(),
                        Some(str_at(new, "/metadata/creationTimestamp").to_owned()),
                    );
                }
                _ => self.mark(change.key.clone(), None),
            },
            "endpointslices" => {
                for slice in [&change.before, &change.after].into_iter().flatten() {
                    let service = endpointslices::service_of(slice);
                    if endpointslices::is_ours(slice) && !service.is_empty() {
                        self.mark(Key::new(&change.key.namespace, service), None);
                    }
                }
            }
            "pods" => self.pod(change),
            "nodes" => {
                let zone = |o: &Option<Arc<Value>>| o.as_ref().map(|n| zone_of(n));
                if zone(&change.before) != zone(&change.after) || change.after.is_none() {
                    let all: Vec<Key> = self.shared.store.with(|state| {
                        state.all(self.types.services).map(|(k, _)| k.clone()).collect()
                    });
                    all.into_iter().for_each(|key| self.mark(key, None));
                }
                if change.after.is_some() {
                    self.node(&change.key);
                }
            }
            "namespaces" => {
                self.shared.store.with(|s| delete::finish_namespace(s, &change.key.name))
            }
            _ => {}
        }
        if change.after.is_none()
            && change.table != "namespaces"
            && !change.key.namespace.is_empty()
        {
            self.shared.store.with(|s| delete::finish_namespace(s, &change.key.namespace));
        }
    }

    fn mark(&mut self, key: Key, trigger: Option<String>) {
        let entry = self.dirty.entry(key).or_default();
        if trigger.is_some() {
            *entry = trigger;
        }
    }

    fn pod(&mut self, change: &Change) {
        let states: Vec<&Arc<Value>> =
            [&change.before, &change.after].into_iter().flatten().collect();
        let was_ready = change.before.as_ref().is_some_and(|p| endpointslices::is_ready(p));
        let is_ready = change.after.as_ref().is_some_and(|p| endpointslices::is_ready(p));
        let trigger = (was_ready != is_ready).then(time::now_s);
        let services: Vec<Key> = self.shared.store.with(|state| {
            state
                .all(self.types.services)
                .filter(|(key, service)| {
                    key.namespace == change.key.namespace
                        && map_at(service, "/spec/selector")
                            .is_some_and(|selector| states.iter().any(|pod| selects(selector, pod)))
                })
                .map(|(key, _)| key.clone())
                .collect()
        });
        for key in services {
            self.mark(key, trigger.clone());
        }
    }

    fn reconcile(&mut self) {
        let types = self.types;
        let mut dirty = std::mem::take(&mut self.dirty).into_iter().peekable();
        // In batches: what is indexed once serves many, and requests get their turn in between.
        while dirty.peek().is_some() {
            let batch: Vec<_> = dirty.by_ref().take(256).collect();
            self.shared.store.with(|state| {
                let view = View::of(state, types, &batch);
                for (key, trigger) in batch {
                    reconcile(state, types, &view, &key, trigger.as_deref());
                }
            });
        }
    }

    /// Removes the slices of Services that have been gone for a while.
    fn collect(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.garbage.iter().filter(|(at, _)| *at <= now).map(|(_, uid)| uid.clone()).collect();
        self.garbage.retain(|(at, _)| *at > now);
        self.shared.store.with(|state| {
            let keys: Vec<Key> = state
                .all(self.types.slices)
                .filter(|(_, slice)| owner(slice).is_some_and(|uid| due.contains(&uid)))
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                state.remove(self.types.slices, &key);
            }
        });
    }

    /// Gives a bare node its ranges, and takes the not-ready taint from one that is ready.
    fn node(&mut self, key: &Key) {
        let types = self.types;
        let ranges = self.shared.options.pod_cidrs.clone();
        let next = &mut self.next_range;
        self.shared.store.with(|state| {
            let Some(node) = state.get(types.nodes, key) else { return };
            let mut patch = json!({});
            if array_at(&node, "/spec/podCIDRs").is_empty() {
                let taken: BTreeSet<String> =
                    state.all(types.nodes).flat_map(|(_, n)| strings(n, "/spec/podCIDRs")).collect();
                let chosen: Vec<String> = ranges
                    .iter()
                    .filter_map(|(range, length)| free_range(range, *length, &taken, next.entry(*range).or_default()))
                    .collect();
                if let Some(first) = chosen.first() {
                    set(&mut patch, &["spec", "podCIDR"], first.clone());
                    set(&mut patch, &["spec", "podCIDRs"], chosen);
                }
            }
            let not_ready = |t: &Value| str_at(t, "/key") == "node.kubernetes.io/not-ready";
            let taints = array_at(&node, "/spec/taints");
            if endpointslices::is_ready(&node) && taints.iter().any(not_ready) {
                let left: Vec<Value> = taints.iter().filter(|t| !not_ready(t)).cloned().collect();
                set(&mut patch, &["spec", "taints"], if left.is_empty() { Value::Null } else { left.into() });
            }
            if patch.get("spec").is_some() {
                let options = as_manager("kube-controller-manager");
                if let Err(error) = write::patch(state, types.nodes, key, Kind::Merge, &patch, &options) {
                    tracing::warn!(node = %key.name, %error, "cannot write the node's ranges and taints");
                }
            }
        });
    }
}

fn zone_of(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels");
    let zone = labels.and_then(|l| l.get("topology.kubernetes.io/zone")).and_then(Value::as_str);
    zone.unwrap_or_default().to_owned()
}

/// The uid of the Service that owns a slice.
fn owner(slice: &Value) -> Option<String> {
    let references = array_at(slice, "/metadata/ownerReferences");
    references
        .iter()
        .find(|r| str_at(r, "/kind") == "Service")
        .map(|r| str_at(r, "/uid").to_owned())
}

fn free_range(
    range: &IpNet,
    length: u8,
    taken: &BTreeSet<String>,
    next: &mut u64,
) -> Option<String> {
    let host_bits = u32::from(range.max_prefix_len().checked_sub(length)?);
    let count = 1_u64 << u32::from(length.checked_sub(range.prefix_len())?).min(20);
    for step in 0..count {
        let index = (*next + step) % count;
        let network = match range.network() {
            IpAddr::V4(_) => offset_in(range, index << host_bits.min(63)),
            IpAddr::V6(base) => {
                IpAddr::V6((u128::from(base) + (u128::from(index) << host_bits)).into())
            }
        };
        let chosen = IpNet::new(network, length).ok()?.to_string();
        if !taken.contains(&chosen) {
            *next = index + 1;
            return Some(chosen);
        }
    }
    None
}

/// What a batch of Services is reconciled from, found by what it is asked for.
struct View {
    /// By namespace.
    pods: HashMap<String, Vec<Arc<Value>>>,
    /// This controller's slices, by their Service.
    slices: HashMap<Key, Vec<Arc<Value>>>,
    /// Every node's zone.
    nodes: HashMap<String, String>,
}

impl View {
    /// Only what these Services need: most batches are small.
    fn of(state: &State, types: Types, batch: &[(Key, Option<String>)]) -> Self {
        let services: HashSet<(&str, &str)> =
            batch.iter().map(|(k, _)| (k.namespace.as_str(), k.name.as_str())).collect();
        let mut pods: HashMap<String, Vec<Arc<Value>>> =
            batch.iter().map(|(k, _)| (k.namespace.clone(), Vec::new())).collect();
        for (key, pod) in state.all(types.pods) {
            if let Some(pods) = pods.get_mut(&key.namespace) {
                pods.push(Arc::clone(pod));
            }
        }
        let mut slices: HashMap<Key, Vec<Arc<Value>>> = HashMap::new();
        for (key, slice) in state.all(types.slices) {
            let service = endpointslices::service_of(slice);
            if services.contains(&(key.namespace.as_str(), service))
                && endpointslices::is_ours(slice)
            {
                slices
                    .entry(Key::new(&key.namespace, service))
                    .or_default()
                    .push(Arc::clone(slice));
            }
        }
        let nodes = state.all(types.nodes).map(|(k, n)| (k.name.clone(), zone_of(n))).collect();
        Self { pods, slices, nodes }
    }
}

fn reconcile(state: &mut State, types: Types, view: &View, key: &Key, trigger: Option<&str>) {
    let Some(service) = state.get(types.services, key) else { return };
    if !endpointslices::manages(&service)
        || !str_at(&service, "/metadata/deletionTimestamp").is_empty()
    {
        return;
    }
    let Some(selector) = map_at(&service, "/spec/selector") else { return };
    let pods: Vec<Arc<Value>> = view
        .pods
        .get(&key.namespace)
        .into_iter()
        .flatten()
        .filter(|p| selects(selector, p))
        .cloned()
        .collect();
    // Slices of an earlier Service of this name are garbage, not ours to use.
    let uid = str_at(&service, "/metadata/uid");
    let slices: Vec<Arc<Value>> = view
        .slices
        .get(key)
        .into_iter()
        .flatten()
        .filter(|s| owner(s).is_none_or(|o| o == uid))
        .cloned()
        .collect();
    let nodes = &view.nodes;
    let input = Input { service: &service, pods: &pods, nodes, slices: &slices, trigger };
    let plan = endpointslices::plan(&input);
    let options = as_manager("kube-controller-manager");
    for slice in plan.write {
        if let Err(error) = write::put_whole(state, slice, &options) {
            tracing::warn!(namespace = %key.namespace, service = %key.name, %error, "cannot write an EndpointSlice");
        }
    }
    for name in plan.delete {
        state.remove(types.slices, &Key::new(&key.namespace, &name));
    }
}

/// Keeps default/kubernetes and its slice in place.
async fn own_service(shared: Arc<Shared>, address: SocketAddr) {
    let mut ticks = tokio::time::interval(Duration::from_secs(2));
    loop {
        ticks.tick().await;
        shared.store.with(|state| {
            if let Err(error) = ensure_own_service(state, address) {
                tracing::warn!(%error, "cannot write default/kubernetes");
            }
        });
    }
}

fn ensure_own_service(state: &mut State, address: SocketAddr) -> Result<(), super::ApiError> {
    let options = as_manager("kube-apiserver");
    let (Some(types), key) = (Types::known(), Key::new("default", "kubernetes")) else {
        return Ok(());
    };
    let Some(first) = state.ranges.service_cidrs.first().map(|range| offset_in(range, 1)) else {
        return Ok(());
    };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    if state.get(types.services, &key).is_none() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "clusterIP": first.to_string(), "clusterIPs": [first.to_string()], "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
            },
        });
        write::put_whole(state, service, &options)?;
    }
    // Nobody else can reach a server on loopback, and a slice cannot say it.
    let ip = address.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        return Ok(());
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    });
    write::put_whole(state, slice, &options).map(|_| ())
}
