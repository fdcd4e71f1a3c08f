//! B18: which ends of a session leave routes in place, here and at the peer (RFC 4724, RFC 8538).

use std::time::Duration;

use sluice_bgp::fsm::{Action, Event, LinkId, Machine, Settings, State};
use sluice_bgp::{Capability, Code, Message, Notification, Open};

use crate::pair;
use crate::rules::{SECOND, established, notification, says};

/// The OPEN of a peer that restarts gracefully: with the N bit or not, for some families or none.
fn open(n_bit: bool, families: bool) -> Open {
    let [_, mut high] = pair();
    high.graceful_restart_s = Some(120);
    let mut open = high.open();
    for capability in &mut open.capabilities {
        if let Capability::GracefulRestart(restart) = capability {
            restart.notification = n_bit;
            if !families {
                restart.families.clear();
            }
        }
    }
    open
}

fn session(n_bit: bool, families: bool) -> (Machine, LinkId) {
    let [mut low, _] = pair();
    low.graceful_restart_s = Some(120);
    established(low, open(n_bit, families))
}

fn is_graceful(actions: &[Action]) -> bool {
    let found = actions.iter().find_map(|action| match action {
        Action::Down(down) => Some(down.graceful),
        _ => None,
    });
    found.expect("the session is over")
}

#[test]
fn b18_received_notifications_keep_routes_with_the_n_bit_all_but_a_hard_reset() {
    let told = |notification: Notification| {
        move |link| says(link, Message::Notification(notification.clone()))
    };
    let code = |code| told(Notification::new(code));
    type Make = Box<dyn Fn(LinkId) -> Event>;
    let hard = Notification::new(Code::RESET).into_hard_reset();
    let cases: Vec<(&str, Make, bool, bool)> = vec![
        ("lost", Box::new(Event::Closed), true, true),
        ("too many prefixes", Box::new(code(Code::MAX_PREFIXES)), true, false),
        ("shutdown", Box::new(code(Code::SHUTDOWN)), true, false),
        ("deconfigured", Box::new(code(Code::DECONFIGURED)), true, false),
        ("reset", Box::new(code(Code::RESET)), true, false),
        ("BFD", Box::new(code(Code::BFD_DOWN)), true, false),
        ("an error", Box::new(code(Code::MALFORMED_ATTRIBUTES)), true, false),
        ("hold timer", Box::new(code(Code::HOLD_EXPIRED)), true, false),
        ("unknown", Box::new(code(Code { code: 6, subcode: 99 })), true, false),
        ("hard reset", Box::new(code(Code::HARD_RESET)), false, false),
        ("hard reset that says why", Box::new(told(hard)), false, false),
        ("stuck", Box::new(Event::SendStuck), true, false),
        ("stopped", Box::new(|_| Event::Stop(None)), false, false),
    ];
    for (name, event, with_n_bit, without) in cases {
        for (n_bit, graceful) in [(true, with_n_bit), (false, without)] {
            let (machine, link) = session(n_bit, true);
            let (_, actions) = machine.step(event(link), SECOND);
            assert_eq!(is_graceful(&actions), graceful, "{name}, N bit {n_bit}");
        }
    }
}

#[test]
fn b18_what_ends_a_session_for_good_is_a_hard_reset_to_a_peer_with_the_n_bit() {
    let text = Notification::with_reason(Code::SHUTDOWN, "bye");
    let limit = Notification::with_data(Code::MAX_PREFIXES, &[0, 1, 1, 0, 0, 0, 9]);
    let rows = [
        (limit, true),
        (text, true),
        (Notification::new(Code::DECONFIGURED), true),
        (Notification::new(Code::BFD_DOWN), true),
        (Notification::new(Code::RESET), false),
        (Notification::new(Code::CONFIG_CHANGE), false),
        (Notification::new(Code::OUT_OF_RESOURCES), false),
    ];
    for (sent, hard) in rows {
        // A peer without families of its own keeps ours all the same: FRR as a helper.
        for (n_bit, families) in [(true, true), (true, false), (false, true)] {
            let name = format!("{sent}, N bit {n_bit}, families {families}");
            let again = Some(Duration::ZERO);
            let ways = [
                Event::Stop(Some(sent.clone())),
                Event::Fail { notification: sent.clone(), again },
            ];
            for event in ways {
                let (machine, _) = session(n_bit, families);
                let (_, actions) = machine.step(event, SECOND);
                let told = notification(&actions);
                let expected =
                    if hard && n_bit { sent.clone().into_hard_reset() } else { sent.clone() };
                assert_eq!(told, expected, "{name}");
                assert_eq!(is_graceful(&actions), n_bit && families && !hard, "{name}");
            }
        }
    }
    // Before the session is up there are no routes to drop.
    let (machine, link) = crate::rules::accepted(pair()[0].clone());
    let (machine, _) = machine.step(says(link, Message::Open(open(true, true))), SECOND);
    let stop = Event::Stop(Some(Notification::new(Code::DECONFIGURED)));
    assert_eq!(notification(&machine.step(stop, SECOND).1).code, Code::DECONFIGURED);
}

#[test]
fn b4_a_peer_that_refuses_us_for_good_is_left_alone_for_a_while_in_a_hard_reset_too() {
    for (code, pauses) in [(Code::MAX_PREFIXES, true), (Code::RESET, false)] {
        for wrapped in [true, false] {
            let (machine, link) = session(true, true);
            let told = Notification::new(code);
            let told = if wrapped { told.into_hard_reset() } else { told };
            let (machine, _) = machine.step(says(link, Message::Notification(told)), SECOND);
            let idle = machine.state() == State::Idle;
            assert_eq!(idle, pauses, "{code}, wrapped: {wrapped}");
        }
    }
}

#[test]
fn b18_open_says_what_has_been_kept() {
    let bits = |settings: &Settings| {
        settings.open().capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => {
                Some((restart.restarted, restart.families.iter().all(|family| family.forwarding)))
            }
            _ => None,
        })
    };
    let [mut settings, _] = pair();
    assert_eq!(bits(&settings), None);
    settings.graceful_restart_s = Some(120);
    assert_eq!(bits(&settings), Some((false, false)), "a node that has just started");
    settings.restarted = true;
    assert_eq!(bits(&settings), Some((true, true)), "a process that has");
    (settings.restarted, settings.forwarding) = (false, true);
    assert_eq!(bits(&settings), Some((false, true)), "a session that was lost");
}
