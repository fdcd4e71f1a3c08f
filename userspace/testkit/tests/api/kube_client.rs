//! kube-rs against the server: its own idea of list, watch, apply and recovery.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config};
use serde_json::json;
use sluice_testkit::api::{Ending, Fault, Options, Scope, Server, Verb};

use crate::raw::{quick, service, still_server};

async fn client(server: &Server) -> Client {
    let kubeconfig: kube::config::Kubeconfig =
        serde_json::from_str(&server.kubeconfig()).expect("kubeconfig");
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("config");
    Client::try_from(config).expect("client")
}

/// A reflector on a task; its store.
fn follow(api: Api<Service>, config: watcher::Config) -> reflector::Store<Service> {
    let (reader, writer) = reflector::store();
    let backoff = watcher::DefaultBackoff::default();
    let stream = watcher(api, config).backoff(backoff).reflect(writer);
    tokio::spawn(stream.for_each(|_| std::future::ready(())));
    reader
}

async fn names(store: &reflector::Store<Service>, expected: &[&str]) {
    let mut last = Vec::new();
    for _ in 0..1000 {
        last = store.state().iter().filter_map(|s| s.metadata.name.clone()).collect();
        last.sort();
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the reflector has {last:?}, expected {expected:?}");
}

#[tokio::test]
async fn typed_create_get_replace_apply_list_delete() {
    let server = still_server();
    let services: Api<Service> = Api::namespaced(client(&server).await, "default");
    let object: Service = serde_json::from_value(service("a")).expect("service");
    let mut made = services.create(&PostParams::default(), &object).await.expect("create");
    assert!(made.spec.as_ref().and_then(|s| s.cluster_ip.as_ref()).is_some());
    made.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
    services.replace("a", &PostParams::default(), &made).await.expect("replace");
    let stale = services.replace("a", &PostParams::default(), &made).await.expect_err("stale");
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));
    let mut applied = service("b");
    applied["metadata"]["labels"] = json!({"from": "apply"});
    let b = services
        .patch("b", &PatchParams::apply("test"), &Patch::Apply(&applied))
        .await
        .expect("apply");
    assert_eq!(b.metadata.managed_fields.map(|f| f.len()), Some(1));
    assert_eq!(
        services.list(&ListParams::default().labels("x=y")).await.expect("list").items.len(),
        1
    );
    services.delete("a", &DeleteParams::default()).await.expect("delete");
    assert!(services.get_opt("a").await.expect("get").is_none());
    let nodes: Api<Node> = Api::all(client(&server).await);
    assert!(nodes.list(&ListParams::default()).await.expect("list").items.is_empty());
}

#[tokio::test]
async fn k2_k15_a_reflector_follows_in_both_ways_to_start() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = still_server();
        server.store().apply(service("a")).expect("apply");
        let store = follow(Api::all(client(&server).await), config);
        names(&store, &["a"]).await;
        server.store().apply(service("b")).expect("apply");
        server.store().delete("services", "default", "a");
        names(&store, &["b"]).await;
    }
}

#[tokio::test]
async fn k5_k7_a_reflector_relists_after_410_and_goes_on_after_eof() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    let store = follow(Api::all(client(&server).await), watcher::Config::default());
    names(&store, &["a"]).await;
    assert_eq!(server.count("services", Verb::List), 1);
    for ending in [Ending::Eof, Ending::Eof] {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.faults().end_watches(None, ending);
    }
    server.store().apply(service("b")).expect("apply");
    names(&store, &["a", "b"]).await;
    assert_eq!(server.count("services", Verb::List), 1, "an end is no reason to list again");
    server.faults().inject(Fault::Gone, Scope::of("services").on(Verb::Watch).times(1));
    server.faults().end_watches(None, Ending::Gone);
    server.store().delete("services", "default", "a");
    names(&store, &["b"]).await;
    for _ in 0..500 {
        if server.count("services", Verb::List) >= 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a forgotten version is a reason to list again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k19_k31_a_reflector_survives_a_server_that_is_away_and_comes_back() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    let store = follow(Api::all(client(&server).await), watcher::Config::default());
    names(&store, &["a"]).await;
    let address = server.address();
    let kept = server.stop();
    kept.apply(service("b")).expect("apply");
    kept.delete("services", "default", "a");
    tokio::time::sleep(Duration::from_millis(100)).await;
    names(&store, &["a"]).await;
    let server = Server::start(Options {
        listen: address,
        store: Some(kept),
        controllers: false,
        ..quick()
    })
    .expect("again");
    names(&store, &["b"]).await;
    assert!(server.count("services", Verb::List) >= 1);
}

/// The whole chain a cluster in namespaces rests on: nodes, pods with addresses, a selector.
#[tokio::test]
async fn pods_written_by_a_kubelet_become_endpoints_for_a_watcher() {
    let server = Server::start(quick()).expect("start");
    let client = client(&server).await;
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let selector = "kubernetes.io/service-name=web";
    let mut events =
        watcher(slices, watcher::Config::default().labels(selector)).applied_objects().boxed();
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).expect("node");
    nodes.create(&PostParams::default(), &node).await.expect("create");
    server.store().apply(service("web")).expect("apply");
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("pod"))
        .await
        .expect("create");
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&status)).await.expect("status");
    let ready = async {
        while let Some(slice) = events.try_next().await.expect("watch") {
            let serving = slice
                .endpoints
                .iter()
                .any(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
            if serving {
                return slice;
            }
        }
        panic!("the watch ended");
    };
    let slice = tokio::time::timeout(Duration::from_secs(5), ready).await.expect("in time");
    assert_eq!(slice.endpoints[0].addresses, ["10.244.0.2"]);
}
