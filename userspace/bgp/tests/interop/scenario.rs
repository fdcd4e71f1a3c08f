//! What every other speaker has to go through with ours.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sluice_bgp::driver::PeerReport;
use sluice_bgp::fsm::State;
use sluice_bgp::{Code, Notification};

use crate::ours::{Ours, ROUTES};
use crate::space::{Running, Space};

/// Their routes: IPv4 and IPv6.
pub(crate) const THEIRS: [&str; 2] = ["10.7.0.0/24", "fd07::/64"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    V4,
    V6,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) asn: u32,
    pub(crate) peer_asn: u32,
    pub(crate) transport: Transport,
    pub(crate) password: Option<&'static str>,
    pub(crate) graceful: bool,
    pub(crate) bfd: bool,
    /// B7: both sides take only what comes from the link.
    pub(crate) ttl_security: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "",
            asn: 64512,
            peer_asn: 65001,
            transport: Transport::V4,
            password: None,
            graceful: false,
            bfd: false,
            ttl_security: false,
        }
    }
}

impl Scenario {
    pub(crate) fn is_internal(&self) -> bool {
        self.asn == self.peer_asn
    }

    /// Ours and theirs.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        let texts = match self.transport {
            Transport::V4 => ["10.0.0.1", "10.0.0.2"],
            Transport::V6 => ["fd00:1::1", "fd00:1::2"],
        };
        texts.map(|text| text.parse().expect("an address"))
    }
}

/// A speaker of someone else.
pub(crate) trait Daemon {
    /// Its program, for finding out whether it is here.
    fn program(&self) -> &'static str;
    /// Starts it with both of its routes.
    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running>;
    /// Its routes to a prefix with all attributes, as it shows them; "" for none.
    fn route(&self, space: &Space, prefix: &str) -> String;
    /// Takes its IPv4 route back.
    fn withdraw(&self, space: &Space, scenario: &Scenario);
    /// Asks us for all IPv4 routes again; false if it cannot.
    fn refresh(&self, space: &Space, scenario: &Scenario) -> bool;
    /// The routes that it announces: those of both families.
    fn announces(&self, _scenario: &Scenario) -> Vec<&'static str> {
        THEIRS.to_vec()
    }
    /// How large communities look.
    fn large_community(&self) -> &'static str {
        "64512:1:2"
    }
    /// How communities look.
    fn community(&self) -> &'static str {
        "64512:77"
    }
}

/// Waits until something holds; how long it took.
pub(crate) fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed()
}

const PATIENCE: Duration = Duration::from_secs(40);
const SECOND: Duration = Duration::from_secs(1);

fn is_up(ours: &Ours) -> bool {
    ours.report().is_some_and(|report| report.status.state == State::Established)
}

fn explain<R>(space: &Space, ours: &Ours, run: impl FnOnce() -> R) -> R {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => {
            println!("ours: {:?}\ntheirs:\n{}", ours.report(), space.logs());
            std::panic::resume_unwind(panic)
        }
    }
}

pub(crate) fn talk<D: Daemon>(daemon: &D, scenario: &Scenario) {
    let space = Space::new();
    let running = daemon.start(&space, scenario);
    let ours = Ours::start(&space.ours, scenario, false);
    let name = format!("{}, {}", daemon.program(), scenario.name);
    explain(&space, &ours, || {
        let took = until(&format!("{name}: established"), PATIENCE, || is_up(&ours));
        println!("{name}: established after {took:?}");
        let theirs = daemon.announces(scenario);
        until(&format!("{name}: their routes"), PATIENCE, || ours.prefixes() == theirs);
        for (prefix, chosen) in ours.installed.lock().unwrap().iter() {
            let hop = if prefix.addr().is_ipv4() { "10.0.0.2" } else { "fd00:1::2" };
            assert_eq!(chosen.next_hops, [hop.parse::<IpAddr>().unwrap()], "{name}: {prefix}");
        }
        check_ours(daemon, scenario, &space, &name);
        let sent = |ours: &Ours| ours.report().map_or(0, |r| r.status.counters.updates_sent);
        let before = sent(&ours);
        if daemon.refresh(&space, scenario) {
            until(&format!("{name}: refresh"), PATIENCE, || sent(&ours) > before);
            std::thread::sleep(Duration::from_millis(200));
            assert!(!daemon.route(&space, ROUTES[0]).is_empty(), "{name}: still there");
        }
        ours.set_locals(&ROUTES[1..]);
        let gone = || daemon.route(&space, ROUTES[0]).is_empty();
        let took = until(&format!("{name}: our withdrawal"), SECOND, gone);
        assert!(!daemon.route(&space, ROUTES[1]).is_empty(), "{name}: only the one");
        daemon.withdraw(&space, scenario);
        let left: Vec<&str> = theirs.into_iter().filter(|route| *route != THEIRS[0]).collect();
        let their_withdrawal = format!("{name}: their withdrawal");
        let back = until(&their_withdrawal, SECOND, || ours.prefixes() == left);
        println!("{name}: withdrawals after {took:?} and {back:?}");
        assert!(is_up(&ours));
    });
    ours.stop(Some(Notification::with_reason(Code::SHUTDOWN, "the test is over")));
    drop(running);
}

fn check_ours<D: Daemon>(daemon: &D, scenario: &Scenario, space: &Space, name: &str) {
    for (prefix, hop) in ROUTES.iter().zip(["10.0.0.1", "fd00:1::1"]) {
        until(&format!("{name}: our {prefix}"), PATIENCE, || {
            !daemon.route(space, prefix).is_empty()
        });
        let shown = daemon.route(space, prefix);
        let mut wanted = vec![hop.to_owned()];
        wanted.push(daemon.community().to_owned());
        wanted.push(daemon.large_community().to_owned());
        if scenario.is_internal() {
            wanted.push("120".to_owned());
        } else {
            let asn = scenario.asn;
            wanted.push(format!("{asn} {asn} {asn}"));
            wanted.push("33".to_owned());
        }
        for text in wanted {
            assert!(shown.contains(&text), "{name}: no {text} in\n{shown}");
        }
    }
}

/// B18, both roles: it is killed and comes back, and so do we; nobody's routes are gone meanwhile.
pub(crate) fn restart<D: Daemon>(daemon: &D) {
    let scenario = Scenario { name: "graceful restart", graceful: true, ..Scenario::default() };
    let space = Space::new();
    let mut running = daemon.start(&space, &scenario);
    let mut ours = Ours::start(&space.ours, &scenario, false);
    let name = daemon.program();
    explain(&space, &ours, || {
        until("established", PATIENCE, || is_up(&ours));
        until("their routes", PATIENCE, || ours.prefixes() == THEIRS);
        // They restart.
        running.iter_mut().for_each(Running::kill);
        until("lost", PATIENCE, || !is_up(&ours));
        assert_eq!(ours.prefixes(), THEIRS, "{name}: kept while it restarts");
        // FRR tells us our own routes, too; those are kept with the rest, and not used.
        let stale = |ours: &Ours| ours.report().map_or(0, |report| report.routes.stale);
        until("stale", PATIENCE, || stale(&ours) >= 2);
        assert_eq!(ours.prefixes(), THEIRS, "{name}: kept while they are stale");
        running = daemon.start(&space, &scenario);
        until("established again", PATIENCE, || {
            assert_eq!(ours.prefixes(), THEIRS, "{name}: kept until it is back");
            is_up(&ours)
        });
        until("confirmed", PATIENCE, || {
            assert_eq!(ours.prefixes(), THEIRS, "{name}: kept until confirmed");
            ours.report().is_some_and(|report| report.routes.stale == 0)
        });
        until("our routes", PATIENCE, || !daemon.route(&space, ROUTES[0]).is_empty());
    });
    // We restart: without a word, and with the R bit.
    ours.stop(None);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        assert!(!daemon.route(&space, ROUTES[0]).is_empty(), "{name}: keeps ours");
    }
    ours = Ours::start(&space.ours, &scenario, true);
    explain(&space, &ours, || {
        until("established after our restart", PATIENCE, || {
            assert!(!daemon.route(&space, ROUTES[0]).is_empty(), "{name}: keeps ours");
            is_up(&ours)
        });
        until("their routes again", PATIENCE, || ours.prefixes() == THEIRS);
        // What we do not announce again goes with our End-of-RIB.
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            assert!(!daemon.route(&space, ROUTES[0]).is_empty(), "{name}: keeps ours");
        }
        println!("{name}: both restarts without a gap");
        let n_bit = |report: PeerReport| report.status.negotiated.map(|n| n.notification_bit);
        println!("{name}: N bit on both sides: {:?}", ours.report().and_then(n_bit));
    });
    // For good: a hard reset, if it takes NOTIFICATIONs gracefully; its restart time is a minute.
    ours.stop(Some(Notification::with_reason(Code::SHUTDOWN, "the test is over")));
    let took = until("our routes gone", Duration::from_secs(5), || {
        daemon.route(&space, ROUTES[0]).is_empty()
    });
    println!("{name}: gone {took:?} after we shut down");
}

/// B11: a path that is cut without a word is noticed long before the hold time.
pub(crate) fn cut<D: Daemon>(daemon: &D) {
    let scenario = Scenario { name: "BFD", bfd: true, ..Scenario::default() };
    let space = Space::new();
    let running = daemon.start(&space, &scenario);
    let ours = Ours::start(&space.ours, &scenario, false);
    let bfd = |ours: &Ours| ours.report().and_then(|report| report.bfd);
    explain(&space, &ours, || {
        until("established", PATIENCE, || is_up(&ours) && ours.prefixes() == THEIRS);
        until("BFD up", PATIENCE, || bfd(&ours) == Some(sluice_bgp::bfd::State::Up));
        space.set_link(false);
        let took = until("down by BFD", Duration::from_secs(3), || ours.prefixes().is_empty());
        println!("cut: routes gone after {took:?}, the hold time is 9 s");
        space.set_link(true);
        until("established again", PATIENCE, || is_up(&ours) && ours.prefixes() == THEIRS);
        until("BFD up again", PATIENCE, || bfd(&ours) == Some(sluice_bgp::bfd::State::Up));
    });
    ours.stop(None);
    drop(running);
}
