//! Agents that are gone while things change, and come again.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{SOON, WAYS, patient, rig, until};

const CLIENT: &str = "client-n1";

#[test]
fn r37_what_changed_without_agents_is_made_up_for_and_the_rest_never_notices() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let stays = rig.service("stays", json!({}));
    let goes = rig.service("goes", json!({}));
    rig.endpoints("stays", &["web-3"]);
    rig.endpoints("goes", &["web-3"]);
    rig.settle_all(CLIENT, &stays, &["web-3"]);
    rig.settle_all(CLIENT, &goes, &["web-3"]);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut running = Vec::new();
        for way in WAYS {
            let target = SocketAddr::new(way.pick(&stays), way.port());
            for load in [way.load(), way.lasting()] {
                running.push((way, rig.start(CLIENT, target, load)));
            }
        }
        for (way, running) in &running {
            until(&format!("{way:?} to be answered"), SOON, || running.report().answered > 0);
        }
        for node in rig.cluster.nodes() {
            node.stop_agent(signal).unwrap();
        }
        rig.remove("goes");
        let comes = rig.service("comes", json!({}));
        rig.endpoints("comes", &["web-1"]);
        rig.endpoints("stays", &["web-3", "web-2"]);
        for node in rig.cluster.nodes() {
            node.start_agent().unwrap();
        }
        for node in rig.cluster.nodes() {
            node.wait_agent_ready(patient(Duration::from_secs(60))).unwrap();
        }
        rig.settle_all(CLIENT, &comes, &["web-1"]);
        rig.settle_all(CLIENT, &goes, &[]);
        rig.settle_all(CLIENT, &stays, &["web-2", "web-3"]);
        for (way, running) in running {
            let report = running.stop().unwrap();
            assert_eq!(report.failed(), 0, "{signal} {way:?}: {report:?}");
        }
        rig.remove("comes");
        rig.endpoints("stays", &["web-3"]);
        rig.settle_all(CLIENT, &stays, &["web-3"]);
    }
    rig.remove("stays");
}
