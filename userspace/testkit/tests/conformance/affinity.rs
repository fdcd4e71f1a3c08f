//! Session affinity: how long a client stays with a backend, and what unbinds it.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::rig::{ALL, End, Rig, SOON, WAYS, Way, patient, rig};

/// Services asked at once: with eight bindings, chance draws all of them again once in 6,561.
const SERVICES: [&str; 2] = ["sticky-1", "sticky-2"];
const CLIENT: &str = "client-n1";

fn sticky(timeout_s: u32) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": timeout_s } },
    })
}

/// Each Service in each way.
type Targets = Vec<(SocketAddr, Way)>;

fn create(rig: &Rig, timeout_s: u32) -> Targets {
    let mut targets = Vec::new();
    for service in SERVICES {
        rig.remove(service);
        let addresses = rig.service(service, sticky(timeout_s));
        rig.endpoints(service, &ALL);
        targets.extend(WAYS.map(|way| (SocketAddr::new(way.pick(&addresses), way.port()), way)));
    }
    for (target, way) in &targets {
        served(rig, *target, *way);
    }
    targets
}

fn served(rig: &Rig, target: SocketAddr, way: Way) {
    crate::rig::until("sticky to be served", SOON, || {
        matches!(rig.ask(CLIENT, target, way), End::By(_))
    });
}

/// Who answers each, once.
fn bound(rig: &Rig, targets: &Targets) -> Vec<String> {
    let one = |(target, way): &(SocketAddr, Way)| match rig.ask(CLIENT, *target, *way) {
        End::By(backend) => backend,
        End::Not(failure) => panic!("{target}: {failure}"),
    };
    targets.iter().map(one).collect()
}

fn remove(rig: &Rig) {
    for service in SERVICES {
        rig.remove(service);
    }
}

#[test]
fn r22_the_time_runs_from_the_last_new_connection_whatever_open_ones_do() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let targets = create(rig, 3);
    let first = bound(rig, &targets);
    // Longer than the timeout, but never so long between two connections.
    for _ in 0..3 {
        sleep(Duration::from_millis(1500));
        assert_eq!(bound(rig, &targets), first);
    }
    let open: Vec<_> =
        targets.iter().map(|(target, way)| rig.start(CLIENT, *target, way.lasting())).collect();
    sleep(Duration::from_millis(4500));
    let after = bound(rig, &targets);
    for running in open {
        let report = running.stop().unwrap();
        assert!(report.answered > 0 && report.backends.len() == 1, "{report:?}");
    }
    assert_ne!(after, first, "bindings that are over are drawn anew");
    remove(rig);
}

#[test]
fn r23_bindings_outlive_the_agent() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let targets = create(rig, 600);
    let first = bound(rig, &targets);
    let node = rig.cluster.node("n1").unwrap();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        node.stop_agent(signal).unwrap();
        assert_eq!(bound(rig, &targets), first, "without an agent");
        node.start_agent().unwrap();
        node.wait_agent_ready(patient(Duration::from_secs(60))).unwrap();
        assert_eq!(bound(rig, &targets), first, "with another agent");
    }
    remove(rig);
}

#[test]
fn r23_a_binding_goes_with_its_endpoint_and_does_not_come_back_with_it() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for way in WAYS {
        let targets = create(rig, 600);
        let (target, _) = targets.iter().find(|(_, w)| *w == way).unwrap();
        let bound = |rig: &Rig| match rig.ask(CLIENT, *target, way) {
            End::By(backend) => backend,
            End::Not(failure) => panic!("{target}: {failure}"),
        };
        let first = bound(rig);
        let others: Vec<&str> = ALL.into_iter().filter(|name| *name != first).collect();
        rig.endpoints(SERVICES[0], &others);
        crate::rig::until("the client to be bound anew", SOON, || bound(rig) != first);
        let second = bound(rig);
        rig.endpoints(SERVICES[0], &ALL);
        sleep(Duration::from_millis(500));
        for _ in 0..10 {
            assert_eq!(bound(rig), second, "{way:?}");
        }
    }
    remove(rig);
}

#[test]
fn r23_all_frontends_of_a_service_port_share_bindings() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let name = "sticky-ports";
    // Twice, since one in three is right by chance: four ways, two times.
    for _ in 0..2 {
        let mut spec = sticky(600);
        spec["type"] = json!("NodePort");
        let addresses = rig.service(name, spec);
        rig.endpoints(name, &ALL);
        for way in WAYS {
            let node_port = node_port(rig, name, way);
            let cluster_ip = SocketAddr::new(way.pick(&addresses), way.port());
            served(rig, cluster_ip, way);
            let first = rig.ask(CLIENT, cluster_ip, way);
            assert!(matches!(first, End::By(_)), "{first:?}");
            assert_eq!(rig.ask(CLIENT, node_port, way), first, "{way:?}");
        }
        rig.remove(name);
    }
}

#[test]
fn r23_turned_off_it_binds_nobody_any_more() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let targets = create(rig, 600);
    bound(rig, &targets);
    for service in SERVICES {
        rig.service(service, json!({ "sessionAffinity": "None", "sessionAffinityConfig": null }));
    }
    for (target, way) in targets {
        rig.settle(CLIENT, target, way, &ALL);
    }
    remove(rig);
}

/// ClusterIP with policy Local knows web-1 and web-2, the node port all three: bound at the one to
/// web-3, a client is bound anew at the other, and the newer binding counts at both.
#[test]
fn r49_of_several_bindings_the_newest_counts() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let mut seen = 0;
    // Each time another Service: one that goes and comes back at once keeps its bindings. One in three
    // is bound to web-3 first; 24 times never happens once in 16,000 runs.
    for round in 0..24 {
        let name = &format!("sticky-twice-{round}");
        let mut spec = sticky(600);
        spec["type"] = json!("NodePort");
        spec["internalTrafficPolicy"] = json!("Local");
        let addresses = rig.service(name, spec);
        rig.endpoints(name, &ALL);
        for way in WAYS {
            let node_port = node_port(rig, name, way);
            served(rig, node_port, way);
            if rig.ask(CLIENT, node_port, way) != End::By("web-3".to_owned()) {
                continue;
            }
            let newer = rig.ask(CLIENT, SocketAddr::new(way.pick(&addresses), way.port()), way);
            assert!(matches!(&newer, End::By(backend) if backend != "web-3"), "{newer:?}");
            assert_eq!(rig.ask(CLIENT, node_port, way), newer, "{way:?}");
            seen += 1;
        }
        rig.remove(name);
        if seen > 3 {
            break;
        }
    }
    assert!(seen > 0, "chance never chose web-3");
}

/// The node port of a Service at n1.
fn node_port(rig: &Rig, name: &str, way: Way) -> SocketAddr {
    let node = rig.cluster.node("n1").unwrap().plan();
    let own: [IpAddr; 2] = [node.v4.into(), node.v6.into()];
    let object = rig.cluster.store().get("services", "default", name).unwrap();
    let port = object["spec"]["ports"][usize::from(way.udp)]["nodePort"].as_u64().unwrap();
    SocketAddr::new(way.pick(&own), u16::try_from(port).unwrap())
}
