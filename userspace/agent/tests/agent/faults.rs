//! Everything a client of the API server must survive, one fault after the other.

use std::time::Duration;

use sluice_testkit::api::{Ending, Fault, Scope, Server, Verb};

use crate::rig::{Rig, change, options, put, service, slice};

/// Arms a fault for the next requests for Services and slices.
fn arm(rig: &Rig, fault: &Fault, verbs: &[Verb], times: u32) {
    for resource in ["services", "endpointslices"] {
        for verb in verbs {
            let scope = Scope::of(resource).on(*verb).times(times);
            rig.server().faults().inject(fault.clone(), scope);
        }
    }
}

/// The fault strikes from the first request on, and again after the connections were lost; in the
/// end the data plane has what the server has, and it never lost what was there all the time.
async fn survives(fault: Fault, verbs: &[Verb], times: u32) {
    let mut rig = Rig::new();
    arm(&rig, &fault, verbs, times);
    rig.start();
    rig.converges().await;
    change(rig.store(), 1);
    rig.converges().await;
    for (round, ending) in [(2, Ending::Break), (3, Ending::Gone)] {
        if round == 3 {
            rig.store().delete("services", "default", "fresh2");
            put(rig.store(), service("fresh1"));
        }
        arm(&rig, &fault, verbs, times);
        rig.server().faults().end_watches(None, ending);
        change(rig.store(), round);
        rig.converges().await;
    }
    assert!(rig.server().faults().struck(&fault) > 0, "{fault:?} never struck");
    rig.anchor_never_left();
    rig.stop().await;
}

const STREAMS: &[Verb] = &[Verb::Watch];

/// With streaming lists refused, the way leads through plain lists. All of `faults` must strike.
async fn survives_with_plain_lists(faults: &[(Fault, &[Verb])]) {
    let mut rig = Rig::new();
    let arm_all = |rig: &Rig| faults.iter().for_each(|(fault, verbs)| arm(rig, fault, verbs, 1));
    rig.server().faults().inject(Fault::RefuseWatchList, Scope::all().on(Verb::WatchList));
    arm_all(&rig);
    rig.start();
    rig.converges().await;
    for (round, ending) in [(1, Ending::Gone), (2, Ending::Break)] {
        arm_all(&rig);
        rig.server().faults().end_watches(None, ending);
        change(rig.store(), round);
        rig.converges().await;
    }
    for (fault, _) in faults {
        assert!(rig.server().faults().struck(fault) > 0, "{fault:?} never struck");
    }
    rig.anchor_never_left();
    rig.stop().await;
}

macro_rules! faults {
    ($($name:ident: $fault:expr, $verbs:expr, $times:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            survives($fault, $verbs, $times).await;
        })*
    };
}

macro_rules! plain_list_faults {
    ($($name:ident: $fault:expr, $verbs:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            survives_with_plain_lists(&[($fault, $verbs)]).await;
        })*
    };
}

faults! {
    k4_no_bookmarks: Fault::NoBookmarks, STREAMS, 9;
    k5_410_on_the_request: Fault::Gone, STREAMS, 2;
    k5_410_in_the_stream: Fault::GoneInStream, STREAMS, 2;
    k6_too_large_version: Fault::TooLargeVersion, STREAMS, 1;
    k7_end_at_once: Fault::EndAfter(0), STREAMS, 2;
    k7_end_after_one_event: Fault::EndAfter(1), STREAMS, 4;
    k18_cut_in_the_first_line: Fault::CutAfter(0), STREAMS, 2;
    k18_cut_after_two_events: Fault::CutAfter(2), STREAMS, 3;
    k8_silent_streams: Fault::Silent, STREAMS, 1;
    k9_500: Fault::InternalError, STREAMS, 3;
    k9_429: Fault::TooManyRequests(1), STREAMS, 3;
    k10_401: Fault::Unauthorized, STREAMS, 2;
    k10_403: Fault::Forbidden, STREAMS, 2;
    k13_any_order: Fault::Shuffle, STREAMS, 9;
    k11_everything_twice: Fault::DuplicateAdded, STREAMS, 9;
    k11_additions_as_modified: Fault::AddedAsModified, STREAMS, 9;
    k11_unknown_events: Fault::UnknownEventType, STREAMS, 9;
    k15_no_streaming_lists: Fault::RefuseWatchList, &[Verb::WatchList], 9;
    k15_no_end_of_initial_events: Fault::NoInitialEventsEnd, &[Verb::WatchList], 9;
    k18_tiny_chunks: Fault::SplitChunks, STREAMS, 9;
    k18_several_lines_in_a_chunk: Fault::JoinChunks, STREAMS, 9;
    slow_answers: Fault::Slow(Duration::from_millis(300)), STREAMS, 3;
    no_answers: Fault::NoAnswer, STREAMS, 1;
}

plain_list_faults! {
    k14_empty_page: Fault::EmptyPage, &[Verb::List];
    k5_410_on_the_list: Fault::Gone, &[Verb::List];
    k9_500_on_the_list: Fault::InternalError, &[Verb::List];
    k13_lists_in_any_order: Fault::Shuffle, &[Verb::List];
    no_answer_to_the_list: Fault::NoAnswer, &[Verb::List];
}

/// A first page without items, then a token that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn k14_token_expired() {
    let faults: [(Fault, &[Verb]); 2] =
        [(Fault::EmptyPage, &[Verb::List]), (Fault::ContinueExpired, &[Verb::Continue])];
    survives_with_plain_lists(&faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k7_k9_nothing_is_listed_anew_without_need() {
    let mut rig = Rig::started().await;
    let before = (rig.lists_of("services"), rig.lists_of("endpointslices"));
    let cases = [
        (None, Ending::Eof),
        (Some(Fault::InternalError), Ending::Eof),
        (Some(Fault::TooManyRequests(0)), Ending::InternalError),
        (None, Ending::Break),
    ];
    change(rig.store(), 1);
    rig.converges().await;
    for (at, (fault, ending)) in cases.into_iter().enumerate() {
        if let Some(fault) = &fault {
            arm(&rig, fault, STREAMS, 1);
        }
        rig.server().faults().end_watches(None, ending.clone());
        put(rig.store(), slice("web", &[&format!("10.2.0.{at}")]));
        rig.converges().await;
        let after = (rig.lists_of("services"), rig.lists_of("endpointslices"));
        assert_eq!(after, before, "{fault:?} {ending:?}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k11_an_object_nobody_can_decode_hurts_only_itself() {
    let mut rig = Rig::started().await;
    let scope = Scope::of("endpointslices").on(Verb::Watch).times(1);
    rig.server().faults().inject(Fault::Undecodable, scope);
    rig.server().faults().end_watches(Some("endpointslices"), Ending::Eof);
    rig.eventually("the fault strikes", |rig| {
        (rig.server().faults().struck(&Fault::Undecodable) > 0).then_some(())
    })
    .await;
    // The first event is spoilt, the others count.
    put(rig.store(), slice("web", &["10.3.0.1"]));
    put(rig.store(), slice("api", &["10.3.0.2", "10.3.0.3"]));
    let backends = |rig: &Rig, name: &str| {
        let state = rig.recorder.last()?;
        let (_, port) = state.ports.iter().find(|(key, _)| key.name == name)?;
        Some(port.cluster.len())
    };
    rig.eventually("the second slice is written", |rig| {
        (backends(rig, "api") == Some(2)).then_some(())
    })
    .await;
    assert_eq!(backends(&rig, "web"), Some(3), "the last readable state stays in force");
    put(rig.store(), slice("web", &["10.3.0.4"]));
    rig.converges().await;
    rig.anchor_never_left();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k20_an_empty_list_is_believed_and_told_loudly() {
    let mut rig = Rig::new();
    // A quiet watch that ends is followed by a question that is a list, too (K32).
    rig.config.timing.watch_min = Duration::from_secs(60);
    rig.config.timing.watch_max = Duration::from_secs(60);
    rig.start();
    rig.converges().await;
    for verb in [Verb::List, Verb::WatchList] {
        let scope = Scope::of("services").on(verb).times(1);
        rig.server().faults().inject(Fault::EmptyList, scope);
    }
    // An empty answer only exists for plain lists.
    rig.server().faults().inject(Fault::RefuseWatchList, Scope::of("services").on(Verb::WatchList));
    rig.server().faults().end_watches(Some("services"), Ending::Gone);
    rig.eventually("all Services are gone", |rig| {
        rig.recorder.last()?.ports.is_empty().then_some(())
    })
    .await;
    let (_, _, metrics) = rig.get(rig.config.http_addr, "/metrics").await;
    let line = "sluice_watch_emptied_total{resource=\"services\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    rig.server().faults().end_watches(Some("services"), Ending::Gone);
    rig.converges().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k19_k31_a_server_that_was_away_and_has_forgotten_its_history() {
    let mut rig = Rig::started().await;
    let server = rig.server.take().expect("a server");
    let address = server.address();
    let store = server.stop();
    let syncs = rig.recorder.record().states.len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.recorder.record().states.len(), syncs, "an outage changes nothing");
    change(&store, 1);
    let again = sluice_testkit::api::Options { listen: address, store: Some(store), ..options() };
    rig.server = Some(Server::start(again).expect("starts again"));
    rig.converges().await;
    rig.anchor_never_left();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k32_a_server_that_went_back_in_time_is_noticed() {
    let mut rig = Rig::started().await;
    let past = rig.store().snapshot();
    for round in 0..50 {
        put(rig.store(), slice("web", &[&format!("10.4.0.{round}")]));
    }
    rig.converges().await;
    let server = rig.server.take().expect("a server");
    let address = server.address();
    let store = server.stop();
    store.restore(&past);
    let again = sluice_testkit::api::Options { listen: address, store: Some(store), ..options() };
    rig.server = Some(Server::start(again).expect("starts again"));
    // Without the question for our version the watch would be open and silent.
    rig.converges().await;
    put(rig.store(), slice("web", &["10.4.1.1"]));
    rig.converges().await;
    rig.anchor_never_left();
    rig.stop().await;
}

/// Behind a balancer no connection breaks: watches end in order, and somebody says that the server is away.
#[tokio::test(flavor = "multi_thread")]
async fn k32_a_server_that_went_back_in_time_behind_a_balancer_is_noticed() {
    for away in [true, false] {
        let mut rig = Rig::started().await;
        let past = rig.store().snapshot();
        for round in 0..50 {
            put(rig.store(), slice("web", &[&format!("10.4.0.{round}")]));
        }
        rig.converges().await;
        if away {
            arm(&rig, &Fault::InternalError, STREAMS, 4);
        }
        rig.store().restore(&past);
        rig.server().faults().end_watches(None, Ending::Eof);
        rig.converges().await;
        put(rig.store(), slice("web", &["10.4.1.1"]));
        rig.converges().await;
        rig.anchor_never_left();
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k10_rotated_credentials_are_read_anew() {
    let mut rig = Rig::new();
    let kubeconfig = rig.folder.path().join("kubeconfig");
    rig.server().set_token(Some("first"));
    std::fs::write(&kubeconfig, rig.server().kubeconfig()).expect("written");
    rig.start();
    rig.converges().await;
    rig.server().set_token(Some("second"));
    rig.server().faults().end_watches(None, Ending::Eof);
    put(rig.store(), slice("web", &["10.5.0.1"]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::write(&kubeconfig, rig.server().kubeconfig()).expect("written");
    rig.converges().await;
    rig.anchor_never_left();
    rig.stop().await;
}
