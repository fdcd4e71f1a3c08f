//! One test per K rule on what the cursor asks next.

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rv(version: &str) -> String {
    version.to_owned()
}

/// A cursor that has listed by stream and watches from version 10.
fn watching() -> Cursor {
    let mut cursor = Cursor::default();
    cursor.on(Event::InitialEnd { resource_version: rv("10") }, Instant::now(), 0.0);
    cursor
}

/// A cursor on its way through a plain list, before its first page.
fn listing() -> Cursor {
    let mut cursor = Cursor::default();
    cursor.on(Event::InitialSilence, Instant::now(), 0.0);
    cursor
}

fn refused(code: u16) -> Event {
    Event::Refused(Refusal { code, ..Refusal::default() })
}

fn newest_list() -> Request {
    Request::List { not_older_than: None, limit: Some(500), continue_token: None }
}

#[test]
fn k1_k15_the_first_question_is_a_streaming_list_of_the_newest_state() {
    assert_eq!(Cursor::default().request(), Request::Stream { not_older_than: None });
}

#[test]
fn k15_the_stream_goes_on_as_the_watch() {
    let mut cursor = Cursor::default();
    let reaction = cursor.on(Event::InitialEnd { resource_version: rv("10") }, Instant::now(), 0.0);
    assert!(reaction.listed && !reaction.leave && !cursor.collecting());
    assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
}

#[test]
fn k15_versions_of_initial_events_are_no_place_to_go_on_from() {
    let mut cursor = Cursor::default();
    cursor.on(Event::Progress { resource_version: rv("9") }, Instant::now(), 0.0);
    let reaction = cursor.on(Event::Lost, Instant::now(), 0.0);
    assert!(reaction.discard, "collected objects are thrown away");
    assert_eq!(cursor.request(), Request::Stream { not_older_than: None });
}

#[test]
fn k15_a_missing_bookmark_ends_in_a_plain_list_for_good() {
    let mut cursor = listing();
    assert_eq!(cursor.request(), newest_list());
    let page = Event::Page { resource_version: rv("20"), continue_token: None };
    assert!(cursor.on(page, Instant::now(), 0.0).listed);
    cursor.on(refused(410), Instant::now(), 0.0);
    assert_eq!(cursor.request(), newest_list(), "no streaming list again");
}

#[test]
fn k15_a_server_without_streaming_lists_is_not_asked_again() {
    for code in [400, 404, 406, 422] {
        let mut cursor = Cursor::default();
        let reaction = cursor.on(refused(code), Instant::now(), 1.0);
        assert_eq!((reaction.pause, cursor.request()), (Duration::ZERO, newest_list()), "{code}");
    }
}

#[test]
fn k15_streams_that_always_end_early_give_way_to_lists() {
    let mut cursor = Cursor::default();
    let end = || Event::Eof { lived: s(3), lines: 5 };
    let mut discards = 0;
    for _ in 0..3 {
        assert!(matches!(cursor.request(), Request::Stream { .. }));
        discards += u32::from(cursor.on(end(), Instant::now(), 0.0).discard);
    }
    assert_eq!((discards, cursor.request()), (3, newest_list()));
}

#[test]
fn k4_bookmarks_and_k2_the_lists_own_version_move_the_watch() {
    let mut cursor = watching();
    cursor.on(Event::Progress { resource_version: rv("17") }, Instant::now(), 0.0);
    cursor.on(Event::Progress { resource_version: String::new() }, Instant::now(), 0.0);
    cursor.on(Event::Eof { lived: s(300), lines: 9 }, Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Watch { from: rv("17") });
}

#[test]
fn k5_410_in_both_shapes_lists_anew_with_the_version_unset() {
    for refusal in [
        Refusal { code: 410, ..Refusal::default() },
        Refusal { code: 500, reason: "Expired".to_owned(), ..Refusal::default() },
    ] {
        let mut cursor = watching();
        let reaction = cursor.on(Event::Refused(refusal), Instant::now(), 0.5);
        assert_eq!(cursor.request(), Request::Stream { not_older_than: None });
        // K31: all nodes meet this at once.
        assert_eq!(reaction.pause, RELIST_SPREAD / 2);
    }
}

#[test]
fn k6_k32_a_server_that_went_back_in_time_is_believed() {
    let too_large = || {
        Event::Refused(Refusal {
            code: 504,
            causes: vec!["ResourceVersionTooLarge".to_owned()],
            retry_after: Some(s(1)),
            ..Refusal::default()
        })
    };
    let mut cursor = watching();
    cursor.on(Event::Lost, Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") });
    let reaction = cursor.on(too_large(), Instant::now(), 0.0);
    assert!(reaction.pause >= s(1));
    assert_eq!(cursor.request(), Request::Stream { not_older_than: None });
}

#[test]
fn k7_a_clean_end_is_no_reason_to_list() {
    let mut cursor = watching();
    let reaction = cursor.on(Event::Eof { lived: s(300), lines: 0 }, Instant::now(), 1.0);
    assert_eq!((reaction.pause, reaction.discard), (Duration::ZERO, false));
    let burst = Event::Eof { lived: Duration::from_millis(20), lines: 1000 };
    let mut cursor = watching();
    assert_eq!(cursor.on(burst, Instant::now(), 1.0).pause, Duration::ZERO);
    assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
}

#[test]
fn k32_after_a_watch_that_brought_nothing_the_server_is_asked_whether_it_knows_our_version() {
    for lived in [Duration::from_millis(20), s(300)] {
        let mut cursor = watching();
        cursor.on(Event::Eof { lived, lines: 0 }, Instant::now(), 0.0);
        assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") });
        cursor.on(Event::Known, Instant::now(), 0.0);
        assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
        assert!(!cursor.doubtful(), "nothing is listed for it");
    }
}

#[test]
fn k32_while_somebody_says_that_the_server_is_away_another_state_may_be_restored() {
    for (code, doubtful) in [(500, false), (502, true), (503, true), (504, true)] {
        let mut cursor = watching();
        cursor.on(refused(code), Instant::now(), 0.0);
        assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") }, "{code}");
        assert_eq!(cursor.doubtful(), doubtful, "{code}");
    }
}

#[test]
fn k31_a_healthy_server_is_listed_soon_however_long_it_was_away() {
    let (mut cursor, t) = (watching(), Instant::now());
    for _ in 0..10 {
        cursor.on(Event::Lost, t, 1.0);
    }
    assert_eq!(cursor.on(refused(410), t, 1.0).pause, RELIST_SPREAD);
    // One that goes on saying so is waited for.
    cursor.on(Event::InitialEnd { resource_version: rv("11") }, t, 0.0);
    assert_eq!(cursor.on(refused(410), t, 0.0).pause, BACKOFF_MAX);
    cursor.on(Event::InitialEnd { resource_version: rv("12") }, t, 0.0);
    cursor.on(Event::Progress { resource_version: rv("13") }, t, 0.0);
    assert_eq!(cursor.on(refused(410), t, 0.0).pause, Duration::ZERO);
}

#[test]
fn k9_a_retry_after_of_a_day_is_not_waited_for() {
    let away = Refusal { code: 503, retry_after: Some(s(86_400)), ..Refusal::default() };
    assert_eq!(watching().on(Event::Refused(away), Instant::now(), 0.0).pause, RETRY_AFTER_MAX);
}

#[test]
fn k7_a_watch_that_ends_at_once_is_a_failure() {
    let mut cursor = watching();
    let end = Event::Eof { lived: Duration::from_millis(20), lines: 0 };
    assert_eq!(cursor.on(end, Instant::now(), 0.0).pause, BACKOFF_MIN);
}

#[test]
fn k9_429_and_500_on_a_watch_wait_and_watch_again() {
    let mut cursor = watching();
    let busy = Refusal { code: 429, retry_after: Some(s(7)), ..Refusal::default() };
    let reaction = cursor.on(Event::Refused(busy), Instant::now(), 0.0);
    assert_eq!((reaction.pause, reaction.discard), (s(7), false));
    assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
    cursor.on(refused(500), Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") });
}

#[test]
fn k9_500_for_too_long_lists_anew_but_not_older() {
    let (mut cursor, t) = (watching(), Instant::now());
    cursor.on(refused(500), t, 0.0);
    cursor.on(refused(503), t + s(119), 0.0);
    assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") });
    cursor.on(refused(500), t + s(120), 0.0);
    assert_eq!(cursor.request(), Request::Stream { not_older_than: Some(rv("10")) });
}

#[test]
fn k9_pauses_double_with_jitter_and_start_over_after_health() {
    let (mut cursor, t) = (watching(), Instant::now());
    let pauses: Vec<u128> =
        (0..7).map(|_| cursor.on(Event::Lost, t, 0.0).pause.as_millis()).collect();
    assert_eq!(pauses, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
    assert_eq!(cursor.on(Event::Lost, t, 1.0).pause, s(60), "up to twice as long by chance");
    assert_eq!(cursor.on(Event::Lost, t + s(119), 0.0).pause, BACKOFF_MAX);
    assert_eq!(cursor.on(Event::Lost, t + s(119 + 120), 0.0).pause, BACKOFF_MIN);
}

#[test]
fn k10_401_reads_credentials_anew_403_does_not_and_both_keep_the_state() {
    for (code, reconnect) in [(401, true), (403, false)] {
        let mut cursor = watching();
        let reaction = cursor.on(refused(code), Instant::now(), 0.0);
        assert_eq!((reaction.reconnect, reaction.discard), (reconnect, false), "{code}");
        assert_eq!(cursor.request(), Request::Watch { from: rv("10") });

        let mut cursor = Cursor::default();
        let reaction = cursor.on(refused(code), Instant::now(), 0.0);
        assert!(reaction.pause >= BACKOFF_MIN, "{code}");
        assert_eq!(cursor.request(), Request::Stream { not_older_than: None }, "{code}");
    }
}

#[test]
fn k10_a_403_that_calls_us_anonymous_reads_credentials_anew() {
    let message =
        "services is forbidden: User \"system:anonymous\" cannot list resource".to_owned();
    let anonymous = Refusal { code: 403, message, ..Refusal::default() };
    for mut cursor in [watching(), Cursor::default()] {
        let reaction = cursor.on(Event::Refused(anonymous.clone()), Instant::now(), 0.0);
        assert!(reaction.reconnect && reaction.pause >= BACKOFF_MIN);
    }
}

#[test]
fn k11_undecodable_objects_are_listed_anew_only_when_they_repeat_and_seldom() {
    let (mut cursor, t) = (watching(), Instant::now());
    let relists = |cursor: &mut Cursor, at: Instant| {
        (0..3).map(|_| u32::from(cursor.on(Event::Unreadable, at, 0.0).leave)).sum::<u32>()
    };
    assert_eq!(relists(&mut cursor, t), 1);
    assert_eq!(cursor.request(), Request::Stream { not_older_than: Some(rv("10")) });
    cursor.on(Event::InitialEnd { resource_version: rv("11") }, t, 0.0);
    assert_eq!(relists(&mut cursor, t + s(1)), 0, "the list did not help");
    cursor.on(Event::InitialEnd { resource_version: rv("12") }, t, 0.0);
    assert_eq!(relists(&mut cursor, t + s(601)), 1);
}

#[test]
fn k14_pages_are_followed_and_the_last_ones_version_counts() {
    let mut cursor = listing();
    let page = |version: &str, token: Option<&str>| Event::Page {
        resource_version: rv(version),
        continue_token: token.map(str::to_owned),
    };
    assert!(!cursor.on(page("20", Some("t")), Instant::now(), 0.0).listed);
    assert_eq!(
        cursor.request(),
        Request::List {
            not_older_than: None,
            limit: Some(500),
            continue_token: Some("t".to_owned())
        }
    );
    assert!(cursor.on(page("20", None), Instant::now(), 0.0).listed);
    assert_eq!(cursor.request(), Request::Watch { from: rv("20") });
}

#[test]
fn k14_an_expired_token_starts_over_without_pages() {
    let mut cursor = listing();
    let page = Event::Page { resource_version: rv("20"), continue_token: Some("t".to_owned()) };
    cursor.on(page, Instant::now(), 0.0);
    let reaction = cursor.on(refused(410), Instant::now(), 0.0);
    assert!(reaction.discard && reaction.pause.is_zero());
    let whole = Request::List { not_older_than: None, limit: None, continue_token: None };
    assert_eq!(cursor.request(), whole);
}

#[test]
fn k14_any_other_loss_in_the_middle_starts_over() {
    for event in [Event::Lost, refused(401), refused(403), refused(429), refused(500), refused(400)]
    {
        let mut cursor = listing();
        let page = Event::Page { resource_version: rv("20"), continue_token: Some("t".to_owned()) };
        cursor.on(page, Instant::now(), 0.0);
        let reaction = cursor.on(event.clone(), Instant::now(), 0.0);
        assert!(reaction.discard, "{event:?}");
        assert_eq!(cursor.request(), newest_list(), "{event:?}");
    }
}

#[test]
fn k32_after_a_lost_connection_the_server_is_asked_whether_it_knows_our_version() {
    let mut cursor = watching();
    cursor.on(Event::Lost, Instant::now(), 0.0);
    cursor.on(Event::Lost, Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Probe { not_older_than: rv("10") });
    cursor.on(Event::Known, Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
    // A server that cannot answer the question is watched all the same.
    cursor.on(Event::Lost, Instant::now(), 0.0);
    cursor.on(refused(400), Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Watch { from: rv("10") });
}

#[test]
fn k32_a_watch_after_a_lost_connection_ends_in_a_list() {
    let end = || Event::Eof { lived: s(30), lines: 1 };
    let mut cursor = watching();
    cursor.on(Event::Lost, Instant::now(), 0.0);
    cursor.on(Event::Known, Instant::now(), 0.0);
    assert!(cursor.doubtful());
    let reaction = cursor.on(end(), Instant::now(), 0.0);
    assert!(reaction.discard && reaction.why.is_empty());
    assert_eq!(cursor.request(), Request::Stream { not_older_than: Some(rv("10")) });
    cursor.on(Event::InitialEnd { resource_version: rv("20") }, Instant::now(), 0.0);
    assert!(!cursor.doubtful());
    cursor.on(end(), Instant::now(), 0.0);
    assert_eq!(cursor.request(), Request::Watch { from: rv("20") }, "one list is enough");
}

#[test]
fn every_fourth_failure_to_connect_reads_the_configuration_anew() {
    let (mut cursor, t) = (watching(), Instant::now());
    let anew: Vec<bool> = (0..8).map(|_| cursor.on(Event::Lost, t, 0.0).reconnect).collect();
    assert_eq!(anew, [false, false, false, true, false, false, false, true]);
}
