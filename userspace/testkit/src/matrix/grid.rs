//! Owns the grid of the matrix: which source asks which address how, and what it must see. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;

use super::cases::{Case, Target, WITH, WITHOUT, ZONES};
use super::probe::{Protocol, Question};
use super::rules::{Client, Expected, Front, LISTENER, Origin, Place, expected};
use super::witness::{self, Difference};

/// Ports of all Services of the matrix, in the order of [`Protocol`].
pub(super) const PORTS: [(&str, u16, u16); 3] =
    [("TCP", 80, 8080), ("UDP", 53, 5353), ("SCTP", 90, 9090)];
/// A port that no Service of the matrix has.
pub(super) const OTHER_PORT: u16 = 8;
/// Milliseconds after which there is silence, where silence is expected ...
const SILENCE_MS: u64 = 400;
/// ... and where an answer is: late, with a SYN sent again after a second, but an answer. Who loses
/// packets how often is not the matrix's to judge; it counts such answers.
const ANSWER_MS: u64 = 2500;
/// Times that a set of backends is asked at least: one too many of three is missed with (2/3)^12.
const LEAST: u64 = 12;
/// Times that it is asked at most: one too few of three is seen wrongly with 3 * (2/3)^60.
const MOST: u64 = 60;

/// Kinds of sources, to be left out by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum From {
    /// Pods that are no backends
    Pod,
    /// Nodes themselves (host network)
    Node,
    /// A pod that is a backend itself
    Backend,
    /// A client outside the cluster
    Office,
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) kind: From,
    /// Name of the pod or node; `office`.
    pub(super) name: &'static str,
    /// The column's title.
    pub(super) title: &'static str,
    /// Its node, or the node to which the router sends it.
    pub(super) node: &'static str,
}

/// The columns of the table.
pub(super) const SOURCES: [Source; 7] = [
    Source { kind: From::Pod, name: "client-n1", title: "pod on n1", node: WITH },
    Source { kind: From::Pod, name: "client-n3", title: "pod on n3", node: WITHOUT },
    Source { kind: From::Node, name: WITH, title: "node n1", node: WITH },
    Source { kind: From::Node, name: WITHOUT, title: "node n3", node: WITHOUT },
    Source { kind: From::Backend, name: "web-1", title: "web-1 on n1", node: WITH },
    Source { kind: From::Office, name: "office", title: "office via n1", node: WITH },
    Source { kind: From::Office, name: "office", title: "office via n3", node: WITHOUT },
];

/// Protocol and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) protocol: Protocol,
    pub(super) v4: bool,
}

pub(super) const WAYS: [Way; 6] = [
    Way { name: "TCP4", protocol: Protocol::Tcp, v4: true },
    Way { name: "TCP6", protocol: Protocol::Tcp, v4: false },
    Way { name: "UDP4", protocol: Protocol::Udp, v4: true },
    Way { name: "UDP6", protocol: Protocol::Udp, v4: false },
    Way { name: "SCTP4", protocol: Protocol::Sctp, v4: true },
    Way { name: "SCTP6", protocol: Protocol::Sctp, v4: false },
];

/// Addresses of one family each: IPv4 and IPv6.
pub(super) type Pair = [IpAddr; 2];

/// Where a Service is to be found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frontends {
    pub(super) cluster: Pair,
    pub(super) external: Pair,
    pub(super) load_balancer: Pair,
    /// In the order of [`PORTS`].
    pub(super) node_ports: [u16; 3],
}

/// Addresses of the site.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Of nodes.
    pub(super) nodes: BTreeMap<String, Pair>,
    /// Of nodes' bridges.
    pub(super) bridges: BTreeMap<String, Pair>,
    /// Of pods.
    pub(super) pods: BTreeMap<String, Pair>,
    /// Of the office, by the node to which the router sends it.
    pub(super) office: BTreeMap<String, Pair>,
    /// ClusterIPs that no Service has.
    pub(super) unallocated: Pair,
}

impl Site {
    /// Whose address this is: a node's name, a pod's, `office`, or the address itself.
    pub(super) fn owner(&self, address: IpAddr) -> String {
        let found = [&self.nodes, &self.bridges, &self.pods]
            .into_iter()
            .flatten()
            .find(|(_, pair)| pair.contains(&address));
        match found {
            Some((name, _)) => name.clone(),
            None if self.office.values().any(|pair| pair.contains(&address)) => "office".to_owned(),
            None => address.to_string(),
        }
    }

    fn address(&self, source: &Source, v4: bool) -> Option<IpAddr> {
        let from = match source.kind {
            From::Office => self.office.get(source.node),
            From::Node => self.nodes.get(source.name),
            From::Pod | From::Backend => self.pods.get(source.name),
        };
        from.map(|pair| of_family(pair, v4))
    }
}

fn of_family(pair: &Pair, v4: bool) -> IpAddr {
    let [first, second] = *pair;
    if v4 { first } else { second }
}

/// One square of the table, in one way.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Number of the row: of case and target.
    pub(super) row: usize,
    /// Number in [`SOURCES`].
    pub(super) source: usize,
    pub(super) way: Way,
    pub(super) question: Question,
    pub(super) expected: Expected,
    /// What kube-proxy may show instead.
    pub(super) witness: Option<Difference>,
}

/// The cells of a row for the sources that are wanted.
pub(super) fn cells(
    row: usize,
    case: &Case,
    target: Target,
    at: &Frontends,
    site: &Site,
    wanted: &[From],
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (number, source) in SOURCES.iter().enumerate() {
        if !asks(source, target) || !wanted.contains(&source.kind) {
            continue;
        }
        for way in WAYS {
            let address = address(target, at, site, way.v4);
            let own = site.address(source, way.v4);
            let (Some(address), Some(own)) = (address, own) else { continue };
            let expected = must_see(case, target, source, own, way);
            let from = (source.kind == From::Office).then_some(own);
            let question =
                question(&expected, SocketAddr::new(address, port(target, at, way)), way);
            let question = Question { source: from, ..question };
            let witness = witness::difference(case, target, source, way, &expected);
            cells.push(Cell { row, source: number, way, question, expected, witness });
        }
    }
    cells
}

/// Which questions say nothing that others don't: the router's choice of a node does not matter
/// where a node's own address is asked; a bridge's address is its own node's affair.
fn asks(source: &Source, target: Target) -> bool {
    match target {
        Target::NodePort(_) => source.kind != From::Office || source.node == WITH,
        Target::NodePortAtBridge(node) => source.kind != From::Office && source.node == node,
        _ => true,
    }
}

fn address(target: Target, at: &Frontends, site: &Site, v4: bool) -> Option<IpAddr> {
    let pair = match target {
        Target::ClusterIp | Target::UnknownPort => Some(&at.cluster),
        Target::ExternalIp => Some(&at.external),
        Target::LoadBalancer | Target::NodePortAtLoadBalancer => Some(&at.load_balancer),
        Target::Unallocated => Some(&site.unallocated),
        Target::Pod(name) => site.pods.get(name),
        Target::NodePort(node) => site.nodes.get(node),
        Target::NodePortAtBridge(node) => site.bridges.get(node),
    };
    pair.map(|pair| of_family(pair, v4))
}

fn port(target: Target, at: &Frontends, way: Way) -> u16 {
    let pick = |[tcp, udp, sctp]: [u16; 3]| match way.protocol {
        Protocol::Tcp => tcp,
        Protocol::Udp => udp,
        Protocol::Sctp => sctp,
    };
    match target {
        Target::Pod(_) => pick(PORTS.map(|(_, _, port)| port)),
        Target::UnknownPort => OTHER_PORT,
        Target::NodePort(_) | Target::NodePortAtBridge(_) | Target::NodePortAtLoadBalancer => {
            pick(at.node_ports)
        }
        _ => pick(PORTS.map(|(_, port, _)| port)),
    }
}

fn must_see(case: &Case, target: Target, source: &Source, address: IpAddr, way: Way) -> Expected {
    let front = match target {
        Target::Pod(name) => {
            let backends = [(name.to_owned(), source.name.to_owned())].into();
            return Expected::Answers { backends, sticky: false };
        }
        // R47: not open there, so the node's own server answers.
        Target::NodePortAtBridge(_) => return listener(source),
        Target::UnknownPort => return Expected::Refused,
        Target::Unallocated => return Expected::Silence,
        // R19: not open there, and nobody's but the world's: neither refused nor dropped on the way.
        Target::NodePortAtLoadBalancer => return outside(way),
        Target::LoadBalancer if case.proxied => return outside(way),
        Target::ClusterIp => Front::ClusterIp,
        Target::NodePort(_) => Front::NodePort,
        Target::ExternalIp => Front::ExternalIp,
        Target::LoadBalancer => Front::LoadBalancer,
    };
    // A node's address is handled there, all others by the first node on the way.
    let node = match target {
        Target::NodePort(node) => node,
        _ => source.node,
    };
    let origin = match source.kind {
        From::Office => Origin::Elsewhere,
        _ if source.node != node => Origin::Elsewhere,
        From::Node => Origin::Node,
        From::Pod | From::Backend => Origin::Pod,
    };
    let zone = ZONES.iter().find(|(name, _)| *name == node).map_or("", |(_, zone)| zone);
    let place = Place { node: node.to_owned(), zone: zone.to_owned() };
    let client = Client { name: source.name.to_owned(), address, origin };
    debug_assert!(front == Front::ClusterIp || front == case.kind || front == Front::NodePort);
    expected(&case.rules, front, &place, &client)
}

/// What no node serves leaves the cluster; out there UDP is not served.
fn outside(way: Way) -> Expected {
    if way.protocol == Protocol::Udp { Expected::Refused } else { Expected::Passed }
}

/// The node's own server answers, and sees who asks.
fn listener(source: &Source) -> Expected {
    let backends = [(LISTENER.to_owned(), source.name.to_owned())].into();
    Expected::Answers { backends, sticky: false }
}

fn question(expected: &Expected, target: SocketAddr, way: Way) -> Question {
    let (backends, least, most, timeout_ms) = match expected {
        Expected::Answers { sticky: true, .. } => (1, LEAST, LEAST, ANSWER_MS),
        Expected::Answers { backends, .. } => (backends.len(), LEAST, MOST, ANSWER_MS),
        Expected::Refused | Expected::Passed => (1, 2, 2, ANSWER_MS),
        Expected::Silence => (1, 2, 2, SILENCE_MS),
    };
    Question { target, protocol: way.protocol, source: None, backends, least, most, timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::super::cases::cases;
    use super::*;

    fn pair(n: u8) -> Pair {
        [format!("10.0.0.{n}").parse().unwrap(), format!("fd00::{n}").parse().unwrap()]
    }

    fn site() -> Site {
        let named = |names: &[&str], first: u8| {
            names.iter().zip(first..).map(|(name, n)| ((*name).to_owned(), pair(n))).collect()
        };
        Site {
            nodes: named(&["n1", "n2", "n3"], 1),
            bridges: named(&["n1", "n2", "n3"], 11),
            pods: named(&["client-n1", "client-n3", "web-1", "web-2", "web-3"], 21),
            office: named(&["n1", "n3"], 31),
            unallocated: pair(99),
        }
    }

    fn at() -> Frontends {
        Frontends {
            cluster: pair(51),
            external: pair(52),
            load_balancer: pair(53),
            node_ports: [30080, 30053, 30090],
        }
    }

    const ALL: [From; 4] = [From::Pod, From::Node, From::Backend, From::Office];

    #[test]
    fn addresses_of_a_nodes_bridge_are_the_nodes_and_strangers_keep_their_own() {
        let site = site();
        for (n, owner) in [(1, "n1"), (11, "n1"), (23, "web-1"), (32, "office"), (90, "10.0.0.90")]
        {
            assert_eq!(site.owner(pair(n)[0]), owner);
        }
    }

    #[test]
    fn every_target_is_asked_by_all_whom_it_concerns_in_all_ways() {
        let (cases, site) = (cases(), site());
        for case in &cases {
            for target in &case.targets {
                let cells = cells(0, case, *target, &at(), &site, &ALL);
                let sources = match target {
                    Target::NodePort(_) => 6,
                    Target::NodePortAtBridge(_) => 3,
                    _ => 7,
                };
                assert_eq!(cells.len(), sources * WAYS.len(), "{} {target:?}", case.label);
                assert!(cells.iter().all(|c| c.question.target.is_ipv4() == c.way.v4));
            }
        }
        let case = cases.iter().find(|c| c.kind == Front::NodePort).unwrap();
        let asked = cells(0, case, Target::NodePort("n3"), &at(), &site, &[From::Backend]);
        assert_eq!(asked.len(), WAYS.len());
        assert_eq!(asked[2].question.target, "10.0.0.3:30053".parse().unwrap());
        assert_eq!(asked[4].question.target, "10.0.0.3:30090".parse().unwrap());
    }

    #[test]
    fn a_node_port_is_handled_where_its_address_is_and_the_rest_on_the_way() {
        let (cases, site) = (cases(), site());
        let seen = |label: &str, target, title: &str| {
            let case = cases.iter().find(|c| c.label == label).unwrap();
            let cells = cells(0, case, target, &at(), &site, &ALL);
            let cell = cells.into_iter().find(|c| SOURCES[c.source].title == title).unwrap();
            match cell.expected {
                Expected::Answers { backends, .. } => format!("{backends:?}"),
                other => format!("{other:?}"),
            }
        };
        let local = "NodePort int=Cluster ext=Local";
        assert_eq!(seen(local, Target::NodePort("n3"), "pod on n1"), "Silence");
        let kept = r#"{"web-1": "client-n3", "web-2": "client-n3"}"#;
        assert_eq!(seen(local, Target::NodePort("n1"), "pod on n3"), kept);
        let short = r#"{"web-1": "n3", "web-2": "n3", "web-3": "n3"}"#;
        assert_eq!(seen(local, Target::NodePort("n3"), "node n3"), short);
        let own = |way: &str, label: &str, target| {
            let case = cases.iter().find(|c| c.label == label).unwrap();
            let mut cells = cells(0, case, target, &at(), &site, &[From::Node]);
            cells.retain(|c| c.way.name == way && SOURCES[c.source].title == "node n1");
            cells.remove(0).expected
        };
        // A process of the node reaches the node's own node ports by every protocol.
        for way in ["TCP4", "UDP6", "SCTP4", "SCTP6"] {
            let Expected::Answers { backends, .. } = own(way, local, Target::NodePort("n1")) else {
                panic!("{way} is not answered");
            };
            assert_eq!(backends.len(), 3, "{way}");
        }
        let local = "LoadBalancer int=Cluster ext=Local";
        assert_eq!(seen(local, Target::LoadBalancer, "office via n3"), "Silence");
        assert_eq!(seen("LoadBalancer for pods", Target::LoadBalancer, "node n1"), "Silence");
        assert_eq!(seen("LoadBalancer ipMode=Proxy", Target::LoadBalancer, "node n1"), "Passed");
        // Somebody answers for certain, so that a refusal by a node is not taken for his.
        let open = "LoadBalancer int=Cluster ext=Cluster";
        assert_eq!(own("TCP6", open, Target::NodePortAtLoadBalancer), Expected::Passed);
        assert_eq!(own("UDP4", open, Target::NodePortAtLoadBalancer), Expected::Refused);
    }
}
