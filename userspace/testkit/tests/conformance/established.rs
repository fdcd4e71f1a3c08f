//! TCP connections that are open: what happens to their service is no concern of theirs.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use sluice_testkit::traffic::{Failure, Running};

use crate::rig::{End, Rig, SOON, WAYS, Way, rig, until};

const CLIENT: &str = "client-n1";
const NAME: &str = "lasting";

fn tcp() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| !way.udp)
}

/// A Service with one backend of another node, and a stream to it.
fn stream(rig: &Rig, way: Way) -> (SocketAddr, Running) {
    rig.remove(NAME);
    let addresses = rig.service(NAME, json!({}));
    rig.endpoints(NAME, &["web-3"]);
    rig.settle_all(CLIENT, &addresses, &["web-3"]);
    let target = SocketAddr::new(way.pick(&addresses), way.port());
    let running = rig.start(CLIENT, target, way.lasting());
    until("the stream to be answered", SOON, || running.report().answered > 0);
    (target, running)
}

/// The stream has gone on, on one connection, without a failure.
fn unbroken(running: Running, way: Way) {
    let before = running.report().answered;
    sleep(Duration::from_millis(500));
    let report = running.stop().unwrap();
    assert!(report.answered > before, "{way:?}: {report:?}");
    assert_eq!((report.failed(), report.connections), (0, 1), "{way:?}: {report:?}");
}

#[test]
fn r14_open_connections_survive_that_their_service_loses_all_endpoints() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for way in tcp() {
        let (target, running) = stream(rig, way);
        rig.endpoints(NAME, &[]);
        until("new connections to be refused", SOON, || {
            rig.ask(CLIENT, target, way) == End::Not(Failure::Refused)
        });
        unbroken(running, way);
    }
    rig.remove(NAME);
}

#[test]
fn r36_open_connections_stay_with_a_removed_and_with_a_terminating_endpoint() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let going = json!({ "ready": false, "serving": true, "terminating": true });
    let going = json!({ "nodeName": "n2", "conditions": going });
    let ready = json!({ "nodeName": "n1", "conditions": { "ready": true } });
    for way in tcp() {
        for removed in [false, true] {
            let (target, running) = stream(rig, way);
            let mut endpoints = vec![("web-1", ready.clone())];
            if !removed {
                endpoints.push(("web-3", going.clone()));
            }
            rig.slices(NAME, &endpoints, &crate::rig::PORTS);
            rig.settle(CLIENT, target, way, &["web-1"]);
            unbroken(running, way);
        }
    }
    rig.remove(NAME);
}
