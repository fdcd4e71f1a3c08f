//! The facade: one object that the agent opens, syncs and maintains.

mod places;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aya::programs::SchedClassifier;
use ipnet::IpNet;
use sluice_abi::{Config, MAX_BACKENDS, MAX_SLOTS};
use sluice_services::State;
use tokio::runtime::{Builder, Runtime};

use crate::Error;
use crate::config::{LocalPods, first_of_each, local_pods, service_ranges};
use crate::destroy::destroy;
use crate::flows::{Expiry, FlowView, Walked};
use crate::interfaces::{Inventory, scan};
use crate::layout::{Endpoint, Layout, Ways};
use crate::links::{Attachment, Links, Place};
use crate::maps::Maps;
use crate::object::{self, Object};
use crate::plan::Op;
use crate::settings::{accept_own, loosen_rp_filter, reserve_ports};
use crate::sockets;
use places::LOOPBACK;

/// What the agent decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins; a bpf file system is mounted there if there is none.
    pub bpf_dir: PathBuf,
    /// The pods' bridge.
    pub bridge: String,
    /// Names of uplinks, `*` at the end for any rest; empty: interfaces with a node address.
    pub uplinks: Vec<String>,
    /// The node's addresses: the first of each family is the source of masqueraded flows.
    pub node_addresses: Vec<IpAddr>,
    /// The pod network: what lies in it is routed past the stack.
    pub cluster_cidrs: Vec<IpNet>,
    /// Which clients are pods; `None` until it is known: as in an earlier run.
    pub local_pods: Option<LocalPods>,
    /// How names of interfaces to pods start, beside those of the bridge.
    pub pod_prefix: Option<String>,
    /// Where node ports are open: on the node's addresses in these ranges; on loopback where the range
    /// lies in it.
    pub node_port_ranges: Vec<IpNet>,
    /// The cgroup v2 folder for balancing at the socket; `None`: packets alone.
    pub cgroup: Option<PathBuf>,
    /// Masquerade all clients of ClusterIPs, wherever they are.
    pub masquerade_all: bool,
    /// Entries of a flow table, per family; an adopted table keeps its size.
    pub flow_entries: u32,
}

/// What a sync did.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// Changes of the maps.
    pub operations: usize,
    /// Frontends that are served.
    pub frontends: usize,
    /// Backends that are in use.
    pub backends: usize,
    /// Frontends that found no room, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// What a look at the interfaces found.
#[derive(Clone, Debug, Default)]
pub struct LinkReport {
    /// Interfaces that got a program now.
    pub attached: Vec<String>,
    /// Interfaces that could not get one, with the reason; tried again next time.
    pub failed: Vec<(String, String)>,
    /// Backends on this node whose interface is not known yet: reached through the stack.
    pub unresolved_pods: usize,
}

/// The data plane in numbers.
#[derive(Clone, Debug)]
pub struct Status {
    /// Folder of the pins.
    pub bpf_dir: PathBuf,
    /// Programs on interfaces and at the cgroup.
    pub attached: Vec<Attachment>,
    /// Frontends in the maps.
    pub frontends: usize,
    /// Backends in the maps.
    pub backends: usize,
    /// Slots taken.
    pub slots_used: u32,
    /// Slots there are.
    pub slots_capacity: u32,
    /// Entries of a flow table, per family, as asked for.
    pub flows_capacity: u32,
    /// Jiffies a second of this kernel.
    pub jiffies_hz: u32,
}

/// The data plane of a node.
pub struct Dataplane {
    options: Options,
    object: Object,
    maps: Maps,
    links: Links,
    /// `None` after a failed write: what stands in the maps is then read from them again.
    layout: Option<Layout>,
    state: Option<Arc<State>>,
    ways: Ways,
    /// `None` until they are known: those of an earlier run hold.
    service_cidrs: Option<Vec<IpNet>>,
    sockets: Vec<Attachment>,
    /// UDP backends that were taken out of use since sockets were last ended, with their ids.
    retired: Vec<(SocketAddr, u32)>,
    /// Other versions' pins have been looked for.
    alone: bool,
    expiry: Expiry,
    started: Instant,
    runtime: Runtime,
}

impl Dataplane {
    /// Loads the programs or takes over those of an earlier run, and attaches them to what is
    /// there. What is forwarded goes on being forwarded.
    ///
    /// # Errors
    /// The bpf file system, the object, a map or netlink refuses. An interface that takes no
    /// program is not an error here but in [`Dataplane::reconcile_links`]'s report.
    pub fn open(options: Options) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::netlink("start the event loop", error))?;
        let mut object = object::load(&options.bpf_dir, options.flow_entries)?;
        let maps = Maps::take(&mut object.ebpf)?;
        let mut plane = Self {
            links: Links::new(&options.bpf_dir),
            expiry: Expiry::new(object.hz),
            options,
            object,
            maps,
            layout: None,
            state: None,
            ways: Ways::default(),
            service_cidrs: None,
            sockets: Vec::new(),
            retired: Vec::new(),
            alone: false,
            started: Instant::now(),
            runtime,
        };
        if let Err(error) = reserve_ports() {
            tracing::warn!(%error, "translated sources may meet ports of the node's own sockets");
        }
        plane.layout()?;
        plane.attach_sockets();
        plane.reconcile_links()?;
        Ok(plane)
    }

    /// Brings the maps to the desired state, in an order in which no frontend is ever without its
    /// backends.
    ///
    /// # Errors
    /// A map refuses a write. The state is kept, and the next call starts from what stands in the maps.
    pub fn sync(&mut self, state: &Arc<State>) -> Result<SyncReport, Error> {
        self.state = Some(Arc::clone(state));
        let now_s = self.now_s();
        self.layout()?;
        let Some(layout) = self.layout.as_mut() else { return Ok(SyncReport::default()) };
        let plan = layout.plan(state, &self.ways, now_s);
        let report = SyncReport {
            operations: plan.ops.len(),
            frontends: layout.served(),
            backends: layout.backends.values().filter(|held| held.users > 0).count(),
            skipped: plan
                .skipped
                .iter()
                .map(|(frontend, reason)| {
                    let name =
                        format!("{}:{}/{}", frontend.address, frontend.port, frontend.protocol);
                    (name, (*reason).to_owned())
                })
                .collect(),
        };
        self.apply(&plan.ops)?;
        if !self.links.is_on(LOOPBACK) && self.serves(self.ways.own.iter().copied()) {
            // What fails is tried again with the next look at the interfaces.
            if let Err(error) = self.reconcile_links() {
                tracing::warn!(%error, "no service at the node's own addresses for itself");
            }
        }
        // Only now: before, every address of the ranges would be one that no service has.
        if let Some(cidrs) = &self.service_cidrs {
            let mut config = self.maps.config()?;
            service_ranges(&mut config, cidrs);
            self.maps.set_config(config)?;
        }
        if !std::mem::replace(&mut self.alone, true)
            && let Err(error) = object::remove_others(&self.options.bpf_dir)
        {
            tracing::warn!(%error, "programs of another version may still be attached");
        }
        Ok(report)
    }

    /// Ends the node's sockets that are connected to a backend which was taken out of use.
    fn end_sockets(&mut self) {
        let (gone, ids): (HashSet<SocketAddr>, HashSet<u32>) = self.retired.drain(..).unzip();
        if gone.is_empty() || self.sockets.is_empty() {
            return;
        }
        match destroy(&gone, |cookie, peer| {
            self.maps.backend_of(cookie, peer).is_some_and(|id| ids.contains(&id))
        }) {
            Ok(0) => {}
            Ok(number) => tracing::info!(number, "ended UDP sockets whose backend is gone"),
            Err(error) => tracing::warn!(
                %error,
                "the node's connected UDP sockets may keep a backend that is gone"
            ),
        }
    }

    /// Services are reached without it, too, except on the node's own addresses.
    fn attach_sockets(&mut self) {
        let Options { cgroup, bpf_dir, .. } = &self.options;
        let Some(cgroup) = cgroup else { return sockets::detach(bpf_dir) };
        let attached = self.object.sockets.clone().and_then(|()| {
            sockets::attach(&mut self.object.ebpf, cgroup, bpf_dir).map_err(|e| e.to_string())
        });
        match attached {
            Ok(attached) => self.sockets = attached,
            Err(error) => tracing::warn!(error, "no balancing at the socket"),
        }
    }

    /// Sets the ranges of ClusterIPs (R41): from the next sync on, packets to addresses in them that
    /// no service has are dropped. Of each family only the first few count
    /// ([`sluice_abi::SERVICE_RANGES`]).
    pub fn set_service_cidrs(&mut self, cidrs: &[IpNet]) {
        self.service_cidrs = Some(cidrs.to_vec());
    }

    /// Attaches programs to veths and uplinks that came, forgets those that went, takes the program off
    /// what is no uplink any more, and learns which pod is behind which veth.
    ///
    /// # Errors
    /// Netlink or a map refuses.
    pub fn reconcile_links(&mut self) -> Result<LinkReport, Error> {
        let Options { bridge, pod_prefix, .. } = &self.options;
        let inventory = self.runtime.block_on(scan(bridge, pod_prefix.as_deref()))?;
        let places = self.places(&inventory);
        let config = self.config(self.maps.config()?, &inventory);
        self.maps.set_config(config)?;
        let mut report = LinkReport::default();
        let strays = self.strays(&inventory, &places);
        let wanted: Vec<Place> = places.iter().map(|(place, _)| place.clone()).collect();
        for (place, name) in places {
            // Each time: others set it for all interfaces at any moment.
            if let Err(error) = loosen_rp_filter(&name) {
                tracing::warn!(interface = name, %error, "strict rp_filter drops what services answer");
            }
            if self.links.has(&place) {
                continue;
            }
            if name == LOOPBACK
                && let Err(error) = accept_own()
            {
                tracing::warn!(%error, "no service at the node's own addresses for itself");
            }
            match self.links.attach(&mut self.object.ebpf, place, &name) {
                Ok(()) => report.attached.push(name),
                Err(error) => report.failed.push((name, error.to_string())),
            }
        }
        // Last: where an address has moved, there is no moment without a program.
        self.links.forget(|place| inventory.has(place.ifindex), &wanted, strays.as_ref());
        self.follow(inventory)?;
        report.unresolved_pods = self.unresolved();
        Ok(report)
    }

    /// Takes over what the interfaces tell of ways to pods and of addresses for node ports.
    fn follow(&mut self, inventory: Inventory) -> Result<(), Error> {
        let own: HashSet<IpAddr> = inventory.addresses().collect();
        let within = |address: &IpAddr| {
            // Loopback is open where it is asked for by name, not as a part of everything (R20, R21).
            let mut ranges = self.options.node_port_ranges.iter();
            ranges.any(|range| {
                range.contains(address) && address.is_loopback() == range.addr().is_loopback()
            })
        };
        let mut node_ports: Vec<IpAddr> = own.iter().copied().filter(within).collect();
        node_ports.sort_unstable();
        let ways = Ways {
            node_ports,
            own,
            pods: inventory.pods,
            pod_network: self.options.cluster_cidrs.clone(),
            node: self.options.node_addresses.clone(),
        };
        if ways == self.ways {
            return Ok(());
        }
        let moved = ways.node_ports != self.ways.node_ports || ways.node != self.ways.node;
        self.ways = ways;
        let now_s = self.now_s();
        let Some(layout) = self.layout.as_mut() else { return Ok(()) };
        let mut ops = layout.replan_ways(&self.ways);
        if let Some(state) = self.state.as_ref().filter(|_| moved) {
            ops.extend(layout.plan(state, &self.ways, now_s).ops);
        }
        self.apply(&ops)
    }

    /// Expires flows, at most `budget` looked at, and frees what nothing refers to any more. Meant
    /// for once a second. Returns the walks through the flows that came to their end.
    ///
    /// # Errors
    /// A map refuses.
    pub fn maintain(&mut self, budget: usize) -> Result<Vec<Walked>, Error> {
        if let Some(records) = &mut self.object.records {
            records();
        }
        let now_s = self.now_s();
        if let Some(layout) = self.layout.as_mut() {
            let ops = layout.collect(now_s);
            self.apply(&ops)?;
        }
        let now = self.jiffies()?;
        let ids = self.layout.as_ref().map_or(0, |layout| layout.next_id);
        self.expiry.run(&mut self.maps, now, budget, ids)
    }

    /// Flows of both families, at most `limit`.
    ///
    /// # Errors
    /// A map refuses.
    pub fn flows(&mut self, limit: usize) -> Result<Vec<FlowView>, Error> {
        let now = self.jiffies()?;
        crate::flows::view(&self.maps, now, self.object.hz, limit)
    }

    /// Packets by the way they left a program, summed over the CPUs; in the order of
    /// [`sluice_abi::Reason::ALL`].
    ///
    /// # Errors
    /// The map refuses.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.maps.counters()
    }

    /// The data plane in numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        let layout = self.layout.as_ref();
        Status {
            bpf_dir: self.options.bpf_dir.clone(),
            attached: self.links.attachments().chain(&self.sockets).cloned().collect(),
            frontends: layout.map_or(0, Layout::served),
            backends: layout
                .map_or(0, |layout| layout.backends.values().filter(|held| held.users > 0).count()),
            slots_used: layout.map_or(0, |layout| layout.slots.used()),
            slots_capacity: MAX_SLOTS as u32,
            flows_capacity: self.options.flow_entries,
            jiffies_hz: self.object.hz,
        }
    }

    /// Reads the maps where their contents are not known.
    fn layout(&mut self) -> Result<(), Error> {
        if self.layout.is_none() {
            let due_s = self.now_s() + 60;
            let (slots, backends) = (MAX_SLOTS as u32, MAX_BACKENDS as u32);
            self.layout = Some(Layout::adopt(&self.maps, slots, backends, due_s)?);
        }
        Ok(())
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), Error> {
        // Also where it fails halfway: what was written then is no change to the next plan.
        self.retired.extend(ops.iter().filter_map(Op::retired_udp));
        for op in ops {
            if let Err(error) = op.apply(&mut self.maps) {
                self.layout = None;
                return Err(error);
            }
        }
        self.end_sockets();
        Ok(())
    }

    fn now_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn jiffies(&mut self) -> Result<u32, Error> {
        let clock: &mut SchedClassifier = object::classifier(&mut self.object.ebpf, "clock")?;
        object::jiffies(clock)
    }

    fn unresolved(&self) -> usize {
        let Some(layout) = &self.layout else { return 0 };
        let held = layout.backends.iter().filter(|(_, held)| held.users > 0);
        held.filter(|(Endpoint { address, .. }, held)| {
            held.local == Some(true)
                && !self.ways.pods.contains_key(address)
                && !self.ways.own.contains(address)
        })
        .count()
    }

    /// What the programs are to know. What is not known now (the agent may start without its API
    /// server) stays as an earlier run knew it.
    fn config(&self, known: Config, inventory: &Inventory) -> Config {
        let mut config = known;
        let routable = |address: &&IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        if let Some(bridge) = inventory.by_name(&self.options.bridge) {
            config.bridge_ifindex = bridge.index;
            let (v4, v6) = first_of_each(bridge.addresses.iter().filter(routable));
            config.gateway4 = v4.unwrap_or(config.gateway4);
            config.gateway6 = v6.unwrap_or(config.gateway6);
        }
        config.masquerade_all = self.options.masquerade_all.into();
        let (v4, v6) = first_of_each(self.options.node_addresses.iter());
        config.node4 = v4.unwrap_or(config.node4);
        config.node6 = v6.unwrap_or(config.node6);
        if let Some(pods) = &self.options.local_pods {
            local_pods(&mut config, pods);
        }
        config
    }
}

#[cfg(test)]
mod orders;
