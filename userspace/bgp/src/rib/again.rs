//! Owns looking at routes again after something other than the routes changed: policies, addresses,
//! links, roles (B17). What the peer said stands in the tables, so nobody has to be asked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::route::{PeerFacts, Route, Source};
use super::{Rib, import};

impl Rib {
    /// Sets the networks on our links: what next hops must be in to be used (B24). `None` takes
    /// any next hop.
    pub fn set_links(&mut self, links: Option<Vec<IpNet>>) {
        if self.links != links {
            self.links = links;
            self.import_again(None);
        }
    }

    /// Sets this node's addresses.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        if self.identity.addresses == addresses {
            return;
        }
        self.identity.addresses = addresses.clone();
        for peer in self.peers.values_mut() {
            peer.own_addresses.clone_from(&addresses);
        }
        self.import_again(None);
        self.export_again(None);
    }

    /// Announces everything as about to go away, or no longer so (B10).
    pub fn set_draining(&mut self, draining: bool) {
        if self.draining != draining {
            self.draining = draining;
            self.export_again(None);
        }
    }

    /// Sets our cluster as a route reflector (RFC 4456); our identifier if `None`.
    pub fn set_cluster_id(&mut self, cluster_id: Option<Ipv4Addr>) {
        let before = self.cluster_id();
        self.identity.cluster_id = cluster_id;
        if self.cluster_id() != before {
            self.import_again(None);
            // What was sent is compared: only reflected routes have it in them.
            self.export_again(None);
        }
    }

    pub(super) fn set_client(&mut self, address: IpAddr) {
        let client = self.is_client(address);
        if let Some(session) = self.peers.get_mut(&address).and_then(|peer| peer.session.as_mut()) {
            let facts = PeerFacts { client, ..session.facts.as_ref().clone() };
            session.facts = Arc::new(facts);
        }
        self.import_again(Some(address));
        self.export_again(None);
    }

    /// Imports received routes anew: of one peer, or of all.
    pub(super) fn import_again(&mut self, of: Option<IpAddr>) {
        let addresses: Vec<IpAddr> = match of {
            Some(address) => vec![address],
            None => self.peers.keys().copied().collect(),
        };
        for address in addresses {
            let Some(peer) = self.peers.get(&address) else { continue };
            let prefixes: Vec<IpNet> = peer.prefixes.iter().copied().collect();
            for prefix in prefixes {
                self.import_one(address, prefix);
            }
        }
    }

    fn import_one(&mut self, address: IpAddr, prefix: IpNet) {
        let found = self.table.get(&prefix).and_then(|entry| {
            entry.routes.iter().find(|route| route.source.peer() == Some(address))
        });
        let (Some(route), Some(peer)) = (found, self.peers.get(&address)) else { return };
        let Source::Peer(facts) = &route.source else { return };
        let facts = peer.session.as_ref().map_or(facts, |session| &session.facts);
        let (path, unfit) =
            import::import(&prefix, &route.received, facts, &peer.policies, &self.ground(peer));
        let source = Source::Peer(Arc::clone(facts));
        if (path == route.path, &unfit, &source) == (true, &route.unfit, &route.source) {
            return;
        }
        let new = Route { source, path, unfit, ..route.clone() };
        self.change(prefix, |routes| {
            for route in routes.iter_mut().filter(|r| r.source.peer() == Some(address)) {
                *route = new.clone();
            }
        });
    }

    /// Looks at everything again that one peer, or all, may be sent.
    pub(super) fn export_again(&mut self, to: Option<IpAddr>) {
        let all: Vec<IpNet> = self.table.keys().copied().collect();
        for (address, peer) in &mut self.peers {
            if peer.session.is_some() && to.is_none_or(|to| to == *address) {
                peer.out.dirty.extend(&all);
            }
        }
    }
}
