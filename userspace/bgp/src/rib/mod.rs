//! Owns the tables: Adj-RIB-In, Loc-RIB and Adj-RIB-Out of all peers. Pure: sessions' ups, downs
//! and UPDATEs go in, batches for the peers and changes for the kernel come out, when asked for.
//!
//! All routes to a prefix stand together, received ones with what the peer said, so a changed
//! policy needs no route refresh (B17). Work is in proportion to what changed.

mod again;
mod decide;
mod export;
mod import;
mod out;
mod peer;
mod restart;
mod route;
mod show;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use decide::{DEFAULT_LOCAL_PREF, Standing, Step, decide};
pub use export::Withheld;
pub use out::Batch;
pub use peer::Policies;
pub use restart::{DEFERRAL, Keep};
pub use route::{LocalRoute, Path, PeerFacts, Route, Source, Unfit};
pub use show::{AnnouncedView, PeerView, RouteView};

use crate::attribute::{AsPath, Origin};
use crate::family::Family;
use crate::fsm::{Negotiated, Time};
use crate::message::{Code, Notification, ReceivedUpdate, Refresh, RefreshKind};
use decide::Standing as S;
use import::Ground;
use peer::{Out, PeerTable, Session};
use restart::Convergence;

/// This speaker, as the tables need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Our AS.
    pub asn: u32,
    /// Our BGP identifier.
    pub bgp_id: Ipv4Addr,
    /// Our cluster as a route reflector (RFC 4456); the identifier if not set.
    pub cluster_id: Option<Ipv4Addr>,
    /// All addresses of this node.
    pub addresses: Vec<IpAddr>,
    /// Most paths that share a prefix's traffic.
    pub max_paths: usize,
}

/// What the kernel is to have for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Next hops, the best route's first; more than one share the traffic.
    pub next_hops: Vec<IpAddr>,
    /// The best route's peer.
    pub from: IpAddr,
}

/// A change of the routes to install; `None` for a prefix without any.
pub type RouteChange = (IpNet, Option<Chosen>);

/// Why a peer's session has to end, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the peer is told.
    pub notification: Notification,
    /// The limit.
    pub max_prefixes: u32,
}

/// The tables.
#[derive(Debug)]
pub struct Rib {
    identity: Identity,
    links: Option<Vec<IpNet>>,
    draining: bool,
    peers: BTreeMap<IpAddr, PeerTable>,
    table: HashMap<IpNet, Entry>,
    /// Our own routes, as set last.
    locals: BTreeMap<IpNet, LocalRoute>,
    /// All of our own routes are known: End-of-RIB may be sent.
    locals_complete: bool,
    /// Prefixes whose installed routes changed since they were last taken.
    changed: BTreeSet<IpNet>,
    /// What was last handed out for the kernel.
    installed: HashMap<IpNet, Chosen>,
    convergence: Convergence,
    /// Peers that met their warning level.
    warnings: Vec<(IpAddr, Family, usize)>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    routes: Vec<Route>,
    /// Position of the best route.
    best: Option<usize>,
}

/// A session that has come up.
#[derive(Clone, Debug)]
pub struct SessionUp {
    /// What was negotiated.
    pub negotiated: Negotiated,
    /// Our end of the connection.
    pub local_address: IpAddr,
}

impl Rib {
    /// Empty tables. `deferral`: how long the peers' End-of-RIBs are waited for at most, once the
    /// peers are known, before what a former run left may be swept.
    #[must_use]
    pub fn new(identity: Identity, deferral: Duration) -> Self {
        Self {
            identity,
            links: None,
            draining: false,
            peers: BTreeMap::new(),
            table: HashMap::new(),
            locals: BTreeMap::new(),
            locals_complete: false,
            changed: BTreeSet::new(),
            installed: HashMap::new(),
            convergence: Convergence::PeersUnknown(deferral),
            warnings: Vec::new(),
        }
    }

    /// Adds a peer, or gives it other policies; those count at once.
    pub fn set_peer(&mut self, address: IpAddr, asns: (u32, u32), policies: Policies) {
        let Some(peer) = self.peers.get_mut(&address) else {
            let table = PeerTable::new(asns, policies, self.identity.addresses.clone());
            self.peers.insert(address, table);
            return;
        };
        (peer.local_asn, peer.peer_asn) = asns;
        let before = std::mem::replace(&mut peer.policies, policies);
        let (import, export) = (
            (&before.import, before.enforce_first_as)
                != (&peer.policies.import, peer.policies.enforce_first_as),
            (&before.export, &before.next_hops, before.next_hop_self)
                != (&peer.policies.export, &peer.policies.next_hops, peer.policies.next_hop_self),
        );
        if before.client != peer.policies.client {
            self.set_client(address);
        }
        if import {
            self.import_again(Some(address));
        }
        if export || before.client != self.is_client(address) {
            self.export_again(Some(address));
        }
    }

    /// Removes a peer with all its routes.
    pub fn remove_peer(&mut self, address: IpAddr) {
        self.drop_routes(address, |_| true);
        self.peers.remove(&address);
    }

    /// Sets our own routes. Once `complete`, peers are told that there are no more for now.
    pub fn set_locals(&mut self, routes: Vec<LocalRoute>, complete: bool) {
        self.locals_complete |= complete;
        let new: BTreeMap<IpNet, LocalRoute> =
            routes.into_iter().map(|route| (route.prefix, route)).collect();
        let before = std::mem::replace(&mut self.locals, new);
        let gone: Vec<IpNet> =
            before.keys().filter(|prefix| !self.locals.contains_key(*prefix)).copied().collect();
        for prefix in gone {
            self.change(prefix, |routes| routes.retain(|r| r.source.peer().is_some()));
        }
        let differs = |route: &&LocalRoute| before.get(&route.prefix) != Some(*route);
        let news: Vec<LocalRoute> = self.locals.values().filter(differs).cloned().collect();
        for route in news {
            let LocalRoute { prefix, tag, mut attributes } = route;
            attributes.origin.get_or_insert(Origin::Igp);
            attributes.as_path.get_or_insert_with(AsPath::default);
            // Every peer gets a next hop that fits it.
            let next_hop = crate::attribute::NextHop::V4(Ipv4Addr::UNSPECIFIED);
            let path = Arc::new(Path { attributes, next_hop });
            let route = Route {
                source: Source::Local(tag),
                received: Arc::clone(&path),
                path,
                stale: false,
                unfit: None,
            };
            self.change(prefix, |routes| {
                routes.retain(|r| r.source.peer().is_some());
                routes.push(route);
            });
        }
    }

    /// Takes in an UPDATE.
    ///
    /// # Errors
    /// When the peer passes its limit of prefixes (B22): the session has to end.
    pub fn update(&mut self, address: IpAddr, received: ReceivedUpdate) -> Result<(), Limit> {
        let update = received.update;
        if let Some(family) = received.end_of_rib {
            self.end_of_rib(address, family);
            return Ok(());
        }
        for prefix in update.withdrawals() {
            self.remove(address, prefix);
        }
        let Some(facts) = self.facts(address) else { return Ok(()) };
        let announcements: Vec<_> = update.announcements().collect();
        // One path, and one verdict of the policy per prefix.
        let mut paths: Vec<Arc<Path>> = Vec::with_capacity(1);
        for (prefix, next_hop) in announcements {
            let received = match paths.iter().find(|path| path.next_hop == next_hop) {
                Some(path) => Arc::clone(path),
                None => {
                    let attributes = update.attributes.clone();
                    paths.push(Arc::new(Path { attributes, next_hop }));
                    match paths.last() {
                        Some(path) => Arc::clone(path),
                        None => continue,
                    }
                }
            };
            self.learn(&facts, prefix, received)?;
        }
        Ok(())
    }

    fn learn(
        &mut self,
        facts: &Arc<PeerFacts>,
        prefix: IpNet,
        received: Arc<Path>,
    ) -> Result<(), Limit> {
        let address = facts.address;
        let family = Family::of(&prefix);
        let Some(peer) = self.peers.get_mut(&address) else { return Ok(()) };
        if let Some(max_prefixes) = peer.limit_passed_by(&prefix) {
            return Err(limit(family, max_prefixes));
        }
        peer.note(prefix);
        if peer.is_near_limit(family) && !peer.warned.contains(&family) {
            peer.warned.push(family);
            self.warnings.push((address, family, peer.count_sent(family)));
        }
        let (path, unfit) = match self.peers.get(&address) {
            Some(peer) => {
                import::import(&prefix, &received, facts, &peer.policies, &self.ground(peer))
            }
            None => return Ok(()),
        };
        let source = Source::Peer(Arc::clone(facts));
        let route = Route { source, received, path, stale: false, unfit };
        self.change(prefix, |routes| {
            match routes.iter_mut().find(|route| route.source.peer() == Some(address)) {
                Some(before) => *before = route,
                None => routes.push(route),
            }
        });
        Ok(())
    }

    fn ground<'a>(&'a self, peer: &PeerTable) -> Ground<'a> {
        Ground {
            local_asn: peer.local_asn,
            peer_asn: peer.peer_asn,
            bgp_id: self.identity.bgp_id,
            cluster_id: self.cluster_id(),
            own_addresses: &self.identity.addresses,
            links: self.links.as_deref(),
        }
    }

    fn cluster_id(&self) -> Ipv4Addr {
        self.identity.cluster_id.unwrap_or(self.identity.bgp_id)
    }

    fn remove(&mut self, address: IpAddr, prefix: IpNet) {
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.forget(&prefix);
        }
        if self.table.contains_key(&prefix) {
            self.change(prefix, |routes| routes.retain(|r| r.source.peer() != Some(address)));
        }
    }

    /// Changes the routes to a prefix and decides anew; peers and kernel are told later, and only
    /// if the outcome differs.
    fn change(&mut self, prefix: IpNet, edit: impl FnOnce(&mut Vec<Route>)) {
        let entry = self.table.entry(prefix).or_default();
        let before = entry.best.and_then(|best| entry.routes.get(best)).cloned();
        edit(&mut entry.routes);
        let standing = decide(&entry.routes, self.identity.max_paths);
        entry.best = standing.iter().position(|standing| *standing == S::Best);
        let best = entry.best.and_then(|best| entry.routes.get(best));
        let same = match (&before, best) {
            (None, None) => true,
            (Some(a), Some(b)) => a.source == b.source && a.path == b.path,
            _ => false,
        };
        if entry.routes.is_empty() {
            self.table.remove(&prefix);
        }
        self.changed.insert(prefix);
        if !same {
            for peer in self.peers.values_mut().filter(|peer| peer.session.is_some()) {
                peer.out.dirty.insert(prefix);
            }
        }
    }

    /// What differs for the kernel since the last call, at most `most` prefixes.
    pub fn take_changes(&mut self, most: usize) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        while changes.len() < most {
            let Some(prefix) = self.changed.pop_first() else { break };
            let chosen = self.chosen(&prefix);
            if self.installed.get(&prefix) == chosen.as_ref() {
                continue;
            }
            match &chosen {
                Some(chosen) => self.installed.insert(prefix, chosen.clone()),
                None => self.installed.remove(&prefix),
            };
            changes.push((prefix, chosen));
        }
        changes
    }

    /// Whether [`Rib::take_changes`] may have something.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    fn chosen(&self, prefix: &IpNet) -> Option<Chosen> {
        let entry = self.table.get(prefix)?;
        let best = entry.routes.get(entry.best?)?;
        let from = best.source.peer()?;
        let mut next_hops = vec![best.path.next_hop.address()];
        if self.identity.max_paths > 1 {
            let standing = decide(&entry.routes, self.identity.max_paths);
            for (route, standing) in entry.routes.iter().zip(standing) {
                let address = route.path.next_hop.address();
                if standing == S::Multipath && !next_hops.contains(&address) {
                    next_hops.push(address);
                }
            }
            // The order says nothing: the same set must look the same.
            if let Some((_, rest)) = next_hops.split_first_mut() {
                rest.sort_unstable();
            }
        }
        Some(Chosen { next_hops, from })
    }

    fn facts(&self, address: IpAddr) -> Option<Arc<PeerFacts>> {
        let session = self.peers.get(&address)?.session.as_ref()?;
        Some(Arc::clone(&session.facts))
    }

    fn is_client(&self, address: IpAddr) -> bool {
        self.peers.get(&address).is_some_and(|peer| peer.policies.client)
    }

    /// Peers that came near their limit of prefixes since the last call: family and count. Once
    /// for each session and family.
    pub fn take_warnings(&mut self) -> Vec<(IpAddr, Family, usize)> {
        std::mem::take(&mut self.warnings)
    }

    /// Takes in a route refresh (B17).
    pub fn refresh(&mut self, address: IpAddr, refresh: Refresh, now: Time) {
        // Of a family that was not negotiated, or a mark without RFC 7313: ignored.
        let Ok(family) = Family::try_from(refresh.afi_safi) else { return };
        let Some(peer) = self.peers.get_mut(&address) else { return };
        let Some(session) = &peer.session else { return };
        if !session.params.families.contains(family) {
            return;
        }
        let enhanced = session.params.enhanced_refresh;
        match refresh.kind {
            RefreshKind::Request => peer.out.send_again(family, enhanced),
            RefreshKind::Begin if enhanced => self.begin_refresh(address, family, now),
            RefreshKind::End if enhanced => self.sweep(address, family),
            RefreshKind::Begin | RefreshKind::End => {}
        }
    }

    /// A peer's session has come up.
    pub fn up(&mut self, address: IpAddr, up: SessionUp, now: Time) {
        let all: Vec<IpNet> = self.table.keys().copied().collect();
        let Some(peer) = self.peers.get_mut(&address) else { return };
        let SessionUp { negotiated, local_address } = up;
        let params = negotiated.params;
        let facts = PeerFacts {
            address,
            id: negotiated.peer_id,
            internal: params.ibgp,
            client: peer.policies.client,
        };
        peer.session = Some(Session {
            facts: Arc::new(facts),
            params,
            local_address,
            awaits_end: params.families,
            end_due: restart::end_due(&negotiated, now),
            restarted: negotiated.peer_restarted(),
        });
        peer.warned.clear();
        peer.out = Out { owes_end: params.families.iter().collect(), ..Out::default() };
        peer.out.dirty.extend(all);
        let kept = negotiated.kept_families();
        self.drop_stale_except(address, kept, now);
    }

    /// A peer's session is over. `keep`: its routes stay for its restart time.
    pub fn down(&mut self, address: IpAddr, keep: Option<Keep>, now: Time) {
        let Some(peer) = self.peers.get_mut(&address) else { return };
        peer.session = None;
        peer.out = Out::default();
        match keep {
            Some(keep) => self.keep_stale(address, keep, now),
            None => self.drop_routes(address, |_| true),
        }
    }

    fn drop_routes(&mut self, address: IpAddr, which: impl Fn(&Route) -> bool) {
        let Some(peer) = self.peers.get(&address) else { return };
        let prefixes: Vec<IpNet> = peer.prefixes.iter().copied().collect();
        for prefix in prefixes {
            let found = self.table.get(&prefix).and_then(|entry| {
                entry.routes.iter().find(|route| route.source.peer() == Some(address))
            });
            if found.is_some_and(&which) {
                self.remove(address, prefix);
            }
        }
    }
}

fn limit(family: Family, max_prefixes: u32) -> Limit {
    let wire = crate::family::AfiSafi::from(family);
    // RFC 4486 4: AFI, SAFI, upper bound.
    let data = [&wire.afi.to_be_bytes()[..], &[wire.safi], &max_prefixes.to_be_bytes()].concat();
    Limit { notification: Notification::with_data(Code::MAX_PREFIXES, &data), max_prefixes }
}
