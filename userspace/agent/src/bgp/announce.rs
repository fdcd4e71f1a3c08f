//! What is announced (contract of a node): its pod ranges, and addresses of Services that it
//! serves. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use sluice_bgp::Attributes;
use sluice_bgp::policy::Tag;
use sluice_bgp::rib::LocalRoute;
use sluice_services::{AddressKind, ServicePort, State};

use super::settings::{Advertise, Settings};
use crate::watch::object::Key;

/// Mark of pod ranges.
pub const POD_CIDR: Tag = Tag(1);
/// Mark of addresses of Services.
pub const VIP: Tag = Tag(2);

/// Most of an annotation that a problem repeats, in characters.
const EXCERPT: usize = 64;

/// What a Service's annotations say about its announcement, over the flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `service.advertise.clusterip`
    pub cluster_ip: Option<bool>,
    /// `service.advertise.externalip`
    pub external_ip: Option<bool>,
    /// `service.advertise.loadbalancerip`
    pub load_balancer_ip: Option<bool>,
}

/// Overrides by Service; Services without any are not there.
pub type AllOverrides = BTreeMap<Key, Overrides>;

impl Overrides {
    /// Reads a Service's annotations, and names those that do not parse: what they said `before`
    /// stays then, so that a slip of the pen withdraws no address that is in use.
    #[must_use]
    pub fn read(service: &Service, before: Self) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let annotations = service.metadata.annotations.as_ref();
        let mut read = |kind: &str, before: Option<bool>| {
            let (name, text) = ["sluice.io", "kube-router.io"].iter().find_map(|prefix| {
                let name = format!("{prefix}/service.advertise.{kind}");
                let text = annotations?.get(&name)?;
                Some((name, text))
            })?;
            match text.trim() {
                "true" => Some(true),
                "false" => Some(false),
                other => {
                    let counts = match before {
                        Some(before) => format!("{before}, as it was,"),
                        None => "the flag".to_owned(),
                    };
                    let other: String = other.chars().take(EXCERPT).collect();
                    problems.push(format!(
                        "annotation {name}: {other:?}; accepted: true, false; {counts} counts"
                    ));
                    before
                }
            }
        };
        let overrides = Self {
            cluster_ip: read("clusterip", before.cluster_ip),
            external_ip: read("externalip", before.external_ip),
            load_balancer_ip: read("loadbalancerip", before.load_balancer_ip),
        };
        (overrides, problems)
    }
}

/// The pod ranges and the addresses of Services to announce. `state` is what has been written;
/// without it there are no addresses. An address of one of the `nodes` is never announced, whatever
/// Service has it (load balancers that run on nodes): the way there is the network's affair, and by way of
/// another node it could be a loop.
#[must_use]
pub fn routes(
    settings: &Settings,
    pod_cidrs: &[IpNet],
    state: Option<&State>,
    overrides: &AllOverrides,
    nodes: &BTreeSet<IpAddr>,
) -> Vec<LocalRoute> {
    let route = |prefix, tag| LocalRoute { prefix, tag, attributes: Attributes::default() };
    let mut routes: Vec<LocalRoute> =
        pod_cidrs.iter().map(|prefix| route(*prefix, POD_CIDR)).collect();
    let mut prefixes = BTreeSet::new();
    let all = state.into_iter().flat_map(|state| addresses(settings, state, overrides));
    for (address, local_only) in all.filter(|(address, _)| !nodes.contains(address)) {
        // What is served by this node alone has to be told apart from its aggregate.
        let aggregate = settings.aggregates.iter().find(|net| net.contains(&address));
        match aggregate.filter(|_| !local_only) {
            Some(net) => prefixes.insert(net.trunc()),
            None => prefixes.insert(IpNet::from(address)),
        };
    }
    routes.extend(prefixes.into_iter().map(|prefix| route(prefix, VIP)));
    routes
}

/// The aggregates among what is announced that no range of ClusterIPs holds (there the data plane is
/// silent about addresses that nobody has), and the addresses in them that are served.
#[must_use]
pub fn aggregates(
    settings: &Settings,
    announced: &[LocalRoute],
    state: Option<&State>,
    service_ranges: &[IpNet],
) -> (Vec<IpNet>, Vec<IpAddr>) {
    let vips = announced.iter().filter(|route| route.tag == VIP).map(|route| route.prefix);
    let mut found: Vec<IpNet> = vips
        .filter(|prefix| settings.aggregates.iter().any(|net| net.trunc() == *prefix))
        .filter(|prefix| !service_ranges.iter().any(|range| range.contains(prefix)))
        .collect();
    found.sort_unstable();
    if found.is_empty() {
        return (found, Vec::new());
    }
    let all = state.into_iter().flat_map(|state| state.ports.values());
    let addresses = all.flat_map(|port| port.addresses.iter().map(|(address, _)| *address));
    let served: BTreeSet<IpAddr> =
        addresses.filter(|address| found.iter().any(|net| net.contains(address))).collect();
    (found, served.into_iter().collect())
}

/// Addresses that some Service wants announced, and whether only for a local endpoint.
fn addresses<'a>(
    settings: &'a Settings,
    state: &'a State,
    overrides: &'a AllOverrides,
) -> impl Iterator<Item = (IpAddr, bool)> + 'a {
    state.ports.iter().flat_map(move |(key, port)| {
        let of = Key { namespace: key.namespace.clone(), name: key.name.clone() };
        let wanted = kinds(&settings.advertise, overrides.get(&of).copied().unwrap_or_default());
        port.addresses.iter().filter_map(move |(address, kind)| {
            if !wanted(*kind) {
                return None;
            }
            serves(port, *kind, settings.only_with_endpoints)
                .map(|local_only| (*address, local_only))
        })
    })
}

fn kinds(flags: &Advertise, overrides: Overrides) -> impl Fn(AddressKind) -> bool + use<> {
    let flags = *flags;
    move |kind| match kind {
        AddressKind::ClusterIp => overrides.cluster_ip.unwrap_or(flags.cluster_ip),
        AddressKind::ExternalIp => overrides.external_ip.unwrap_or(flags.external_ip),
        AddressKind::LoadBalancer => overrides.load_balancer_ip.unwrap_or(flags.load_balancer_ip),
    }
}

/// `None`: not now; else whether it is for a local endpoint.
fn serves(port: &ServicePort, kind: AddressKind, only_with_endpoints: bool) -> Option<bool> {
    let local = match kind {
        AddressKind::ClusterIp => port.internal_local,
        AddressKind::ExternalIp | AddressKind::LoadBalancer => port.external_local,
    };
    let announced = match (local, only_with_endpoints) {
        (true, _) => !port.local.is_empty(),
        (false, true) => port.has_any_endpoint,
        (false, false) => true,
    };
    announced.then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::settings::for_tests;
    use serde_json::json;
    use sluice_services::{Config, Index};

    /// A Service with addresses of all kinds, and its endpoints: (address, node).
    fn state(policy: &str, endpoints: &[(&str, &str)]) -> State {
        let mut index = Index::new(Config {
            node_name: "n1".to_owned(),
            external_ips: true,
            ..Config::default()
        });
        let service = json!({
            "metadata": {"namespace": "d", "name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "ipFamilies": ["IPv4"], "externalIPs": ["192.0.2.1"],
                "externalTrafficPolicy": policy, "internalTrafficPolicy": policy,
                "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"},
                {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "example.org"}]}}
        });
        index.apply_service(&serde_json::from_value(service).expect("a Service"));
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, node)| {
                json!({"addresses": [address], "nodeName": node,
                "conditions": {"ready": true, "serving": true, "terminating": false}})
            })
            .collect();
        let slice = json!({
            "metadata": {"namespace": "d", "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "a", "port": 8080, "protocol": "TCP"},
                {"name": "b", "port": 8081, "protocol": "TCP"}]
        });
        index.apply_slice(&serde_json::from_value(slice).expect("a slice"));
        State::clone(&index.update().state)
    }

    fn vips(settings: &Settings, state: &State, overrides: &AllOverrides) -> Vec<String> {
        let all = routes(settings, &[], Some(state), overrides, &BTreeSet::new());
        all.iter().map(|route| route.prefix.to_string()).collect()
    }

    fn all_kinds() -> Settings {
        let advertise = Advertise { cluster_ip: true, external_ip: true, load_balancer_ip: true };
        Settings { advertise, ..for_tests() }
    }

    const ALL: [&str; 3] = ["10.96.0.1/32", "192.0.2.1/32", "198.51.100.1/32"];

    #[test]
    fn contract_pod_ranges_always_and_nothing_of_services_before_they_are_written() {
        let cidr: IpNet = "10.244.1.0/24".parse().unwrap();
        let all = routes(&all_kinds(), &[cidr], None, &AllOverrides::new(), &BTreeSet::new());
        assert_eq!(all.iter().map(|r| (r.prefix, r.tag)).collect::<Vec<_>>(), [(cidr, POD_CIDR)]);
    }

    #[test]
    fn contract_kinds_by_flags_and_over_them_by_annotations() {
        let state = state("Cluster", &[("10.244.2.5", "n2")]);
        let none = AllOverrides::new();
        assert_eq!(vips(&for_tests(), &state, &none), Vec::<String>::new());
        assert_eq!(vips(&all_kinds(), &state, &none), ALL, "no ipMode Proxy, no host names");
        let web = Key { namespace: "d".to_owned(), name: "web".to_owned() };
        let some = |o: Overrides| AllOverrides::from([(web.clone(), o)]);
        let on = Overrides { load_balancer_ip: Some(true), ..Overrides::default() };
        assert_eq!(vips(&for_tests(), &state, &some(on)), ALL[2..]);
        let off = Overrides { cluster_ip: Some(false), ..Overrides::default() };
        assert_eq!(vips(&all_kinds(), &state, &some(off)), ALL[1..]);
    }

    #[test]
    fn contract_policy_local_wants_a_local_endpoint_policy_cluster_none() {
        let none = AllOverrides::new();
        let settings = all_kinds();
        let only = Settings { only_with_endpoints: true, ..all_kinds() };
        type Endpoints = &'static [(&'static str, &'static str)];
        let rows: [(&str, Endpoints, bool, bool); 5] = [
            ("Local", &[("10.244.1.5", "n1")], true, true),
            ("Local", &[("10.244.2.5", "n2")], false, false),
            ("Local", &[], false, false),
            ("Cluster", &[("10.244.2.5", "n2")], true, true),
            ("Cluster", &[], true, false),
        ];
        for (policy, endpoints, always, with_endpoints) in rows {
            let state = state(policy, endpoints);
            let shown = |yes: bool| if yes { ALL.to_vec() } else { vec![] };
            assert_eq!(vips(&settings, &state, &none), shown(always), "{policy} {endpoints:?}");
            assert_eq!(vips(&only, &state, &none), shown(with_endpoints), "{policy} {endpoints:?}");
        }
    }

    #[test]
    fn contract_aggregates_stand_for_what_every_node_serves() {
        let aggregates = vec!["10.96.0.0/12".parse().unwrap()];
        let settings = Settings { aggregates, ..all_kinds() };
        let none = AllOverrides::new();
        let cluster = state("Cluster", &[]);
        assert_eq!(vips(&settings, &cluster, &none), ["10.96.0.0/12", ALL[1], ALL[2]]);
        let local = state("Local", &[("10.244.1.5", "n1")]);
        assert_eq!(vips(&settings, &local, &none), ALL, "only here: told by itself");
    }

    #[test]
    fn b26_aggregates_outside_of_the_cluster_ips_are_known_while_they_are_announced() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let ranges: Vec<IpNet> = nets(&["10.96.0.0/12"]);
        let aggregates_of = |given: &[&str], state: &State| {
            let settings = Settings { aggregates: nets(given), ..all_kinds() };
            let overrides = AllOverrides::new();
            let announced = routes(&settings, &[], Some(state), &overrides, &BTreeSet::new());
            let (found, served) = aggregates(&settings, &announced, Some(state), &ranges);
            let text = |all: Vec<String>| all.join(" ");
            (
                text(found.iter().map(ToString::to_string).collect()),
                text(served.iter().map(ToString::to_string).collect()),
            )
        };
        let cluster = state("Cluster", &[]);
        let both = ("192.0.2.0/24".to_owned(), "192.0.2.1".to_owned());
        let given = ["10.96.0.0/16", "192.0.2.9/24", "203.0.113.0/24"];
        assert_eq!(aggregates_of(&given, &cluster), both);
        assert_eq!(aggregates_of(&["10.96.0.0/16"], &cluster), Default::default());
        // Nothing of it is announced: a host there is nobody's business.
        assert_eq!(aggregates_of(&given, &state("Local", &[])), Default::default());
    }

    #[test]
    fn contract_addresses_of_nodes_are_not_announced() {
        let nodes = BTreeSet::from(["192.0.2.1".parse().unwrap(), "10.0.0.9".parse().unwrap()]);
        let state = state("Cluster", &[]);
        let all = routes(&all_kinds(), &[], Some(&state), &AllOverrides::new(), &nodes);
        let all: Vec<String> = all.iter().map(|route| route.prefix.to_string()).collect();
        assert_eq!(all, [ALL[0], ALL[2]]);
    }

    #[test]
    fn annotations_are_true_or_false() {
        let service = |annotations| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "web", "annotations": annotations}}))
                .expect("a Service")
        };
        let (first, problems) = Overrides::read(
            &service(json!({
                "kube-router.io/service.advertise.clusterip": "true",
                "sluice.io/service.advertise.externalip": "false",
                "sluice.io/service.advertise.loadbalancerip": "yes"})),
            Overrides::default(),
        );
        assert_eq!((first.cluster_ip, first.external_ip), (Some(true), Some(false)));
        assert_eq!((first.load_balancer_ip, problems.len()), (None, 1));
        let bad = service(json!({"kube-router.io/service.advertise.clusterip": "ture",
            "sluice.io/service.advertise.externalip": "flase"}));
        let (second, problems) = Overrides::read(&bad, first);
        assert_eq!((second, problems.len()), (first, 2), "the last good setting stays");
        assert!(problems[0].ends_with("true, as it was, counts"), "{problems:?}");
        let none = Overrides::read(&service(json!({})), second);
        assert_eq!(none, (Overrides::default(), vec![]), "taken away");
    }
}
