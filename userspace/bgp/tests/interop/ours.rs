//! Our speaker in its namespace: a thread of its own, for a namespace is a thread's.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use sluice_bgp::driver::{Output, Password, PeerConfig, PeerReport, Speaker, SpeakerConfig, Ttl};
use sluice_bgp::fsm::Settings;
use sluice_bgp::policy::{Change, Condition, Policy, Rule, Tag, Verdict};
use sluice_bgp::rib::{Chosen, Identity, LocalRoute, Policies};
use sluice_bgp::{Attributes, Community, LargeCommunity, Notification};
use tokio::sync::mpsc;

use crate::scenario::Scenario;

/// Our routes: IPv4 and IPv6.
pub(crate) const ROUTES: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];

enum Order {
    Locals(Vec<LocalRoute>),
    Stop(Option<Notification>),
}

pub(crate) struct Ours {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
    pub(crate) installed: Arc<Mutex<BTreeMap<IpNet, Chosen>>>,
    pub(crate) report: Arc<Mutex<Option<PeerReport>>>,
}

pub(crate) fn local(prefix: &str) -> LocalRoute {
    LocalRoute {
        prefix: prefix.parse().expect("a prefix"),
        tag: Tag(1),
        attributes: Attributes {
            communities: vec![Community(64512 << 16 | 77)],
            large_communities: vec![LargeCommunity { global: 64512, local1: 1, local2: 2 }],
            ..Attributes::default()
        },
    }
}

/// Export: our own, prepended twice towards external peers. Import: everything.
fn policies(scenario: &Scenario) -> Policies {
    let changes = if scenario.is_internal() {
        vec![Change::LocalPref(120)]
    } else {
        vec![Change::Prepend(scenario.asn, 2), Change::Med(33)]
    };
    let own = Rule {
        name: "own".to_owned(),
        when: Condition { tags: Some(vec![Tag(1)]), ..Condition::default() },
        verdict: Verdict::Accept(changes),
    };
    Policies {
        import: Policy::accept_all(),
        export: Policy { rules: vec![own] },
        enforce_first_as: true,
        ..Policies::default()
    }
}

impl Ours {
    pub(crate) fn start(space: &str, scenario: &Scenario, restarted: bool) -> Self {
        let (orders, inbox) = mpsc::channel(8);
        let installed = Arc::new(Mutex::new(BTreeMap::new()));
        let report = Arc::new(Mutex::new(None));
        let path = format!("/run/netns/{space}");
        let scenario = scenario.clone();
        let (kernel, shown) = (Arc::clone(&installed), Arc::clone(&report));
        let thread = std::thread::spawn(move || {
            let file = File::open(path).expect("the namespace");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(scenario, restarted, inbox, kernel, shown));
        });
        Self { orders, thread: Some(thread), installed, report }
    }

    pub(crate) fn set_locals(&self, prefixes: &[&str]) {
        let routes = prefixes.iter().map(|prefix| local(prefix)).collect();
        drop(self.orders.blocking_send(Order::Locals(routes)));
    }

    /// Ends: with a word, or, for a restart, without.
    pub(crate) fn stop(mut self, notification: Option<Notification>) {
        drop(self.orders.blocking_send(Order::Stop(notification)));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }

    pub(crate) fn prefixes(&self) -> Vec<String> {
        self.installed.lock().unwrap().keys().map(ToString::to_string).collect()
    }

    pub(crate) fn report(&self) -> Option<PeerReport> {
        self.report.lock().unwrap().clone()
    }
}

async fn run(
    scenario: Scenario,
    restarted: bool,
    mut inbox: mpsc::Receiver<Order>,
    installed: Arc<Mutex<BTreeMap<IpNet, Chosen>>>,
    report: Arc<Mutex<Option<PeerReport>>>,
) {
    let [ours, theirs] = scenario.addresses();
    let id = Ipv4Addr::new(10, 0, 0, 1);
    let addresses = vec![IpAddr::V4(id), "fd00:1::1".parse().unwrap()];
    let config = SpeakerConfig {
        identity: Identity {
            asn: scenario.asn,
            bgp_id: id,
            cluster_id: None,
            addresses,
            max_paths: 8,
        },
        listen: vec![SocketAddr::new(ours, 179)],
        deferral: Duration::from_secs(30),
        seed: 42,
    };
    let (mut speaker, mut outputs, _events) = Speaker::start(config).expect("starts");
    let mut settings = Settings::new(scenario.asn, id, scenario.peer_asn);
    settings.hold_s = 9;
    settings.timing.connect_retry = Duration::from_secs(1);
    settings.hostname = "sluice".to_owned();
    settings.restarted = restarted;
    settings.graceful_restart_s = scenario.graceful.then_some(60);
    let mut peer = PeerConfig {
        policies: policies(&scenario),
        password: scenario.password.and_then(Password::new),
        bfd: scenario.bfd.then(sluice_bgp::bfd::Settings::default),
        local_address: Some(ours),
        ..PeerConfig::new(theirs, settings)
    };
    if scenario.ttl_security {
        peer.ttl = Ttl::Security(1);
    }
    speaker.set_peers(vec![peer]).await.expect("the peer");
    speaker.set_locals(ROUTES.iter().map(|prefix| local(prefix)).collect(), true).await;
    let mut accepted = speaker.take_accepted().expect("once");
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            Some((stream, from)) = accepted.recv() => speaker.accept(stream, from).await,
            Some(output) = outputs.recv() => if let Output::Changes(changes) = output {
                let mut installed = installed.lock().unwrap();
                for (prefix, chosen) in changes {
                    match chosen {
                        Some(chosen) => installed.insert(prefix, chosen),
                        None => installed.remove(&prefix),
                    };
                }
            },
            order = inbox.recv() => match order {
                Some(Order::Locals(routes)) => speaker.set_locals(routes, true).await,
                Some(Order::Stop(notification)) => {
                    speaker.stop(notification).await;
                    // What was to be sent is sent by tasks of their own.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return;
                }
                None => return,
            },
            _ = look.tick() => *report.lock().unwrap() = speaker.peers().await.pop(),
        }
    }
}
