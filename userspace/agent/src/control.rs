//! The control loop: takes in what the watches and the kernel tell, decides when the data plane is
//! opened, synced, looked after, and publishes what the rest of the agent shows.
//!
//! Everything that may block runs in a task of its own, at most one of each kind; the loop itself
//! never waits for one.

mod done;
mod patience;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::cluster::{Cluster, Finding, Wanted};
use crate::events::Events;
use crate::http::service_health::Refused;
use crate::metrics::{Change, Metrics};
use crate::pace::Pace;
use crate::plane::{Gone, LinkReport, OwnNode, PlaneHandle, SyncReport, Walked};
use crate::ranges::Source;
use crate::snapshot::Snapshot;
use crate::watch::Update;
use patience::Patience;

/// Link events come in bursts: a pod's veth is made, moved, enslaved and brought up.
const LINK_SETTLE: Duration = Duration::from_millis(20);
/// While local pods' interfaces are not known they are looked for again, after pauses from this one on.
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
    /// ServiceCIDR objects; closed where the operator names the ranges.
    pub ranges: mpsc::Receiver<Update<ServiceCIDR>>,
    /// Health ports that cannot be opened.
    pub refused: mpsc::Receiver<Refused>,
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
    Opened(OwnNode, Result<(), Gone>),
    Synced(Box<Synced>),
    Links(Result<LinkReport, Gone>),
    Maintained(Result<Vec<Walked>, Gone>),
}

struct Synced {
    wanted: Wanted,
    full: bool,
    took: Duration,
    result: Result<SyncReport, Gone>,
}

/// The loop's own state.
#[derive(Debug)]
pub struct Control {
    cluster: Cluster,
    plane: PlaneHandle,
    metrics: Arc<Metrics>,
    events: Events,
    publish: watch::Sender<Snapshot>,
    pace: Pace,
    tasks: JoinSet<Done>,
    /// What the data plane is open for.
    open_for: Option<OwnNode>,
    opening: bool,
    open_at: Option<Instant>,
    /// From then on the data plane is opened without the Node's addresses (R37).
    node_wait_until: Instant,
    links_at: Option<Instant>,
    linking: bool,
    /// What is not found by looking again and again is not there: it may never be.
    link_patience: Patience,
    maintaining: bool,
    problems_stale: bool,
    /// The next sync starts from what is found, not from what was written before.
    full: bool,
}

impl Control {
    /// A loop that has done nothing yet.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        plane: PlaneHandle,
        metrics: Arc<Metrics>,
        events: Events,
        publish: watch::Sender<Snapshot>,
        min_sync_period: Duration,
        node_wait: Duration,
    ) -> Self {
        Self {
            cluster,
            plane,
            metrics,
            events,
            publish,
            pace: Pace::new(min_sync_period),
            tasks: JoinSet::new(),
            open_for: None,
            opening: false,
            open_at: None,
            node_wait_until: Instant::now() + node_wait,
            links_at: None,
            linking: false,
            link_patience: Patience::new(UNRESOLVED_AGAIN, LINK_RESYNC),
            maintaining: false,
            problems_stale: false,
            full: true,
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
                Some(update) = sources.ranges.recv() => self.on_ranges(update),
                Some(refused) = sources.refused.recv() => {
                    let uid = self.cluster.uid(&refused.service());
                    self.events.health_port_refused(&refused, uid);
                }
                Some(()) = sources.links.next() => self.links_changed(LINK_SETTLE),
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

    fn on_ranges(&mut self, update: Update<ServiceCIDR>) {
        if self.cluster.on_ranges(update) {
            self.pace.changed(Instant::now());
        }
        self.problems_stale = true;
        self.show();
    }

    fn tell_problems(&mut self) {
        for problem in self.cluster.new_problems() {
            warn!(%problem, "object not served as it is written");
        }
        // Those that are over tell nothing.
        self.problems_stale = true;
    }

    /// Shows what is wrong now; what was not before is an Event on its Service.
    fn show_findings(&self) {
        let (state, before) = {
            let snapshot = self.publish.borrow();
            (Arc::clone(&snapshot.state), Arc::clone(&snapshot.problems))
        };
        let findings = self.cluster.findings(&state);
        self.metrics.set_problems(findings.len());
        self.metrics.set_state(&state);
        let known: HashSet<&str> = before.iter().map(String::as_str).collect();
        for Finding { service, text } in &findings {
            if let Some(service) = service.as_ref().filter(|_| !known.contains(text.as_str())) {
                self.events.service_finding(service, text, self.cluster.uid(service));
            }
        }
        let problems: Vec<String> = findings.into_iter().map(|finding| finding.text).collect();
        self.publish.send_if_modified(|snapshot| {
            let news = *snapshot.problems != problems;
            if news {
                snapshot.problems = Arc::new(problems);
            }
            news
        });
    }

    /// There may be something to find that was not there before.
    fn links_changed(&mut self, look_after: Duration) {
        self.link_patience.renew();
        self.look_at_links(look_after);
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

    /// When to open the data plane, or open it anew for a Node that says something else (R37, R40).
    fn wants_open(&self, now: Instant) -> Option<Instant> {
        let node = self.cluster.own_node();
        let wanted = match &self.open_for {
            Some(open_for) if open_for == node => return None,
            Some(_) => now,
            None if !node.addresses.is_empty() => now,
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
        let node = self.cluster.own_node().clone();
        if node.addresses.is_empty() {
            let listed = self.cluster.is_node_listed();
            warn!(listed, "the own Node has no address known; going on without");
        }
        let plane = self.plane.clone();
        self.tasks.spawn(async move {
            let result = plane.open(node.clone()).await;
            Done::Opened(node, result)
        });
    }

    fn sync(&mut self) {
        let wanted = self.cluster.take_state();
        let (cidrs, source) = self.cluster.service_ranges();
        // Before they are known, those of an earlier run stay.
        let cidrs = (source != Source::Unknown).then_some(cidrs);
        let full = self.full;
        self.pace.started();
        self.metrics.sync_started();
        let plane = self.plane.clone();
        self.tasks.spawn(async move {
            let started = Instant::now();
            let result = plane.sync(Arc::clone(&wanted.state), cidrs).await;
            let took = started.elapsed();
            Done::Synced(Box::new(Synced { wanted, full, took, result }))
        });
    }

    fn maintain(&mut self) {
        if std::mem::take(&mut self.problems_stale) {
            self.show_findings();
        }
        if self.maintaining || self.open_for.is_none() {
            return;
        }
        self.maintaining = true;
        let plane = self.plane.clone();
        self.tasks.spawn(async move { Done::Maintained(plane.maintain(MAINTAIN_BUDGET).await) });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
