//! The control loop: takes in what the watches and the kernel tell, decides when the data plane is
//! opened, synced, looked after, and publishes what the rest of the agent shows.
//!
//! Everything that may block runs in a task of its own, at most one of each kind; the loop itself
//! never waits for one.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sluice_services::State;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::cluster::{Cluster, waited};
use crate::metrics::{Change, Metrics};
use crate::pace::Pace;
use crate::plane::{Gone, LinkReport, PlaneHandle, SyncReport};
use crate::snapshot::Snapshot;
use crate::watch::Update;

/// Link events come in bursts: a pod's veth is made, moved, enslaved and brought up.
const LINK_SETTLE: Duration = Duration::from_millis(20);
/// While local pods' interfaces are not known they are looked for again.
const UNRESOLVED_AGAIN: Duration = Duration::from_secs(1);
/// Links are looked at this often even without an event, should one have been lost.
const LINK_RESYNC: Duration = Duration::from_secs(30);
/// Pause after the data plane could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How often flows are looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
/// Flow entries looked at each time: all of a full table in a few seconds, a few ms of work.
const MAINTAIN_BUDGET: usize = 65_536;
/// How long a stopping agent waits for work under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Where changes come from.
pub struct Sources {
    /// Services.
    pub services: mpsc::Receiver<Update<Service>>,
    /// EndpointSlices.
    pub slices: mpsc::Receiver<Update<EndpointSlice>>,
    /// The own Node.
    pub node: mpsc::Receiver<Update<Node>>,
    /// Fires when links or addresses change.
    pub links: BoxStream<'static, ()>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Something that a task has finished.
enum Done {
    Opened(Vec<IpAddr>, Result<(), Gone>),
    Synced(Box<Synced>),
    Links(Result<LinkReport, Gone>),
    Maintained(Result<(), Gone>),
}

struct Synced {
    state: Arc<State>,
    triggers: Vec<SystemTime>,
    took: Duration,
    result: Result<SyncReport, Gone>,
}

/// The loop's own state.
#[derive(Debug)]
pub struct Control {
    cluster: Cluster,
    plane: PlaneHandle,
    metrics: Arc<Metrics>,
    publish: watch::Sender<Snapshot>,
    pace: Pace,
    tasks: JoinSet<Done>,
    /// Addresses that the data plane is open for.
    open_for: Option<Vec<IpAddr>>,
    opening: bool,
    open_at: Option<Instant>,
    /// From then on the data plane is opened without the Node's addresses (R37).
    node_wait_until: Instant,
    links_at: Option<Instant>,
    linking: bool,
    maintaining: bool,
    problems_stale: bool,
}

impl Control {
    /// A loop that has done nothing yet.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        plane: PlaneHandle,
        metrics: Arc<Metrics>,
        publish: watch::Sender<Snapshot>,
        min_sync_period: Duration,
        node_wait: Duration,
    ) -> Self {
        Self {
            cluster,
            plane,
            metrics,
            publish,
            pace: Pace::new(min_sync_period),
            tasks: JoinSet::new(),
            open_for: None,
            opening: false,
            open_at: None,
            node_wait_until: Instant::now() + node_wait,
            links_at: None,
            linking: false,
            maintaining: false,
            problems_stale: false,
        }
    }

    /// Runs until `stop` is done. What the data plane forwards stays as it is.
    pub async fn run(mut self, mut sources: Sources, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut maintenance = tokio::time::interval(MAINTAIN_EVERY);
        maintenance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            self.start_due(now);
            let wake = self.wake_at(now);
            tokio::select! {
                () = &mut stop => break,
                Some(update) = sources.services.recv() => self.on_services(update),
                Some(update) = sources.slices.recv() => self.on_slices(update),
                Some(update) = sources.node.recv() => self.on_node(update),
                Some(()) = sources.links.next() => self.look_at_links(LINK_SETTLE),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(fault) => error!(%fault, "a task of the control loop failed"),
                },
                _ = maintenance.tick() => self.maintain(),
                () = sleep_until(wake) => {}
            }
        }
        self.finish().await;
    }

    async fn finish(mut self) {
        let all_done = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WAIT, all_done).await.is_err() {
            warn!("stopping although the data plane is still busy");
        }
        info!("stopped; the data plane keeps forwarding");
    }

    fn on_services(&mut self, update: Update<Service>) {
        let objects = update.gone.len() + update.objects.len();
        if self.cluster.on_services(update) {
            self.metrics.changed(Change::Service, objects, SystemTime::now());
            self.pace.changed(Instant::now());
        }
        self.tell_problems();
        self.show();
    }

    fn on_slices(&mut self, update: Update<EndpointSlice>) {
        let objects = update.gone.len() + update.objects.len();
        if self.cluster.on_slices(update) {
            self.metrics.changed(Change::Endpoints, objects, SystemTime::now());
            self.pace.changed(Instant::now());
        }
        self.tell_problems();
        self.show();
    }

    fn on_node(&mut self, update: Update<Node>) {
        if update.listed && update.objects.is_empty() {
            warn!("the API server has no Node of this agent's name; is --node-name right?");
        }
        if self.cluster.on_node(update) {
            self.pace.changed(Instant::now());
        }
        self.show();
    }

    fn tell_problems(&mut self) {
        for problem in self.cluster.new_problems() {
            warn!(%problem, "object not served as it is written");
        }
    }

    fn look_at_links(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.links_at = Some(self.links_at.map_or(at, |other| other.min(at)));
    }

    /// The next moment at which something is due.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let open = self.wants_open(now).filter(|_| !self.opening);
        let sync = self.pace.due().filter(|_| self.may_sync());
        let links = self.links_at.filter(|_| self.open_for.is_some() && !self.linking);
        [open, sync, links].into_iter().flatten().min()
    }

    /// When to open the data plane, or open it anew for other addresses (R37, R40).
    fn wants_open(&self, now: Instant) -> Option<Instant> {
        let addresses = self.cluster.addresses();
        let wanted = match &self.open_for {
            Some(open_for) if open_for == addresses => return None,
            Some(_) => now,
            None if !addresses.is_empty() => now,
            None => self.node_wait_until,
        };
        Some(self.open_at.map_or(wanted, |again| again.max(wanted)))
    }

    /// Nothing is written before everything is listed, and nowhere before it is open (R37).
    fn may_sync(&self) -> bool {
        self.cluster.is_listed() && self.open_for.is_some() && !self.opening
    }

    fn start_due(&mut self, now: Instant) {
        if !self.opening && self.wants_open(now).is_some_and(|at| at <= now) {
            self.open();
        }
        if self.may_sync() && self.pace.due().is_some_and(|at| at <= now) {
            self.sync();
        }
        let links_due = self.links_at.is_some_and(|at| at <= now);
        if links_due && !self.linking && self.open_for.is_some() {
            self.linking = true;
            self.links_at = Some(now + LINK_RESYNC);
            let plane = self.plane.clone();
            self.tasks.spawn(async move { Done::Links(plane.reconcile_links().await) });
        }
    }

    fn open(&mut self) {
        self.opening = true;
        let addresses = self.cluster.addresses().to_vec();
        if addresses.is_empty() {
            let listed = self.cluster.is_node_listed();
            warn!(listed, "the own Node has no address known; going on without");
        }
        let plane = self.plane.clone();
        self.tasks.spawn(async move {
            let result = plane.open(addresses.clone()).await;
            Done::Opened(addresses, result)
        });
    }

    fn sync(&mut self) {
        let (state, triggers) = self.cluster.take_state();
        self.pace.started();
        self.metrics.sync_started();
        let plane = self.plane.clone();
        self.tasks.spawn(async move {
            let started = Instant::now();
            let result = plane.sync(Arc::clone(&state)).await;
            let took = started.elapsed();
            Done::Synced(Box::new(Synced { state, triggers, took, result }))
        });
    }

    fn maintain(&mut self) {
        if std::mem::take(&mut self.problems_stale) {
            let problems = self.cluster.problems(&self.publish.borrow().state);
            self.metrics.set_problems(problems.len());
            self.publish.send_modify(|snapshot| snapshot.problems = Arc::new(problems));
        }
        if self.maintaining || self.open_for.is_none() {
            return;
        }
        self.maintaining = true;
        let plane = self.plane.clone();
        self.tasks.spawn(async move { Done::Maintained(plane.maintain(MAINTAIN_BUDGET).await) });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Opened(addresses, result) => self.on_opened(addresses, result),
            Done::Synced(synced) => self.on_synced(*synced),
            Done::Links(result) => self.on_links(result),
            Done::Maintained(result) => {
                self.maintaining = false;
                self.on_upkeep(result.err().map(|fault| fault.to_string()));
            }
        }
    }

    /// Tells of a fault in looking after flows once, not every second.
    fn on_upkeep(&self, fault: Option<String>) {
        self.publish.send_if_modified(|snapshot| {
            let news = snapshot.upkeep_error != fault;
            if news {
                match &fault {
                    Some(fault) => warn!(fault, "looking after flows fails; trying every second"),
                    None => info!("looking after flows works again"),
                }
                snapshot.upkeep_error = fault;
            }
            news
        });
    }

    fn on_opened(&mut self, addresses: Vec<IpAddr>, result: Result<(), Gone>) {
        self.opening = false;
        let now = Instant::now();
        let fault = result.err().map(|fault| fault.to_string());
        if let Some(fault) = &fault {
            error!(fault, again_in = ?OPEN_AGAIN, "the data plane cannot be opened");
            self.open_for = None;
            self.open_at = Some(now + OPEN_AGAIN);
        } else {
            info!(?addresses, "the data plane is open");
            self.open_for = Some(addresses);
            self.open_at = None;
            self.pace.changed(now);
            self.look_at_links(Duration::ZERO);
        }
        let open = fault.is_none();
        self.publish.send_modify(|snapshot| {
            snapshot.open = open;
            snapshot.plane_error = fault;
        });
    }

    fn on_synced(&mut self, synced: Synced) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        self.pace.finished(synced.result.is_ok(), now);
        match synced.result {
            Ok(report) => {
                self.metrics.synced(&report, synced.took, clock, &waited(&synced.triggers, clock));
                if report.operations > 0 {
                    info!(
                        operations = report.operations,
                        frontends = report.frontends,
                        backends = report.backends,
                        took_ms = synced.took.as_secs_f64() * 1000.0,
                        "synced"
                    );
                    // New local backends want their interface.
                    self.look_at_links(Duration::ZERO);
                }
                self.publish_synced(synced.state, report, synced.took, clock);
            }
            Err(fault) => {
                error!(%fault, "sync failed; what was written before stays, trying again");
                self.metrics.sync_failed();
                self.cluster.return_triggers(synced.triggers);
                self.publish.send_modify(|snapshot| {
                    snapshot.syncs.failed += 1;
                    snapshot.plane_error = Some(fault.to_string());
                });
            }
        }
        self.show();
    }

    fn publish_synced(
        &mut self,
        state: Arc<State>,
        report: SyncReport,
        took: Duration,
        clock: SystemTime,
    ) {
        self.problems_stale = true;
        self.publish.send_modify(|snapshot| {
            if *snapshot.syncs.skipped != report.skipped {
                for (object, reason) in &report.skipped {
                    warn!(object, reason, "not served");
                }
                snapshot.syncs.skipped = Arc::new(report.skipped);
            }
            snapshot.state = state;
            snapshot.plane_error = None;
            snapshot.health.last_updated = Some(clock);
            snapshot.syncs.done += 1;
            snapshot.syncs.last_took = took;
            snapshot.syncs.last_operations = report.operations;
            snapshot.syncs.last_at = Some(clock);
        });
    }

    fn on_links(&mut self, result: Result<LinkReport, Gone>) {
        self.linking = false;
        match result {
            Ok(report) => {
                if !report.attached.is_empty() {
                    info!(interfaces = ?report.attached, "attached");
                }
                for (interface, reason) in &report.failed {
                    warn!(interface, reason, "cannot attach; traffic there is not balanced");
                }
                if report.unresolved_pods > 0 || !report.failed.is_empty() {
                    self.look_at_links(UNRESOLVED_AGAIN);
                }
                self.metrics.set_unresolved_pods(report.unresolved_pods);
                self.publish.send_modify(|snapshot| {
                    snapshot.unresolved_pods = report.unresolved_pods;
                });
            }
            Err(fault) => {
                warn!(%fault, "following the links failed; trying again");
                self.look_at_links(UNRESOLVED_AGAIN);
            }
        }
    }

    /// Publishes what follows from the loop's own state, if it differs.
    fn show(&self) {
        let (pending, node, listed) =
            (self.pace.pending_since(), self.cluster.node(), self.cluster.is_listed());
        self.publish.send_if_modified(|snapshot| {
            let health = &mut snapshot.health;
            let same =
                health.pending_since == pending && health.node == node && snapshot.listed == listed;
            health.pending_since = pending;
            health.node = node;
            snapshot.listed = listed;
            !same
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
