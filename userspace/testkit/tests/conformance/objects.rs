//! Objects as older servers and other controllers leave them: addresses that no server takes any more,
//! endpoints that stand twice, changes in bursts. Seen by what clients meet.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::traffic::Failure;

use crate::flags::{addresses, node_port};
use crate::rig::{ALL, End, PORTS, Rig, SOON, WAYS, Way, rig, until};

const NAME: &str = "sloppy";
const CLIENT: &str = "client-n1";

fn at(addresses: &[IpAddr], way: Way) -> SocketAddr {
    SocketAddr::new(way.pick(addresses), way.port())
}

/// Changes an object as nobody may who asks the server.
fn edit(
    rig: &Rig,
    (plural, kind, version): (&str, &str, &str),
    name: &str,
    edit: impl Fn(&mut Value),
) {
    let mut object = rig.cluster.store().get(plural, "default", name).unwrap();
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    edit(&mut object);
    rig.cluster.store().embedded().unwrap().store().apply_unchecked(object).unwrap();
}

const SERVICE: (&str, &str, &str) = ("services", "Service", "v1");
const SLICE: (&str, &str, &str) = ("endpointslices", "EndpointSlice", "discovery.k8s.io/v1");

/// An address of a pod in full length: `010.244.001.005`, `FD00:0010:...`.
fn in_full(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.octets().map(|octet| format!("{octet:03}")).join("."),
        IpAddr::V6(v6) => v6.segments().map(|part| format!("{part:04X}")).join(":"),
    }
}

#[test]
fn r4_r6_addresses_of_a_service_count_in_their_family_however_they_are_written() {
    const EXTERNAL: [&str; 2] = ["198.18.4.1", "2001:db8:4::1"];
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let external: [IpAddr; 2] = EXTERNAL.map(|ip| ip.parse().unwrap());
    let balanced: [IpAddr; 2] = ["198.18.4.2", "2001:db8:4::2"].map(|ip| ip.parse().unwrap());
    for (kept, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let single = json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": [family] });
        rig.service(NAME, single);
        rig.endpoints(NAME, &ALL);
        let office = ["192.168.88.0/24", "fd00:88::/64"][kept];
        let pods = rig.cluster.node("n1").unwrap().pod_cidrs()[kept].to_string();
        edit(rig, SERVICE, NAME, |service| {
            let spec = service["spec"].as_object_mut().unwrap();
            spec.insert("type".to_owned(), json!("LoadBalancer"));
            let addresses = ["next door".to_owned(), in_full(external[0]), in_full(external[1])];
            spec.insert("externalIPs".to_owned(), json!(addresses));
            let ranges = json!(["office", office, format!(" {pods} ")]);
            spec.insert("loadBalancerSourceRanges".to_owned(), ranges);
            let ingress = [in_full(balanced[0]), "10.0.0".to_owned(), in_full(balanced[1])];
            let ingress: Vec<Value> = ingress.iter().map(|ip| json!({ "ip": ip })).collect();
            service["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        });
        for way in WAYS {
            let backends = if way.v4 == external[kept].is_ipv4() { &ALL[..] } else { &[] };
            for target in [at(&external, way), at(&balanced, way)] {
                rig.settle(CLIENT, target, way, backends);
            }
        }
        // Nobody but those of the ranges that are some.
        let way = WAYS.into_iter().find(|way| way.v4 == balanced[kept].is_ipv4()).unwrap();
        let outsider = rig.ask("client-n3", at(&balanced, way), way);
        assert_eq!(outsider, End::Not(Failure::TimedOut), "{family}");
        rig.remove(NAME);
    }
}

#[test]
fn r6_r43_an_endpoint_is_its_first_address_and_a_bad_one_harms_itself_only() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-1", "web-3"]);
    rig.settle_all(CLIENT, &ips, &["web-1", "web-3"]);
    let [one, two, _] = ALL.map(|pod| rig.cluster.pod(pod).unwrap().addresses);
    for (family, slice) in [format!("{NAME}-ipv4"), format!("{NAME}-ipv6")].iter().enumerate() {
        edit(rig, SLICE, slice, |slice| {
            let endpoints = slice["endpoints"].as_array_mut().unwrap();
            // The other one is not asked, and the first is the same as without zeros.
            endpoints[0]["addresses"] = json!([in_full(one[family]), two[family]]);
            let bad = ["10.244.0", "db.example.org", "0.0.0.0", "127.0.0.1", "ff02::1", ""];
            let bad = bad.map(|address| json!({ "addresses": [address] }));
            let other = json!({ "addresses": [two[1 - family]] });
            endpoints.extend(bad.into_iter().chain([json!({ "addresses": [] }), other]));
        });
    }
    // A second look: what was to come has come when another change has.
    let marker = rig.service("marker", json!({}));
    rig.endpoints("marker", &["web-2"]);
    rig.settle_all(CLIENT, &marker, &["web-2"]);
    rig.settle_all(CLIENT, &ips, &["web-1", "web-3"]);
    rig.remove("marker");
    rig.remove(NAME);
}

#[test]
fn r8_local_is_who_names_this_node_exactly() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = node_port(rig, NAME);
    let (node, _) = addresses(rig);
    let spec = json!({ "type": "NodePort", "externalTrafficPolicy": "Local" });
    rig.service(NAME, spec);
    for (name, backends) in [
        (json!("n1"), &["web-1"][..]),
        (json!("n1.site"), &[]),
        (json!("n10"), &[]),
        (json!("n1"), &["web-1"]),
        (json!(null), &[]),
    ] {
        let endpoint = json!({ "nodeName": name, "conditions": { "ready": true } });
        rig.slices(NAME, &[("web-1", endpoint)], &PORTS);
        for way in WAYS {
            rig.settle("office", at(&node, way), way, backends);
        }
    }
    rig.remove(NAME);
}

/// Ends that are the same in two slices: one that terminates never takes another's place.
#[test]
fn r9_slices_are_merged_and_who_is_not_terminating_wins() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-1"]);
    rig.settle_all(CLIENT, &ips, &["web-1"]);
    // A second slice of the same Service and family, whose name comes before or after.
    let second = |name: &str, pod: &str, conditions: &Value| {
        for (family, name) in [format!("{name}-ipv4"), format!("{name}-ipv6")].iter().enumerate() {
            let first = format!("{NAME}-ipv{}", [4, 6][family]);
            let mut slice = rig.cluster.store().get("endpointslices", "default", &first).unwrap();
            let address = rig.cluster.pod(pod).unwrap().addresses[family];
            slice["apiVersion"] = json!("discovery.k8s.io/v1");
            slice["kind"] = json!("EndpointSlice");
            slice["metadata"] = json!({
                "name": name, "namespace": "default",
                "labels": { "kubernetes.io/service-name": NAME },
            });
            slice["endpoints"] = json!([{ "addresses": [address], "conditions": conditions }]);
            rig.cluster.apply(slice).unwrap();
        }
    };
    let terminating = json!({ "ready": false, "serving": true, "terminating": true });
    for name in ["a", "z"] {
        second(name, "web-3", &json!({ "ready": true }));
        rig.settle_all(CLIENT, &ips, &["web-1", "web-3"]);
        // The only endpoint in use is in both: were it terminating, it would be used all the same, so
        // another that is ready tells.
        second(name, "web-1", &terminating);
        rig.settle_all(CLIENT, &ips, &["web-1"]);
        rig.endpoints(NAME, &["web-1", "web-2"]);
        rig.settle_all(CLIENT, &ips, &["web-1", "web-2"]);
        rig.endpoints(NAME, &["web-1"]);
        for family in ["ipv4", "ipv6"] {
            let slice = format!("{name}-{family}");
            rig.cluster.store().delete("endpointslices", "default", &slice);
        }
        rig.settle_all(CLIENT, &ips, &["web-1"]);
    }
    rig.remove(NAME);
}

/// New tables stand before anything leads to them: backends that are exchanged again and again lose
/// nobody, whoever asks meanwhile.
#[test]
fn r34_no_question_is_lost_while_endpoints_are_exchanged() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-1"]);
    rig.settle_all(CLIENT, &ips, &["web-1"]);
    let running: Vec<_> = WAYS
        .into_iter()
        .flat_map(|way| [way.load(), way.lasting()].map(|load| (way, load)))
        .map(|(way, load)| (way, rig.start(CLIENT, at(&ips, way), load)))
        .collect();
    for round in 0..20 {
        for backends in [&["web-2", "web-3"][..], &["web-1"]] {
            rig.endpoints(NAME, backends);
            if round % 5 == 0 {
                rig.settle_all(CLIENT, &ips, backends);
            } else {
                sleep(Duration::from_millis(50));
            }
        }
    }
    for (way, running) in running {
        let report = running.stop().unwrap();
        assert_eq!(report.failed(), 0, "{way:?}: {report:?}");
        assert!(report.answered > 20, "{way:?}: {report:?}");
    }
    rig.remove(NAME);
}

/// After a pause a change is carried out at once, and of a burst the last counts.
#[test]
fn r38_a_change_counts_at_once_and_of_many_the_last() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-1"]);
    rig.settle_all(CLIENT, &ips, &["web-1"]);
    let way = WAYS[0];
    let leads = |backend: &str| rig.ask(CLIENT, at(&ips, way), way) == End::By(backend.to_owned());
    let mut fastest = Duration::MAX;
    for backend in ["web-3", "web-1", "web-2"] {
        // Longer than the pause between two.
        sleep(Duration::from_millis(1_500));
        rig.endpoints(NAME, &[backend]);
        fastest = fastest.min(until("the change", SOON, || leads(backend)));
    }
    println!("a change after a pause counts after {fastest:?}");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    for round in 0..60 {
        rig.endpoints(NAME, &[ALL[round % 3]]);
    }
    rig.settle_all(CLIENT, &ips, &["web-3"]);
    rig.remove(NAME);
}

/// Every address and port of a Service is nobody's, or the node's own server's, as soon as it is gone.
#[test]
fn r39_a_deleted_service_is_gone_from_all_its_addresses_at_once() {
    const EXTERNAL: [&str; 2] = ["198.18.39.1", "2001:db8:39::1"];
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let external = EXTERNAL.map(|ip| ip.parse().unwrap());
    let port_at = node_port(rig, NAME);
    let (node, _) = addresses(rig);
    let ips = rig.service(NAME, json!({ "type": "NodePort", "externalIPs": EXTERNAL }));
    let targets = |way: Way| [at(&ips, way), port_at(&node, way), at(&external, way)];
    for way in WAYS {
        for target in targets(way) {
            rig.settle(CLIENT, target, way, &ALL);
        }
    }
    // Its slices go later: without endpoints it would be refused as well, in one family before the other.
    rig.cluster.store().delete("services", "default", NAME);
    // The first that is gone shows that the change has come; then all are.
    rig.settle(CLIENT, at(&ips, WAYS[0]), WAYS[0], &[]);
    for way in WAYS {
        for target in targets(way) {
            let end = rig.ask(CLIENT, target, way);
            assert!(!matches!(end, End::By(_)), "{target} {way:?}: {end:?}");
        }
    }
    rig.remove(NAME);
}
