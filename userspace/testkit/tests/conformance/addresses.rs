//! Whose an address is, and when it stops being anybody's.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{ALL, End, PORTS, Rig, SOON, WAYS, Way, rig, until};

const CLIENT: &str = "client-n1";
const EXTERNAL: [&str; 2] = ["198.18.1.1", "2001:db8:19::1"];

fn at(addresses: &[IpAddr], way: Way) -> SocketAddr {
    SocketAddr::new(way.pick(addresses), way.port())
}

/// Sets or takes away a label.
fn label(rig: &Rig, plural: &str, name: &str, label: &str, value: Option<&str>) {
    let patch = json!({ "metadata": { "labels": { label: value } } });
    rig.cluster.store().merge(plural, "default", name, "", &patch).unwrap();
}

#[test]
fn r1_a_label_for_another_proxy_hides_a_service_and_its_removal_shows_it() {
    const PROXY: &str = "service.kubernetes.io/service-proxy-name";
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("labelled", json!({}));
    rig.endpoints("labelled", &ALL);
    rig.settle_all(CLIENT, &addresses, &ALL);
    label(rig, "services", "labelled", PROXY, Some("other"));
    rig.settle_all(CLIENT, &addresses, &[]);
    label(rig, "services", "labelled", PROXY, None);
    rig.settle_all(CLIENT, &addresses, &ALL);
    rig.remove("labelled");
}

#[test]
fn r1_a_headless_label_hides_a_slice_and_its_removal_shows_it() {
    const HEADLESS: &str = "service.kubernetes.io/headless";
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("labelled", json!({}));
    rig.endpoints("labelled", &ALL);
    rig.settle_all(CLIENT, &addresses, &ALL);
    for slice in ["labelled-ipv4", "labelled-ipv6"] {
        label(rig, "endpointslices", slice, HEADLESS, Some(""));
    }
    rig.settle_all(CLIENT, &addresses, &[]);
    for slice in ["labelled-ipv4", "labelled-ipv6"] {
        label(rig, "endpointslices", slice, HEADLESS, None);
    }
    rig.settle_all(CLIENT, &addresses, &ALL);
    rig.remove("labelled");
}

#[test]
fn r2_a_service_changes_its_type_and_back() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let node = rig.cluster.node("n1").unwrap().plan();
    let node: [IpAddr; 2] = [node.v4.into(), node.v6.into()];
    let mut addresses = rig.service("changing", json!({ "type": "ClusterIP" }));
    rig.endpoints("changing", &ALL);
    rig.settle_all(CLIENT, &addresses, &ALL);
    for _ in 0..2 {
        rig.service("changing", json!({ "type": "NodePort" }));
        let object = rig.cluster.store().get("services", "default", "changing").unwrap();
        let port = |way: Way| {
            let port = object["spec"]["ports"][usize::from(way.udp)]["nodePort"].as_u64();
            SocketAddr::new(way.pick(&node), u16::try_from(port.unwrap()).unwrap())
        };
        for way in WAYS {
            rig.settle(CLIENT, port(way), way, &ALL);
        }
        rig.service("changing", json!({ "type": "ClusterIP" }));
        for way in WAYS {
            rig.settle(CLIENT, port(way), way, &[]);
        }
        rig.settle_all(CLIENT, &addresses, &ALL);
        let external = json!({ "type": "ExternalName", "externalName": "example.com" });
        let mut object = rig.cluster.store().get("services", "default", "changing").unwrap();
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Service");
        let spec = object["spec"].as_object_mut().unwrap();
        for gone in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "selector"] {
            spec.remove(gone);
        }
        spec.extend(external.as_object().cloned().unwrap());
        rig.cluster.apply(object).unwrap();
        rig.settle_all(CLIENT, &addresses, &[]);
        addresses = rig.service("changing", json!({ "type": "ClusterIP", "externalName": null }));
        rig.settle_all(CLIENT, &addresses, &ALL);
    }
    rig.remove("changing");
}

/// Two Services with one external address: web-1 is behind the older one, web-3 behind the other.
#[test]
fn r42_the_oldest_service_with_endpoints_has_an_address_that_two_claim() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = EXTERNAL.map(|ip| ip.parse().unwrap());
    let spec: Value = json!({ "externalIPs": EXTERNAL });
    rig.service("elder", spec.clone());
    // Creation times are whole seconds.
    sleep(Duration::from_millis(1100));
    rig.service("younger", spec);
    rig.endpoints("younger", &["web-3"]);
    rig.settle_all(CLIENT, &addresses, &["web-3"]);
    rig.endpoints("elder", &["web-1"]);
    rig.settle_all(CLIENT, &addresses, &["web-1"]);
    rig.endpoints("elder", &[]);
    rig.settle_all(CLIENT, &addresses, &["web-3"]);
    rig.endpoints("elder", &["web-1"]);
    rig.settle_all(CLIENT, &addresses, &["web-1"]);
    rig.remove("elder");
    rig.settle_all(CLIENT, &addresses, &["web-3"]);
    rig.remove("younger");
}

#[test]
fn r42_a_cluster_ip_is_its_services_whoever_names_it_as_external() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("owner", json!({}));
    rig.service("thief", json!({ "externalIPs": addresses }));
    rig.endpoints("thief", &["web-3"]);
    rig.endpoints("owner", &["web-1"]);
    rig.settle_all(CLIENT, &addresses, &["web-1"]);
    rig.remove("thief");
    rig.settle_all(CLIENT, &addresses, &["web-1"]);
    rig.remove("owner");
}

#[test]
fn r46_a_pod_reaches_itself_even_if_its_endpoint_names_no_node() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = rig.service("mirror", json!({}));
    rig.slices("mirror", &[("web-1", json!({ "conditions": { "ready": true } }))], &PORTS);
    for way in WAYS {
        rig.settle("web-1", at(&addresses, way), way, &["web-1"]);
        let own = rig.cluster.pod("web-1").unwrap().addresses;
        let report = rig.report("web-1", at(&addresses, way), way, 20);
        assert_eq!((report.answered, report.failed()), (20, 0), "{way:?}: {report:?}");
        assert!(!report.clients.iter().any(|ip| own.contains(ip)), "{way:?}: {report:?}");
    }
    rig.remove("mirror");
}

#[test]
fn r5_r10_a_slice_that_changes_to_another_service_leaves_the_old_one_at_once() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (old, new) = (rig.service("old-home", json!({})), rig.service("new-home", json!({})));
    rig.endpoints("old-home", &["web-1"]);
    rig.settle_all(CLIENT, &old, &["web-1"]);
    for slice in ["old-home-ipv4", "old-home-ipv6"] {
        label(rig, "endpointslices", slice, "kubernetes.io/service-name", Some("new-home"));
    }
    rig.settle_all(CLIENT, &new, &["web-1"]);
    for way in WAYS {
        until("the old Service to be refused", SOON, || {
            !matches!(rig.ask(CLIENT, at(&old, way), way), End::By(_))
        });
    }
    rig.remove("new-home");
    rig.remove("old-home");
}
