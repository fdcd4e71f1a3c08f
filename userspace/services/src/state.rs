//! The desired state: what the data plane must serve, per service port and address family.
//!
//! Built by [`crate::Index`], read by the data plane (which frontends, which backends), the
//! agent's views, and later BGP (which addresses to announce). Plain data, no Kubernetes types.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Transport protocol of a service port; the IANA number is what the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// 6
    Tcp = 6,
    /// 17
    Udp = 17,
    /// 132
    Sctp = 132,
}

/// One address family of a (possibly dual-stack) Service: each is proxied on its own (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family an address belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Identity of a service port in one family (R5): the port's *name* and protocol, not its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, "" for the unnamed one.
    pub port_name: String,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Service address.
    pub address: IpAddr,
    /// Service port, 1 to 65535, host order.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What a frontend's connections are translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Endpoint address, canonical.
    pub address: IpAddr,
    /// Endpoint port, 1 to 65535, host order.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Whether the endpoint may get new datagrams of old UDP flows: `serving` in the slice, or in
    /// use by a list (R31).
    pub serving: bool,
    /// Whether the endpoint runs on this node (R8).
    pub local: bool,
    /// Share of the new connections, relative to the others of its list. 0, in no list but that of
    /// serving ones: none.
    pub weight: u8,
}

/// A set of backends, sorted and without duplicates. Equal sets of one family share one table in
/// the data plane, whoever uses them.
pub type BackendSet = Arc<[Backend]>;

/// How new connections choose a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// Each connection draws at random, all equally likely (R44).
    #[default]
    Random,
    /// Of two drawn at random the one with fewer connections.
    LeastConnections,
    /// The same client lands on the same backend from any node.
    SourceHash,
    /// Maglev: the same 5-tuple lands on the same backend from any node.
    Maglev,
}

impl Scheduler {
    /// Its word in annotations, which is the one of IPVS and kube-router.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Random => "rr",
            Self::LeastConnections => "lc",
            Self::SourceHash => "sh",
            Self::Maglev => "mh",
        }
    }
}

/// What is to happen to a new connection when the list that applies is empty (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhenEmpty {
    /// No endpoint anywhere: refuse.
    Reject,
    /// Endpoints exist, but none that the policy allows: silence.
    Drop,
}

/// Which kind of address a frontend is; decides policy, source ranges and announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// `spec.clusterIPs`
    ClusterIp,
    /// `spec.externalIPs`
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP
    LoadBalancer,
}

/// One service port of one family with everything the data plane needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Service addresses of this family and what they are.
    pub addresses: Vec<(IpAddr, AddressKind)>,
    /// Service port, host order.
    pub port: u16,
    /// Node port, host order, 0 for none.
    pub node_port: u16,
    /// The list for traffic policy Cluster, topology applied (section 3).
    pub cluster: BackendSet,
    /// The list for traffic policy Local.
    pub local: BackendSet,
    /// Every serving endpoint whatever the policy: UDP flows to others are stale (R31).
    pub serving: BackendSet,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local` where it counts (R45)
    pub external_local: bool,
    /// Some endpoint anywhere is ready, or serving and terminating (section 3, step 3).
    pub has_any_endpoint: bool,
    /// Scheduler for new connections.
    pub scheduler: Scheduler,
    /// Session affinity by client address: seconds, `None` without affinity (R22).
    pub affinity_s: Option<u32>,
    /// Source ranges of LB addresses of this family; empty is open (R17).
    pub source_ranges: Vec<ipnet::IpNet>,
    /// `spec.healthCheckNodePort` where it applies (R24), else 0.
    pub health_check_node_port: u16,
    /// Creation time of the Service in Unix seconds, `i64::MAX` when unknown: of two Services that
    /// want one address the older gets it (R42).
    pub created_s: i64,
}

impl ServicePort {
    /// The list for traffic to the ClusterIP, and what an empty one means (section 4 and 5).
    #[must_use]
    pub fn internal(&self) -> (&BackendSet, WhenEmpty) {
        let list = if self.internal_local { &self.local } else { &self.cluster };
        (list, self.when_empty())
    }

    /// The list for traffic to external and LB addresses and node ports from outside, and what an
    /// empty one means (section 4 and 5).
    #[must_use]
    pub fn external(&self) -> (&BackendSet, WhenEmpty) {
        let list = if self.external_local { &self.local } else { &self.cluster };
        (list, self.when_empty())
    }

    /// What an empty list means for this service port (section 5).
    #[must_use]
    pub fn when_empty(&self) -> WhenEmpty {
        if self.has_any_endpoint { WhenEmpty::Drop } else { WhenEmpty::Reject }
    }
}

/// One family of a Service that answers load balancers' health checks (R24, R50).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheckKey {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// The family.
    pub family: Family,
}

/// What a load balancer is told about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`, host order, never 0.
    pub port: u16,
    /// Distinct addresses of ready endpoints on this node, over all ports of the Service; those
    /// that only drain do not count, though they may still get traffic (R26).
    pub local_ready: usize,
}

/// All health checks of load balancers that this node answers.
pub type HealthChecks = BTreeMap<HealthCheckKey, HealthCheck>;

/// Everything that is to be served, by service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Service ports; shared with the previous state where unchanged.
    pub ports: BTreeMap<ServicePortKey, Arc<ServicePort>>,
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}/{}", self.namespace, self.name, self.port_name, self.protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
