//! What agents may do is what stands in deploy/rbac.yaml, and all of it is needed: the API server's
//! audit tells what they ask for, and each verb that is taken away is missed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use axum::http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::cluster::process::{Process, Spec};
use sluice_testkit::cluster::rights::{MANIFEST, Rights, objects};
use sluice_testkit::cluster::topology::api_address;

use crate::contract;
use crate::rig::{Rig, rig};

/// The agents' user.
const USER: &str = "system:serviceaccount:kube-system:sluice";
/// How often an agent is started, and its connections cut after each start: on busy processors half
/// a minute goes by before it has anything to tell.
const STARTS: usize = 5;
const CUTS: usize = 12;
/// Time for it to ask again.
const PAUSE: Duration = Duration::from_secs(4);
/// The node whose agent is watched.
const NODE: &str = "n1";

/// Verb, group and resource.
type Right = (String, String, String);

/// What the manifest grants.
fn granted(manifest: &str) -> BTreeSet<Right> {
    let objects = objects(manifest).unwrap();
    let role = objects.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let mut rights = BTreeSet::new();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for rule in role["rules"].as_array().unwrap() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    rights.insert((verb, group.clone(), resource.clone()));
                }
            }
        }
    }
    rights
}

/// The manifest without one right, each of the others in a rule of its own.
fn without(lost: &Right) -> String {
    let mut all = objects(MANIFEST).unwrap();
    for object in all.iter_mut().filter(|object| object["kind"] == "ClusterRole") {
        let mut rights = granted(MANIFEST);
        assert!(rights.remove(lost));
        let rules = rights.into_iter().map(|(verb, group, resource)| {
            json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] })
        });
        object["rules"] = rules.collect();
    }
    all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
}

/// What an answer says of a right; none where it says nothing: the server is starting, or has too
/// much to do.
fn let_in(code: u64) -> Option<bool> {
    match code {
        // Not there, there already, expired, not reached yet: looked at, and so let in.
        0..400 | 404 | 409 | 410 | 504 => Some(true),
        429 | 500.. => None,
        // 401 and 403; and 400 and 422, which no request of an agent may come to.
        _ => Some(false),
    }
}

/// What agents have asked for since a place in the audit, and whether they were let.
fn asked(rig: &Rig, since: usize) -> BTreeSet<(Right, bool)> {
    let (server, ..) = rig.cluster.api().real().unwrap();
    let text = |line: &Value, pointer| {
        line.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let lines = server.audit().unwrap();
    let own = lines.iter().skip(since).filter(|line| line["user"]["username"] == USER);
    own.filter_map(|line| {
        let right = (
            text(line, "/verb"),
            text(line, "/objectRef/apiGroup"),
            text(line, "/objectRef/resource"),
        );
        Some((right, let_in(line["responseStatus"]["code"].as_u64().unwrap_or_default())?))
    })
    .collect()
}

/// Nobody asked for more than is granted since a place in the audit, nor was refused anything, nor
/// came without credentials.
pub(crate) fn within_rights(rig: &Rig, since: usize) {
    let granted = granted(MANIFEST);
    let others: Vec<_> = asked(rig, since)
        .into_iter()
        .filter(|(right, let_in)| !granted.contains(right) || !let_in)
        .collect();
    assert!(others.is_empty(), "asked for, but not granted, or refused: {others:?}");
    let (server, ..) = rig.cluster.api().real().unwrap();
    let lines = server.audit().unwrap();
    let anonymous: Vec<&Value> = lines
        .iter()
        .skip(since)
        .filter(|line| line["user"]["username"] == "system:anonymous")
        // The contract asks as nobody on purpose.
        .filter(|line| line["userAgent"] != contract::AGENT)
        .collect();
    assert!(anonymous.is_empty(), "asked by nobody: {anonymous:?}");
}

/// The Events that agents have written about an object, in the API's own form.
fn told(rig: &Rig, about: &str) -> Vec<Value> {
    let (_, _, remote) = rig.cluster.api().real().unwrap();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let list = remote.insist(Method::GET, path, "application/json", &Value::Null).unwrap();
    let all = list["items"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|event| {
            event["reportingController"] == "sluice" && event["regarding"]["name"] == about
        })
        .collect()
}

/// How long the audit is by now.
pub(crate) fn lines(rig: &Rig) -> usize {
    rig.cluster.api().real().unwrap().0.audit().unwrap().len()
}

/// Has the agent of one node do all that agents ever ask the API for, until that was seen: it starts,
/// tells that a health check port is taken, tells so again after another start, and asks whether the
/// server is the same after a connection was cut.
fn exercise(rig: &Rig, since: usize, seen: impl Fn(&BTreeSet<(Right, bool)>) -> bool) {
    let node = rig.cluster.node(NODE).unwrap();
    let api = api_address().to_string();
    for _ in 0..STARTS {
        node.stop_agent(Signal::SIGTERM).unwrap();
        node.start_agent().unwrap();
        for _ in 0..CUTS {
            sleep(PAUSE);
            if seen(&asked(rig, since)) {
                return;
            }
            let cut = || Command::new("ss").args(["-K", "dst", &api]).output();
            node.netns().run(cut).unwrap().unwrap();
        }
    }
    panic!("not seen: {:#?}", asked(rig, since));
}

/// Rights that are less than they should be, until this is dropped: also when a test fails, and the
/// others go on.
struct Less<'a>(&'a Rights);

impl Drop for Less<'_> {
    fn drop(&mut self) {
        // Whatever is wrong then is seen by the next test.
        drop(self.0.give(MANIFEST));
    }
}

/// A load balancer whose health check port is taken on the node by somebody else.
fn taken_port(rig: &Rig) -> Process {
    let node = rig.cluster.node(NODE).unwrap();
    node.stop_agent(Signal::SIGTERM).unwrap();
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" });
    rig.service("health", spec);
    let object = rig.cluster.api().get("services", "default", "health").unwrap();
    let port = object["spec"]["healthCheckNodePort"].as_u64().unwrap().to_string();
    let args = ["echo", "--name", "taker", "--tcp", &port];
    let spec = Spec::new(rig.cluster.program()).args(args).pipe_stdout();
    let process = node.spawn(&spec).unwrap();
    let mut line = String::new();
    BufReader::new(process.take_stdout().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    node.start_agent().unwrap();
    process
}

#[test]
fn k30_agents_ask_for_all_that_they_may_and_for_nothing_else() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let _taker = taken_port(rig);
    let (since, granted) = (lines(rig), granted(MANIFEST));
    exercise(rig, since, |asked| {
        granted.iter().all(|right| asked.contains(&(right.clone(), true)))
            && told(rig, "health").iter().any(is_again)
    });
    within_rights(rig, 0);
    events_are_read_back(rig);
    rig.remove("health");
}

/// Told once more, by the only update that there is (K29).
fn is_again(event: &Value) -> bool {
    event["series"]["count"].as_u64() >= Some(2)
}

/// K29: what agents tell is stored as they tell it; the second start told it once more.
fn events_are_read_back(rig: &Rig) {
    let (port, start) = (told(rig, "health"), told(rig, NODE));
    assert!(!port.is_empty() && !start.is_empty(), "{port:?} {start:?}");
    for event in port.iter().chain(&start) {
        for field in ["reason", "action", "note", "type", "eventTime"] {
            assert!(!event[field].as_str().unwrap_or_default().is_empty(), "{field}: {event}");
        }
    }
    let again = port.iter().find(|event| is_again(event));
    let again = again.unwrap_or_else(|| panic!("none was told twice: {port:?}"));
    assert_eq!(again["type"], "Warning", "{again}");
    assert!(again["series"]["lastObservedTime"].is_string(), "{again}");
    assert_eq!(again["regarding"]["kind"], "Service", "{again}");
    assert!(again["reportingInstance"].as_str().unwrap().contains(NODE), "{again}");
}

#[test]
fn codes_that_say_nothing_of_a_right_and_those_that_do() {
    let of =
        |codes: &[u64]| -> Vec<Option<bool>> { codes.iter().map(|code| let_in(*code)).collect() };
    assert_eq!(of(&[200, 201, 404, 409, 410, 504]), [Some(true); 6]);
    assert_eq!(of(&[400, 401, 403, 422]), [Some(false); 4]);
    assert_eq!(of(&[429, 500, 503]), [None; 3]);
}

#[test]
fn k30_each_right_that_is_taken_away_is_missed() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (_, rights, _) = rig.cluster.api().real().unwrap();
    let taker = taken_port(rig);
    let less = Less(rights);
    for right in granted(MANIFEST) {
        rights.give(&without(&right)).unwrap();
        let since = lines(rig);
        exercise(rig, since, |asked| asked.contains(&(right.clone(), false)));
        println!("{right:?} is missed");
    }
    drop((less, taker));
    rig.remove("health");
}

/// The rest of deploy/, which no agent in a namespace needs.
const DAEMONSET: &str = include_str!("../../../../deploy/daemonset.yaml");

#[test]
fn the_server_takes_the_manifests_with_every_field() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (_, _, remote) = rig.cluster.api().real().unwrap();
    for object in objects(DAEMONSET).unwrap() {
        let folder = match object["kind"].as_str().unwrap() {
            "ConfigMap" => "/api/v1/namespaces/kube-system/configmaps",
            "DaemonSet" => "/apis/apps/v1/namespaces/kube-system/daemonsets",
            kind => panic!("{kind}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let query = "fieldManager=test&dryRun=All&fieldValidation=Strict";
        let (path, kind) = (format!("{folder}/{name}?{query}"), "application/apply-patch+yaml");
        remote.insist(Method::PATCH, &path, kind, &object).unwrap();
    }
}
