//! Whom to talk to and under which policy (contract of a node). Pure.
//!
//! Towards nodes: the own pod ranges out, theirs in. Towards routers: pod ranges and addresses of
//! Services out, nothing in but what is allowed. Nothing learned goes on: a node is no transit;
//! only a route reflector passes other nodes' pod ranges on to nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use sluice_bgp::driver::{Password, PeerConfig, Ttl};
use sluice_bgp::fsm;
use sluice_bgp::policy::{Change, Condition, Policy, PrefixRange, Rule, Tag, Verdict};
use sluice_bgp::rib::Policies;

use super::announce::{POD_CIDR, VIP};
use super::nodes::{Annotated, NodeFacts, Reflection};
use super::peer_options::PeerOptions;
use super::settings::{KeyedRouter, RouterPeer, Settings};

/// Pause after a peer sent too many prefixes.
const LIMIT_PAUSE: Duration = Duration::from_secs(600);

/// What the peers follow from.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Flags.
    pub settings: &'a Settings,
    /// The own Node.
    pub own: &'a NodeFacts,
    /// All other Nodes.
    pub others: &'a [NodeFacts],
    /// Routers of the flags, then those of the own Node's annotation.
    pub routers: &'a [KeyedRouter],
    /// Ranges and addresses of Services, and all addresses of this node: never to be learned.
    pub protected: &'a [IpNet],
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// This process is a restart that found routes of an earlier run in place.
    pub restarted: bool,
}

/// All peers, by address, and what stands in the way of others.
#[must_use]
pub fn peers(ground: &Ground<'_>) -> (Vec<PeerConfig>, Vec<String>) {
    let mut problems = Vec::new();
    let mut all: BTreeMap<IpAddr, PeerConfig> = BTreeMap::new();
    for (router, password) in ground.routers {
        let address = router.address;
        if router.bfd && hops(ground.settings, router) > 1 {
            problems.push(format!("peer {address}: no BFD over several hops"));
        }
        if all.insert(address, external(ground, router, password.clone())).is_some() {
            problems.push(format!("peer {address} is given twice; the Node's annotation counts"));
        }
    }
    if has_ibgp(ground.settings, ground.own) {
        for node in ground.others.iter().filter(|node| talks_to(ground, node)) {
            match node_peer(ground, node) {
                Some(peer) => match all.get(&peer.address) {
                    None => drop(all.insert(peer.address, peer)),
                    Some(_) => problems.push(format!(
                        "node {} has the address of a router, {}",
                        node.name, peer.address
                    )),
                },
                None => problems.push(format!("node {} has no internal address", node.name)),
            }
        }
    }
    (all.into_values().collect(), problems)
}

/// The AS of a node.
#[must_use]
pub fn asn_of(settings: &Settings, node: &NodeFacts) -> u32 {
    node.annotated.asn.unwrap_or(settings.asn)
}

/// Whether a node talks to others at all: its annotation, or the flag, which is the same on all.
fn has_ibgp(settings: &Settings, node: &NodeFacts) -> bool {
    node.annotated.ibgp.unwrap_or(settings.ibgp)
}

/// Whether two nodes talk: both in one AS unless there is a full mesh, and of clients of route
/// reflectors only with servers.
fn talks_to(ground: &Ground<'_>, node: &NodeFacts) -> bool {
    if !has_ibgp(ground.settings, node) {
        return false;
    }
    let asn = |node| asn_of(ground.settings, node);
    let together = ground.settings.full_mesh || asn(node) == asn(ground.own);
    let by_reflection = match (ground.own.annotated.reflection, node.annotated.reflection) {
        (Some(Reflection::Server(_)), _) | (_, Some(Reflection::Server(_))) => true,
        (Some(Reflection::Client(_)), _) | (_, Some(Reflection::Client(_))) => false,
        (None, None) => true,
    };
    together && by_reflection
}

fn machine(ground: &Ground<'_>, peer_asn: u32) -> fsm::Settings {
    let asn = asn_of(ground.settings, ground.own);
    let mut settings = fsm::Settings::new(asn, ground.router_id, peer_asn);
    settings.hold_s = ground.settings.hold_s;
    settings.hostname.clone_from(&ground.own.name);
    settings.restarted = ground.restarted;
    settings.graceful_restart_s = Some(ground.settings.restart_s);
    settings
}

fn rule(name: &str, when: Condition, verdict: Verdict) -> Rule {
    Rule { name: name.to_owned(), when, verdict }
}

fn prefixes(ranges: impl IntoIterator<Item = PrefixRange>) -> Condition {
    Condition { prefixes: Some(ranges.into_iter().collect()), ..Condition::default() }
}

fn tagged(tag: Tag) -> Condition {
    Condition { tags: Some(vec![tag]), ..Condition::default() }
}

/// Never learned from anyone: default routes, what lies within the own pod ranges, addresses of
/// Services and of this node.
fn never(ground: &Ground<'_>) -> Vec<Rule> {
    let default = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok());
    let own = ground.own.pod_cidrs.iter().copied();
    let protected = ground.protected.iter().copied();
    vec![
        rule("no default routes", prefixes(default.map(PrefixRange::exact)), Verdict::Reject),
        rule("our own pod range", prefixes(own.map(PrefixRange::within)), Verdict::Reject),
        rule(
            "an address of a Service or of this node",
            prefixes(protected.map(PrefixRange::within)),
            Verdict::Reject,
        ),
    ]
}

fn node_peer(ground: &Ground<'_>, node: &NodeFacts) -> Option<PeerConfig> {
    let own = ground.own;
    // One session for both families, over the first that both have.
    let local = own.addresses.iter().copied().find(|own| node.address_like(*own).is_some())?;
    let address = node.address_like(local)?;
    let settings = machine(ground, asn_of(ground.settings, node));
    let mut import = never(ground);
    let is_server =
        |node: &NodeFacts| matches!(node.annotated.reflection, Some(Reflection::Server(_)));
    // A reflector's routes are those of all nodes.
    let theirs: Vec<IpNet> = if is_server(node) {
        ground.others.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect()
    } else {
        node.pod_cidrs.clone()
    };
    import.push(rule(
        "pod ranges of nodes",
        prefixes(theirs.into_iter().map(PrefixRange::exact)),
        Verdict::Accept(vec![]),
    ));
    let mut export = vec![rule("our pod ranges", tagged(POD_CIDR), Verdict::Accept(vec![]))];
    if is_server(own) {
        let all = ground.others.iter().flat_map(|node| node.pod_cidrs.iter().copied());
        let when = prefixes(all.map(PrefixRange::exact));
        export.push(rule("addresses of Services", tagged(VIP), Verdict::Reject));
        export.push(rule("reflected pod ranges", when, Verdict::Accept(vec![])));
    }
    let internal = settings.is_internal();
    let policies = Policies {
        import: Policy { rules: import },
        export: Policy { rules: export },
        next_hops: own.addresses.clone(),
        next_hop_self: false,
        client: is_server(own) && matches!(node.annotated.reflection, Some(Reflection::Client(_))),
        max_prefixes: Some(ground.settings.max_prefixes),
        enforce_first_as: true,
    };
    Some(PeerConfig {
        port: ground.settings.port,
        policies,
        local_address: Some(local),
        // Nodes of other ASes may be some hops away.
        ttl: if internal { Ttl::Any } else { Ttl::Send(64) },
        limit_pause: Some(LIMIT_PAUSE),
        ..PeerConfig::new(address, settings)
    })
}

/// Hops to a router; 0 and 1: on a link.
fn hops(flags: &Settings, router: &RouterPeer) -> u8 {
    router.ttl_security.or(router.options.multihop).unwrap_or(flags.multihop)
}

/// What is changed in all that is announced to a router: by what is said of it, else of the Node.
fn changes(annotated: &Annotated, options: &PeerOptions) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(options.med.map(Change::Med));
    let prepend = options.prepend.or(annotated.prepend);
    changes.extend(prepend.map(|(asn, times)| Change::Prepend(asn, times)));
    let (standard, large) = match &options.communities {
        Some((standard, large)) => (standard, large),
        None => (&annotated.communities, &annotated.large_communities),
    };
    if !standard.is_empty() {
        changes.push(Change::AddCommunities(standard.clone()));
    }
    if !large.is_empty() {
        changes.push(Change::AddLargeCommunities(large.clone()));
    }
    changes
}

fn external(ground: &Ground<'_>, router: &RouterPeer, password: Option<Password>) -> PeerConfig {
    let flags = ground.settings;
    let options = &router.options;
    let mut settings = machine(ground, router.asn);
    if !options.graceful_restart.unwrap_or(flags.graceful_restart) {
        settings.graceful_restart_s = None;
    }
    settings.hold_s = options.hold_s.unwrap_or(settings.hold_s);
    settings.passive = options.passive;
    let mut import = never(ground);
    import.push(rule(
        "--import-allow",
        prefixes(flags.import_allow.iter().copied().map(PrefixRange::within)),
        Verdict::Accept(vec![]),
    ));
    let changes = changes(&ground.own.annotated, options);
    let mut export = Vec::new();
    if flags.advertise_pod_cidr {
        export.push(rule("our pod ranges", tagged(POD_CIDR), Verdict::Accept(changes.clone())));
    } else {
        export.push(rule("--advertise-pod-cidr=false", tagged(POD_CIDR), Verdict::Reject));
    }
    export.push(rule("addresses of Services", tagged(VIP), Verdict::Accept(changes)));
    let session_hop = options.next_hop_self.unwrap_or(flags.override_next_hop);
    let next_hops = if session_hop { Vec::new() } else { ground.own.addresses.clone() };
    let policies = Policies {
        import: Policy { rules: import },
        export: Policy { rules: export },
        next_hops,
        next_hop_self: false,
        client: false,
        max_prefixes: Some(options.max_prefixes.unwrap_or(flags.max_prefixes)),
        enforce_first_as: options.first_as.unwrap_or(true),
    };
    let internal = settings.is_internal();
    let ttl = match (router.ttl_security, hops(flags, router)) {
        (Some(hops), _) => Ttl::Security(hops),
        (None, 0 | 1) if internal => Ttl::Any,
        (None, 0 | 1) => Ttl::Send(1),
        (None, hops) => Ttl::Send(hops),
    };
    PeerConfig {
        port: router.port,
        policies,
        local_address: router.local_address,
        password,
        // On one hop only; flags and annotations that want it otherwise are refused.
        bfd: (router.bfd && hops(flags, router) <= 1).then(sluice_bgp::bfd::Settings::default),
        ttl,
        limit_pause: Some(LIMIT_PAUSE),
        ..PeerConfig::new(router.address, settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::settings::{Key, for_tests};
    use sluice_bgp::{Attributes, Community};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn node(n: u8) -> NodeFacts {
        NodeFacts {
            name: format!("n{n}"),
            addresses: vec![IpAddr::from([192, 0, 2, n]), format!("fd00::{n}").parse().unwrap()],
            pod_cidrs: vec![net(&format!("10.244.{n}.0/24"))],
            draining: false,
            annotated: Annotated::default(),
        }
    }

    fn router(n: u8) -> RouterPeer {
        let address = IpAddr::from([192, 0, 2, n]);
        RouterPeer {
            address,
            asn: 65000,
            port: 179,
            local_address: None,
            bfd: false,
            ttl_security: None,
            key: Key::None,
            options: PeerOptions::default(),
        }
    }

    struct World {
        settings: Settings,
        own: NodeFacts,
        others: Vec<NodeFacts>,
    }

    impl World {
        fn new() -> Self {
            let mut settings = for_tests();
            settings.routers = vec![router(254)];
            Self { settings, own: node(1), others: vec![node(2), node(3)] }
        }

        fn peers(&self) -> Vec<PeerConfig> {
            let protected = [net("10.96.0.0/12"), net("192.0.2.1/32")];
            let routers = self.settings.routers.iter().chain(&self.own.annotated.peers);
            let routers: Vec<KeyedRouter> = routers.map(|one| (one.clone(), None)).collect();
            let (peers, problems) = peers(&Ground {
                settings: &self.settings,
                own: &self.own,
                others: &self.others,
                routers: &routers,
                protected: &protected,
                router_id: Ipv4Addr::new(192, 0, 2, 1),
                restarted: false,
            });
            assert_eq!(problems, Vec::<String>::new());
            peers
        }

        fn addresses(&self) -> Vec<String> {
            self.peers().iter().map(|peer| peer.address.to_string()).collect()
        }
    }

    fn takes(peer: &PeerConfig, prefix: &str) -> bool {
        peer.policies.import.decide(&net(prefix), None, &Attributes::default()).is_ok()
    }

    fn gives(peer: &PeerConfig, prefix: &str, tag: Option<Tag>) -> bool {
        peer.policies.export.decide(&net(prefix), tag, &Attributes::default()).is_ok()
    }

    #[test]
    fn contract_who_talks_to_whom() {
        let mut world = World::new();
        assert_eq!(world.addresses(), ["192.0.2.2", "192.0.2.3", "192.0.2.254"]);
        world.settings.full_mesh = false;
        world.others[0].annotated.asn = Some(64999);
        assert_eq!(world.addresses(), ["192.0.2.3", "192.0.2.254"]);
        world.settings.ibgp = false;
        assert_eq!(world.addresses(), ["192.0.2.254"]);
        // The annotation goes before the flag, and both sides have to want it.
        world.own.annotated.ibgp = Some(true);
        assert_eq!(world.addresses(), ["192.0.2.254"]);
        world.others[1].annotated.ibgp = Some(true);
        assert_eq!(world.addresses(), ["192.0.2.3", "192.0.2.254"]);
        world = World::new();
        world.others[0].annotated.ibgp = Some(false);
        assert_eq!(world.addresses(), ["192.0.2.3", "192.0.2.254"]);
        world.own.annotated.ibgp = Some(false);
        assert_eq!(world.addresses(), ["192.0.2.254"]);
        world = World::new();
        let cluster = Ipv4Addr::new(0, 0, 0, 1);
        world.own.annotated.reflection = Some(Reflection::Client(cluster));
        world.others[1].annotated.reflection = Some(Reflection::Server(cluster));
        assert_eq!(world.addresses(), ["192.0.2.3", "192.0.2.254"]);
        world.own.annotated.reflection = Some(Reflection::Server(cluster));
        world.others[0].annotated.reflection = Some(Reflection::Client(cluster));
        let clients: Vec<bool> = world.peers().iter().map(|p| p.policies.client).collect();
        assert_eq!(clients, [true, false, false]);
        world.own.annotated.peers = vec![router(253)];
        assert_eq!(world.addresses().len(), 4);
    }

    #[test]
    fn contract_from_nodes_their_pod_ranges_only() {
        let world = World::new();
        let peers = world.peers();
        assert!(takes(&peers[0], "10.244.2.0/24"));
        let not = ["10.244.3.0/24", "10.244.1.0/24", "10.244.2.0/25", "0.0.0.0/0", "10.96.0.1/32"];
        for prefix in not {
            assert!(!takes(&peers[0], prefix), "{prefix}");
        }
    }

    #[test]
    fn contract_from_routers_nothing_or_what_is_allowed_but_never_what_is_ours() {
        let mut world = World::new();
        let prefixes = [
            "203.0.113.0/24",
            "203.0.113.7/32",
            "0.0.0.0/0",
            "::/0",
            "10.96.0.1/32",
            "10.96.0.0/12",
            "192.0.2.1/32",
            "10.244.1.0/24",
            "10.244.1.5/32",
        ];
        let router = &world.peers()[2];
        assert!(prefixes.iter().all(|prefix| !takes(router, prefix)));
        world.settings.import_allow = vec![net("0.0.0.0/0"), net("::/0")];
        let router = &world.peers()[2];
        let taken: Vec<&str> =
            prefixes.into_iter().filter(|prefix| takes(router, prefix)).collect();
        assert_eq!(taken, ["203.0.113.0/24", "203.0.113.7/32"]);
    }

    #[test]
    fn contract_pod_ranges_to_all_addresses_of_services_to_routers_and_no_transit() {
        let mut world = World::new();
        for pods_to_routers in [true, false] {
            world.settings.advertise_pod_cidr = pods_to_routers;
            let peers = world.peers();
            assert!(gives(&peers[0], "10.244.1.0/24", Some(POD_CIDR)), "to nodes always");
            assert!(!gives(&peers[0], "10.96.0.1/32", Some(VIP)), "to nodes never");
            assert_eq!(gives(&peers[2], "10.244.1.0/24", Some(POD_CIDR)), pods_to_routers);
            assert!(gives(&peers[2], "10.96.0.1/32", Some(VIP)));
            for peer in &peers {
                assert!(!gives(peer, "10.244.2.0/24", None), "learned: {}", peer.address);
            }
        }
        world.own.annotated.reflection = Some(Reflection::Server(Ipv4Addr::new(0, 0, 0, 1)));
        let peers = world.peers();
        assert!(gives(&peers[0], "10.244.3.0/24", None), "a reflector, to nodes");
        assert!(!gives(&peers[0], "203.0.113.0/24", None), "pod ranges only");
        assert!(!gives(&peers[0], "10.96.0.1/32", Some(VIP)));
        assert!(!gives(&peers[2], "10.244.3.0/24", None), "never to routers");
    }

    #[test]
    fn b7_ttl_security_is_a_setting_of_a_router() {
        let mut world = World::new();
        let ttl = |world: &World| world.peers()[2].ttl;
        assert_eq!(ttl(&world), Ttl::Send(1));
        world.settings.multihop = 3;
        assert_eq!(ttl(&world), Ttl::Send(3));
        world.settings.routers[0].ttl_security = Some(2);
        assert_eq!(ttl(&world), Ttl::Security(2));
        world.settings.routers[0].asn = world.settings.asn;
        assert_eq!(ttl(&world), Ttl::Security(2), "of internal ones, too");
    }

    #[test]
    fn contract_settings_of_one_router_go_before_those_of_all() {
        let mut world = World::new();
        world.own.annotated.prepend = Some((64512, 1));
        world.own.annotated.communities = vec![Community(1)];
        let before = world.peers();
        let options = PeerOptions {
            multihop: Some(3),
            hold_s: Some(9),
            graceful_restart: Some(false),
            med: Some(7),
            communities: Some((vec![Community(2)], vec![])),
            prepend: Some((64600, 2)),
            next_hop_self: Some(true),
            passive: true,
            first_as: Some(false),
            max_prefixes: Some(5),
        };
        world.own.annotated.peers = vec![RouterPeer { options, ..router(253) }];
        let after = world.peers();
        let (peer, others): (Vec<_>, Vec<_>) =
            after.into_iter().partition(|peer| peer.address.to_string() == "192.0.2.253");
        assert_eq!(others, before, "nobody else's");
        let peer = &peer[0];
        assert_eq!((peer.ttl, peer.settings.hold_s), (Ttl::Send(3), 9));
        assert_eq!((peer.settings.graceful_restart_s, peer.settings.passive), (None, true));
        let policies = &peer.policies;
        assert_eq!((policies.max_prefixes, policies.enforce_first_as), (Some(5), false));
        assert!(policies.next_hops.is_empty(), "the session's");
        let told = policies.export.decide(&net("10.96.0.1/32"), Some(VIP), &Attributes::default());
        let expected =
            [Change::Med(7), Change::Prepend(64600, 2), Change::AddCommunities(vec![Community(2)])];
        assert_eq!(told.expect("accepted"), expected);
    }

    #[test]
    fn a_change_of_one_node_touches_its_own_peer_only() {
        let mut world = World::new();
        let before = world.peers();
        world.others[0].pod_cidrs.push(net("10.245.2.0/24"));
        let after = world.peers();
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1..], after[1..]);
    }
}
