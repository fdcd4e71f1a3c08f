//! UDP clients that keep their port for ever: they follow the endpoints all the same.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_testkit::cluster::process::Spec;
use sluice_testkit::cluster::topology::{OFFICE_V4, OFFICE_V6};
use sluice_testkit::traffic::{Failure, Running};

use crate::rig::{ALL, End, PORTS, Rig, SOON, WAYS, Way, patient, rig, until};

const CLIENT: &str = "client-n1";
const NAME: &str = "flow";
/// Like the usual ports, but nobody listens at the one of UDP.
const CLOSED: [(&str, u16, u16); 2] = [PORTS[0], ("UDP", 53, 5399)];
/// Within this a flow has moved after its slice changed.
const MOVED: Duration = Duration::from_millis(100);

fn udp() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.udp)
}

/// Answers of a backend so far.
fn of(flow: &Running, backend: &str) -> u64 {
    flow.report().backends.get(backend).copied().unwrap_or(0)
}

fn create(rig: &Rig, backends: &[&str]) -> Vec<IpAddr> {
    rig.remove(NAME);
    let addresses = rig.service(NAME, json!({}));
    rig.endpoints(NAME, backends);
    rig.settle_all(CLIENT, &addresses, backends);
    addresses
}

#[test]
fn r31_a_flow_moves_within_100_ms_of_its_slices_change() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = create(rig, &["web-1"]);
    for way in udp() {
        let target = SocketAddr::new(way.pick(&addresses), way.port());
        rig.settle(CLIENT, target, way, &["web-1"]);
        let flow = rig.start(CLIENT, target, way.lasting());
        until("the flow to be answered", SOON, || of(&flow, "web-1") > 0);
        let mut took = Vec::new();
        // To another node, back, within the node, and so on; the last one leaves it at web-1.
        for backend in ["web-3", "web-2", "web-3", "web-1", "web-2", "web-3", "web-1"] {
            let before = of(&flow, backend);
            rig.endpoints(NAME, &[backend]);
            took.push(until("the flow to move", SOON, || of(&flow, backend) > before));
            sleep(Duration::from_millis(200));
            let others = |f: &Running| f.report().answered - of(f, backend);
            let stale = others(&flow);
            sleep(Duration::from_millis(100));
            assert_eq!(others(&flow), stale, "{backend} is the only one that answers");
        }
        let report = flow.stop().unwrap();
        // The median: this machine may be busy for a moment.
        took.sort();
        assert!(took[took.len() / 2] <= patient(MOVED), "{way:?}: {took:?}");
        assert_eq!(report.failed(), 0, "{way:?}: {report:?}");
    }
    rig.remove(NAME);
}

#[test]
fn r31_a_changed_target_port_moves_flows_on_the_same_address() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for way in udp() {
        let addresses = create(rig, &["web-3"]);
        let flow =
            rig.start(CLIENT, SocketAddr::new(way.pick(&addresses), way.port()), way.lasting());
        until("the flow to be answered", SOON, || flow.report().answered > 0);
        assert_eq!(flow.report().failed(), 0);
        // Nobody listens there.
        let endpoint = json!({ "nodeName": "n2", "conditions": { "ready": true } });
        rig.slices(NAME, &[("web-3", endpoint)], &CLOSED);
        until("the flow to leave the old port", SOON, || flow.report().failed() > 0);
        let answered = flow.report().answered;
        sleep(Duration::from_millis(300));
        assert_eq!(flow.report().answered, answered, "{way:?}");
        drop(flow);
    }
    rig.remove(NAME);
}

#[test]
fn r33_without_endpoints_a_flow_is_refused_and_with_new_ones_served_again() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = create(rig, &ALL);
    for way in udp() {
        let target = SocketAddr::new(way.pick(&addresses), way.port());
        let flow = rig.start(CLIENT, target, way.lasting());
        until("the flow to be answered", SOON, || flow.report().answered > 0);
        rig.endpoints(NAME, &[]);
        until("the flow to be refused", SOON, || {
            flow.report().failures.contains_key(&Failure::Refused)
        });
        sleep(Duration::from_millis(100));
        let answered = flow.report().answered;
        sleep(Duration::from_millis(100));
        assert_eq!(flow.report().answered, answered, "{way:?}: nobody is left to answer");
        rig.endpoints(NAME, &ALL);
        until("the flow to be answered again", SOON, || flow.report().answered > answered);
        drop(flow);
    }
    rig.remove(NAME);
}

#[test]
fn r32_a_flow_from_before_the_service_is_served_once_it_is_there() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = create(rig, &ALL);
    for way in udp() {
        rig.remove(NAME);
        let target = SocketAddr::new(way.pick(&addresses), way.port());
        rig.settle(CLIENT, target, way, &[]);
        let flow = rig.start(CLIENT, target, way.lasting());
        sleep(Duration::from_millis(300));
        assert_eq!(flow.report().answered, 0, "{way:?}");
        let fixed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        rig.service(NAME, json!({ "clusterIP": fixed[0], "clusterIPs": fixed }));
        rig.endpoints(NAME, &ALL);
        until("the flow to be answered", SOON, || flow.report().answered > 0);
        drop(flow);
    }
    rig.remove(NAME);
}

#[test]
fn r54_flows_end_with_their_service() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for way in udp() {
        let addresses = create(rig, &ALL);
        let target = SocketAddr::new(way.pick(&addresses), way.port());
        let flow = rig.start(CLIENT, target, way.lasting());
        until("the flow to be answered", SOON, || flow.report().answered > 0);
        rig.remove(NAME);
        let deadline = Instant::now() + patient(SOON);
        loop {
            let before = flow.report().answered;
            sleep(Duration::from_millis(500));
            if flow.report().answered == before {
                break;
            }
            assert!(Instant::now() < deadline, "{way:?}: the flow outlives its Service");
        }
    }
}

/// As with any translation: an ICMP error about a translated packet is translated back.
#[test]
fn a_backend_that_refuses_is_seen_to_refuse() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = create(rig, &ALL);
    for (backend, node) in [("web-2", "n1"), ("web-3", "n2")] {
        let endpoint = json!({ "nodeName": node, "conditions": { "ready": true } });
        rig.slices(NAME, &[(backend, endpoint)], &CLOSED);
        for way in udp() {
            let target = SocketAddr::new(way.pick(&addresses), way.port());
            until(&format!("{backend} to refuse, {way:?}"), SOON, || {
                rig.ask(CLIENT, target, way) == End::Not(Failure::Refused)
            });
        }
    }
    rig.remove(NAME);
}

/// A flow through the node to somebody who is no Service, at a port that is a Service's node port.
#[test]
fn r55_flows_of_others_at_the_number_of_a_node_port_are_left_alone() {
    // Of those that no Service gets by chance.
    const NUMBER: u16 = 30_055;
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let port = NUMBER.to_string();
    let server =
        Spec::new(rig.cluster.program()).args(["echo", "--name", "office", "--udp", &port]);
    let server = server.log(rig.cluster.dir().join("office.log"));
    let _server = rig.cluster.keeper().spawn(&rig.netns("office"), &server).unwrap();
    let office: [IpAddr; 2] = [OFFICE_V4.into(), OFFICE_V6.into()];
    for way in udp() {
        let target = SocketAddr::new(way.pick(&office), NUMBER);
        rig.settle(CLIENT, target, way, &["office"]);
        let flow = rig.start(CLIENT, target, way.lasting());
        let addresses = create(rig, &ALL);
        let mut service = sluice_testkit::cluster::service(NAME, &json!(null), &PORTS);
        service["spec"]["type"] = json!("NodePort");
        service["spec"]["ports"][1]["nodePort"] = json!(NUMBER);
        rig.cluster.apply(service).unwrap();
        for backends in [&ALL[..1], &[], &ALL[1..]] {
            rig.endpoints(NAME, backends);
            rig.settle_all(CLIENT, &addresses, backends);
        }
        rig.remove(NAME);
        rig.settle_all(CLIENT, &addresses, &[]);
        let report = flow.stop().unwrap();
        assert!(report.answered > 0 && report.failed() == 0, "{way:?}: {report:?}");
    }
}

/// A process of the node at its own node port is translated when it connects: its socket is ended when
/// the backend goes, at once or while no agent runs, and finds another when it connects anew.
#[test]
fn r31_a_connected_socket_of_the_node_is_ended_with_its_backend() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    if !sluice_testkit::cluster::has_cgroups() {
        println!("SKIP: no cgroup v2, so nothing is translated at the socket");
        return;
    }
    let node = rig.cluster.node("n1").unwrap();
    let own: [IpAddr; 2] = [node.plan().v4.into(), node.plan().v6.into()];
    let cases = udp().map(|way| (way, false)).chain(udp().take(1).map(|way| (way, true)));
    for (way, restart) in cases {
        let lasts = if restart { patient(Duration::from_secs(25)) } else { Duration::from_secs(4) };
        rig.remove(NAME);
        let addresses = rig.service(NAME, json!({ "type": "NodePort" }));
        rig.endpoints(NAME, &["web-1"]);
        rig.settle_all(CLIENT, &addresses, &["web-1"]);
        let object = rig.cluster.store().get("services", "default", NAME).unwrap();
        let port = u16::try_from(object["spec"]["ports"][1]["nodePort"].as_u64().unwrap()).unwrap();
        let target = SocketAddr::new(way.pick(&own), port);
        rig.settle("n1", target, way, &["web-1"]);
        let asking = rig.own_flow(node, target, lasts.as_secs() as u32);
        sleep(Duration::from_secs(1));
        if restart {
            node.stop_agent(Signal::SIGTERM).unwrap();
        }
        rig.endpoints(NAME, &["web-3"]);
        if restart {
            sleep(Duration::from_secs(1));
            node.start_agent().unwrap();
            node.wait_agent_ready(patient(Duration::from_secs(20))).unwrap();
        }
        let report = asking.report();
        assert_eq!(report.failures.get(&Failure::Reset), Some(&1), "{way:?} {restart}: {report:?}");
        for backend in ["web-1", "web-3"] {
            assert!(report.backends.contains_key(backend), "{way:?} {restart}: {report:?}");
        }
    }
    rig.remove(NAME);
}
