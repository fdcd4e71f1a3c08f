//! Schedulers and weights by annotation, as the shares of answers that clients see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::cluster;
use sluice_testkit::traffic::Report;

use crate::rig::{ALL, PORTS, Rig, SOON, WAYS, Way, rig, until};

const NAME: &str = "weighed";
const CLIENT: &str = "client-n1";
const SCHEDULER: &str = "sluice.io/service.scheduler";
const WEIGHTS: &str = "sluice.io/service.weights";
/// Questions for one measurement.
const TIMES: u64 = 600;

/// Writes the Service with these annotations and all backends; where it is.
fn create(rig: &Rig, annotations: Value, spec: Value) -> impl Fn(Way) -> SocketAddr {
    let mut service = cluster::service(NAME, &Value::Null, &PORTS);
    service["metadata"]["annotations"] = annotations;
    let own = service["spec"].as_object_mut().unwrap();
    own.extend(spec.as_object().unwrap().clone());
    rig.cluster.apply(service).unwrap();
    rig.endpoints(NAME, &ALL);
    let addresses = rig.cluster.api().cluster_ips(NAME).unwrap();
    move |way| SocketAddr::new(way.pick(&addresses), way.port())
}

/// Whether the answers are as many as the weights say: within five standard deviations of the
/// binomial distribution, which chance leaves once in a million times. Weight 0 gets none, but for UDP
/// sockets that have got the port of one before, whose flow goes on.
fn is_shared(report: &Report, weights: &[(&str, u8)], way: Way) -> Result<(), String> {
    let sum: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let all = report.answered as f64;
    for (backend, weight) in weights {
        let share = f64::from(*weight) / sum;
        let found = report.backends.get(*backend).copied().unwrap_or(0) as f64;
        let deviation = (all * share * (1.0 - share)).sqrt();
        let reused = if way.udp { all / 10.0 } else { 0.0 };
        if (found - all * share).abs() > 5.0 * deviation + reused {
            return Err(format!("{backend}: {found} of {all}, not {share:.3}: {report:?}"));
        }
    }
    Ok(())
}

/// Waits until the state is served that the annotations ask for, then counts.
fn holds(rig: &Rig, at: &impl Fn(Way) -> SocketAddr, weights: &[(&str, u8)]) {
    let heavy = weights.iter().filter(|(_, weight)| *weight > 0).map(|(name, _)| *name);
    let answering: Vec<&str> = heavy.collect();
    for way in WAYS {
        rig.settle(CLIENT, at(way), way, &answering);
        let mut found = Err(String::new());
        // The change may be on its way while the first is counted.
        for _ in 0..3 {
            let report = rig.report(CLIENT, at(way), way, TIMES);
            assert_eq!((report.answered, report.failed()), (TIMES, 0), "{way:?}: {report:?}");
            found = is_shared(&report, weights, way);
            if found.is_ok() {
                break;
            }
        }
        assert_eq!(found, Ok(()), "{way:?}");
    }
}

#[test]
fn answers_are_shared_by_weight() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let first = rig.cluster.pod("web-1").unwrap().addresses;
    let by_address = format!("{}=6,{}=6,n2=3", first[0], first[1]);
    for (text, weights) in [
        ("", [1, 1, 1]),
        // The node of web-1 and web-2 is n1.
        ("n1=1,n2=4", [1, 1, 4]),
        (&by_address, [6, 1, 3]),
        ("n1=0", [0, 0, 1]),
    ] {
        let weights: Vec<(&str, u8)> = ALL.into_iter().zip(weights).collect();
        let annotations = if text.is_empty() { json!({}) } else { json!({ WEIGHTS: text }) };
        let at = create(rig, annotations, json!({}));
        holds(rig, &at, &weights);
        // UDP flows stay with their backend, whatever it weighs, but end with their Service.
        rig.remove(NAME);
    }
}

#[test]
fn every_scheduler_shares_by_weight() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for scheduler in ["rr", "mh"] {
        let at = create(rig, json!({ SCHEDULER: scheduler, WEIGHTS: "n2=3" }), json!({}));
        holds(rig, &at, &[("web-1", 1), ("web-2", 1), ("web-3", 3)]);
    }
    // How these share depends on what is open, and on who asks; all must be asked, and answer.
    for scheduler in ["lc", "sh"] {
        let at = create(rig, json!({ SCHEDULER: scheduler, WEIGHTS: "n2=3" }), json!({}));
        for way in WAYS {
            let report = rig.report(CLIENT, at(way), way, 60);
            assert_eq!((report.answered, report.failed()), (60, 0), "{scheduler} {way:?}");
        }
    }
    rig.remove(NAME);
}

/// An open connection to a backend whose weight becomes 0 goes on; new ones go elsewhere, those of
/// clients that session affinity had bound to it, too; with no weight left they are refused.
#[test]
fn weight_0_drains_a_backend() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    for affinity in [json!({}), json!({ "sessionAffinity": "ClientIP" })] {
        let at = create(rig, json!({ WEIGHTS: "n1=0" }), affinity.clone());
        for way in WAYS {
            rig.settle(CLIENT, at(way), way, &["web-3"]);
        }
        let open: Vec<_> =
            WAYS.map(|way| (way, rig.start(CLIENT, at(way), way.lasting()))).into_iter().collect();
        for (way, running) in &open {
            until(&format!("{way:?} to be answered"), SOON, || running.report().answered > 0);
        }
        drop(create(rig, json!({ WEIGHTS: "n2=0" }), affinity.clone()));
        for way in WAYS {
            let others = ["web-1", "web-2"];
            until("new ones to go elsewhere", SOON, || {
                let report = rig.report(CLIENT, at(way), way, 20);
                report.failed() == 0 && report.backends.keys().all(|by| others.contains(&&**by))
            });
        }
        drop(create(rig, json!({ WEIGHTS: "n1=0,n2=0" }), affinity));
        for way in WAYS {
            rig.settle(CLIENT, at(way), way, &[]);
        }
        std::thread::sleep(Duration::from_millis(300));
        for (way, running) in open {
            let before = running.report().answered;
            until(&format!("{way:?} to go on"), SOON, || running.report().answered > before);
            let report = running.stop().unwrap();
            assert_eq!(report.failed(), 0, "{way:?}: {report:?}");
            let expected = BTreeMap::from([("web-3".to_owned(), report.answered)]);
            assert_eq!(report.backends, expected, "{way:?}");
        }
        rig.remove(NAME);
    }
}
