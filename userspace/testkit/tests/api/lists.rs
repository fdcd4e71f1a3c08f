//! LIST: versions, paging, selectors, forms of the answer, discovery, credentials.

use serde_json::{Value, json};
use sluice_testkit::api::Server;

use crate::raw::{PODS, SERVICES, SLICES, eventually, get, request, service, slice, still_server};

fn names(body: &Value) -> Vec<&str> {
    let items = body["items"].as_array().expect("items");
    items.iter().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

fn with_services(count: usize) -> Server {
    let server = still_server();
    for at in 0..count {
        server.store().apply(service(&format!("s{at}"))).expect("apply");
    }
    server
}

#[test]
fn k2_an_empty_list_carries_the_stores_version_and_items_have_no_kind() {
    let server = still_server();
    let reply = get(&server, SLICES);
    assert_eq!((reply.code, &reply.body["items"]), (200, &json!([])));
    assert_eq!(reply.body["metadata"]["resourceVersion"], server.store().version().to_string());
    server.store().apply(service("a")).expect("apply");
    let reply = get(&server, SERVICES);
    assert_eq!(
        (&reply.body["kind"], &reply.body["apiVersion"]),
        (&json!("ServiceList"), &json!("v1"))
    );
    let item = &reply.body["items"][0];
    assert!(item.get("kind").is_none() && item.get("apiVersion").is_none(), "{item}");
    let one = get(&server, &format!("{SERVICES}/a")).body;
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("Service"), &json!("v1")));
}

#[test]
fn k14_pages_are_of_one_version_and_count_what_remains() {
    let server = with_services(5);
    let first = get(&server, &format!("{SERVICES}?limit=2")).body;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["s0", "s1"], &json!(3))
    );
    // A change between the pages is not seen.
    server.store().delete("services", "default", "s3");
    server.store().apply(service("s9")).expect("apply");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = get(&server, &format!("{SERVICES}?limit=10&continue={token}")).body;
    assert_eq!(names(&second), ["s2", "s3", "s4"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
}

#[test]
fn k14_limit_is_ignored_with_version_0_and_the_count_left_out_with_selectors() {
    let server = with_services(3);
    assert_eq!(
        names(&get(&server, &format!("{SERVICES}?limit=1&resourceVersion=0")).body).len(),
        3
    );
    let page =
        get(&server, &format!("{SERVICES}?limit=1&fieldSelector=spec.type%3DClusterIP")).body;
    assert_eq!(names(&page), ["s0"]);
    assert!(page["metadata"]["continue"].is_string());
    assert!(page["metadata"].get("remainingItemCount").is_none());
}

#[test]
fn k14_an_old_token_gets_410_with_one_to_go_on_and_no_version_may_come_with_a_token() {
    let server = with_services(4);
    let first = get(&server, &format!("{SERVICES}?limit=1")).body;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(get(&server, &format!("{SERVICES}?continue={token}&resourceVersion=7")).code, 400);
    server.store().apply(service("s9")).expect("apply");
    server.store().forget_history();
    let reply = get(&server, &format!("{SERVICES}?limit=10&continue={token}"));
    assert_eq!((reply.code, &reply.body["reason"]), (410, &json!("Expired")));
    let next = reply.body["metadata"]["continue"].as_str().expect("a new token");
    let rest = get(&server, &format!("{SERVICES}?limit=10&continue={next}")).body;
    assert_eq!(names(&rest), ["s1", "s2", "s3", "s9"], "inconsistent, from the present");
}

#[test]
fn k1_a_version_means_exactly_that_one_only_with_a_limit_or_by_rule() {
    let server = with_services(2);
    let old = server.store().version();
    server.store().apply(service("s2")).expect("apply");
    assert_eq!(names(&get(&server, &format!("{SERVICES}?resourceVersion={old}")).body).len(), 3);
    let exact = get(&server, &format!("{SERVICES}?resourceVersion={old}&limit=10")).body;
    assert_eq!(
        (names(&exact).len(), &exact["metadata"]["resourceVersion"]),
        (2, &json!(old.to_string()))
    );
    let rule =
        get(&server, &format!("{SERVICES}?resourceVersion={old}&resourceVersionMatch=Exact")).body;
    assert_eq!(names(&rule).len(), 2);
    let newer =
        format!("{SERVICES}?resourceVersion={old}&limit=10&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&get(&server, &newer).body).len(), 3);
    server.store().forget_history();
    assert_eq!(get(&server, &format!("{SERVICES}?resourceVersion={old}&limit=10")).code, 410);
    assert_eq!(get(&server, &format!("{SERVICES}?resourceVersionMatch=Exact")).code, 422);
    assert_eq!(get(&server, &format!("{SERVICES}?resourceVersion=x")).code, 400);
}

#[test]
fn k6_a_version_of_the_future_is_waited_for_then_504() {
    let server = still_server();
    let future = server.store().version() + 1;
    let reply = get(&server, &format!("{SERVICES}?resourceVersion={future}"));
    assert_eq!(
        (reply.code, &reply.body["reason"], reply.header("retry-after")),
        (504, &json!("Timeout"), "1")
    );
    assert_eq!(reply.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let store = server.store().clone();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        store.apply(service("a")).expect("apply");
    });
    let reply = get(&server, &format!("{SERVICES}?resourceVersion={future}"));
    writer.join().expect("writer");
    assert_eq!((reply.code, names(&reply.body)), (200, vec!["a"]));
}

#[test]
fn label_selectors_know_every_operator() {
    let server = still_server();
    for (name, tier) in [("a", Some("x")), ("b", Some("y")), ("c", None)] {
        let mut object = service(name);
        if let Some(tier) = tier {
            object["metadata"]["labels"] = json!({"tier": tier, "k8s.io/on": ""});
        }
        server.store().apply(object).expect("apply");
    }
    for (selector, expected) in [
        ("tier=x", vec!["a"]),
        ("tier==x", vec!["a"]),
        ("tier!=x", vec!["b", "c"]),
        ("tier", vec!["a", "b"]),
        ("!tier", vec!["c"]),
        ("tier in (x,y)", vec!["a", "b"]),
        ("tier notin (x,z)", vec!["b", "c"]),
        ("tier in (x,y),k8s.io/on=,tier!=y", vec!["a"]),
    ] {
        let encoded = selector
            .replace(' ', "%20")
            .replace('=', "%3D")
            .replace(',', "%2C")
            .replace('!', "%21");
        let reply = get(&server, &format!("{SERVICES}?labelSelector={encoded}"));
        assert_eq!(names(&reply.body), expected, "{selector}");
    }
    assert_eq!(get(&server, &format!("{SERVICES}?labelSelector=a%20like%20b")).code, 400);
}

/// A fake that takes any field hides that the real server does not.
#[test]
fn k34_field_selectors_are_refused_where_the_type_has_none() {
    let server = still_server();
    for (path, field, code) in [
        (SLICES, "metadata.name=x", 200),
        (SLICES, "addressType=IPv4", 400),
        (SERVICES, "spec.clusterIP=None", 200),
        (SERVICES, "spec.ports=80", 400),
        (PODS, "spec.nodeName=n1", 200),
        (PODS, "status.podIP=10.0.0.1,spec.hostNetwork=false", 200),
        ("/api/v1/nodes", "metadata.namespace=x", 400),
        ("/api/v1/nodes", "spec.unschedulable=false", 200),
        ("/api/v1/events", "involvedObject.name=x,type!=Normal", 200),
        ("/apis/events.k8s.io/v1/events", "regarding.kind=Node", 200),
    ] {
        let reply = get(&server, &format!("{path}?fieldSelector={}", field.replace('=', "%3D")));
        assert_eq!(reply.code, code, "{path} {field}: {}", reply.text);
    }
}

#[test]
fn k18_accept_chooses_whole_objects_metadata_or_columns() {
    let server = still_server();
    server.store().apply(slice("s", "a", &["10.0.0.1"])).expect("apply");
    let with = |accept: &str| request(&server, "GET", SLICES, &[("accept", accept)], None);
    let metadata = with("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").body;
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(metadata["items"][0]["kind"], "PartialObjectMetadata");
    assert!(metadata["items"][0].get("endpoints").is_none());
    let table = with("application/json;as=Table;g=meta.k8s.io;v=v1,application/json").body;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"], json!(["s", "IPv4", "8080", "10.0.0.1", "0s"]));
    assert_eq!(with("application/vnd.kubernetes.protobuf").code, 406);
    assert_eq!(with("application/vnd.kubernetes.protobuf, application/json").code, 200);
}

#[test]
fn discovery_names_every_type_in_both_forms() {
    let server = still_server();
    assert_eq!(get(&server, "/version").body["major"], "1");
    assert_eq!(get(&server, "/readyz").text, "ok");
    assert_eq!(get(&server, "/api").body["versions"], json!(["v1"]));
    let groups = get(&server, "/apis").body;
    let groups: Vec<&str> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(|g| g["name"].as_str())
        .collect();
    assert!(
        groups.contains(&"discovery.k8s.io") && groups.contains(&"networking.k8s.io"),
        "{groups:?}"
    );
    let core = get(&server, "/api/v1").body;
    let resources: Vec<&str> = core["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert!(
        resources.contains(&"services") && resources.contains(&"services/status"),
        "{resources:?}"
    );
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = request(&server, "GET", "/apis", &[("accept", accept)], None);
    assert_eq!(aggregated.body["kind"], "APIGroupDiscoveryList");
    assert!(aggregated.header("content-type").contains("as=APIGroupDiscoveryList"));
    assert_eq!(get(&server, "/apis/apps/v1").code, 404);
    assert_eq!(get(&server, "/apis/apps/v1/deployments").code, 404);
}

#[test]
fn k10_no_credentials_are_403_for_anonymous_and_wrong_ones_401() {
    let server = still_server();
    server.set_token(Some("secret"));
    let anonymous = get(&server, "/api/v1/services");
    assert_eq!(anonymous.code, 403);
    assert!(anonymous.message().contains("system:anonymous"), "{}", anonymous.message());
    assert!(anonymous.message().contains("services"), "{}", anonymous.message());
    let with = |token: &str| {
        request(&server, "GET", "/api/v1/services", &[("authorization", token)], None).code
    };
    assert_eq!((with("Bearer wrong"), with("Bearer secret")), (401, 200));
    server.set_token(Some("rotated"));
    assert_eq!((with("Bearer secret"), with("Bearer rotated")), (401, 200));
    assert!(server.kubeconfig().contains("rotated"));
}

#[test]
fn k33_the_clusters_own_objects_are_there_and_come_back() {
    let server = crate::raw::server();
    let cidr = get(&server, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes").body;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/12", "fd00:10:96::/112"]));
    let namespaces = get(&server, "/api/v1/namespaces").body;
    assert!(names(&namespaces).contains(&"default") && names(&namespaces).contains(&"kube-system"));
    let own = eventually("default/kubernetes", || {
        server.store().get("services", "default", "kubernetes")
    });
    assert_eq!(
        (&own["spec"]["clusterIP"], own["spec"].get("selector")),
        (&json!("10.96.0.1"), None)
    );
    assert_eq!(own["metadata"]["labels"]["component"], "apiserver");
    assert!(server.store().delete("services", "default", "kubernetes"));
    eventually("put back", || server.store().get("services", "default", "kubernetes"));
}
