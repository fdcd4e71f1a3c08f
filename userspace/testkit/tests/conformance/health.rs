//! What those outside learn of a node and of its services: load balancers that ask health check node
//! ports, monitors that ask kube-proxy's ports, and operators who read Events.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::cluster::PATIENCE;

use crate::rig::{ALL, PORTS, Rig, SOON, patient, rig, until};

const NAME: &str = "checked";
/// kube-proxy's ports: health for everybody, metrics on loopback.
const HEALTH: u16 = 10_256;
const METRICS: u16 = 10_249;

/// An answer by HTTP.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|fault| panic!("{fault}: {self:?}"))
    }
}

/// Asks by HTTP from a namespace; an error where nobody listens.
fn get(rig: &Rig, from: &str, at: SocketAddr, path: &str) -> io::Result<Answer> {
    let asked = rig.netns(from).run(|| -> io::Result<String> {
        let limit = patient(Duration::from_secs(1));
        let mut stream = TcpStream::connect_timeout(&at, limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = asked.unwrap()?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { code, head: head.to_lowercase(), body: body.to_owned() })
}

fn node_addresses(rig: &Rig, node: &str) -> [IpAddr; 2] {
    let plan = rig.cluster.node(node).unwrap().plan();
    [plan.v4.into(), plan.v6.into()]
}

/// The Service of these tests as a load balancer's; its health check node port.
fn checked(rig: &Rig, spec: Value) -> u16 {
    let mut balanced = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" });
    balanced.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    rig.service(NAME, balanced);
    let object = rig.cluster.api().get("services", "default", NAME).unwrap();
    object["spec"]["healthCheckNodePort"].as_u64().unwrap().try_into().unwrap()
}

/// Waits until a node's health check port counts so many endpoints, at an address of it.
fn counts(rig: &Rig, address: IpAddr, port: u16, endpoints: u64) {
    let at = SocketAddr::new(address, port);
    let code = if endpoints == 0 { 503 } else { 200 };
    until(&format!("{at} to count {endpoints}"), SOON, || {
        let Ok(answer) = get(rig, "office", at, "/healthz") else { return false };
        let weight = format!("x-load-balancing-endpoint-weight: {endpoints}\r\n");
        let told = json!({
            "service": { "namespace": "default", "name": NAME },
            "localEndpoints": endpoints,
            "serviceProxyHealthy": true,
        });
        answer.code == code
            && answer.json() == told
            && format!("{}\r\n", answer.head).contains(&weight)
            && answer.head.contains("content-type: application/json")
            && answer.head.contains("x-content-type-options: nosniff")
    });
}

/// A load balancer at the office asks all nodes, by both families: each counts its own endpoints.
#[test]
fn r24_r25_r26_r50_a_load_balancer_learns_which_nodes_have_endpoints() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let port = checked(rig, json!({}));
    let nodes = ["n1", "n2", "n3"].map(|node| node_addresses(rig, node));
    for (backends, expected) in [(&ALL[..], [2, 1, 0]), (&["web-3"], [0, 1, 0])] {
        rig.endpoints(NAME, backends);
        for (addresses, endpoints) in nodes.iter().zip(expected) {
            for address in addresses {
                counts(rig, *address, port, endpoints);
            }
        }
    }
    // A terminating endpoint still gets what comes, and is not counted.
    let draining = json!({ "ready": false, "serving": true, "terminating": true });
    let endpoints = [("web-3", json!({ "nodeName": "n2", "conditions": draining }))];
    rig.slices(NAME, &endpoints, &PORTS);
    for address in nodes[1] {
        counts(rig, address, port, 0);
    }
    // One family alone.
    rig.endpoints(NAME, &["web-1"]);
    rig.cluster.api().delete("endpointslices", "default", &format!("{NAME}-ipv6"));
    let [v4, v6] = nodes[0];
    counts(rig, v4, port, 1);
    counts(rig, v6, port, 0);
    // With policy Cluster nobody asks.
    rig.service(NAME, json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Cluster" }));
    for address in nodes[0] {
        let at = SocketAddr::new(address, port);
        until(&format!("{at} to be closed"), SOON, || get(rig, "office", at, "/").is_err());
    }
    rig.remove(NAME);
}

/// Events about an object that name a reason.
fn events(rig: &Rig, object: &str, reason: &str) -> Vec<Value> {
    let mut events = rig.cluster.api().list("events");
    events.retain(|event| {
        let about = [&event["regarding"], &event["involvedObject"]];
        event["reason"] == reason && about.iter().any(|about| about["name"] == object)
    });
    events
}

/// A port that is somebody else's is told, and taken as soon as it is free; another Service's is not
/// concerned.
#[test]
fn r27_r52_a_taken_health_check_port_is_an_event_and_tried_again() {
    const PORT: u16 = 32_511;
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    assert!(!events(rig, "n1", "Starting").is_empty(), "each start is an Event on the Node");
    let [address, _] = node_addresses(rig, "n1");
    let taken = rig.netns("n1").run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()).unwrap();
    let port = checked(rig, json!({ "healthCheckNodePort": PORT }));
    assert_eq!(port, PORT);
    rig.endpoints(NAME, &ALL);
    until("the Event", SOON, || !events(rig, NAME, "FailedToStartServiceHealthcheck").is_empty());
    // Other nodes have it.
    counts(rig, node_addresses(rig, "n2")[0], PORT, 1);
    drop(taken);
    until("the port to be taken", PATIENCE, || {
        get(rig, "office", SocketAddr::new(address, PORT), "/").is_ok()
    });
    counts(rig, address, PORT, 2);
    rig.remove(NAME);
}

/// The node's health as kube-proxy tells it, to whoever asks from outside.
#[test]
fn r28_r29_r30_the_nodes_health_is_told_outside() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let [address, _] = node_addresses(rig, "n1");
    let at = SocketAddr::new(address, HEALTH);
    let asked = |path: &str| get(rig, "office", at, path).unwrap();
    let healthy = asked("/healthz");
    let told = healthy.json();
    assert_eq!(
        (healthy.code, &told["healthy"], &told["nodeEligible"]),
        (200, &json!(true), &json!(true))
    );
    for family in ["IPv4", "IPv6"] {
        assert_eq!(told["status"][family]["healthy"], true, "{told}");
    }
    assert!(told["lastUpdated"].is_string() && told["currentTime"].is_string(), "{told}");
    let taint = |taints: Value| {
        let patch = json!({ "spec": { "taints": taints } });
        rig.cluster.api().merge("nodes", "", "n1", "", &patch).unwrap();
    };
    taint(json!([{ "key": "example.com/other", "effect": "NoSchedule" }]));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(asked("/healthz").code, 200, "other taints say nothing");
    taint(json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]));
    until("/healthz to say 503", SOON, || asked("/healthz").code == 503);
    assert_eq!(asked("/healthz").json()["nodeEligible"], false);
    let live = asked("/livez");
    assert_eq!((live.code, live.json().get("nodeEligible")), (200, None));
    taint(Value::Null);
    until("/healthz to say 200", SOON, || asked("/healthz").code == 200);
}

/// kube-proxy's metrics port: on the node's loopback, and nowhere else.
#[test]
fn r51_the_metrics_of_kube_proxy_are_on_loopback() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], METRICS));
    let asked = |path: &str| get(rig, "n1", at, path).unwrap();
    let mode = asked("/proxyMode");
    assert!(mode.code == 200 && mode.body.chars().all(char::is_alphanumeric), "{mode:?}");
    assert_eq!(asked("/healthz").body, "ok");
    let metrics = asked("/metrics").body;
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "rest_client_requests_total",
    ] {
        assert!(metrics.contains(name), "no {name} in {metrics}");
    }
    // From what made an endpoint change until it is programmed.
    let latency = || {
        let metrics = asked("/metrics").body;
        let counts = metrics.lines().filter(|line| {
            line.starts_with("kubeproxy_network_programming_duration_seconds_count")
        });
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let before = latency();
    rig.service(NAME, json!({}));
    rig.endpoints(NAME, &ALL);
    let now = Command::new("date").args(["-u", "+%FT%TZ"]).output().unwrap().stdout;
    let now = String::from_utf8(now).unwrap();
    let trigger = "endpoints.kubernetes.io/last-change-trigger-time";
    let slice = format!("{NAME}-ipv4");
    let object = rig.cluster.api().get("endpointslices", "default", &slice).unwrap();
    let patch = json!({
        "metadata": { "annotations": { trigger: now.trim() } },
        "endpoints": [object["endpoints"][0]],
    });
    rig.cluster.api().merge("endpointslices", "default", &slice, "", &patch).unwrap();
    until("the latency to be counted", SOON, || latency() > before);
    rig.remove(NAME);
    let [address, _] = node_addresses(rig, "n1");
    assert!(get(rig, "office", SocketAddr::new(address, METRICS), "/metrics").is_err());
}

/// The node moves from zone to zone, and its pods' connections with it; without a zone they go anywhere.
#[test]
fn r40_the_zone_of_the_own_node_is_followed() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let ips = rig.service(NAME, json!({}));
    let own = rig.cluster.api().get("nodes", "", "n1").unwrap();
    let own = own["metadata"]["labels"][ZONE].clone();
    let hinted = |node: &str, zone: &str| {
        json!({
            "nodeName": node,
            "conditions": { "ready": true },
            "hints": { "forZones": [{ "name": zone }] },
        })
    };
    let endpoints = [("web-1", hinted("n1", "east")), ("web-3", hinted("n2", "west"))];
    rig.slices(NAME, &endpoints, &PORTS);
    let move_to = |zone: Value| {
        let patch = json!({ "metadata": { "labels": { ZONE: zone } } });
        rig.cluster.api().merge("nodes", "", "n1", "", &patch).unwrap();
    };
    for (zone, backends) in [
        (json!("east"), &["web-1"][..]),
        (json!("west"), &["web-3"]),
        (json!("north"), &["web-1", "web-3"]),
        (json!("east"), &["web-1"]),
        (Value::Null, &["web-1", "web-3"]),
    ] {
        move_to(zone);
        rig.settle_all("client-n1", &ips, backends);
    }
    move_to(own);
    rig.remove(NAME);
}
