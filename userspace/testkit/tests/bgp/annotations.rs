//! Annotations of a Node that change while its agent runs: peers see what they say, and sessions of
//! others stay as they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_testkit::cluster::bgp_router::routes_of;
use sluice_testkit::cluster::{Cluster, wait_for};

use crate::{PATIENCE, SECOND, addresses, ask, cluster, hops, router};

/// Writes annotations of a Node; `null` takes one away.
fn annotate(cluster: &Cluster, node: &str, annotations: &Value) {
    let patch = json!({ "metadata": { "annotations": annotations } });
    cluster.store().merge("nodes", "", node, "", &patch).unwrap();
}

/// Since when each session is up, by node and peer; those that are up alone.
type Sessions = BTreeMap<(String, String), Instant>;

fn sessions(cluster: &Cluster) -> Sessions {
    let mut all = BTreeMap::new();
    for node in cluster.nodes() {
        let rows = ask(cluster, node.name(), &["bgp", "neighbors"]);
        for row in rows.as_array().unwrap().iter().filter(|row| row["state"] == "Established") {
            let name = row["address"].as_str().unwrap().to_owned();
            let age = Duration::from_secs(row["since_s"].as_u64().unwrap());
            all.insert((node.name().to_owned(), name), Instant::now() - age);
        }
    }
    all
}

/// Waits until all sessions there should be are up, and gives them; a session that comes up later is
/// told from them.
fn all_sessions(cluster: &Cluster, count: usize) -> Sessions {
    let up = || Ok(Some(sessions(cluster)).filter(|all| all.len() == count));
    let all = wait_for(&format!("{count} sessions"), up).unwrap();
    sleep(APART * 2);
    all
}

/// Ages are whole seconds, and the view takes its time.
const APART: Duration = Duration::from_secs(2);

/// Sessions of these that were up before, and are the same.
fn untouched(before: &Sessions, now: &Sessions) -> Vec<(String, String)> {
    let same = |(who, since): &(&(String, String), &Instant)| {
        before.get(*who).is_some_and(|before| **since < *before + APART)
    };
    now.iter().filter(same).map(|(who, _)| who.clone()).collect()
}

/// Waits until BIRD shows this in a route, or shows it no longer.
fn shown(cluster: &Cluster, route: &str, text: &str, is: bool) {
    let question = format!("show route {route} all");
    let found = || Ok((router(cluster).ask(&question)?.contains(text) == is).then_some(()));
    let wait =
        wait_for(&format!("{question} {}to have {text}", if is { "" } else { "not " }), found);
    wait.unwrap_or_else(|fault| panic!("{fault:#}: {}", router(cluster).ask(&question).unwrap()));
}

#[test]
fn contract_what_routers_are_told_follows_the_annotations_of_a_node() {
    let Some(cluster) = cluster() else { return };
    let vip = addresses(&cluster, "web")[0];
    router(&cluster).wait("web by three nodes", PATIENCE, |all| hops(all, vip) == 3).unwrap();
    // Three nodes, each with the others and the router.
    let before = all_sessions(&cluster, 9);
    let of_n1 = format!("for {vip} protocol n1");

    for (text, none, annotations) in [
        (
            "BGP.as_path: 64999 64999 64512",
            "64999",
            json!({"kube-router.io/path-prepend.as": "64999", "sluice.io/path-prepend.repeat-n": "2"}),
        ),
        ("(64512,77)", "(64512,77)", json!({"kube-router.io/node.bgp.communities": "64512:77"})),
    ] {
        annotate(&cluster, "n1", &annotations);
        shown(&cluster, &of_n1, text, true);
        shown(&cluster, &format!("for {vip} protocol n2"), none, false);
        let gone: serde_json::Map<String, Value> = annotations
            .as_object()
            .unwrap()
            .keys()
            .map(|name| (name.clone(), Value::Null))
            .collect();
        annotate(&cluster, "n1", &gone.into());
        shown(&cluster, &of_n1, none, false);
    }

    let own = cluster.node("n1").unwrap().pod_cidrs()[0].to_string();
    let told = |routes: &str, range: &str| routes.lines().any(|line| line.starts_with(range));
    let everywhere = |range: &str, is: bool| {
        let (what, node) = (format!("{range} {is}"), cluster.node("n2").unwrap());
        router(&cluster).wait(&what, PATIENCE, |routes| told(routes, range) == is).unwrap();
        wait_for(&what, || Ok((told(&routes_of(node.netns(), "92")?, range) == is).then_some(())))
            .unwrap();
    };
    annotate(&cluster, "n1", &json!({"sluice.io/pod-cidrs": format!("{own},10.250.1.0/24")}));
    everywhere("10.250.1.0/24", true);
    everywhere(&own, true);
    annotate(&cluster, "n1", &json!({"sluice.io/pod-cidrs": null}));
    everywhere("10.250.1.0/24", false);

    let plan = cluster.node("n1").unwrap().plan();
    let listens = |at: IpAddr, is: bool| {
        let connect = || {
            let at = SocketAddr::new(at, 179);
            cluster.network().router.run(|| TcpStream::connect_timeout(&at, SECOND).is_ok())
        };
        wait_for(&format!("listens at {at}: {is}"), || Ok((connect()? == is).then_some(())))
            .unwrap();
    };
    let (v4, v6) = (IpAddr::from(plan.v4), IpAddr::from(plan.v6));
    listens(v6, true);
    annotate(&cluster, "n1", &json!({"sluice.io/bgp-local-addresses": v4.to_string()}));
    listens(v6, false);
    listens(v4, true);
    annotate(&cluster, "n1", &json!({"sluice.io/bgp-local-addresses": null}));
    listens(v6, true);
    listens(v4, true);
    assert_eq!(untouched(&before, &sessions(&cluster)).len(), 9, "no session was touched");
}

#[test]
fn contract_reflection_and_the_as_of_a_node_touch_its_own_sessions_alone() {
    let Some(cluster) = cluster() else { return };
    let before = all_sessions(&cluster, 9);
    // The nodes become a reflector and its two clients, which talk to each other no more.
    annotate(&cluster, "n1", &json!({"kube-router.io/rr.server": "42"}));
    for client in ["n2", "n3"] {
        annotate(&cluster, client, &json!({"kube-router.io/rr.client": "42"}));
    }
    let without = all_sessions(&cluster, 7);
    assert_eq!(untouched(&before, &without).len(), 7, "{before:?}, then {without:?}");
    let (n2, n3) = (cluster.node("n2").unwrap(), cluster.node("n3").unwrap());
    let by_reflection = |what: &str| {
        wait_for(&format!("pods of n3 at n2 {what}"), || {
            let routes = routes_of(n2.netns(), "92")?;
            let way = format!("{} via {}", n3.pod_cidrs()[0], n3.plan().v4);
            Ok(routes.contains(&way).then_some(()))
        })
        .unwrap();
    };
    by_reflection("by n1");
    // Another cluster: who reflects with its identifier takes no session down.
    annotate(&cluster, "n1", &json!({"kube-router.io/rr.server": "0.0.0.43"}));
    sleep(SECOND);
    by_reflection("by n1 of another cluster");
    // A client without a server talks to nobody: the server is the last.
    for node in ["n2", "n3", "n1"] {
        let none = json!({"kube-router.io/rr.server": null, "kube-router.io/rr.client": null});
        annotate(&cluster, node, &none);
    }
    let again = all_sessions(&cluster, 9);
    assert_eq!(untouched(&before, &again).len(), 7, "{before:?}, then {again:?}");

    let change = |text: &str| {
        let of_n1 = format!("neighbor {} as 64512", cluster.node("n1").unwrap().plan().v4);
        text.replace(&of_n1, &of_n1.replace("64512", "64601"))
    };
    router(&cluster).configure(change).unwrap();
    annotate(&cluster, "n1", &json!({"sluice.io/node.asn": "64601"}));
    let vip = addresses(&cluster, "web")[0];
    shown(&cluster, &format!("for {vip} protocol n1"), "BGP.as_path: 64601", true);
    let after = all_sessions(&cluster, 9);
    let n1 = cluster.node("n1").unwrap().plan().v4.to_string();
    let others = untouched(&again, &after);
    assert_eq!(others.len(), 4, "those of n2 and n3 with each other and the router: {after:?}");
    assert!(others.iter().all(|who| who.0 != "n1" && who.1 != n1), "{others:?}");
    cluster.wait_for_pod_routes().unwrap();
}
