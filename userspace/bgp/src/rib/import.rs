//! Owns what makes a received route eligible (B14, B16, B24): loops, first AS, next hop, import
//! policy.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::peer::Policies;
use super::route::{Path, PeerFacts, Unfit};
use crate::attribute::{Attributes, Community};
use crate::policy;

/// What every import needs to know of this speaker.
#[derive(Clone, Debug)]
pub(super) struct Ground<'a> {
    pub(super) local_asn: u32,
    pub(super) peer_asn: u32,
    pub(super) bgp_id: Ipv4Addr,
    pub(super) cluster_id: Ipv4Addr,
    pub(super) own_addresses: &'a [IpAddr],
    /// Networks on our links; `None`: not known, every next hop counts as reachable.
    pub(super) links: Option<&'a [IpNet]>,
}

/// The path after the policy, and why the route is not eligible, if so. `received` itself comes
/// back where nothing is changed.
pub(super) fn import(
    prefix: &IpNet,
    received: &Arc<Path>,
    from: &PeerFacts,
    policies: &Policies,
    ground: &Ground<'_>,
) -> (Arc<Path>, Option<Unfit>) {
    let unfit = check(received, from, policies, ground);
    if unfit.is_some() {
        return (Arc::clone(received), unfit);
    }
    let attributes = &received.attributes;
    let changes = match policies.import.decide(prefix, None, attributes) {
        Ok(changes) => changes,
        Err(rule) => return (Arc::clone(received), Some(Unfit::Policy(rule.into()))),
    };
    // RFC 8326 4.1: what is about to go away is the last choice.
    let shutdown = !from.internal && attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN);
    if changes.is_empty() && !shutdown {
        return (Arc::clone(received), None);
    }
    let mut path = Path::clone(received);
    policy::apply(changes, true, &mut path.attributes, &mut path.next_hop);
    if shutdown {
        path.attributes.local_pref = Some(0);
    }
    (Arc::new(path), None)
}

fn check(path: &Path, from: &PeerFacts, policies: &Policies, ground: &Ground<'_>) -> Option<Unfit> {
    let Attributes { as_path, originator_id, cluster_list, .. } = &path.attributes;
    let mut ases = as_path.iter().flat_map(|path| path.ases());
    if ases.any(|asn| asn == ground.local_asn) {
        return Some(Unfit::AsLoop);
    }
    if *originator_id == Some(ground.bgp_id) {
        return Some(Unfit::OriginatorLoop);
    }
    if cluster_list.contains(&ground.cluster_id) {
        return Some(Unfit::ClusterLoop);
    }
    let first = as_path.as_ref().and_then(|path| path.first());
    if !from.internal && policies.enforce_first_as && first != Some(ground.peer_asn) {
        return Some(Unfit::FirstAs);
    }
    if ground.own_addresses.contains(&path.next_hop.address()) {
        return Some(Unfit::OwnNextHop);
    }
    let next_hop = path.next_hop.address();
    if is_link_local(&next_hop) {
        return Some(Unfit::LinkLocal);
    }
    // B24: a next hop has to be on a link, for that is what the kernel takes.
    let on_link = |links: &[IpNet]| links.iter().any(|link| link.contains(&next_hop));
    ground.links.is_some_and(|links| !on_link(links)).then_some(Unfit::Unresolved)
}

/// An address like this says nothing without an interface, and routes here have none.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
