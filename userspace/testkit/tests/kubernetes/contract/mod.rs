//! One script, spoken to the embedded server and to the real one: where the answers differ, other
//! tests lie. What an agent can notice is compared, and listed below where it may differ.

mod access;
mod reads;
mod types;
mod wire;
mod writes;

use std::collections::BTreeSet;

use axum::http::{HeaderValue, header};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::api::real::Part;
use sluice_testkit::api::{Options, Server};

use self::wire::Wire;
use crate::rig::rig;
use crate::survival::UP;

/// The namespace of all that the script writes.
const NAMESPACE: &str = "contract";

/// Who asks, as servers see it.
pub(crate) const AGENT: &str = "contract/1";

/// Paths of the script.
fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

/// The script up to where the server is to forget; a token of before goes on after it.
async fn present(ways: Ways) -> (Vec<(String, Value)>, String) {
    let mut wire = Wire::new(ways.admin);
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    wire.post("a namespace", "/api/v1/namespaces", &namespace).await;
    writes::defaults(&mut wire).await;
    writes::refusals(&mut wire).await;
    writes::conflicts(&mut wire).await;
    writes::patches(&mut wire).await;
    writes::applies(&mut wire).await;
    writes::events(&mut wire).await;
    access::warnings(&mut wire).await;
    access::paths(&mut wire).await;
    types::nodes(&mut wire).await;
    types::cidrs(&mut wire).await;
    types::leases(&mut wire).await;
    types::finalizers(&mut wire).await;
    reads::selectors(&mut wire).await;
    reads::pages(&mut wire).await;
    reads::watches(&mut wire).await;
    reads::streaming_lists(&mut wire).await;
    reads::transitions(&mut wire).await;
    reads::bookmarks(&mut wire).await;
    reads::the_future(&mut wire).await;
    let token = reads::to_be_past(&mut wire).await;
    let (mut nobody, mut wrong) = (Wire::new(ways.nobody), Wire::new(ways.wrong));
    access::credentials(&mut nobody, &mut wrong).await;
    for other in [nobody, wrong] {
        wire.transcript.extend(other.transcript);
    }
    (wire.transcript, token)
}

/// The rest of it.
async fn past(admin: Client, token: &str) -> Vec<(String, Value)> {
    let mut wire = Wire::new(admin);
    reads::the_past(&mut wire, token).await;
    wire.transcript
}

/// Ways into a server.
struct Ways {
    admin: Client,
    /// Without credentials.
    nobody: Client,
    /// With a token that is worth nothing.
    wrong: Client,
}

impl Ways {
    async fn of(kubeconfig: &Value) -> Self {
        let with = |user: Value| {
            let mut config = kubeconfig.clone();
            config["users"][0]["user"] = user;
            config
        };
        Self {
            admin: connect(kubeconfig).await,
            nobody: connect(&with(json!({}))).await,
            wrong: connect(&with(json!({ "token": "worth-nothing" }))).await,
        }
    }
}

/// Where two values differ, by path.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let none = json!("(absent)");
                let of =
                    |map: &serde_json::Map<String, Value>| map.get(name).unwrap_or(&none).clone();
                differences(&format!("{path}/{name}"), &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}/{number}"), a, b, found);
            }
        }
        _ if ours != theirs => found.push(format!("{path}: embedded {ours}, real {theirs}")),
        _ => {}
    }
}

async fn connect(kubeconfig: &Value) -> Client {
    let options = KubeConfigOptions::default();
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    // A refusal is an answer here, too.
    config.default_retry = false;
    // The audit tells these requests from agents' by it.
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(AGENT)));
    Client::try_from(config).unwrap()
}

#[test]
fn the_embedded_server_answers_as_the_real_one() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let (server, _, remote) = rig.cluster.api().real().unwrap();
    let embedded = Server::start(Options::default()).unwrap();
    embedded.set_token(Some("right"));
    let config = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let own = config(&embedded.kubeconfig());
    let real = config(&std::fs::read_to_string(rig.cluster.kubeconfig()).unwrap());
    // Its cache begins anew: versions from before are of the past.
    let restart = || {
        server.stop_part(Part::Server, Signal::SIGKILL).unwrap();
        server.start_part(Part::Server).unwrap();
        remote.wait_ready(UP, || server.alive()).unwrap();
    };
    restart();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let speak = |kubeconfig: &Value, forget: &dyn Fn()| {
        let (mut transcript, token) =
            runtime.block_on(async { present(Ways::of(kubeconfig).await).await });
        forget();
        transcript
            .extend(runtime.block_on(async { past(connect(kubeconfig).await, &token).await }));
        transcript
    };
    let ours = speak(&own, &|| embedded.store().forget_history());
    let theirs = speak(&real, &|| {
        server.compact().unwrap();
        restart();
    });
    rig.cluster.api().delete("namespaces", "", NAMESPACE);
    let mut found = Vec::new();
    for ((step, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        differences(step, ours, theirs, &mut found);
    }
    let steps = |transcript: &[(String, Value)]| -> Vec<String> {
        transcript.iter().map(|(step, _)| step.clone()).collect()
    };
    assert_eq!(steps(&ours), steps(&theirs), "the same script");
    println!("{} steps", ours.len());
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
