//! WATCH: replay, bookmarks, both ways to start, selector transitions, the future, the end.

use std::time::Duration;

use serde_json::json;

use crate::raw::{self, Next, SERVICES, SLICES, get, service, slice, still_server, watch};

fn rv(server: &sluice_testkit::api::Server, path: &str) -> String {
    get(server, path).body["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

/// Fakes lose what happens between LIST and WATCH, deletions above all.
#[test]
fn k2_watch_replays_from_the_lists_version_with_deletions() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    server.store().apply(service("b")).expect("apply");
    let from = rv(&server, SERVICES);
    assert!(server.store().delete("services", "default", "a"));
    server.store().apply(service("c")).expect("apply");
    server
        .store()
        .merge("services", "default", "b", "", &json!({"metadata": {"labels": {"x": "y"}}}))
        .expect("merge");
    let mut stream = watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={from}"));
    let (kind, last) = stream.event();
    assert_eq!((kind.as_str(), last["metadata"]["name"].as_str()), ("DELETED", Some("a")));
    assert!(
        last["spec"]["clusterIP"].is_string(),
        "the last state comes with the deletion: {last}"
    );
    let version = |v: &serde_json::Value| {
        v["metadata"]["resourceVersion"].as_str().map(|t| t.parse::<u64>().expect("decimal"))
    };
    assert!(version(&last) > from.parse().ok(), "and the deletion's own version");
    assert_eq!(stream.brief(), ("ADDED".into(), "c".into()));
    assert_eq!(stream.brief(), ("MODIFIED".into(), "b".into()));
    assert_eq!(stream.next_within(Duration::from_millis(50)), Next::Quiet);
    let other = rv(&server, SLICES);
    assert_eq!(other, server.store().version().to_string(), "one counter for all types");
}

#[test]
fn k4_bookmarks_carry_a_version_that_moved_and_the_zero_values_of_the_type() {
    let server = still_server();
    server.store().apply(slice("s", "a", &["10.0.0.1"])).expect("apply");
    let from = rv(&server, SLICES);
    let mut stream = watch(
        &server,
        &format!("{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion={from}"),
    );
    assert_eq!(
        stream.next_within(Duration::from_millis(400)),
        Next::Quiet,
        "nothing new: no bookmark"
    );
    // Another type moves the counter; progress brings it to this one.
    server.store().apply(service("a")).expect("apply");
    let (kind, object) = stream.event();
    assert_eq!(kind, "BOOKMARK");
    let version = server.store().version().to_string();
    let expected = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": version},
        "addressType": "", "endpoints": null, "ports": null,
    });
    assert_eq!(object, expected);
    let mut silent = watch(&server, &format!("{SLICES}?watch=1&resourceVersion={from}"));
    assert_eq!(silent.next_within(Duration::from_millis(400)), Next::Quiet, "not asked for");
}

#[test]
fn k4_a_bookmark_comes_shortly_before_the_end_if_it_says_something() {
    let options = sluice_testkit::api::Options {
        bookmark_interval: Duration::from_secs(60),
        controllers: false,
        ..raw::quick()
    };
    let server = sluice_testkit::api::Server::start(options).expect("start");
    let from = rv(&server, SLICES);
    let path = format!(
        "{SLICES}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={from}"
    );
    let mut quiet = watch(&server, &path);
    assert_eq!(quiet.next(), Next::Eof);
    let mut stream = watch(&server, &path);
    server.store().apply(service("a")).expect("apply");
    assert_eq!(stream.event().0, "BOOKMARK");
    assert_eq!(stream.next(), Next::Eof);
}

#[test]
fn k5_a_watch_from_a_forgotten_version_gets_410_in_the_stream() {
    let server = still_server();
    let from = rv(&server, SERVICES);
    server.store().apply(service("a")).expect("apply");
    server.store().forget_history();
    let mut stream = watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={from}"));
    assert_eq!(stream.code, 200);
    let (kind, status) = stream.event();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert_eq!(stream.next(), Next::Eof);
}

#[test]
fn k5_a_log_that_is_full_forgets_its_oldest_changes() {
    let server = still_server();
    server.store().keep_changes(2);
    let from = rv(&server, SERVICES);
    for name in ["a", "b"] {
        server.store().apply(service(name)).expect("apply");
    }
    let path = format!("{SERVICES}?watch=1&resourceVersion={from}");
    assert_eq!(watch(&server, &path).brief(), ("ADDED".into(), "a".into()), "just kept");
    server.store().apply(service("c")).expect("apply");
    assert_eq!(watch(&server, &path).event().1["code"], 410);
}

#[test]
fn k7_a_watch_ends_cleanly_after_its_time_and_goes_on_from_the_last_version() {
    let server = still_server();
    let from = rv(&server, SERVICES);
    let mut stream =
        watch(&server, &format!("{SERVICES}?watch=1&timeoutSeconds=1&resourceVersion={from}"));
    server.store().apply(service("a")).expect("apply");
    let (_, object) = stream.event();
    assert_eq!(stream.next(), Next::Eof);
    server.store().apply(service("b")).expect("apply");
    let last = object["metadata"]["resourceVersion"].as_str().expect("version");
    let mut again = watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={last}"));
    assert_eq!(again.brief(), ("ADDED".into(), "b".into()));
}

#[test]
fn k12_label_transitions_delete_with_the_state_of_before_and_the_changes_version() {
    let server = still_server();
    let labelled = |value: &str| {
        let mut object = service("a");
        object["metadata"]["labels"] = json!({"tier": value});
        object
    };
    let from = rv(&server, SERVICES);
    let mut stream = watch(
        &server,
        &format!("{SERVICES}?watch=1&resourceVersion={from}&labelSelector=tier%3Dfront"),
    );
    server.store().apply(labelled("front")).expect("apply");
    assert_eq!(stream.brief(), ("ADDED".into(), "a".into()));
    let changed = server.store().apply(labelled("back")).expect("apply");
    let (kind, object) = stream.event();
    assert_eq!(
        (kind.as_str(), &object["metadata"]["labels"]["tier"]),
        ("DELETED", &json!("front"))
    );
    assert_eq!(object["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    // Changes while it does not match are not seen.
    server.store().apply(labelled("side")).expect("apply");
    assert_eq!(stream.next_within(Duration::from_millis(50)), Next::Quiet);
    server.store().apply(labelled("front")).expect("apply");
    assert_eq!(stream.brief(), ("ADDED".into(), "a".into()));
}

#[test]
fn k12_field_selectors_have_transitions_too() {
    let server = still_server();
    let from = rv(&server, SERVICES);
    let mut stream = watch(
        &server,
        &format!("{SERVICES}?watch=1&resourceVersion={from}&fieldSelector=spec.type%3DNodePort"),
    );
    server.store().apply(service("a")).expect("apply");
    server
        .store()
        .merge("services", "default", "a", "", &json!({"spec": {"type": "NodePort"}}))
        .expect("merge");
    assert_eq!(stream.brief(), ("ADDED".into(), "a".into()));
    server
        .store()
        .merge("services", "default", "a", "", &json!({"spec": {"type": "ClusterIP"}}))
        .expect("merge");
    let (kind, object) = stream.event();
    assert_eq!((kind.as_str(), &object["spec"]["type"]), ("DELETED", &json!("NodePort")));
}

#[test]
fn k15_a_watch_list_sends_objects_then_the_marked_bookmark_then_changes() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    let path = format!(
        "{SERVICES}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion="
    );
    let mut stream = watch(&server, &path);
    assert_eq!(stream.brief(), ("ADDED".into(), "a".into()));
    let (kind, object) = stream.event();
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(object["metadata"]["resourceVersion"], server.store().version().to_string());
    server.store().apply(service("b")).expect("apply");
    assert_eq!(stream.brief(), ("ADDED".into(), "b".into()));
}

#[test]
fn k15_send_initial_events_needs_the_match_rule() {
    let server = still_server();
    let reply = get(
        &server,
        &format!("{SERVICES}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true"),
    );
    assert_eq!((reply.code, &reply.body["reason"]), (422, &json!("Invalid")));
}

#[test]
fn k15_a_watch_list_of_the_future_gets_504_in_the_stream() {
    let server = still_server();
    let future = server.store().version() + 100;
    let path = format!(
        "{SERVICES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={future}"
    );
    let mut stream = watch(&server, &path);
    let (kind, status) = stream.event();
    assert_eq!((stream.code, kind.as_str(), &status["code"]), (200, "ERROR", &json!(504)));
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[test]
fn k17_version_0_or_none_starts_with_the_present_state() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    for version in ["", "&resourceVersion=0"] {
        let mut plain = watch(&server, &format!("{SERVICES}?watch=1{version}"));
        assert_eq!(plain.brief(), ("ADDED".into(), "a".into()), "{version}");
        assert_eq!(plain.next_within(Duration::from_millis(50)), Next::Quiet);
        let mut marked =
            watch(&server, &format!("{SERVICES}?watch=1&allowWatchBookmarks=true{version}"));
        assert_eq!(marked.brief().0, "ADDED");
        let (kind, object) = marked.event();
        assert_eq!(
            (kind.as_str(), &object["metadata"]["annotations"]["k8s.io/initial-events-end"]),
            ("BOOKMARK", &json!("true"))
        );
    }
}

#[test]
fn k18_a_watch_can_be_of_one_object_of_one_namespace_or_of_all() {
    let server = still_server();
    let mut elsewhere = service("a");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    server.store().apply(elsewhere).expect("apply");
    server.store().apply(service("b")).expect("apply");
    server.store().apply(service("c")).expect("apply");
    let mut all = watch(&server, "/api/v1/services?watch=1");
    let names: Vec<String> = (0..3).map(|_| all.brief().1).collect();
    assert_eq!(names, ["b", "c", "a"]);
    let mut one = watch(&server, &format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dc"));
    assert_eq!(one.brief().1, "c");
    assert_eq!(one.next_within(Duration::from_millis(50)), Next::Quiet);
}

#[test]
fn k31_a_restarted_server_answers_410_to_watches_from_before_and_repeats_no_version() {
    let server = still_server();
    server.store().apply(service("a")).expect("apply");
    let from = rv(&server, SERVICES);
    let address = server.address();
    let store = server.stop();
    store.apply(service("b")).expect("apply while the server is down");
    let options = sluice_testkit::api::Options {
        listen: address,
        store: Some(store),
        controllers: false,
        ..raw::quick()
    };
    let server = sluice_testkit::api::Server::start(options).expect("the same address at once");
    let mut stream = watch(&server, &format!("{SERVICES}?watch=1&resourceVersion={from}"));
    assert_eq!(stream.event().1["code"], 410);
    assert!(
        rv(&server, SERVICES).parse::<u64>().expect("decimal") > from.parse().expect("decimal")
    );
    let names = get(&server, SERVICES).body["items"].as_array().map(Vec::len);
    assert_eq!(names, Some(2));
}

#[test]
fn k32_a_watch_of_the_future_is_silent_until_the_store_has_passed_it() {
    let server = still_server();
    let snapshot = server.store().snapshot();
    for name in ["a", "b", "c"] {
        server.store().apply(service(name)).expect("apply");
    }
    let ahead = rv(&server, SERVICES);
    server.store().restore(&snapshot);
    assert_eq!(
        get(&server, SERVICES).body["items"],
        json!([]),
        "the restore took the services away"
    );
    let mut stream = watch(
        &server,
        &format!("{SERVICES}?watch=1&allowWatchBookmarks=true&resourceVersion={ahead}"),
    );
    for name in ["x", "y", "z"] {
        server.store().apply(service(name)).expect("apply");
    }
    assert_eq!(
        stream.next_within(Duration::from_millis(400)),
        Next::Quiet,
        "no error, no event, no bookmark"
    );
    server.store().apply(service("heard")).expect("apply");
    assert_eq!(stream.brief(), ("ADDED".into(), "heard".into()));
    // A LIST at that version notices.
    let far = server.store().version() + 100;
    assert_eq!(get(&server, &format!("{SERVICES}?resourceVersion={far}")).code, 504);
}

/// What a big cluster asks: 300 slices of 100 endpoints listed and followed through a burst.
#[test]
fn k7_k18_thirty_thousand_endpoints_are_listed_and_a_burst_reaches_a_slow_reader_whole() {
    let server = still_server();
    for at in 0..300 {
        let addresses: Vec<String> =
            (0..100).map(|n| format!("10.{}.{}.{n}", at / 250, at % 250)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        server.store().apply_unchecked(slice(&format!("s{at}"), "a", &addresses)).expect("apply");
    }
    let list = get(&server, SLICES).body;
    let count: usize = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|s| s["endpoints"].as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(count, 30_000);
    let from = list["metadata"]["resourceVersion"].as_str().expect("version");
    let mut stream = watch(&server, &format!("{SLICES}?watch=1&resourceVersion={from}"));
    for at in 0..300 {
        let patch = json!({"metadata": {"annotations": {"n": at.to_string()}}});
        server
            .store()
            .merge("endpointslices", "default", &format!("s{at}"), "", &patch)
            .expect("merge");
    }
    for at in 0..300 {
        assert_eq!(stream.brief(), ("MODIFIED".into(), format!("s{at}")));
    }
}
