//! The task of the router part: takes in Nodes, what is written, what the kernel and the peers
//! tell, and keeps speaker and kernel in step with it.
//!
//! It starts to speak once the own Node is known, and stops without a word to the peers, so that
//! they keep our routes until the next run (RFC 4724).

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use sluice_bgp::driver::{Happening, Output, PeerEvent, Speaker, SpeakerConfig};
use sluice_bgp::rib::Identity;
use sluice_network::routes::changes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use super::announce;
use super::handle::{BgpHandle, Question};
use super::keys::Keys;
use super::metrics::BgpNumbers;
use super::network::{Ends, Routes, addresses};
use super::nodes::NodeFacts;
use super::peers::{self, Ground};
use super::settings::Settings;
use super::view::{self, NeighborRow};
use crate::events::Events;
use crate::snapshot::Snapshot;
use crate::watch::Update;

/// Link events come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// Kernel, passwords and numbers are looked at this often without an event.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pause after the kernel or the listener could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// Most equal paths that share a prefix's traffic.
const MAX_PATHS: usize = 16;
/// Most prefixes in one answer.
const MAX_SHOWN: usize = 1_000_000;

/// What the router runs on.
pub struct Router {
    settings: Settings,
    node_name: String,
    nodes: mpsc::Receiver<Update<Node>>,
    snapshot: watch::Receiver<Snapshot>,
    events: Events,
    numbers: Arc<BgpNumbers>,
    questions: mpsc::Receiver<Question>,
    known: BTreeMap<String, NodeFacts>,
    /// What is wrong with annotations, by Node.
    annotation_problems: BTreeMap<String, Vec<String>>,
    nodes_listed: bool,
    keys: Keys,
    problems: Vec<String>,
}

/// What there is once it speaks.
struct Speaking {
    speaker: Speaker,
    accepted: mpsc::Receiver<(TcpStream, SocketAddr)>,
    outputs: mpsc::Receiver<Output>,
    happenings: mpsc::Receiver<PeerEvent>,
    routes: Routes,
    kernel_events: mpsc::Receiver<()>,
    router_id: Ipv4Addr,
    restarted: bool,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Router {
    /// A router that has not started, and the way to ask it.
    #[must_use]
    pub fn new(
        settings: Settings,
        node_name: String,
        nodes: mpsc::Receiver<Update<Node>>,
        snapshot: watch::Receiver<Snapshot>,
        events: Events,
        numbers: Arc<BgpNumbers>,
    ) -> (Self, BgpHandle) {
        let (handle, questions) = BgpHandle::new();
        let router = Self {
            settings,
            node_name,
            nodes,
            snapshot,
            events,
            numbers,
            questions,
            known: BTreeMap::new(),
            annotation_problems: BTreeMap::new(),
            nodes_listed: false,
            keys: Keys::default(),
            problems: Vec::new(),
        };
        (router, handle)
    }

    /// Runs until `stop` is done.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let speaking = tokio::select! {
            () = &mut stop => return,
            speaking = self.open() => speaking,
        };
        let Some(mut speaking) = speaking else { return };
        tokio::select! {
            () = &mut stop => {}
            () = self.speak(&mut speaking) => warn!("the router ended early"),
        }
        speaking.speaker.stop(None).await;
        info!("BGP stopped without a word: peers with graceful restart keep our routes");
    }

    /// Waits for the own Node, then opens kernel and listener.
    async fn open(&mut self) -> Option<Speaking> {
        let mut told = String::new();
        loop {
            while self.own().is_none_or(|own| own.address().is_none()) || !self.nodes_listed {
                tokio::select! {
                    update = self.nodes.recv() => self.on_nodes(update?),
                    Some(question) = self.questions.recv() => question.refuse(),
                }
            }
            match self.try_open().await {
                Ok(speaking) => return Some(speaking),
                Err(why) => {
                    if told != why {
                        error!(why, again_every = ?OPEN_AGAIN, "BGP cannot start");
                        self.events.bgp_problem(&why);
                        told = why;
                    }
                }
            }
            let again = tokio::time::sleep(OPEN_AGAIN);
            tokio::pin!(again);
            tokio::select! {
                () = &mut again => {}
                update = self.nodes.recv() => self.on_nodes(update?),
            }
        }
    }

    async fn try_open(&self) -> Result<Speaking, String> {
        let own = self.own().ok_or("the own Node is not known")?;
        let v4 = own.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let router_id = self.settings.router_id.or(v4).ok_or(
            "the Node has no internal IPv4 address to be the BGP identifier: --router-id is needed",
        )?;
        let routes = Routes::open().await.map_err(|fault| fault.to_string())?;
        let kernel_events = events_of(changes().map_err(|fault| fault.to_string())?);
        let restarted = routes.counts().adopted > 0;
        let listen = listen_addresses(&own.annotated.local_addresses, self.settings.port);
        let config = SpeakerConfig {
            identity: Identity {
                asn: peers::asn_of(&self.settings, own),
                bgp_id: router_id,
                cluster_id: own.annotated.cluster_id(),
                addresses: addresses(&own.addresses, routes.links()),
                max_paths: MAX_PATHS,
            },
            listen,
            deferral: self.settings.deferral,
            seed: u64::from(router_id.to_bits()) ^ u64::from(std::process::id()) << 32,
        };
        let (mut speaker, outputs, happenings) =
            Speaker::start(config).map_err(|fault| fault.to_string())?;
        let accepted = speaker.take_accepted().ok_or("the listener was taken")?;
        speaker.set_links(Some(routes.links().networks.clone())).await;
        let adopted = routes.counts().adopted;
        info!(%router_id, port = self.settings.port, adopted, "BGP starts");
        Ok(Speaking {
            speaker,
            accepted,
            outputs,
            happenings,
            routes,
            kernel_events,
            router_id,
            restarted,
        })
    }

    async fn speak(&mut self, on: &mut Speaking) {
        self.refresh(on).await;
        let mut look_at: Option<Instant> = None;
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                update = self.nodes.recv() => {
                    let Some(update) = update else { return };
                    self.on_nodes(update);
                    self.refresh(on).await;
                }
                changed = self.snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // What is served must not be learned, where anything may be.
                    match self.settings.import_allow.is_empty() {
                        true => self.announce(on).await,
                        false => self.refresh(on).await,
                    }
                }
                Some((stream, from)) = on.accepted.recv() => on.speaker.accept(stream, from).await,
                Some(output) = on.outputs.recv() => match output {
                    Output::Changes(changes) => on.routes.change(changes).await,
                    Output::Converged => {
                        info!(leftovers = on.routes.counts().adopted, "all peers have told their routes");
                        on.routes.complete().await;
                    }
                },
                Some(event) = on.happenings.recv() => self.on_happening(&event),
                Some(()) = on.kernel_events.recv() => {
                    look_at.get_or_insert(Instant::now() + SETTLE);
                }
                Some(question) = self.questions.recv() => self.answer(question, on).await,
                () = look => {
                    look_at = None;
                    self.look(on).await;
                }
                _ = again.tick() => {
                    self.look(on).await;
                    self.refresh(on).await;
                    let rows = self.neighbors(on).await;
                    self.numbers.set(rows, on.routes.counts(), self.problem_count());
                }
            }
        }
    }

    fn own(&self) -> Option<&NodeFacts> {
        self.known.get(&self.node_name)
    }

    fn on_nodes(&mut self, update: Update<Node>) {
        self.nodes_listed |= update.listed;
        for key in &update.gone {
            // The own one is still here, whatever the API server says.
            if key.name != self.node_name {
                self.known.remove(&key.name);
                self.annotation_problems.remove(&key.name);
            }
        }
        for node in &update.objects {
            let name = node.metadata.name.clone().unwrap_or_default();
            let (facts, problems) = NodeFacts::read(node, self.known.get(&name));
            let before = self.annotation_problems.insert(name.clone(), problems);
            let told = before.unwrap_or_default();
            // Each node tells of its own.
            if name == self.node_name {
                let now = self.annotation_problems.get(&name).cloned().unwrap_or_default();
                for problem in now.iter().filter(|problem| !told.contains(problem)) {
                    warn!(
                        problem,
                        "a setting of the own Node is not used; the last good one stays"
                    );
                    self.events.bgp_problem(problem);
                }
            }
            self.known.insert(name, facts);
        }
    }

    /// Peers and announcements as they should be now.
    async fn refresh(&mut self, on: &mut Speaking) {
        self.announce(on).await;
        let Some(own) = self.known.get(&self.node_name) else { return };
        on.speaker.set_draining(own.draining).await;
        on.speaker.set_cluster_id(own.annotated.cluster_id()).await;
        let listen = listen_addresses(&own.annotated.local_addresses, self.settings.port);
        let refused = on.speaker.set_listen(listen).await.err().map(|fault| fault.to_string());
        let others: Vec<NodeFacts> =
            self.known.values().filter(|node| node.name != self.node_name).cloned().collect();
        let routers = [&self.settings.routers[..], &own.annotated.peers].concat();
        let (routers, mut problems) = self.keys.find(&self.settings, &routers);
        let protected = self.protected(on);
        let (wanted, more) = peers::peers(&Ground {
            settings: &self.settings,
            own,
            others: &others,
            routers: &routers,
            protected: &protected,
            router_id: on.router_id,
            restarted: on.restarted,
        });
        problems.extend(more);
        problems.extend(refused);
        if let Err(fault) = on.speaker.set_peers(wanted).await {
            problems.push(fault.to_string());
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            warn!(problem, "a peer is not as it is written");
            self.events.bgp_problem(problem);
        }
        self.problems = problems;
    }

    /// Announces what is written; pod ranges alone before that.
    async fn announce(&mut self, on: &mut Speaking) {
        let Some(own) = self.known.get(&self.node_name) else { return };
        let (ready, state, overrides, ranges) = {
            let snapshot = self.snapshot.borrow_and_update();
            (
                snapshot.is_ready(),
                Arc::clone(&snapshot.state),
                Arc::clone(&snapshot.advertise),
                Arc::clone(&snapshot.service_ranges.0),
            )
        };
        let state = ready.then_some(state.as_ref());
        let nodes = self.known.values().flat_map(|node| node.addresses.iter().copied()).collect();
        let routes = announce::routes(&self.settings, &own.pod_cidrs, state, &overrides, &nodes);
        let (aggregates, served) = announce::aggregates(&self.settings, &routes, state, &ranges);
        let ends = Ends { pod_cidrs: own.pod_cidrs.clone(), aggregates, served };
        // First: whoever is told of them may send at once.
        on.routes.set_own(ends, &own.addresses).await;
        on.speaker.set_locals(routes, ready).await;
    }

    /// Never to be learned; only of interest where anything may be.
    fn protected(&self, on: &Speaking) -> Vec<IpNet> {
        let snapshot = self.snapshot.borrow();
        let mut nets: Vec<IpNet> = snapshot.service_ranges.0.to_vec();
        nets.extend(on.routes.links().addresses.iter().copied().map(IpNet::from));
        if !self.settings.import_allow.is_empty() {
            let ports = snapshot.state.ports.values();
            nets.extend(ports.flat_map(|port| &port.addresses).map(|(a, _)| IpNet::from(*a)));
        }
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    async fn look(&mut self, on: &mut Speaking) {
        if on.routes.look().await {
            on.speaker.set_links(Some(on.routes.links().networks.clone())).await;
            if let Some(own) = self.own() {
                let all = addresses(&own.addresses, on.routes.links());
                on.speaker.set_addresses(all).await;
            }
        }
    }

    fn on_happening(&self, event: &PeerEvent) {
        let peer = event.peer;
        let name = self.name_of(peer);
        match &event.what {
            Happening::Up => {
                info!(%peer, name, "BGP session up");
                self.events.bgp_peer(true, &format!("BGP session with {peer} ({name}) is up"));
            }
            Happening::Down { reason, graceful } => {
                warn!(%peer, name, %reason, graceful, "BGP session down");
                let text = format!("BGP session with {peer} ({name}) is down: {reason}");
                self.events.bgp_peer(false, &text);
            }
            Happening::Refused(reason) => warn!(%peer, name, %reason, "BGP connection ended"),
            Happening::Fault(fault) => {
                warn!(%peer, name, %fault, "malformed UPDATE; the session goes on, more are counted");
            }
            Happening::Ignored { refresh, why } => {
                warn!(%peer, name, ?refresh, why, "ROUTE-REFRESH ignored");
            }
            Happening::NearLimit { family, count } => {
                let limit = self.limit_of(peer);
                warn!(%peer, name, count, limit, %family, "many prefixes; more end the session");
                self.events.bgp_near_limit(&format!(
                    "{peer} ({name}) has sent {count} prefixes of {family}; the session ends above {limit}"
                ));
            }
        }
    }

    /// Most prefixes of each family that a peer may send.
    fn limit_of(&self, peer: IpAddr) -> u32 {
        let routers = self.own().map(|own| own.annotated.peers.iter()).into_iter().flatten();
        let mut own = routers.filter(|router| router.address == peer);
        own.find_map(|router| router.options.max_prefixes).unwrap_or(self.settings.max_prefixes)
    }

    fn name_of(&self, peer: IpAddr) -> &str {
        let node = self.known.values().find(|node| node.addresses.contains(&peer));
        node.map_or("router", |node| node.name.as_str())
    }

    fn problem_count(&self) -> usize {
        let of_node = self.annotation_problems.get(&self.node_name).map_or(0, Vec::len);
        self.problems.len() + of_node + self.snapshot.borrow().advertise_problems
    }

    async fn neighbors(&self, on: &Speaking) -> Vec<NeighborRow> {
        let names: HashMap<IpAddr, &str> = self
            .known
            .values()
            .flat_map(|node| node.addresses.iter().map(|a| (*a, node.name.as_str())))
            .collect();
        let reports = on.speaker.peers().await;
        let name = |address: &IpAddr| names.get(address).copied();
        reports.iter().map(|report| view::neighbor(report, name(&report.config.address))).collect()
    }

    async fn answer(&self, question: Question, on: &Speaking) {
        // Whoever asked may have gone.
        match question {
            Question::Neighbors(answer) => drop(answer.send(self.neighbors(on).await)),
            Question::Routes(within, answer) => {
                let views = on.speaker.routes(within, MAX_SHOWN).await;
                let row = |shown| view::route(shown, on.routes.refused(&shown.prefix));
                drop(answer.send(views.iter().map(row).collect()));
            }
        }
    }
}

/// A place for one event: more of them say no more.
fn events_of(mut stream: impl Stream<Item = ()> + Send + Unpin + 'static) -> mpsc::Receiver<()> {
    let (tell, events) = mpsc::channel(1);
    tokio::spawn(async move {
        while stream.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
                return;
            }
        }
    });
    events
}

/// The annotation's addresses, or all.
fn listen_addresses(given: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    if given.is_empty() {
        let v6 = std::path::Path::new("/proc/net/if_inet6").exists();
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        return any
            .into_iter()
            .filter(|address| address.is_ipv4() || v6)
            .map(|address| SocketAddr::new(address, port))
            .collect();
    }
    given.iter().map(|address| SocketAddr::new(*address, port)).collect()
}
