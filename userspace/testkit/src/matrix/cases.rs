//! Owns the Services of the matrix and what of each is asked. Pure.

use clap::ValueEnum;
use ipnet::IpNet;

use super::rules::{Endpoint, Front, Policy, Rules, State};

/// The node with two backends.
pub(super) const WITH: &str = "n1";
/// The node with one more backend, from which nobody asks.
pub(super) const MORE: &str = "n2";
/// The node without a backend.
pub(super) const WITHOUT: &str = "n3";
/// The backends and their nodes.
pub(super) const BACKENDS: [(&str, &str); 3] = [("web-1", WITH), ("web-2", WITH), ("web-3", MORE)];
/// The nodes' zones, as the cluster labels them.
pub(super) const ZONES: [(&str, &str); 3] =
    [(WITH, "zone-a"), (MORE, "zone-b"), (WITHOUT, "zone-a")];

/// Parts of the matrix, to be run by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Part {
    /// Services with a ClusterIP only; ports and addresses that are nobody's
    ClusterIp,
    /// Node ports
    NodePort,
    /// externalIPs
    ExternalIp,
    /// Addresses of load balancers
    LoadBalancer,
    /// Services of all kinds without endpoints
    NoEndpoints,
    /// Endpoints that drain or have topology hints
    Endpoints,
    /// loadBalancerSourceRanges
    Ranges,
    /// Session affinity
    Affinity,
}

/// What of a Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A backend's own address.
    Pod(&'static str),
    /// Its ClusterIP.
    ClusterIp,
    /// Its node port at a node's address.
    NodePort(&'static str),
    /// Its external address.
    ExternalIp,
    /// Its load balancer's address.
    LoadBalancer,
    /// A port that it does not have, at its ClusterIP.
    UnknownPort,
    /// A ClusterIP that no Service has.
    Unallocated,
    /// Its node port at the bridge's address of a node.
    NodePortAtBridge(&'static str),
    /// Its node port at its load balancer's address.
    NodePortAtLoadBalancer,
}

impl Target {
    pub(super) fn label(self) -> String {
        match self {
            Self::Pod(name) => name.to_owned(),
            Self::ClusterIp => "ClusterIP".to_owned(),
            Self::NodePort(node) => format!("{node}:nodePort"),
            Self::ExternalIp => "externalIP".to_owned(),
            Self::LoadBalancer => "LB address".to_owned(),
            Self::UnknownPort => "ClusterIP:other".to_owned(),
            Self::Unallocated => "free ClusterIP".to_owned(),
            Self::NodePortAtBridge(node) => format!("{node} bridge:nodePort"),
            Self::NodePortAtLoadBalancer => "LB:nodePort".to_owned(),
        }
    }
}

/// A Service of the matrix.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Its name.
    pub(super) name: String,
    /// How the table calls it.
    pub(super) label: String,
    pub(super) part: Part,
    /// The kind of address that its type gives it besides the ClusterIP.
    pub(super) kind: Front,
    pub(super) rules: Rules,
    /// `ipMode: Proxy` at its load balancer's address (R16).
    pub(super) proxied: bool,
    pub(super) targets: Vec<Target>,
}

/// All Services of the matrix.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    policies(&mut cases);
    without_endpoints(&mut cases);
    endpoint_states(&mut cases);
    ranges(&mut cases);
    affinity(&mut cases);
    for (number, case) in cases.iter_mut().enumerate() {
        case.name = format!("matrix-{}", number + 1);
    }
    cases
}

/// No Service at all: what the network does by itself.
pub(super) fn no_service() -> Case {
    let rules = rules(Policy::Cluster, Policy::Cluster);
    let mut case = case(Part::ClusterIp, Front::ClusterIp, "no service".to_owned(), rules);
    case.targets = BACKENDS.map(|(name, _)| Target::Pod(name)).to_vec();
    case
}

fn policies(cases: &mut Vec<Case>) {
    use Policy::{Cluster, Local};
    for internal in [Cluster, Local] {
        let label = format!("ClusterIP int={internal:?}");
        let mut case = case(Part::ClusterIp, Front::ClusterIp, label, rules(internal, Cluster));
        if internal == Cluster {
            case.targets.extend([Target::UnknownPort, Target::Unallocated]);
        }
        cases.push(case);
    }
    for kind in [Front::NodePort, Front::ExternalIp, Front::LoadBalancer] {
        for (internal, external) in
            [(Cluster, Cluster), (Cluster, Local), (Local, Cluster), (Local, Local)]
        {
            let label = format!("{} int={internal:?} ext={external:?}", kind_name(kind));
            let mut case = case(kind_part(kind), kind, label, rules(internal, external));
            match (kind, internal, external) {
                (Front::NodePort, Cluster, Cluster) => {
                    case.targets.push(Target::NodePortAtBridge(WITH));
                }
                (Front::LoadBalancer, Cluster, Cluster) => {
                    case.targets.push(Target::NodePortAtLoadBalancer);
                }
                _ => {}
            }
            cases.push(case);
        }
    }
    let label = "LoadBalancer ipMode=Proxy".to_owned();
    let mut proxied = case(Part::LoadBalancer, Front::LoadBalancer, label, rules(Cluster, Cluster));
    proxied.proxied = true;
    cases.push(proxied);
}

fn without_endpoints(cases: &mut Vec<Case>) {
    for kind in [Front::ClusterIp, Front::NodePort, Front::ExternalIp, Front::LoadBalancer] {
        for policy in [Policy::Cluster, Policy::Local] {
            let mut rules = rules(policy, policy);
            // No endpoint at all, and one that is not to be used: the same to a client.
            rules.endpoints.truncate(usize::from(policy == Policy::Local));
            for endpoint in &mut rules.endpoints {
                endpoint.state = State::Down;
            }
            let label = format!("{} {policy:?}, no endpoints", kind_name(kind));
            cases.push(case(Part::NoEndpoints, kind, label, rules));
        }
    }
}

fn endpoint_states(cases: &mut Vec<Case>) {
    let mut add = |label: &str, internal, change: &dyn Fn(&mut Endpoint)| {
        let mut rules = rules(internal, Policy::Local);
        rules.endpoints.iter_mut().for_each(change);
        let label = format!("LoadBalancer int={internal:?} ext=Local, {label}");
        cases.push(case(Part::Endpoints, Front::LoadBalancer, label, rules));
    };
    add("all drain", Policy::Cluster, &|endpoint| endpoint.state = State::Draining);
    add("those of n1 drain", Policy::Local, &|endpoint| {
        if endpoint.node == WITH {
            endpoint.state = State::Draining;
        }
    });
    let zone = |node: &str| {
        let found = ZONES.iter().find(|(name, _)| *name == node);
        found.map(|(_, zone)| (*zone).to_owned())
    };
    add("zone hints", Policy::Cluster, &|endpoint| {
        endpoint.zones.extend(zone(&endpoint.node));
    });
    add("node hints", Policy::Cluster, &|endpoint| {
        endpoint.zones.extend(zone(&endpoint.node));
        // What no controller would write, so that the hint is seen to decide, not the node.
        let hint = if endpoint.name == "web-1" { WITHOUT } else { MORE };
        endpoint.nodes.push(hint.to_owned());
    });
}

fn ranges(cases: &mut Vec<Case>) {
    let office = ["192.168.88.0/24", "fd00:88::/64"];
    let pods = ["10.244.0.0/16", "fd00:10:244::/56"];
    let nodes = ["192.168.77.0/24", "fd00:77::/64"];
    for (label, given, endpoints) in [
        ("office", &office[..], true),
        ("pods", &pods[..], true),
        ("nodes", &nodes[..], true),
        ("office, IPv4 only", &office[..1], true),
        ("pods, no endpoints", &pods[..], false),
    ] {
        let mut rules = rules(Policy::Cluster, Policy::Cluster);
        rules.ranges = given.iter().filter_map(|range| range.parse::<IpNet>().ok()).collect();
        if !endpoints {
            rules.endpoints.clear();
        }
        let label = format!("LoadBalancer for {label}");
        let mut case = case(Part::Ranges, Front::LoadBalancer, label, rules);
        case.targets = vec![Target::LoadBalancer, Target::NodePort(WITH)];
        cases.push(case);
    }
}

/// Each asked at one address only: what is bound there must not be bound anew elsewhere.
fn affinity(cases: &mut Vec<Case>) {
    for kind in [Front::ClusterIp, Front::NodePort, Front::LoadBalancer] {
        let mut rules = rules(Policy::Cluster, Policy::Cluster);
        rules.sticky = true;
        let mut case = case(Part::Affinity, kind, format!("{} affinity", kind_name(kind)), rules);
        case.targets = match kind {
            Front::NodePort => vec![Target::NodePort(WITH)],
            Front::LoadBalancer => vec![Target::LoadBalancer],
            _ => vec![Target::ClusterIp],
        };
        cases.push(case);
    }
}

fn case(part: Part, kind: Front, label: String, rules: Rules) -> Case {
    let mut targets = vec![Target::ClusterIp];
    targets.extend(match kind {
        Front::ClusterIp => vec![],
        Front::NodePort => vec![Target::NodePort(WITH), Target::NodePort(WITHOUT)],
        Front::ExternalIp => vec![Target::ExternalIp],
        Front::LoadBalancer => vec![Target::LoadBalancer],
    });
    Case { name: String::new(), label, part, kind, rules, proxied: false, targets }
}

fn rules(internal: Policy, external: Policy) -> Rules {
    let endpoints = BACKENDS
        .map(|(name, node)| Endpoint {
            name: name.to_owned(),
            node: node.to_owned(),
            state: State::Ready,
            zones: Vec::new(),
            nodes: Vec::new(),
        })
        .to_vec();
    Rules { endpoints, internal, external, ..Rules::default() }
}

fn kind_name(kind: Front) -> &'static str {
    match kind {
        Front::ClusterIp => "ClusterIP",
        Front::NodePort => "NodePort",
        Front::ExternalIp => "externalIPs",
        Front::LoadBalancer => "LoadBalancer",
    }
}

fn kind_part(kind: Front) -> Part {
    match kind {
        Front::ClusterIp => Part::ClusterIp,
        Front::NodePort => Part::NodePort,
        Front::ExternalIp => Part::ExternalIp,
        Front::LoadBalancer => Part::LoadBalancer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_with_every_pair_of_policies_and_names_are_unique() {
        let cases = cases();
        for kind in [Front::NodePort, Front::ExternalIp, Front::LoadBalancer] {
            let own = cases.iter().filter(|c| c.part == kind_part(kind) && !c.proxied);
            let mut pairs: Vec<_> = own.map(|c| (c.rules.internal, c.rules.external)).collect();
            pairs.sort();
            pairs.dedup();
            assert_eq!(pairs.len(), 4, "{kind:?}");
        }
        let mut labels: Vec<&str> = cases.iter().map(|c| c.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), cases.len());
        assert!(Part::value_variants().iter().all(|p| cases.iter().any(|c| c.part == *p)));
    }
}
