//! Every switch does what it says, on the wire, and only where it was armed.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_testkit::api::{Ending, Fault, Scope, Server, Verb};

use crate::raw::{Next, SERVICES, SLICES, get, service, still_server, watch};

const WATCH_LIST: &str =
    "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";

fn with_services(names: &[&str]) -> Server {
    let server = still_server();
    for name in names {
        server.store().apply(service(name)).expect("apply");
    }
    server
}

fn from_now(server: &Server) -> String {
    format!(
        "{SERVICES}?watch=1&allowWatchBookmarks=true&resourceVersion={}",
        server.store().version()
    )
}

#[test]
fn faults_strike_in_their_scope_only_and_are_counted() {
    let server = with_services(&[]);
    server
        .faults()
        .inject(Fault::InternalError, Scope::of("services").on(Verb::List).after(1).times(2));
    let codes: Vec<u16> = (0..4).map(|_| get(&server, SERVICES).code).collect();
    assert_eq!(codes, [200, 500, 500, 200]);
    assert_eq!(get(&server, SLICES).code, 200);
    assert_eq!(server.faults().struck(&Fault::InternalError), 2);
    assert_eq!(
        (server.count("services", Verb::List), server.count("services", Verb::Watch)),
        (4, 0)
    );
    // A fault of streams is not used up by a list.
    server.faults().inject(Fault::EndAfter(0), Scope::of("services").times(1));
    assert_eq!(
        (get(&server, SERVICES).code, server.faults().struck(&Fault::EndAfter(0))),
        (200, 0)
    );
    assert_eq!(watch(&server, &from_now(&server)).next(), Next::Eof);
    server.faults().inject(Fault::InternalError, Scope::all());
    assert_eq!(get(&server, SLICES).code, 500);
    server.faults().clear();
    assert_eq!(get(&server, SLICES).code, 200);
}

#[test]
fn k5_k6_k9_k10_refusals_of_requests() {
    let server = with_services(&["a"]);
    for (fault, path, code, reason) in [
        (Fault::Gone, SERVICES.to_owned(), 410, "Expired"),
        (Fault::Gone, from_now(&server), 410, "Expired"),
        (Fault::TooLargeVersion, format!("{SERVICES}?resourceVersion=1"), 504, "Timeout"),
        (Fault::InternalError, from_now(&server), 500, "InternalError"),
        (Fault::TooManyRequests(7), from_now(&server), 429, "TooManyRequests"),
        (Fault::Unauthorized, SERVICES.to_owned(), 401, "Unauthorized"),
        (Fault::Forbidden, SERVICES.to_owned(), 403, "Forbidden"),
        (Fault::RefuseWatchList, format!("{SERVICES}{WATCH_LIST}"), 422, "Invalid"),
    ] {
        server.faults().inject(fault.clone(), Scope::of("services").times(1));
        let reply = get(&server, &path);
        assert_eq!(
            (reply.code, &reply.body["reason"], &reply.body["kind"]),
            (code, &json!(reason), &json!("Status")),
            "{fault:?}"
        );
        if code == 429 {
            assert_eq!(reply.header("retry-after"), "7");
        }
    }
    server.faults().inject(Fault::TooLargeVersion, Scope::all());
    assert_eq!(get(&server, SERVICES).code, 200, "without a version there is none too large");
}

#[test]
fn k5_gone_in_the_stream_and_k7_ends() {
    let server = with_services(&["a", "b", "c"]);
    server.faults().inject(Fault::GoneInStream, Scope::of("services").on(Verb::Watch).times(1));
    let mut gone = watch(&server, &from_now(&server));
    assert_eq!(gone.event().1["code"], 410);
    assert_eq!(gone.next(), Next::Eof);
    server.faults().inject(Fault::EndAfter(2), Scope::of("services").on(Verb::WatchList).times(1));
    let mut ended = watch(&server, &format!("{SERVICES}{WATCH_LIST}"));
    assert_eq!(
        (ended.brief().1, ended.brief().1, ended.next()),
        ("a".into(), "b".into(), Next::Eof)
    );
    server.faults().inject(Fault::EndAfter(0), Scope::of("services").times(1));
    assert_eq!(watch(&server, &from_now(&server)).next(), Next::Eof);
}

#[test]
fn k18_lines_cut_split_and_joined() {
    let server = with_services(&["a", "b", "c"]);
    server
        .store()
        .merge(
            "services",
            "default",
            "c",
            "",
            &json!({"metadata": {"annotations": {"t": "añb€😀"}}}),
        )
        .expect("merge");
    let all = format!("{SERVICES}?watch=1");
    let armed = |fault: Fault| server.faults().inject(fault, Scope::of("services").times(1));
    armed(Fault::CutAfter(1));
    let mut cut = watch(&server, &all);
    assert_eq!((cut.brief().1, cut.next()), ("a".into(), Next::Broken));
    armed(Fault::SplitChunks);
    let mut split = watch(&server, &all);
    let names: Vec<String> = (0..3).map(|_| split.brief().1).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(split.chunks.iter().all(|size| *size <= 7) && split.chunks.len() > 100);
    armed(Fault::JoinChunks);
    let mut joined = watch(&server, &all);
    let names: Vec<String> = (0..3).map(|_| joined.brief().1).collect();
    assert_eq!((names.join(""), joined.chunks.len()), ("abc".to_owned(), 1));
}

#[test]
fn k8_a_silent_watch_says_nothing() {
    let server = with_services(&[]);
    server.faults().inject(Fault::Silent, Scope::of("services").times(1));
    let mut stream = watch(&server, &from_now(&server));
    server.store().apply(service("a")).expect("apply");
    assert_eq!((stream.code, stream.next_within(Duration::from_millis(300))), (200, Next::Quiet));
}

#[test]
fn k4_no_bookmarks_and_k15_no_end_of_initial_events() {
    let server = with_services(&["a"]);
    server.faults().inject(Fault::NoBookmarks, Scope::of("services").times(1));
    let mut stream = watch(&server, &from_now(&server));
    server.store().apply(crate::raw::slice("s", "a", &["10.0.0.1"])).expect("apply");
    assert_eq!(stream.next_within(Duration::from_millis(400)), Next::Quiet);
    server.faults().inject(Fault::NoInitialEventsEnd, Scope::of("services").times(1));
    let mut stream = watch(&server, &format!("{SERVICES}{WATCH_LIST}"));
    assert_eq!(stream.brief().0, "ADDED");
    assert_eq!(stream.next_within(Duration::from_millis(80)), Next::Quiet);
    server.store().apply(service("b")).expect("apply");
    assert_eq!(stream.brief(), ("ADDED".into(), "b".into()), "the stream goes on all the same");
}

#[test]
fn k11_odd_events() {
    let server = with_services(&["a"]);
    let all = format!("{SERVICES}?watch=1");
    let armed = |fault: Fault| server.faults().inject(fault, Scope::of("services").times(1));
    armed(Fault::UnknownEventType);
    let mut stream = watch(&server, &all);
    assert_eq!((stream.event().0, stream.brief().0), ("PONDERED".into(), "ADDED".into()));
    armed(Fault::DuplicateAdded);
    let mut stream = watch(&server, &all);
    assert_eq!(
        (stream.brief(), stream.brief()),
        (("ADDED".into(), "a".into()), ("ADDED".into(), "a".into()))
    );
    armed(Fault::AddedAsModified);
    assert_eq!(watch(&server, &all).brief().0, "MODIFIED");
    armed(Fault::Undecodable);
    let spoiled = watch(&server, &all).event().1;
    assert!(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(spoiled).is_err());
    armed(Fault::Undecodable);
    let list = get(&server, SERVICES).body;
    assert!(
        serde_json::from_value::<k8s_openapi::List<k8s_openapi::api::core::v1::Service>>(list)
            .is_err()
    );
    assert!(
        server.store().get("services", "default", "a").expect("there")["spec"].is_object(),
        "the store is whole"
    );
}

#[test]
fn k13_k14_k20_lists_shuffled_empty_and_in_odd_pages() {
    let names: Vec<String> = (0..30).map(|n| format!("s{n:02}")).collect();
    let server = with_services(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let listed = |query: &str| -> Vec<String> {
        let body = get(&server, &format!("{SERVICES}{query}")).body;
        body["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|i| i["metadata"]["name"].as_str().expect("name").to_owned())
            .collect()
    };
    server.faults().inject(Fault::Shuffle, Scope::of("services").times(1));
    let mut shuffled = listed("");
    assert_ne!(shuffled, names);
    shuffled.sort();
    assert_eq!(shuffled, names);
    server.faults().inject(Fault::EmptyList, Scope::of("services").times(1));
    assert_eq!((listed("").len(), listed("").len()), (0, 30));
    server.faults().inject(Fault::EmptyPage, Scope::of("services").times(1));
    let page = get(&server, &format!("{SERVICES}?limit=10")).body;
    assert_eq!(page["items"], json!([]));
    let token = page["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(listed(&format!("?limit=50&continue={token}")), names);
    server
        .faults()
        .inject(Fault::ContinueExpired, Scope::of("services").on(Verb::Continue).times(1));
    let first = get(&server, &format!("{SERVICES}?limit=10")).body;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let expired = get(&server, &format!("{SERVICES}?limit=10&continue={token}"));
    assert_eq!(expired.code, 410);
    assert!(expired.body["metadata"]["continue"].is_string());
}

#[test]
fn open_watches_can_be_ended_and_answers_delayed() {
    let server = with_services(&[]);
    for (ending, expected) in [(Ending::Eof, Next::Eof), (Ending::Break, Next::Broken)] {
        let mut services = watch(&server, &from_now(&server));
        let mut slices = watch(
            &server,
            &format!("{SLICES}?watch=1&resourceVersion={}", server.store().version()),
        );
        // The answer's head comes from before the stream listens for its end.
        std::thread::sleep(Duration::from_millis(50));
        server.faults().end_watches(Some("services"), ending);
        assert_eq!(services.next(), expected);
        assert_eq!(slices.next_within(Duration::from_millis(50)), Next::Quiet);
    }
    let mut stream = watch(&server, &from_now(&server));
    std::thread::sleep(Duration::from_millis(50));
    server.faults().end_watches(None, Ending::Gone);
    assert_eq!(stream.event().1["code"], 410);
    server.faults().inject(Fault::Slow(Duration::from_millis(200)), Scope::of("services").times(1));
    let start = Instant::now();
    assert_eq!(get(&server, SERVICES).code, 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
    // Watches break with the server, too.
    let mut stream = watch(&server, &from_now(&server));
    server.stop();
    assert_eq!(stream.next(), Next::Broken);
}
