//! Endpoint selection: which endpoints a service port uses for which policy (section 3 of the rules).
//!
//! Pure; called by the index for each service port of a touched Service. The reference is
//! `CategorizeEndpoints` of kube-proxy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::slice::{Endpoint, NodeHint};
use crate::state::{Backend, BackendSet, Protocol};
use crate::weights::Weights;

/// The union of a service port's endpoints by address and port.
pub(crate) type Endpoints<'a> = BTreeMap<(IpAddr, u16), &'a Endpoint>;

/// What of a service port decides which lists it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    /// A node port, an external or an LB address.
    pub(crate) externally_accessible: bool,
}

/// The lists of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) cluster: BackendSet,
    pub(crate) local: BackendSet,
    pub(crate) serving: BackendSet,
    pub(crate) has_any_endpoint: bool,
}

/// Which ready endpoints the hints leave to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology<'a> {
    All,
    SameNode,
    SameZone(&'a str),
}

impl Topology<'_> {
    fn allows(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::All => true,
            Self::SameNode => endpoint.node_hint == NodeHint::ThisNode,
            Self::SameZone(zone) => endpoint.zone_hints.iter().any(|z| **z == *zone),
        }
    }
}

/// Decided over all ready endpoints before any filtering; one without a hint turns the kind off.
fn topology<'a, 'b, I>(endpoints: I, zone: Option<&'a str>) -> Topology<'a>
where
    I: Iterator<Item = &'b Endpoint> + Clone,
{
    let ready = || endpoints.clone().filter(|e| e.ready);
    let holds = |mode: Topology<'_>, hinted: fn(&Endpoint) -> bool| {
        ready().all(hinted) && ready().any(|e| mode.allows(e))
    };
    if holds(Topology::SameNode, |e| e.node_hint != NodeHint::None) {
        return Topology::SameNode;
    }
    match zone.map(Topology::SameZone) {
        Some(mode) if holds(mode, |e| !e.zone_hints.is_empty()) => mode,
        _ => Topology::All,
    }
}

/// The lists of a service port from its endpoints; `zone` is this node's, if it has one.
///
/// For new connections an endpoint of weight 0 is not there: the lists, their fallbacks and what an
/// empty one means are those of the others. Flows to it stay.
pub(crate) fn categorize(
    endpoints: &Endpoints<'_>,
    weights: &Weights,
    policy: Policy,
    protocol: Protocol,
    zone: Option<&str>,
) -> Lists {
    let uses_cluster = !policy.internal_local || policy.externally_accessible;
    let uses_local =
        policy.internal_local || (policy.external_local && policy.externally_accessible);

    // In order of address and port, as the map is.
    let weighed: Vec<(IpAddr, u16, &Endpoint, u8)> = endpoints
        .iter()
        .map(|(&(address, port), endpoint)| (address, port, *endpoint, weights.of(endpoint)))
        .collect();
    let choose = |wanted: &dyn Fn(&Endpoint, u8) -> bool| -> BackendSet {
        let chosen = weighed.iter().filter(|(.., endpoint, weight)| wanted(endpoint, *weight));
        // Whatever a list uses may also get new datagrams of old flows, serving or not (R31).
        let backends = chosen.map(|&(address, port, endpoint, weight)| Backend {
            address,
            port,
            protocol,
            serving: true,
            local: endpoint.local,
            weight,
        });
        backends.collect()
    };
    let select = |wanted: &dyn Fn(&Endpoint) -> bool| {
        choose(&|endpoint, weight| weight > 0 && wanted(endpoint))
    };
    let open =
        weighed.iter().filter(|(.., weight)| *weight > 0).map(|(_, _, endpoint, _)| *endpoint);
    let mut cluster = BackendSet::default();
    if uses_cluster {
        let mode = topology(open.clone(), zone);
        cluster = select(&|e| e.ready && mode.allows(e));
        if cluster.is_empty() {
            cluster = select(&|e| e.draining());
        }
    }
    let mut local = BackendSet::default();
    if uses_local {
        local = select(&|e| e.local && e.ready);
        if local.is_empty() {
            local = select(&|e| e.local && e.draining());
        }
    }
    let mut serving = choose(&|e, weight| e.serving || (e.ready && weight == 0));
    // Ready but not serving (publishNotReadyAddresses): flows to what a list uses stay (R31).
    let used = cluster.iter().chain(local.iter());
    let missing: Vec<Backend> =
        used.filter(|b| serving.binary_search(b).is_err()).copied().collect();
    if !missing.is_empty() {
        let mut all: Vec<Backend> = serving.iter().copied().chain(missing).collect();
        all.sort_unstable();
        all.dedup();
        serving = all.into();
    }
    let has_any_endpoint = open.clone().any(|e| e.ready || e.draining());
    // Equal lists are one allocation, and one table later on.
    if local == cluster {
        local = Arc::clone(&cluster);
    }
    if serving == cluster {
        serving = Arc::clone(&cluster);
    }
    Lists { cluster, local, serving, has_any_endpoint }
}
