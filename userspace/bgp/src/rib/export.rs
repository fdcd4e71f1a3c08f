//! Owns what a peer is told of a route (B15, B13 of passing on, B10): which routes it may have at
//! all, and with what attributes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::decide::DEFAULT_LOCAL_PREF;
use super::peer::PeerTable;
use super::route::{Path, PeerFacts, Route, Source};
use crate::attribute::{AsPath, Attributes, Community, NextHop, Origin};
use crate::family::Family;
use crate::policy;

/// Why a chosen route is not announced to a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// It came from there.
    #[error("learned from this peer")]
    FromThere,
    /// B15
    #[error("learned from an internal peer, and no client is involved")]
    Internal,
    /// RFC 1997
    #[error("its communities forbid it")]
    Community,
    /// The family was not negotiated.
    #[error("the peer does not exchange this family")]
    Family,
    /// There is no address of ours to name as the next hop.
    #[error("we have no address of this family that the peer could use as next hop")]
    NoNextHop,
    /// It is passed on with another's next hop, or the policy names one, which is loopback,
    /// link-local, unspecified or multicast.
    #[error("the peer cannot use its next hop, {0}")]
    UselessNextHop(IpAddr),
    /// B16: the rule's name.
    #[error("export policy: {0}")]
    Policy(String),
}

/// What every export needs to know of this speaker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) cluster_id: Ipv4Addr,
    pub(super) draining: bool,
}

/// The path that the peer is told.
///
/// # Errors
/// Why it is told none.
pub(super) fn export(
    prefix: &IpNet,
    route: &Route,
    peer: &PeerTable,
    speaker: Speaker,
) -> Result<Path, Withheld> {
    let Some(session) = &peer.session else { return Err(Withheld::Family) };
    let to = &session.facts;
    let family = Family::of(prefix);
    if !session.params.families.contains(family) {
        return Err(Withheld::Family);
    }
    let (tag, from) = match &route.source {
        Source::Local(tag) => (Some(*tag), None),
        Source::Peer(from) => (None, Some(from.as_ref())),
    };
    if let Some(from) = from {
        may_pass(from, to)?;
    }
    let communities = &route.path.attributes.communities;
    let forbids = |community: &Community| {
        *community == Community::NO_ADVERTISE
            || !to.internal
                && matches!(*community, Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED)
    };
    if communities.iter().any(forbids) {
        return Err(Withheld::Community);
    }
    let changes = peer
        .policies
        .export
        .decide(prefix, tag, &route.path.attributes)
        .map_err(|rule| Withheld::Policy(rule.to_owned()))?;
    let mut attributes = route.path.attributes.clone();
    attributes.origin.get_or_insert(Origin::Igp);
    attributes.as_path.get_or_insert_with(AsPath::default);
    let mut next_hop = match from {
        Some(_) if to.internal && !peer.policies.next_hop_self => route.path.next_hop,
        _ => own_next_hop(family, session.local_address, peer)?,
    };
    if to.internal {
        for_internal(&mut attributes, from, speaker.cluster_id);
    } else {
        for_external(&mut attributes, from.is_some(), peer.local_asn);
    }
    policy::apply(changes, to.internal, &mut attributes, &mut next_hop);
    if !next_hop.is_of_use_to_others() {
        return Err(Withheld::UselessNextHop(next_hop.address()));
    }
    if speaker.draining {
        // RFC 8326 4.1: whoever knows the community prefers other routes, then we can go.
        if !attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
            attributes.communities.push(Community::GRACEFUL_SHUTDOWN);
        }
        if to.internal {
            attributes.local_pref = Some(0);
        }
    }
    Ok(Path { attributes, next_hop })
}

/// RFC 4271 9.2.1, RFC 4456 6.
fn may_pass(from: &PeerFacts, to: &PeerFacts) -> Result<(), Withheld> {
    if from.address == to.address {
        return Err(Withheld::FromThere);
    }
    if from.internal && to.internal && !from.client && !to.client {
        return Err(Withheld::Internal);
    }
    Ok(())
}

/// Our address for the peer: the configured one, the session's own, or another of the speaker; the
/// first that is of use to the peer, whatever the session runs over.
fn own_next_hop(family: Family, local: IpAddr, peer: &PeerTable) -> Result<NextHop, Withheld> {
    let fits = |address: &IpAddr| address.is_ipv4() == (family == Family::Ipv4Unicast);
    let all = peer.policies.next_hops.iter().chain([&local]).chain(&peer.own_addresses);
    let mut of_use = all.copied().filter(|address| NextHop::from(*address).is_of_use_to_others());
    if let Some(address) = of_use.clone().find(fits) {
        return Ok(NextHop::from(address));
    }
    let extended = peer.session.as_ref().is_some_and(|session| session.params.extended_next_hop);
    // RFC 8950
    let other = if extended { of_use.find(IpAddr::is_ipv6) } else { None };
    other.map(NextHop::from).ok_or(Withheld::NoNextHop)
}

fn for_internal(attributes: &mut Attributes, from: Option<&PeerFacts>, cluster_id: Ipv4Addr) {
    attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
    if let Some(from) = from.filter(|from| from.internal) {
        // RFC 4456 8: set once, and our cluster before the others.
        attributes.originator_id.get_or_insert(from.id);
        attributes.cluster_list.insert(0, cluster_id);
    }
    pass_on_unknown(attributes);
}

fn for_external(attributes: &mut Attributes, learned: bool, local_asn: u32) {
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    if learned {
        // RFC 4271 5.1.4
        attributes.med = None;
    }
    let path = attributes.as_path.take().unwrap_or_default();
    attributes.as_path = Some(path.prepend(local_asn, 1));
    pass_on_unknown(attributes);
}

/// RFC 4271 5: unknown transitive attributes are passed on as partial, others end here.
fn pass_on_unknown(attributes: &mut Attributes) {
    attributes.opaque.retain(crate::attribute::Opaque::is_transitive);
    attributes.opaque.iter_mut().for_each(crate::attribute::Opaque::set_partial);
}
