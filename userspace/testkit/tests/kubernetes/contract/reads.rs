//! The part of the script that reads: selectors, pages, watches, streaming lists, and versions that
//! are too old or have yet to come. K numbers are those of the watch's own tests.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use super::wire::{Wire, normal};
use super::writes::{service, slice};
use super::{services, slices};

/// A plain watch from a future version says nothing for so long.
const SILENCE: Duration = Duration::from_secs(3);
/// A version that no server has reached.
const FUTURE: &str = "999999999999999999";

pub(super) fn names(list: &Value) -> Value {
    let items = list["items"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = items.filter_map(|item| item["metadata"]["name"].as_str()).collect();
    names.sort_unstable();
    json!(names)
}

pub(super) fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

/// Type, name and labels of events: enough where the objects were compared before.
pub(super) fn brief(events: &[Value]) -> Value {
    let mut brief: Vec<Value> = events
        .iter()
        .map(|event| {
            let metadata = &event["object"]["metadata"];
            let made = metadata["generateName"].as_str();
            let name = made.or(metadata["name"].as_str());
            json!([event["type"], name, metadata["labels"]])
        })
        .collect();
    brief.sort_by_key(Value::to_string);
    json!(brief)
}

/// K34 and label selectors.
pub(super) async fn selectors(wire: &mut Wire) {
    for (base, query) in [
        (services(), "labelSelector=x"),
        (services(), "labelSelector=%21x"),
        (services(), "labelSelector=x%3Dy"),
        (services(), "labelSelector=x%21%3Dy"),
        (services(), "labelSelector=x%20in%20(y,z)"),
        (services(), "labelSelector=x%20notin%20(y)"),
        (services(), "labelSelector=x%3E5"),
        (services(), "labelSelector=x%3C5"),
        (services(), "fieldSelector=spec.clusterIP%21%3DNone"),
        (services(), "fieldSelector=spec.type%3DNodePort"),
        (services(), "fieldSelector=metadata.name%3Ddual"),
        (slices(), "labelSelector=kubernetes.io/service-name%3Dplain"),
    ] {
        let (code, list) =
            wire.ask(Method::GET, &format!("{base}?{query}"), "json", &Value::Null).await;
        wire.note(query, json!({ "code": code, "names": names(&list) }));
    }
    for (base, query) in [
        (services(), "fieldSelector=spec.ports%3D80"),
        (slices(), "fieldSelector=addressType%3DIPv4"),
        (services(), "labelSelector=x%3D%3D%3Dy"),
        (services(), "labelSelector=x%3Ey"),
        (services(), "labelSelector=a%2Fb%2Fc"),
        (services(), "labelSelector=x%3D-y"),
        (services(), "labelSelector=x,"),
        (services(), "resourceVersion=5&resourceVersionMatch=Some"),
        (services(), "sendInitialEvents=true"),
        (services(), "limit=-1"),
        (services(), "resourceVersion=soon"),
        (services(), "resourceVersionMatch=Exact"),
    ] {
        wire.get(&format!("refused: {query}"), &format!("{base}?{query}")).await;
    }
}

/// K2, K14.
pub(super) async fn pages(wire: &mut Wire) {
    let whole = wire.get("a whole list", &services()).await;
    wire.note("a list has a version", json!(!version(&whole).is_empty()));
    let first = wire.get("a page", &format!("{}?limit=3", services())).await;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let next = format!("{}?limit=100&continue={token}", services());
    let second = wire.get("the next page", &next).await;
    wire.note("pages are of one version", json!(version(&first) == version(&second)));
    wire.get("continue with a version", &format!("{next}&resourceVersion={}", version(&first)))
        .await;
    wire.get("a false token", &format!("{}?limit=3&continue=abc", services())).await;
    let (_, any) = wire
        .ask(
            Method::GET,
            &format!("{}?limit=1&resourceVersion=0", services()),
            "json",
            &Value::Null,
        )
        .await;
    wire.note("limit does not count for any version", names(&any));
    // K1: with a limit, a version means exactly that one.
    let old = version(&whole);
    wire.post("later than the list", &services(), &service("a-later", json!({}))).await;
    for rule in ["", "&resourceVersionMatch=NotOlderThan", "&resourceVersionMatch=Exact"] {
        let path = format!("{}?limit=2&resourceVersion={old}{rule}", services());
        let (code, page) = wire.ask(Method::GET, &path, "json", &Value::Null).await;
        let of_old = version(&page) == old;
        wire.note(&format!("a page at a version{rule}"), json!([code, names(&page), of_old]));
    }
    // K14: a token is a place below its own path.
    let path = format!("/api/v1/services?limit=100&continue={token}");
    let (code, page) = wire.ask(Method::GET, &path, "json", &Value::Null).await;
    wire.note("a namespace's token in all", json!([code, names(&page)]));
    wire.delete("no later", &format!("{}/a-later", services())).await;
    let path = format!(
        "{}?resourceVersion={}&resourceVersionMatch=NotOlderThan",
        services(),
        version(&whole)
    );
    let (code, list) = wire.ask(Method::GET, &path, "json", &Value::Null).await;
    wire.note("not older than", json!([code, names(&list)]));
}

/// K11, K12, K17: what happens, as events.
pub(super) async fn watches(wire: &mut Wire) {
    let (_, list) = wire.ask(Method::GET, &slices(), "json", &Value::Null).await;
    let path = format!("{}?watch=1&resourceVersion={}", slices(), version(&list));
    let mut watch = wire.watch(&path).await;
    wire.note("a watch opens", json!(watch.code));
    let made = slice("watched", "plain", json!([{ "addresses": ["10.1.3.1"] }]));
    wire.post("to be watched", &slices(), &made).await;
    let path = format!("{}/watched", slices());
    let change = json!({ "endpoints": [] });
    wire.step("change", Method::PATCH, &path, "merge-patch+json", &change).await;
    wire.step("no change", Method::PATCH, &path, "merge-patch+json", &change).await;
    wire.delete("delete", &path).await;
    let events = watch.take(3).await;
    wire.note("added, modified, deleted", json!(events));
    for (name, query) in [("any", "&resourceVersion=0"), ("newest", "")] {
        let mut watch = wire.watch(&format!("{}?watch=1{query}", slices())).await;
        let count = names(&list).as_array().map_or(0, Vec::len);
        let events = watch.take(count).await;
        wire.note(&format!("a watch from {name} begins with what is there"), brief(&events));
        let query = format!("watch=1&allowWatchBookmarks=true{query}");
        let mut watch = wire.watch(&format!("{}?{query}", slices())).await;
        let events = watch.take(count).await;
        wire.note(&format!("with bookmarks, a watch from {name}, too"), brief(&events));
        let end = watch.next().await;
        wire.note(&format!("and the end of what is there is marked, from {name}"), end);
    }
}

/// K15.
pub(super) async fn streaming_lists(wire: &mut Wire) {
    let all = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true";
    let whole = format!("{}?{all}&resourceVersionMatch=NotOlderThan&resourceVersion=", slices());
    let (_, list) = wire.ask(Method::GET, &slices(), "json", &Value::Null).await;
    let count = names(&list).as_array().map_or(0, Vec::len);
    let mut watch = wire.watch(&whole).await;
    let events = watch.take(count).await;
    wire.note("a streaming list", json!(watch.code));
    wire.note("its objects", brief(&events));
    let end = watch.next().await;
    wire.note("its end", end);
    let made = slice("streamed", "plain", json!([]));
    wire.post("after its end", &slices(), &made).await;
    let next = watch.next().await;
    wire.note("it goes on as a watch", next);
    wire.delete("and no more", &format!("{}/streamed", slices())).await;
    for query in [
        all.to_owned(),
        format!("{all}&resourceVersionMatch=Exact&resourceVersion=5"),
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
    ] {
        wire.get(&format!("refused: {query}"), &format!("{}?{query}", slices())).await;
    }
}

/// K12: labels that stop matching, and match again.
pub(super) async fn transitions(wire: &mut Wire) {
    wire.post("labelled", &services(), &service("labelled", json!({}))).await;
    let (_, list) = wire.ask(Method::GET, &services(), "json", &Value::Null).await;
    let selector = "labelSelector=%21hidden&fieldSelector=spec.clusterIP%21%3DNone";
    let path = format!("{}?watch=1&{selector}&resourceVersion={}", services(), version(&list));
    let mut watch = wire.watch(&path).await;
    let path = format!("{}/labelled", services());
    for (step, labels) in [
        ("hidden", json!({ "hidden": "1" })),
        ("while hidden", json!({ "hidden": "2" })),
        ("shown", json!({ "hidden": null })),
    ] {
        let patch = json!({ "metadata": { "labels": labels } });
        wire.step(step, Method::PATCH, &path, "merge-patch+json", &patch).await;
    }
    wire.delete("gone", &path).await;
    let events = watch.take(3).await;
    wire.note("deleted, added, deleted", json!(events));
    let headless = service("transient", json!({ "clusterIP": "None" }));
    wire.post("not selected", &services(), &headless).await;
    wire.delete("not selected either", &format!("{}/transient", services())).await;
    let nothing = watch.next_within(Duration::from_millis(700)).await;
    wire.note("nothing of what is not selected", normal(&nothing));
}

/// K4, K7: the end of a watch, and a bookmark before it.
pub(super) async fn bookmarks(wire: &mut Wire) {
    for (kind, base, late) in [
        ("slices", slices(), slice("late", "plain", json!([]))),
        ("Services", services(), service("late", json!({}))),
    ] {
        let (_, list) = wire.ask(Method::GET, &base, "json", &Value::Null).await;
        let query = "watch=1&allowWatchBookmarks=true&timeoutSeconds=4";
        let path = format!("{base}?{query}&resourceVersion={}", version(&list));
        let mut watch = wire.watch(&path).await;
        wire.post(&format!("{kind}: before the end"), &base, &late).await;
        let events = watch.take(2).await;
        wire.note(&format!("{kind}: an event and a bookmark"), json!(events));
        // There may be more than one bookmark.
        let mut end = watch.next().await;
        while end["type"] == "BOOKMARK" {
            end = watch.next().await;
        }
        wire.note(&format!("{kind}: the end"), end);
        wire.delete(&format!("{kind}: after the end"), &format!("{base}/late")).await;
    }
}

/// K6, K32.
pub(super) async fn the_future(wire: &mut Wire) {
    let at = format!("resourceVersion={FUTURE}");
    wire.get(
        "a list of the future",
        &format!("{}?{at}&resourceVersionMatch=NotOlderThan", services()),
    )
    .await;
    let all =
        "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = wire.watch(&format!("{}?{all}&{at}", services())).await;
    let events = watch.take(1).await;
    wire.note("a streaming list of the future", json!([watch.code, events]));
    let mut watch = wire.watch(&format!("{}?watch=1&{at}", services())).await;
    let silence = watch.next_within(SILENCE).await;
    wire.note("a watch of the future", json!([watch.code, silence]));
}

/// K5, in both ways: what is asked when the server has forgotten all but the newest. `token` goes on
/// with a list of before.
pub(super) async fn the_past(wire: &mut Wire, token: &str) {
    let exact = format!("{}?resourceVersion=1&resourceVersionMatch=Exact", services());
    wire.get("an exact list of the past", &exact).await;
    let more = |token: &str| format!("{}?limit=500&continue={token}", services());
    let expired = wire.get("the next page of a list of the past", &more(token)).await;
    let next = expired["metadata"]["continue"].as_str().unwrap_or_default();
    wire.note("another token is offered", json!(!next.is_empty()));
    let (code, rest) = wire.ask(Method::GET, &more(next), "json", &Value::Null).await;
    wire.note("with it, the rest as it is now", json!([code, names(&rest)]));
    let mut watch = wire.watch(&format!("{}?watch=1&resourceVersion=1", services())).await;
    let event = watch.next().await;
    wire.note("a watch of the past", json!([watch.code, event]));
    let end = watch.next().await;
    wire.note("and its end", end);
}

/// A token that the server is to forget, and changes after it.
pub(super) async fn to_be_past(wire: &mut Wire) -> String {
    let first = wire.get("a page of old", &format!("{}?limit=3", services())).await;
    for number in 0..3 {
        let name = format!("passing-{number}");
        wire.post(&name, &services(), &service(&name, json!({}))).await;
    }
    first["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
}
