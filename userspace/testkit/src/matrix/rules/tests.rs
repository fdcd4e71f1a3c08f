//! The rules as tables: two backends on n1, one on n2, none on n3; zones a, b, a.

use super::*;

fn endpoint(name: &str, node: &str, state: State) -> Endpoint {
    let (name, node) = (name.to_owned(), node.to_owned());
    Endpoint { name, node, state, zones: vec![], nodes: vec![] }
}

fn usual() -> Vec<Endpoint> {
    [("b1", "n1"), ("b2", "n1"), ("b3", "n2")].map(|(b, n)| endpoint(b, n, State::Ready)).to_vec()
}

fn rules(internal: Policy, external: Policy) -> Rules {
    Rules { endpoints: usual(), internal, external, ..Rules::default() }
}

/// `b1=c` for "b1 answers and sees c", or how the client is turned away.
fn ask(rules: &Rules, front: Front, node: &str, name: &str, origin: Origin) -> String {
    let zone = if node == "n2" { "b" } else { "a" };
    let place = Place { node: node.to_owned(), zone: zone.to_owned() };
    let client = Client { name: name.to_owned(), address: "192.0.2.9".parse().unwrap(), origin };
    match expected(rules, front, &place, &client) {
        Expected::Answers { backends, .. } => {
            backends.iter().map(|(b, c)| format!("{b}={c}")).collect::<Vec<_>>().join(" ")
        }
        Expected::Refused => "refused".to_owned(),
        Expected::Silence => "silence".to_owned(),
        other => format!("{other:?}"),
    }
}

use Front::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
use Origin::{Elsewhere, Node, Pod};
use Policy::{Cluster, Local};

#[test]
fn the_table_of_lists_and_masquerading_is_kept() {
    let (all_n1, all_n3) = ("b1=n1 b2=n1 b3=n1", "b1=n3 b2=n3 b3=n3");
    for (internal, external, front, node, name, origin, expected) in [
        // ClusterIP: pods keep their address, all others are masqueraded.
        (Cluster, Cluster, ClusterIp, "n1", "c1", Pod, "b1=c1 b2=c1 b3=c1"),
        (Cluster, Local, ClusterIp, "n1", "n1", Node, all_n1),
        (Cluster, Local, ClusterIp, "n3", "office", Elsewhere, all_n3),
        (Local, Cluster, ClusterIp, "n1", "c1", Pod, "b1=c1 b2=c1"),
        (Local, Cluster, ClusterIp, "n1", "office", Elsewhere, "b1=n1 b2=n1"),
        (Local, Cluster, ClusterIp, "n3", "c3", Pod, "silence"),
        // From outside the cluster.
        (Local, Cluster, NodePort, "n3", "office", Elsewhere, all_n3),
        (Local, Cluster, ExternalIp, "n1", "c1", Pod, all_n1),
        (Cluster, Local, NodePort, "n1", "office", Elsewhere, "b1=office b2=office"),
        (Cluster, Local, LoadBalancer, "n3", "office", Elsewhere, "silence"),
        // The short circuit of the node and its pods, but not of others'.
        (Cluster, Local, ExternalIp, "n3", "c3", Pod, "b1=c3 b2=c3 b3=c3"),
        (Cluster, Local, LoadBalancer, "n3", "n3", Node, all_n3),
        (Cluster, Local, NodePort, "n3", "n1", Elsewhere, "silence"),
        (Cluster, Local, NodePort, "n1", "c3", Elsewhere, "b1=c3 b2=c3"),
        // R46
        (Cluster, Cluster, ClusterIp, "n1", "b1", Pod, "b1=n1 b2=b1 b3=b1"),
        (Cluster, Local, LoadBalancer, "n1", "b1", Pod, "b1=n1 b2=b1 b3=b1"),
    ] {
        let seen = ask(&rules(internal, external), front, node, name, origin);
        assert_eq!(
            seen, expected,
            "{internal:?}/{external:?} {front:?} at {node} from {name} ({origin:?})"
        );
    }
}

#[test]
fn nobody_at_all_refuses_and_nobody_here_is_silent() {
    for external in [Cluster, Local] {
        let mut rules = rules(Local, external);
        rules.endpoints = vec![endpoint("b1", "n1", State::Down)];
        for front in [ClusterIp, NodePort, ExternalIp, LoadBalancer] {
            assert_eq!(ask(&rules, front, "n1", "office", Elsewhere), "refused", "{front:?}");
        }
    }
}

#[test]
fn draining_endpoints_serve_where_none_is_ready_in_each_list_for_itself() {
    let mut rules = rules(Local, Local);
    rules.endpoints =
        vec![endpoint("b1", "n1", State::Draining), endpoint("b3", "n2", State::Ready)];
    assert_eq!(ask(&rules, ClusterIp, "n1", "c1", Pod), "b1=c1");
    assert_eq!(ask(&rules, LoadBalancer, "n1", "c1", Pod), "b3=c1", "the cluster's list");
    assert_eq!(ask(&rules, LoadBalancer, "n1", "office", Elsewhere), "b1=office");
    assert_eq!(ask(&rules, LoadBalancer, "n3", "office", Elsewhere), "silence");
    rules.endpoints = vec![endpoint("b1", "n1", State::Draining)];
    assert_eq!(ask(&rules, LoadBalancer, "n3", "c3", Pod), "b1=c3");
}

#[test]
fn hints_narrow_the_clusters_list_if_all_have_them_and_one_is_near() {
    let mut rules = rules(Cluster, Local);
    for endpoint in &mut rules.endpoints {
        endpoint.zones = vec![if endpoint.node == "n2" { "b" } else { "a" }.to_owned()];
    }
    assert_eq!(ask(&rules, ClusterIp, "n3", "c3", Pod), "b1=c3 b2=c3");
    assert_eq!(ask(&rules, ClusterIp, "n2", "c2", Pod), "b3=c2");
    assert_eq!(ask(&rules, NodePort, "n1", "office", Elsewhere), "b1=office b2=office");
    for endpoint in &mut rules.endpoints {
        endpoint.nodes = vec![endpoint.node.clone()];
    }
    rules.endpoints[1].nodes = vec!["n3".to_owned()];
    assert_eq!(ask(&rules, ClusterIp, "n3", "c3", Pod), "b2=c3", "nodes before zones");
    rules.endpoints[0].nodes.clear();
    rules.endpoints[0].zones.clear();
    assert_eq!(ask(&rules, ClusterIp, "n3", "c3", Pod), "b1=c3 b2=c3 b3=c3", "one without");
}

#[test]
fn source_ranges_are_a_wall_at_lb_addresses_only_and_before_all_else() {
    let mut rules = rules(Cluster, Cluster);
    let (inside, outside) = ("192.0.2.0/24", "198.51.100.0/24");
    for (ranges, expected) in [
        (vec![inside], "b1=n1 b2=n1 b3=n1"),
        (vec![outside], "silence"),
        (vec![outside, "0.0.0.0/0"], "b1=n1 b2=n1 b3=n1"),
        (vec!["2001:db8::/32"], "b1=n1 b2=n1 b3=n1"),
        (vec!["2001:db8::/32", outside], "silence"),
    ] {
        rules.ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        for (name, origin) in [("office", Elsewhere), ("c1", Pod), ("n1", Node)] {
            assert_eq!(ask(&rules, LoadBalancer, "n1", name, origin), expected, "{ranges:?}");
            for front in [ClusterIp, NodePort, ExternalIp] {
                assert_ne!(ask(&rules, front, "n1", name, origin), "silence", "{ranges:?}");
            }
        }
    }
    rules.ranges = vec![outside.parse().unwrap()];
    rules.endpoints.clear();
    assert_eq!(ask(&rules, LoadBalancer, "n1", "office", Elsewhere), "silence");
    assert_eq!(ask(&rules, NodePort, "n1", "office", Elsewhere), "refused");
}

fn seen(backends: &[(&str, &[&str])], refused: u64, silent: u64, other: u64) -> Seen {
    let backends = backends.iter().map(|(backend, clients)| {
        ((*backend).to_owned(), clients.iter().map(|c| (*c).to_owned()).collect())
    });
    Seen { backends: backends.collect(), refused, silent, other, late: 0 }
}

#[test]
fn only_exactly_what_is_expected_meets_it() {
    let backends: BTreeMap<String, String> =
        [("b1", "n1"), ("b2", "c")].map(|(b, c)| (b.to_owned(), c.to_owned())).into();
    let all = Expected::Answers { backends: backends.clone(), sticky: false };
    let one = Expected::Answers { backends, sticky: true };
    let both: &[(&str, &[&str])] = &[("b1", &["n1"]), ("b2", &["c"])];
    assert!(all.met(&seen(both, 0, 0, 0)) && !one.met(&seen(both, 0, 0, 0)));
    assert!(one.met(&seen(&both[..1], 0, 0, 0)) && !all.met(&seen(&both[..1], 0, 0, 0)));
    for wrong in [
        seen(both, 1, 0, 0),
        seen(both, 0, 1, 0),
        seen(both, 0, 0, 1),
        seen(&[("b1", &["c"]), ("b2", &["c"])], 0, 0, 0),
        seen(&[("b1", &["n1"]), ("b2", &["c", "n1"])], 0, 0, 0),
        seen(&[("b1", &["n1"]), ("b2", &["c"]), ("b3", &["c"])], 0, 0, 0),
        seen(&[], 0, 0, 0),
    ] {
        assert!(!all.met(&wrong), "{wrong:?}");
    }
    let world: &[(&str, &[&str])] = &[(WORLD, &["c"]), ("b1", &["c"])];
    assert!(Expected::Passed.met(&seen(&world[..1], 0, 0, 0)));
    for wrong in [seen(world, 0, 0, 0), seen(&world[..1], 1, 0, 0), seen(&[], 1, 0, 0)] {
        assert!(!Expected::Passed.met(&wrong), "{wrong:?}");
    }
    for (expected, refused, silent, other) in [
        (Expected::Refused, true, false, false),
        (Expected::Silence, false, true, false),
        (Expected::Passed, false, false, false),
    ] {
        assert_eq!(expected.met(&seen(&[], 2, 0, 0)), refused, "{expected:?}");
        assert_eq!(expected.met(&seen(&[], 0, 2, 0)), silent, "{expected:?}");
        assert_eq!(expected.met(&seen(&[], 0, 0, 2)), other, "{expected:?}");
        assert!(!expected.met(&seen(&both[..1], 1, 0, 0)), "{expected:?}: somebody answered");
        assert!(!expected.met(&seen(&[], 0, 0, 0)), "{expected:?}: nothing was asked");
    }
}
