//! Owns what the tables show: every route with its standing, what was announced and what was not,
//! and why.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::decide::{Standing, decide};
use super::export::{self, Speaker};
use super::route::{Path, Route};
use super::{Rib, Source};
use crate::family::Family;

/// A route as it stands.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The prefix.
    pub prefix: IpNet,
    /// The route.
    pub route: Route,
    /// How it stands.
    pub standing: Standing,
    /// For the best route: what each peer with a session is told, or why nothing.
    pub announced: Vec<AnnouncedView>,
}

/// What a peer is told of a route.
#[derive(Clone, Debug)]
pub struct AnnouncedView {
    /// The peer.
    pub peer: IpAddr,
    /// The path, or why there is none, for people.
    pub path: Result<Arc<Path>, String>,
}

/// A peer's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeerView {
    /// IPv4 and IPv6 prefixes received, before the policy.
    pub received: [usize; 2],
    /// Whether some family of it has three quarters of the prefixes that it may have.
    pub near_limit: bool,
    /// Of those: eligible after the policy.
    pub accepted: usize,
    /// Of those: stale.
    pub stale: usize,
    /// Prefixes announced to it.
    pub announced: usize,
    /// Prefixes waiting to be sent.
    pub waiting: usize,
}

impl Rib {
    /// All routes to prefixes within `within` (all if not given), in order of the prefixes, at
    /// most `most` prefixes.
    #[must_use]
    pub fn show(&self, within: Option<IpNet>, most: usize) -> Vec<RouteView> {
        let fits = |prefix: &&IpNet| within.is_none_or(|net| net.contains(*prefix));
        let mut prefixes: Vec<IpNet> = self.table.keys().filter(fits).copied().collect();
        prefixes.sort_unstable();
        prefixes.truncate(most);
        let speaker = Speaker { cluster_id: self.cluster_id(), draining: self.draining };
        let mut views = Vec::new();
        for prefix in prefixes {
            let Some(entry) = self.table.get(&prefix) else { continue };
            let standing = decide(&entry.routes, self.identity.max_paths);
            for (route, standing) in entry.routes.iter().zip(standing) {
                let announced = if standing == Standing::Best {
                    self.told(&prefix, route, speaker)
                } else {
                    Vec::new()
                };
                views.push(RouteView { prefix, route: route.clone(), standing, announced });
            }
        }
        views
    }

    fn told(&self, prefix: &IpNet, route: &Route, speaker: Speaker) -> Vec<AnnouncedView> {
        let up = self.peers.iter().filter(|(_, peer)| peer.session.is_some());
        up.map(|(address, peer)| {
            let path = export::export(prefix, route, peer, speaker)
                .map(Arc::new)
                .map_err(|why| why.to_string());
            AnnouncedView { peer: *address, path }
        })
        .collect()
    }

    /// Numbers of a peer.
    #[must_use]
    pub fn show_peer(&self, address: IpAddr) -> PeerView {
        let Some(peer) = self.peers.get(&address) else { return PeerView::default() };
        let (mut accepted, mut stale) = (0, 0);
        for prefix in peer.prefixes.iter() {
            let routes = self.table.get(prefix).map(|entry| &entry.routes[..]).unwrap_or_default();
            let own = routes.iter().filter(
                |route| matches!(&route.source, Source::Peer(facts) if facts.address == address),
            );
            for route in own {
                accepted += usize::from(route.unfit.is_none());
                stale += usize::from(route.stale);
            }
        }
        PeerView {
            received: Family::ALL.map(|family| peer.count(family)),
            near_limit: Family::ALL.into_iter().any(|family| peer.is_near_limit(family)),
            accepted,
            stale,
            announced: peer.out.sent.len(),
            waiting: peer.out.dirty.len(),
        }
    }
}
