//! Kubernetes Events (events.k8s.io/v1, K29): what the operator of the cluster shall find with
//! `kubectl describe`.
//!
//! Whoever has something to tell hands it to [`Events`] and goes on: a queue that is full, or an API
//! server that refuses, costs the Event and nothing else. [`ledger`] decides what is worth a
//! request, [`recorder`] makes it.

pub mod ledger;
pub mod recorder;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::http::service_health::Refused;
use crate::watch::object::Key;

/// Notes that may wait for the recorder.
const QUEUE: usize = 256;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// `Node` or `Service`.
    pub kind: &'static str,
    /// Namespace, "" for a Node.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`, by which `kubectl describe` finds the Event; "" when not known.
    pub uid: String,
}

impl About {
    fn service(key: &Key, uid: String) -> Self {
        let Key { namespace, name } = key.clone();
        Self { kind: "Service", namespace, name, uid }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// About which object.
    pub about: About,
    /// Normal or Warning.
    pub severity: Severity,
    /// Why, in one word for machines, such as `Starting`.
    pub reason: &'static str,
    /// What was being done, in one word, such as `Listen`.
    pub action: &'static str,
    /// The same for people.
    pub text: String,
    /// What tells it from the same note of others: this node's name where it concerns this node
    /// only; "" where every node would say the same, so that one of them does.
    pub origin: String,
}

impl Note {
    /// The Event's name, the same for the same note: an object's name and 16 hex digits.
    #[must_use]
    pub fn event_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{}.{:016x}", self.about.name, hasher.finish())
    }

    /// Events about objects without a namespace are kept in `default` (K29).
    #[must_use]
    pub fn event_namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }
}

/// What became of notes, for metrics.
#[derive(Debug, Default)]
pub struct EventCounts {
    /// Requests that the API server took.
    pub sent: AtomicU64,
    /// Notes lost: too many at once, or refused by the API server.
    pub lost: AtomicU64,
}

/// Takes notes; never waits.
#[derive(Clone, Debug)]
pub struct Events {
    node: String,
    queue: mpsc::Sender<Note>,
    counts: Arc<EventCounts>,
}

impl Events {
    /// The way in for the node of this name, and the queue for a [`recorder::Recorder`].
    #[must_use]
    pub fn new(node: &str) -> (Self, mpsc::Receiver<Note>, Arc<EventCounts>) {
        let (queue, notes) = mpsc::channel(QUEUE);
        let counts = Arc::new(EventCounts::default());
        (Self { node: node.to_owned(), queue, counts: Arc::clone(&counts) }, notes, counts)
    }

    /// The agent starts (R52). A Node goes by its name where a uid is asked for, as with kubelet.
    pub fn starting(&self, clock: SystemTime) {
        let since = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.tell(Note {
            about: About {
                kind: "Node",
                namespace: String::new(),
                name: self.node.clone(),
                uid: self.node.clone(),
            },
            severity: Severity::Normal,
            reason: "Starting",
            action: "Start",
            text: format!("Starting sluice {}", env!("CARGO_PKG_VERSION")),
            // Each start is news.
            origin: format!("{} {}", self.node, since.as_nanos()),
        });
    }

    /// A health port of a Service cannot be opened on this node (R27).
    pub fn health_port_refused(&self, refused: &Refused, uid: String) {
        let Refused { key, port, reason } = refused;
        self.tell(Note {
            about: About::service(&refused.service(), uid),
            severity: Severity::Warning,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            text: format!(
                "node {} failed to start healthcheck \"{}/{}\" on port {port}: {reason}",
                self.node, key.namespace, key.name
            ),
            origin: self.node.clone(),
        });
    }

    /// A Service is not served as it is written. Every node sees the same.
    pub fn service_finding(&self, service: &Key, text: &str, uid: String) {
        self.tell(Note {
            about: About::service(service, uid),
            severity: Severity::Warning,
            reason: "NotServedAsWritten",
            action: "Configure",
            text: text.to_owned(),
            origin: String::new(),
        });
    }

    /// A BGP session of this node came up or ended.
    pub fn bgp_peer(&self, up: bool, text: &str) {
        let (severity, reason) = match up {
            true => (Severity::Normal, "BGPPeerUp"),
            false => (Severity::Warning, "BGPPeerDown"),
        };
        self.of_node(severity, reason, text);
    }

    /// A peer has sent many of the prefixes that it may send.
    pub fn bgp_near_limit(&self, text: &str) {
        self.of_node(Severity::Warning, "BGPPeerNearLimit", text);
    }

    /// A setting of BGP that is not used as it is written.
    pub fn bgp_problem(&self, text: &str) {
        self.of_node(Severity::Warning, "BGPMisconfigured", text);
    }

    fn of_node(&self, severity: Severity, reason: &'static str, text: &str) {
        self.tell(Note {
            // As for starts: the kubelet's Events have the Node's name for its identity, too.
            about: About {
                kind: "Node",
                namespace: String::new(),
                name: self.node.clone(),
                uid: self.node.clone(),
            },
            severity,
            reason,
            action: "Route",
            text: text.to_owned(),
            origin: self.node.clone(),
        });
    }

    /// Tells, or loses the note where too many wait.
    fn tell(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
