//! The control loop's other half: what its tasks have finished, and what follows and is published.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use super::{Control, Done, OPEN_AGAIN, Synced};
use crate::cluster::Wanted;
use crate::plane::{Gone, LinkReport, OwnNode, SyncReport};

impl Control {
    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Opened(node, result) => self.on_opened(node, result),
            Done::Synced(synced) => self.on_synced(*synced),
            Done::Links(result) => self.on_links(result),
            Done::Maintained(result) => {
                self.maintaining = false;
                if let Ok(walks) = &result {
                    self.metrics.walked(walks);
                }
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

    fn on_opened(&mut self, node: OwnNode, result: Result<(), Gone>) {
        self.opening = false;
        let now = Instant::now();
        let fault = result.err().map(|fault| fault.to_string());
        if let Some(fault) = &fault {
            error!(fault, again_in = ?OPEN_AGAIN, "the data plane cannot be opened");
            self.open_for = None;
            self.open_at = Some(now + OPEN_AGAIN);
        } else {
            info!(addresses = ?node.addresses, "the data plane is open");
            self.full = true;
            self.open_for = Some(node);
            self.open_at = None;
            self.pace.changed(now);
            self.links_changed(Duration::ZERO);
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
                let triggers = &synced.wanted.triggers;
                self.metrics.synced(&report, synced.took, synced.full, clock, triggers);
                self.full = false;
                if report.operations > 0 {
                    info!(
                        operations = report.operations,
                        frontends = report.frontends,
                        backends = report.backends,
                        took_ms = synced.took.as_secs_f64() * 1000.0,
                        "synced"
                    );
                    // New local backends want their interface.
                    self.links_changed(Duration::ZERO);
                }
                self.publish_synced(synced.wanted, report, synced.took, clock);
            }
            Err(fault) => {
                error!(%fault, "sync failed; what was written before stays, trying again");
                self.metrics.sync_failed();
                self.full = true;
                self.cluster.return_triggers(synced.wanted.triggers);
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
        wanted: Wanted,
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
            snapshot.state = wanted.state;
            snapshot.health_checks = wanted.health_checks;
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
                    let pause = self.link_patience.pause();
                    self.look_at_links(pause);
                }
                self.metrics.set_unresolved_pods(report.unresolved_pods);
                self.publish.send_modify(|snapshot| {
                    snapshot.unresolved_pods = report.unresolved_pods;
                });
            }
            Err(fault) => {
                warn!(%fault, "following the links failed; trying again");
                let pause = self.link_patience.pause();
                self.look_at_links(pause);
            }
        }
    }

    /// Publishes what follows from the loop's own state, if it differs.
    pub(super) fn show(&self) {
        let (pending, node, listed) =
            (self.pace.pending_since(), self.cluster.node(), self.cluster.is_listed());
        let (ranges, source) = self.cluster.service_ranges();
        let addresses = self.cluster.addresses();
        self.publish.send_if_modified(|snapshot| {
            let health = &mut snapshot.health;
            let mut same =
                health.pending_since == pending && health.node == node && snapshot.listed == listed;
            health.pending_since = pending;
            health.node = node;
            snapshot.listed = listed;
            if *snapshot.node_addresses != addresses {
                snapshot.node_addresses = Arc::new(addresses.to_vec());
                same = false;
            }
            if snapshot.advertise.as_ref() != self.cluster.advertise() {
                snapshot.advertise = Arc::new(self.cluster.advertise().clone());
                same = false;
            }
            let problems = self.cluster.advertise_problems();
            if snapshot.advertise_problems != problems {
                snapshot.advertise_problems = problems;
                same = false;
            }
            if *snapshot.service_ranges.0 != ranges || snapshot.service_ranges.1 != source {
                info!(?ranges, source = source.name(), "service ranges");
                snapshot.service_ranges = (Arc::new(ranges), source);
                same = false;
            }
            !same
        });
    }
}
