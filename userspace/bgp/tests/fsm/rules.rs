//! Rules of sessions one by one: checks of OPEN, unexpected messages, timers, collision, ends.

use std::time::Duration;

use sluice_bgp::fsm::{Action, Down, Event, LinkId, Machine, Reason, Role, Settings, State};
use sluice_bgp::{
    AfiSafi, Capability, Code, Families, Family, Message, Notification, Open, Refresh, RefreshKind,
    Update,
};

use crate::network::received;
use crate::{HIGH, LOW, pair};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A machine with one event after the other, at one time.
fn steps(machine: Machine, events: &[Event], now: Duration) -> (Machine, Vec<Action>) {
    events.iter().fold((machine, Vec::new()), |(machine, mut all), event| {
        let (machine, actions) = machine.step(event.clone(), now);
        all.extend(actions);
        (machine, all)
    })
}

pub(crate) fn says(link: LinkId, message: Message) -> Event {
    Event::Received(link, received(&message))
}

/// Codes of the NOTIFICATIONs sent.
fn codes(actions: &[Action]) -> Vec<Code> {
    let code = |action: &Action| match action {
        Action::Send(_, message) => match &**message {
            Message::Notification(notification) => Some(notification.code),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(code).collect()
}

pub(crate) fn notification(actions: &[Action]) -> Notification {
    let found = actions.iter().find_map(|action| match action {
        Action::Send(_, message) => match &**message {
            Message::Notification(notification) => Some(notification.clone()),
            _ => None,
        },
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no NOTIFICATION in {actions:?}"))
}

/// A started, passive machine with one accepted connection.
pub(crate) fn accepted(settings: Settings) -> (Machine, LinkId) {
    let (mut machine, _) =
        Machine::new(Settings { passive: true, ..settings }, 7).step(Event::Start, Duration::ZERO);
    let link = machine.name_link();
    let (machine, actions) = machine.step(Event::Accepted(link), Duration::ZERO);
    assert_eq!(machine.state(), State::OpenSent);
    assert!(matches!(&actions[..], [Action::Send(_, m)] if matches!(**m, Message::Open(_))));
    (machine, link)
}

pub(crate) fn established(settings: Settings, open: Open) -> (Machine, LinkId) {
    let (machine, link) = accepted(settings);
    let events = [says(link, Message::Open(open)), says(link, Message::Keepalive)];
    let (machine, _) = steps(machine, &events, Duration::ZERO);
    assert_eq!(machine.state(), State::Established);
    (machine, link)
}

#[test]
fn b1_b2_open_is_checked_against_the_configuration() {
    let [low, high] = pair();
    let open = high.open();
    let role = |role| Capability::Role(role);
    let with = |capability: Capability| {
        let mut open = open.clone();
        open.capabilities.push(capability);
        open
    };
    let external = Settings::new(64512, LOW, 64700);
    let roles = Settings { role: Some(Role::Customer), ..low.clone() };
    let strict = Settings { strict: true, ..low.clone() };
    let v4_only = Settings { families: [Family::Ipv4Unicast].into_iter().collect(), ..high };
    let cases: &[(&str, &Settings, Open, Option<Code>)] = &[
        ("as it should be", &low, open.clone(), None),
        ("another AS", &external, open.clone(), Some(Code::BAD_PEER_AS)),
        (
            "our identifier, our AS",
            &low,
            Open { bgp_id: LOW, ..open.clone() },
            Some(Code::BAD_BGP_ID),
        ),
        (
            "our identifier, another AS (RFC 6286)",
            &external,
            Settings::new(64700, LOW, 64512).open(),
            None,
        ),
        ("a role that fits", &roles, with(role(0)), None),
        ("no role", &roles, open.clone(), None),
        ("a role that does not fit", &roles, with(role(4)), Some(Code::ROLE_MISMATCH)),
        ("strict, IPv4 only", &strict, v4_only.open(), Some(Code::UNSUPPORTED_CAPABILITY)),
        ("not strict, IPv4 only", &low, v4_only.open(), None),
        (
            "an unknown capability",
            &low,
            with(Capability::Unknown { code: 99, value: "x".into() }),
            None,
        ),
    ];
    for (name, settings, open, refused) in cases {
        let (machine, link) = accepted((*settings).clone());
        let (machine, actions) = machine.step(says(link, Message::Open(open.clone())), SECOND);
        assert_eq!(codes(&actions), refused.iter().copied().collect::<Vec<_>>(), "{name}");
        let state = if refused.is_some() { State::Idle } else { State::OpenConfirm };
        assert_eq!(machine.state(), state, "{name}");
    }
    let (machine, link) = accepted(strict);
    let (_, actions) = machine.step(says(link, Message::Open(v4_only.open())), SECOND);
    assert_eq!(&notification(&actions).data[..], [1, 4, 0, 2, 0, 1], "2/7 names the capability");
}

#[test]
fn b12_a_peer_without_multiprotocol_exchanges_ipv4() {
    let [low, high] = pair();
    let open = Open { capabilities: vec![], ..high.open() };
    let (machine, _) = established(low, open);
    let (_, negotiated) = machine.session().expect("established");
    assert!(negotiated.params.families.contains(Family::Ipv4Unicast));
    assert!(!negotiated.params.families.contains(Family::Ipv6Unicast));
    assert!(!negotiated.params.four_octet_as && !negotiated.refresh);
    assert_ne!(negotiated.params.families, Families::ALL);
}

#[test]
fn b5_unexpected_messages_have_the_code_of_the_state() {
    let [low, high] = pair();
    let refresh = Message::Refresh(Refresh {
        afi_safi: AfiSafi { afi: 1, safi: 1 },
        kind: RefreshKind::Request,
    });
    let update = || Message::Update(Box::new(Update::end_of_rib(Family::Ipv4Unicast)));
    let open = || Message::Open(high.open());
    let cases: &[(usize, Message, Code)] = &[
        (0, Message::Keepalive, Code::UNEXPECTED_IN_OPEN_SENT),
        (0, update(), Code::UNEXPECTED_IN_OPEN_SENT),
        (0, refresh.clone(), Code::UNEXPECTED_IN_OPEN_SENT),
        (1, open(), Code::UNEXPECTED_IN_OPEN_CONFIRM),
        (1, update(), Code::UNEXPECTED_IN_OPEN_CONFIRM),
        (1, refresh, Code::UNEXPECTED_IN_OPEN_CONFIRM),
        (2, open(), Code::UNEXPECTED_IN_ESTABLISHED),
    ];
    for (before, message, code) in cases {
        let (machine, link) = accepted(low.clone());
        let way = [says(link, open()), says(link, Message::Keepalive)];
        let (machine, _) = steps(machine, &way[..*before], SECOND);
        let (machine, actions) = machine.step(says(link, message.clone()), SECOND);
        assert_eq!(codes(&actions), [*code], "{message:?} after {before}");
        assert_eq!(machine.state(), State::Idle);
    }
}

#[test]
fn b2_keepalives_every_third_of_the_shorter_hold_time_and_4_0_without_any() {
    let [low, high] = pair();
    let (mut machine, link) = established(low, Settings { hold_s: 9, ..high }.open());
    let mut sent = Vec::new();
    let (now, end) = loop {
        let now = machine.deadline().expect("timers run");
        let (next, actions) = machine.step(Event::Tick, now);
        machine = next;
        if !codes(&actions).is_empty() {
            break (now, actions);
        }
        assert_eq!(actions, [Action::Send(link, Box::new(Message::Keepalive))]);
        sent.push(now);
    };
    assert_eq!(codes(&end), [Code::HOLD_EXPIRED]);
    assert_eq!(now, 9 * SECOND);
    for pair in [&[Duration::ZERO], &sent[..]].concat().windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause <= 3 * SECOND && pause >= 3 * SECOND * 3 / 4, "{sent:?}");
    }
}

#[test]
fn b2_hold_time_zero_has_no_timers() {
    let [low, high] = pair();
    let (machine, _) = established(low, Settings { hold_s: 0, ..high }.open());
    assert_eq!(machine.deadline(), None);
}

#[test]
fn b6_the_connection_of_the_higher_identifier_stays() {
    // (our identifier is the higher one, OPEN comes first on the one we opened)
    for (we_are_higher, active_first) in
        [(true, true), (true, false), (false, true), (false, false)]
    {
        let [low, high] = pair();
        let (mine, theirs) = if we_are_higher { (high, low) } else { (low, high) };
        let (machine, actions) = Machine::new(mine, 5).step(Event::Start, Duration::ZERO);
        let [Action::Connect(active)] = actions[..] else { panic!("{actions:?}") };
        let (mut machine, _) = machine.step(Event::Connected(active), SECOND);
        let passive = machine.name_link();
        let (machine, _) = machine.step(Event::Accepted(passive), SECOND);
        let order = if active_first { [active, passive] } else { [passive, active] };
        let open = |link| says(link, Message::Open(theirs.open()));
        let (machine, first) = machine.step(open(order[0]), SECOND);
        assert_eq!(codes(&first), [], "one OPEN is no collision yet");
        let (machine, second) = machine.step(open(order[1]), SECOND);
        assert_eq!(codes(&second), [Code::COLLISION]);
        let stays = if we_are_higher { active } else { passive };
        let loses = if we_are_higher { passive } else { active };
        assert!(second.contains(&Action::Close(loses)), "{second:?}");
        let (machine, _) = machine.step(says(stays, Message::Keepalive), SECOND);
        assert_eq!(machine.session().map(|(link, _)| link), Some(stays));
    }
}

#[test]
fn b6_an_established_session_stays_unless_the_peer_has_restarted() {
    for (restarted, age, replaced) in
        [(false, 60 * SECOND, false), (true, 60 * SECOND, true), (true, SECOND, false)]
    {
        let [mut low, mut high] = pair();
        low.graceful_restart_s = Some(120);
        high.graceful_restart_s = Some(120);
        let (mut machine, old) = established(low, high.open());
        let new = machine.name_link();
        let (machine, _) = machine.step(Event::Accepted(new), age);
        high.restarted = restarted;
        let (machine, actions) = machine.step(says(new, Message::Open(high.open())), age);
        if replaced {
            assert!(actions.contains(&Action::Close(old)));
            let down = Down { reason: Reason::Replaced, graceful: true };
            assert!(actions.contains(&Action::Down(down)), "{actions:?}");
            assert_eq!(machine.state(), State::OpenConfirm);
        } else {
            assert_eq!(codes(&actions), [Code::COLLISION]);
            assert_eq!(machine.session().map(|(link, _)| link), Some(old));
        }
    }
}

#[test]
fn b9_a_notification_is_never_answered() {
    let [low, high] = pair();
    let (machine, link) = established(low, high.open());
    let notification = Notification::new(Code { code: 6, subcode: 200 });
    let (machine, actions) = machine.step(says(link, Message::Notification(notification)), SECOND);
    assert_eq!(codes(&actions), []);
    assert!(actions.contains(&Action::Close(link)));
    assert!(matches!(machine.last_end(), Some(Reason::Received(_))));
    let (machine, link) = accepted(pair()[0].clone());
    let (_, actions) =
        machine.step(Event::Malformed(link, Some(3), Notification::new(Code::BAD_LENGTH)), SECOND);
    assert_eq!(codes(&actions), []);
}

#[test]
fn b4_pauses_grow_nothing_is_accepted_in_them_and_end() {
    let (mut machine, mut link) = accepted(pair()[0].clone());
    let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
    for _ in 0..9 {
        let bad = Event::Malformed(link, None, Notification::new(Code::NOT_SYNCHRONIZED));
        machine = machine.step(bad, now).0;
        assert_eq!(machine.state(), State::Idle);
        let early = machine.name_link();
        let (next, actions) = machine.step(Event::Accepted(early), now);
        assert_eq!(actions, [Action::Close(early)], "no connection in a pause");
        machine = next;
        let until = machine.deadline().expect("a pause ends");
        pauses.push(until - now);
        now = until;
        machine = machine.step(Event::Tick, now).0;
        link = machine.name_link();
        machine = machine.step(Event::Accepted(link), now).0;
    }
    assert!(
        pauses[0] <= SECOND && pauses[8] >= 45 * SECOND && pauses[8] <= 60 * SECOND,
        "{pauses:?}"
    );
}

#[test]
fn b22_a_failure_for_good_waits_for_a_start() {
    let [low, high] = pair();
    let (machine, link) = established(low, high.open());
    let notification = Notification::with_data(Code::MAX_PREFIXES, &[0, 1, 1, 0, 0, 0, 9]);
    let fail = Event::Fail { notification, again: None };
    let (machine, actions) = machine.step(fail, SECOND);
    assert_eq!(codes(&actions), [Code::MAX_PREFIXES]);
    assert!(actions.contains(&Action::Close(link)));
    assert_eq!((machine.state(), machine.deadline()), (State::Idle, None));
    let (machine, _) = machine.step(Event::Start, SECOND);
    assert_eq!(machine.state(), State::Active);
}

#[test]
fn b6_equal_identifiers_compare_ases() {
    let mine = Settings::new(64512, HIGH, 64700);
    let theirs = Settings::new(64700, HIGH, 64512);
    let (machine, actions) = Machine::new(mine, 5).step(Event::Start, Duration::ZERO);
    let [Action::Connect(active)] = actions[..] else { panic!("{actions:?}") };
    let (mut machine, _) = machine.step(Event::Connected(active), SECOND);
    let passive = machine.name_link();
    let open = |link| says(link, Message::Open(theirs.open()));
    let events = [Event::Accepted(passive), open(active), open(passive)];
    let (machine, actions) = steps(machine, &events, SECOND);
    assert_eq!(codes(&actions), [Code::COLLISION]);
    assert!(
        actions.contains(&Action::Close(active)),
        "64700 is the larger AS: its connection stays"
    );
    assert_eq!(machine.state(), State::OpenConfirm);
}
