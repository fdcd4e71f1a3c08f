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
    /// Lower identifier (ORIGINATOR_ID, else the peer's), shorter CLUSTER_LIST, lower address; also
    /// those beyond the limit of shared paths.
    Identifier,
}

/// Standing of each route, in order. Whether a route is stale makes no difference (RFC 4724 4.2): a
/// peer that restarts goes on forwarding, and its share of the traffic stays where it is.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attribute::{AsPath, Attributes, NextHop};
    use crate::policy::Tag;
    use crate::rib::route::{Path, PeerFacts, Unfit};

    /// A route by the n-th peer, through a neighbour AS of its own.
    fn route(n: u8, change: impl FnOnce(&mut Route, &mut Attributes)) -> Route {
        let address = IpAddr::from([10, 0, 0, n]);
        let facts =
            PeerFacts { address, id: Ipv4Addr::new(1, 1, 1, n), internal: false, client: false };
        let mut attributes = Attributes {
            as_path: Some(AsPath::sequence(&[65000 + u32::from(n), 7])),
            ..Attributes::default()
        };
        let path = Arc::new(Path { attributes: attributes.clone(), next_hop: address.into() });
        let mut route = Route {
            source: Source::Peer(Arc::new(facts)),
            received: Arc::clone(&path),
            path,
            stale: false,
            unfit: None,
        };
        change(&mut route, &mut attributes);
        route.path = Arc::new(Path { attributes, next_hop: NextHop::from(address) });
        route
    }

    fn as_is(_: &mut Route, _: &mut Attributes) {}

    #[test]
    fn b24_identifiers_decide_last_and_say_only_which_is_first() {
        let standing = [Standing::Multipath, Standing::Best];
        assert_eq!(decide(&[route(2, as_is), route(1, as_is)], 8), standing);
        let first_only = [Standing::Lost(Step::Identifier), Standing::Best];
        assert_eq!(decide(&[route(2, as_is), route(1, as_is)], 1), first_only);
        // ORIGINATOR_ID stands for the identifier (RFC 4456 9).
        let reflected = |n, id| {
            route(n, move |_, attributes| {
                attributes.originator_id = Some(Ipv4Addr::new(1, 1, 1, id));
            })
        };
        assert_eq!(decide(&[reflected(2, 1), reflected(1, 9)], 1)[0], Standing::Best);
        // Then the shorter CLUSTER_LIST, then the lower address.
        let behind = |n, clusters| {
            route(n, move |_, attributes| {
                attributes.originator_id = Some(Ipv4Addr::new(1, 1, 1, 1));
                attributes.cluster_list = vec![Ipv4Addr::new(9, 9, 9, 9); clusters];
            })
        };
        assert_eq!(decide(&[behind(1, 2), behind(2, 1)], 1)[1], Standing::Best);
        assert_eq!(decide(&[behind(2, 1), behind(1, 1)], 1)[1], Standing::Best);
    }

    #[test]
    fn b24_med_is_compared_within_a_neighbour_as_whatever_the_order() {
        let by = |n, asn, med| {
            route(n, move |_, attributes| {
                attributes.as_path = Some(AsPath::sequence(&[asn, 7]));
                attributes.med = med;
            })
        };
        let routes = [by(1, 65001, Some(20)), by(2, 65002, Some(30)), by(3, 65001, None)];
        let expected = [Standing::Lost(Step::Med), Standing::Best, Standing::Multipath];
        for turn in 0..routes.len() {
            let (mut routes, mut expected) = (routes.clone(), expected);
            routes.rotate_left(turn);
            expected.rotate_left(turn);
            assert_eq!(decide(&routes, 8), expected, "turned by {turn}");
        }
    }

    #[test]
    fn b24_own_routes_first_and_unfit_ones_never() {
        let own = route(9, |route, _| route.source = Source::Local(Tag(1)));
        let best = route(1, |_, attributes| attributes.local_pref = Some(500));
        assert_eq!(decide(&[best, own], 8), [Standing::Lost(Step::Local), Standing::Best]);
        let unfit = route(1, |route, _| route.unfit = Some(Unfit::AsLoop));
        assert_eq!(decide(&[unfit, route(2, as_is)], 8), [Standing::Unfit, Standing::Best]);
    }

    #[test]
    fn b18_a_stale_route_stands_as_it_did_before() {
        let stale = |n| route(n, |route, _| route.stale = true);
        for routes in [[stale(1), route(2, as_is)], [route(1, as_is), stale(2)]] {
            assert_eq!(decide(&routes, 8), [Standing::Best, Standing::Multipath]);
            assert_eq!(decide(&routes, 1)[0], Standing::Best);
        }
        assert_eq!(decide(&[stale(1)], 8), [Standing::Best]);
    }
}
