//! Owns what a client must see at a service: who may answer, with which client address, or how it
//! is turned away. Pure, written from the rules of kube-proxy and not from anybody's output.
//!
//! R numbers are those of `docs/services.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// The name of whoever answers outside, at all addresses that no node serves.
pub const WORLD: &str = "world";

/// The name of the nodes' own servers at node ports.
pub const LISTENER: &str = "listener";

/// internalTrafficPolicy or externalTrafficPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Those of the node that handles the connection.
    Local,
}

/// The conditions of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// ready, serving, not terminating
    Ready,
    /// not ready any more, but serving and terminating
    Draining,
    /// neither ready nor serving
    Down,
}

/// An endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the pod.
    pub name: String,
    /// Name of its node.
    pub node: String,
    /// Its conditions.
    pub state: State,
    /// `forZones` hints.
    pub zones: Vec<String>,
    /// `forNodes` hints.
    pub nodes: Vec<String>,
}

/// What of a Service decides who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// All endpoints of the port.
    pub endpoints: Vec<Endpoint>,
    /// internalTrafficPolicy
    pub internal: Policy,
    /// externalTrafficPolicy
    pub external: Policy,
    /// loadBalancerSourceRanges, both families.
    pub ranges: Vec<IpNet>,
    /// sessionAffinity ClientIP
    pub sticky: bool,
}

/// The kind of address that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// ClusterIP
    ClusterIp,
    /// A node's address and the nodePort.
    NodePort,
    /// externalIPs
    ExternalIp,
    /// status.loadBalancer.ingress
    LoadBalancer,
}

/// The node that handles the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its zone label.
    pub zone: String,
}

/// What the client is to the node that handles its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A pod of that node.
    Pod,
    /// That node itself.
    Node,
    /// Anybody else: outside the cluster, another node, a pod of another node.
    Elsewhere,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Name of the pod or node, or `office`.
    pub name: String,
    /// Its address in the family that is asked.
    pub address: IpAddr,
    /// Seen from the node that handles the connection.
    pub origin: Origin,
}

/// What must be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Each of these answers, and nobody else; each with whose address it sees as the client's:
    /// the client's own name, or that of the node that masqueraded. Sticky: one of them answers
    /// always.
    Answers {
        /// By the backend's name.
        backends: BTreeMap<String, String>,
        /// One of them only.
        sticky: bool,
    },
    /// TCP reset or ICMP port unreachable.
    Refused,
    /// Nothing at all.
    Silence,
    /// No node's business: it leaves the cluster, and somebody out there answers.
    Passed,
}

/// What `client` must see that asks `front` of a service, where `place` handles the connection.
#[must_use]
pub fn expected(rules: &Rules, front: Front, place: &Place, client: &Client) -> Expected {
    // R47: source ranges come first, R17: only at LB addresses, for pods and nodes as well.
    if front == Front::LoadBalancer && !allowed(&rules.ranges, client.address) {
        return Expected::Silence;
    }
    let list = list(rules, front, place, client.origin);
    if list.is_empty() {
        let any = rules.endpoints.iter().any(|endpoint| endpoint.state != State::Down);
        return if any { Expected::Silence } else { Expected::Refused };
    }
    let masqueraded = masqueraded(rules, front, client.origin);
    let seen = |backend: &Endpoint| {
        // R46: a pod that reaches itself never sees its own address.
        let own = backend.name == client.name;
        if masqueraded || own { place.node.clone() } else { client.name.clone() }
    };
    Expected::Answers {
        backends: list.into_iter().map(|backend| (backend.name.clone(), seen(backend))).collect(),
        sticky: rules.sticky,
    }
}

/// The endpoints that serve this kind of traffic (section 4's table).
fn list<'a>(rules: &'a Rules, front: Front, place: &Place, origin: Origin) -> Vec<&'a Endpoint> {
    // R11: the internal policy is ClusterIP's, the external one everything else's.
    let local = match front {
        Front::ClusterIp => rules.internal == Policy::Local,
        // Pods of the node and the node itself take the short circuit.
        _ => rules.external == Policy::Local && origin == Origin::Elsewhere,
    };
    if local { local_list(&rules.endpoints, place) } else { cluster_list(&rules.endpoints, place) }
}

fn masqueraded(rules: &Rules, front: Front, origin: Origin) -> bool {
    match (front, rules.external, origin) {
        (Front::ClusterIp, _, Origin::Pod) => false,
        (Front::ClusterIp, ..) => true,
        (_, Policy::Cluster, _) | (_, Policy::Local, Origin::Node) => true,
        (_, Policy::Local, _) => false,
    }
}

/// R17: no range of this family, or a range of everything, is no wall.
fn allowed(ranges: &[IpNet], address: IpAddr) -> bool {
    let mut own = ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4());
    let open = own.clone().next().is_none();
    open || own.any(|range| range.contains(&address))
}

/// Ready ones by topology, else those that drain.
fn cluster_list<'a>(endpoints: &'a [Endpoint], place: &Place) -> Vec<&'a Endpoint> {
    let ready: Vec<&Endpoint> = in_state(endpoints, State::Ready);
    if ready.is_empty() {
        return in_state(endpoints, State::Draining);
    }
    let hinted = |hints: fn(&Endpoint) -> &[String], name: &String| {
        let all = ready.iter().all(|endpoint| !hints(endpoint).is_empty());
        let near = ready.iter().copied().filter(|endpoint| hints(endpoint).contains(name));
        let near: Vec<&Endpoint> = near.collect();
        (all && !near.is_empty()).then_some(near)
    };
    hinted(|endpoint| &endpoint.nodes, &place.node)
        .or_else(|| hinted(|endpoint| &endpoint.zones, &place.zone))
        .unwrap_or(ready)
}

/// Local ready ones, else local ones that drain; topology never applies.
fn local_list<'a>(endpoints: &'a [Endpoint], place: &Place) -> Vec<&'a Endpoint> {
    let local = |state| -> Vec<&Endpoint> {
        in_state(endpoints, state).into_iter().filter(|e| e.node == place.node).collect()
    };
    let ready = local(State::Ready);
    if ready.is_empty() { local(State::Draining) } else { ready }
}

fn in_state(endpoints: &[Endpoint], state: State) -> Vec<&Endpoint> {
    endpoints.iter().filter(|endpoint| endpoint.state == state).collect()
}

/// What was seen, to be held against what must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the backend's name: whose addresses it saw as the client's.
    pub backends: BTreeMap<String, BTreeSet<String>>,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts without any answer.
    pub silent: u64,
    /// Attempts that ended otherwise.
    pub other: u64,
    /// Answers that came late, which is no matter of rules.
    pub late: u64,
}

impl Expected {
    /// Whether this is what was seen.
    #[must_use]
    pub fn met(&self, seen: &Seen) -> bool {
        let failed = (seen.refused > 0, seen.silent > 0, seen.other > 0);
        match self {
            Self::Answers { backends, sticky } => {
                let as_told = seen.backends.iter().all(|(backend, clients)| {
                    backends.get(backend).is_some_and(|owner| clients.iter().eq([owner]))
                });
                let number = if *sticky { 1 } else { backends.len() };
                failed == (false, false, false) && as_told && seen.backends.len() == number
            }
            Self::Refused => seen.backends.is_empty() && failed == (true, false, false),
            Self::Silence => seen.backends.is_empty() && failed == (false, true, false),
            Self::Passed => seen.backends.keys().eq([WORLD]) && failed == (false, false, false),
        }
    }
}

#[cfg(test)]
mod tests;
