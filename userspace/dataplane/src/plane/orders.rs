//! Property over the real maps and programs: whatever happened to the objects and in whatever order,
//! packets meet what the final objects alone lead to. Needs root.
//!
//! Two planes in one network namespace, each with pins of its own: one has seen all events, with
//! restarts and waits among them, the other the final objects only. What is compared is what
//! BPF_PROG_TEST_RUN of the programs makes of packets to everything that may be a frontend.

mod events;
mod probe;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_services::Index;

use super::{Dataplane, LocalPods, Options};
use events::{Objects, index};
use probe::{Prober, probes};

/// Events of one history.
const EVENTS: usize = 500;
/// Events before which the agent starts anew.
const RESTARTS: [usize; 2] = [200, 450];

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace of its own with the node's bridge and uplink, on one processor: refusals are counted
/// by processor.
fn node() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for line in [
        "link set lo up",
        "link add kube-bridge type bridge",
        "addr add 10.244.1.1/24 dev kube-bridge",
        "addr add fd00:244:0:1::1/64 dev kube-bridge nodad",
        "link set kube-bridge up",
        "link add uplink type veth peer name outside",
        "addr add 192.168.77.11/24 dev uplink",
        "addr add fd00:77::11/64 dev uplink nodad",
        "link set uplink up",
    ] {
        ip(line);
    }
    let mut here = CpuSet::new();
    here.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// Pins that go with the test.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/sluice-orders-{}-{name}", std::process::id())))
    }

    fn open(&self) -> Dataplane {
        let pods = ["10.244.0.0/16", "fd00:244::/48"].map(|range| range.parse().unwrap());
        let mut plane = Dataplane::open(Options {
            bpf_dir: self.0.clone(),
            bridge: "kube-bridge".into(),
            uplinks: vec!["uplink".into()],
            node_addresses: events::NODE_ADDRESSES.map(|ip| ip.parse().unwrap()).to_vec(),
            cluster_cidrs: pods.to_vec(),
            local_pods: Some(LocalPods::Within(pods.to_vec())),
            pod_prefix: None,
            node_port_ranges: ["0.0.0.0/0", "::/0"].map(|range| range.parse().unwrap()).to_vec(),
            cgroup: None,
            masquerade_all: false,
            flow_entries: 65_536,
        })
        .unwrap();
        plane
            .set_service_cidrs(&["10.96.0.0/24", "fd00:96::/64"].map(|cidr| cidr.parse().unwrap()));
        plane
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sync(plane: &mut Dataplane, index: &mut Index) -> usize {
    let report = plane.sync(&index.state()).unwrap();
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    report.operations
}

/// One history, and what it leads to.
fn history(seed: u64, pins: &Pins) -> (Dataplane, Objects) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut objects, mut index, mut plane) = (Objects::default(), index(), pins.open());
    for number in 0..EVENTS {
        // Loading the programs takes seconds: not by chance.
        if RESTARTS.contains(&number) {
            drop(plane);
            plane = pins.open();
        }
        objects.happens(&mut rng, &mut index);
        match rng.random_range(0..100) {
            0..40 => drop(sync(&mut plane, &mut index)),
            // Slots and ids are free again after a while.
            40..50 => {
                let waited = Duration::from_secs(rng.random_range(1..90));
                plane.started = plane.started.checked_sub(waited).unwrap();
                plane.maintain(1_000).unwrap();
            }
            // All is listed anew.
            50..53 => objects.are_listed(&mut index),
            _ => {}
        }
    }
    sync(&mut plane, &mut index);
    assert_eq!(sync(&mut plane, &mut index), 0, "the same state is no operation");
    (plane, objects)
}

#[test]
fn packets_meet_what_the_final_objects_alone_lead_to() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: the data plane needs root");
        return;
    }
    node();
    // An emulated processor takes its time for each.
    let histories = if std::env::var_os("SLUICE_VM").is_some() { 1 } else { 2 };
    let (mut translated, mut refused) = (0, 0);
    for seed in 1..=histories {
        let (pins, others) = (Pins::new("all"), Pins::new("final"));
        let (plane, objects) = history(seed, &pins);
        let mut alone = others.open();
        let mut index = index();
        objects.are_listed(&mut index);
        sync(&mut alone, &mut index);

        let (mut seen, mut expected) = (Prober::new(plane), Prober::new(alone));
        for probe in probes() {
            let (found, wanted) = probe::ask_both(&mut seen, &mut expected, &probe);
            assert_eq!(found, wanted, "seed {seed}: {probe:?}\n{}", objects.text());
            translated += u64::from(wanted.iter().any(|meets| meets.is_translated(&probe)));
            refused += u64::from(wanted.iter().any(|meets| meets.is_refusal()));
        }
    }
    println!("{translated} probes translated, {refused} refused");
    // The histories must leave something of everything.
    assert!(translated > 30 * histories && refused > 10 * histories, "{translated}, {refused}");
}
