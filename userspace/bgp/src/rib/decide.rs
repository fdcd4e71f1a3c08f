//! Owns the decision process (B24, RFC 4271 9.1.2.2, RFC 4456 9): which of the routes to one
//! prefix is the best, which others share its traffic, and at which step the rest lost.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use super::route::{Route, Source};

/// LOCAL_PREF of routes that come without (external peers).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// How a route stands among those to the same prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The best.
    Best,
    /// As good as the best up to the identifiers: used beside it.
    Multipath,
    /// Not eligible.
    Unfit,
    /// Lost against the best at this step.
    Lost(Step),
}

/// Steps of the decision process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Our own routes come first.
    Local,
    /// Higher LOCAL_PREF.
    LocalPref,
    /// Shorter AS_PATH.
    PathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MED, among routes from one neighbour AS.
    Med,
    /// From external peers before internal.
    External,
    /// Confirmed before stale ones.
    Stale,
    /// Lower identifier (ORIGINATOR_ID, else the peer's), shorter CLUSTER_LIST, lower address; also
    /// those beyond the limit of shared paths.
    Identifier,
}

/// Standing of each route, in order.
#[must_use]
pub fn decide(routes: &[Route], max_paths: usize) -> Vec<Standing> {
    let mut standing: Vec<Standing> = routes
        .iter()
        .map(|route| if route.unfit.is_some() { Standing::Unfit } else { Standing::Best })
        .collect();
    narrow(routes, &mut standing, Step::Local, |r| matches!(r.source, Source::Peer(_)));
    narrow(routes, &mut standing, Step::LocalPref, |r| {
        Reverse(r.path.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF))
    });
    narrow(routes, &mut standing, Step::PathLength, |r| {
        r.path.attributes.as_path.as_ref().map_or(0, |path| path.length())
    });
    narrow(routes, &mut standing, Step::Origin, |r| r.path.attributes.origin.unwrap_or_default());
    narrow_by_med(routes, &mut standing);
    narrow(routes, &mut standing, Step::External, |r| match &r.source {
        Source::Local(_) => false,
        Source::Peer(facts) => facts.internal,
    });
    narrow(routes, &mut standing, Step::Stale, |r| r.stale);
    choose(routes, &mut standing, max_paths);
    standing
}

/// Keeps those with the least key.
fn narrow<K: Ord>(
    routes: &[Route],
    standing: &mut [Standing],
    step: Step,
    key: impl Fn(&Route) -> K,
) {
    let least = candidates(routes, standing).map(|(_, route)| key(route)).min();
    for (route, standing) in routes.iter().zip(standing) {
        if *standing == Standing::Best && Some(key(route)) != least {
            *standing = Standing::Lost(step);
        }
    }
}

/// RFC 4271 9.1.2.2 c: a route loses if another from the same neighbour AS has a lower MED; no MED
/// is 0. The order of arrival has no say.
fn narrow_by_med(routes: &[Route], standing: &mut [Standing]) {
    let key = |route: &Route| {
        let attributes = &route.path.attributes;
        let neighbour = attributes.as_path.as_ref().and_then(|path| path.first());
        (neighbour, attributes.med.unwrap_or(0))
    };
    let all: Vec<(Option<u32>, u32)> =
        candidates(routes, standing).map(|(_, route)| key(route)).collect();
    if all.len() < 2 {
        return;
    }
    for (route, standing) in routes.iter().zip(standing) {
        let (neighbour, med) = key(route);
        let beaten = all.iter().any(|(other, less)| *other == neighbour && *less < med);
        if *standing == Standing::Best && beaten {
            *standing = Standing::Lost(Step::Med);
        }
    }
}

fn choose(routes: &[Route], standing: &mut [Standing], max_paths: usize) {
    let mut left: Vec<(Identity, usize)> =
        candidates(routes, standing).map(|(index, route)| (identity(route), index)).collect();
    left.sort_unstable();
    for (place, (_, index)) in left.into_iter().enumerate() {
        if let Some(standing) = standing.get_mut(index) {
            *standing = match place {
                0 => Standing::Best,
                _ if place < max_paths => Standing::Multipath,
                _ => Standing::Lost(Step::Identifier),
            };
        }
    }
}

type Identity = (Ipv4Addr, usize, Option<IpAddr>);

fn identity(route: &Route) -> Identity {
    let attributes = &route.path.attributes;
    let id = match &route.source {
        Source::Local(_) => Ipv4Addr::UNSPECIFIED,
        Source::Peer(facts) => attributes.originator_id.unwrap_or(facts.id),
    };
    (id, attributes.cluster_list.len(), route.source.peer())
}

fn candidates<'a>(
    routes: &'a [Route],
    standing: &'a [Standing],
) -> impl Iterator<Item = (usize, &'a Route)> {
    let all = routes.iter().zip(standing).enumerate();
    all.filter(|(_, (_, standing))| **standing == Standing::Best).map(|(i, (route, _))| (i, route))
}
