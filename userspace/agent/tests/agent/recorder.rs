//! A data plane that writes down what it is told and fails when it is told to.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnet::IpNet;
use sluice_agent::plane::{
    Attachment, FlowRow, LinkReport, OpenPlane, OwnNode, Plane, PlaneError, PlaneStatus,
    ReasonCount, SyncReport, Walked,
};
use sluice_services::State;

/// What happened so far, and what shall fail.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) opened: Vec<Vec<IpAddr>>,
    /// Of each time.
    pub(crate) pod_cidrs: Vec<Vec<IpNet>>,
    pub(crate) closed: usize,
    pub(crate) states: Vec<Arc<State>>,
    /// Ranges of ClusterIPs in force at the last sync.
    pub(crate) cidrs: Vec<String>,
    set_cidrs: Vec<String>,
    pub(crate) links: usize,
    pub(crate) maintained: usize,
    /// So many calls of `open` fail.
    pub(crate) fail_opens: usize,
    /// So many calls of `sync` fail.
    pub(crate) fail_syncs: usize,
    /// So many calls of `maintain` fail.
    pub(crate) fail_upkeep: usize,
    /// Each sync takes so long.
    pub(crate) sync_takes: Duration,
    /// Local pods that are not found behind an interface.
    pub(crate) unresolved: usize,
}

/// The record, shared between the test and the data plane.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("no test panics while it holds the record")
    }

    /// The state written last.
    pub(crate) fn last(&self) -> Option<Arc<State>> {
        self.record().states.last().cloned()
    }

    pub(crate) fn opener(&self) -> OpenPlane {
        let recorder = self.clone();
        Box::new(move |node: &OwnNode| {
            let mut record = recorder.record();
            if record.fail_opens > 0 {
                record.fail_opens -= 1;
                return Err(PlaneError("open: told to fail".to_owned()));
            }
            record.opened.push(node.addresses.clone());
            record.pod_cidrs.push(node.pod_cidrs.clone());
            Ok(Box::new(Recording(recorder.clone())))
        })
    }
}

struct Recording(Recorder);

impl Drop for Recording {
    fn drop(&mut self) {
        self.0.record().closed += 1;
    }
}

impl Plane for Recording {
    fn sync(&mut self, state: &Arc<State>) -> Result<SyncReport, PlaneError> {
        let takes = self.0.record().sync_takes;
        std::thread::sleep(takes);
        let mut record = self.0.record();
        if record.fail_syncs > 0 {
            record.fail_syncs -= 1;
            return Err(PlaneError("sync: told to fail".to_owned()));
        }
        record.cidrs = record.set_cidrs.clone();
        let same = record.states.last().is_some_and(|last| **last == **state);
        record.states.push(Arc::clone(state));
        Ok(SyncReport {
            operations: usize::from(!same),
            frontends: state.frontends().len(),
            backends: 0,
            skipped: vec![],
        })
    }

    fn set_service_cidrs(&mut self, cidrs: &[IpNet]) {
        self.0.record().set_cidrs = cidrs.iter().map(ToString::to_string).collect();
    }

    fn reconcile_links(&mut self) -> Result<LinkReport, PlaneError> {
        let mut record = self.0.record();
        record.links += 1;
        Ok(LinkReport { unresolved_pods: record.unresolved, ..LinkReport::default() })
    }

    fn maintain(&mut self, _budget: usize) -> Result<Vec<Walked>, PlaneError> {
        let mut record = self.0.record();
        record.maintained += 1;
        if record.fail_upkeep > 0 {
            record.fail_upkeep -= 1;
            return Err(PlaneError("maintain: told to fail".to_owned()));
        }
        Ok(Vec::new())
    }

    fn flows(&mut self, limit: usize) -> Result<Vec<FlowRow>, PlaneError> {
        let flow = FlowRow {
            protocol: "TCP".to_owned(),
            client: "10.1.0.2:40000".to_owned(),
            frontend: "10.96.0.1:80".to_owned(),
            backend: "10.1.1.2:8080".to_owned(),
            source: "10.1.0.2:40000".to_owned(),
            state: "established".to_owned(),
            idle_s: 1.5,
        };
        Ok(vec![flow; limit.min(3)])
    }

    fn counters(&self) -> Result<Vec<ReasonCount>, PlaneError> {
        let count =
            |reason: &str, drop| ReasonCount { reason: reason.to_owned(), drop, packets: 7 };
        Ok(vec![count("forward_peer", false), count("no_endpoints", true)])
    }

    fn status(&self) -> PlaneStatus {
        PlaneStatus {
            bpf_dir: "/pins".to_owned(),
            attached: vec![Attachment {
                interface: "veth1".to_owned(),
                program: "from_pod".to_owned(),
                mode: "tcx".to_owned(),
            }],
            slots_capacity: 64,
            ..PlaneStatus::default()
        }
    }
}
