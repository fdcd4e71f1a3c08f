//! The data plane as the agent uses it, on real maps, programs and interfaces. Needs root; each test
//! has a network namespace of its own, and leaves no pin behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, unshare};
use sluice_dataplane::{Dataplane, LocalPods, Options, cleanup};
use sluice_services::{
    AddressKind, Backend, Family, Protocol, Scheduler, ServicePort, ServicePortKey, State,
};

/// A namespace with a bridge, a veth on it and an uplink; a folder for pins.
struct Node {
    bpf_dir: PathBuf,
    pod: String,
}

impl Node {
    /// `None` where this cannot be had, with the reason printed.
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP: the data plane needs root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let id = std::process::id();
        let pod = format!("sldp{id}{name}");
        ip(&format!("netns add {pod}"));
        for line in [
            "link add kube-bridge type bridge".to_owned(),
            "addr add 10.244.1.1/24 dev kube-bridge".to_owned(),
            format!("link add veth0 type veth peer name eth0 netns {pod}"),
            "link set veth0 master kube-bridge up".to_owned(),
            "link set kube-bridge up".to_owned(),
            "link add uplink type veth peer name outside".to_owned(),
            "addr add 192.168.77.11/24 dev uplink".to_owned(),
            format!("-n {pod} addr add 10.244.1.7/24 dev eth0"),
            format!("-n {pod} link set eth0 up"),
        ] {
            ip(&line);
        }
        Some(Self { bpf_dir: PathBuf::from(format!("/sys/fs/bpf/sluice-test-{id}-{name}")), pod })
    }

    fn open(&self) -> Dataplane {
        self.open_for(vec![[192, 168, 77, 11].into()])
    }

    /// Where this version's pins are.
    fn pins(&self) -> PathBuf {
        self.bpf_dir.join(format!("v{}", sluice_abi::LAYOUT))
    }

    /// For a node with these addresses.
    fn open_for(&self, node_addresses: Vec<IpAddr>) -> Dataplane {
        Dataplane::open(self.options(node_addresses)).unwrap()
    }

    fn options(&self, node_addresses: Vec<IpAddr>) -> Options {
        Options {
            bpf_dir: self.bpf_dir.clone(),
            bridge: "kube-bridge".into(),
            uplinks: Vec::new(),
            node_addresses,
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            local_pods: Some(LocalPods::Within(vec!["10.244.0.0/16".parse().unwrap()])),
            pod_prefix: None,
            node_port_ranges: Vec::new(),
            cgroup: None,
            masquerade_all: false,
            flow_entries: 1_024,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.bpf_dir);
        let _ = Command::new("ip").args(["netns", "del", &self.pod]).status();
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn state(backends: &[[u8; 4]]) -> Arc<State> {
    let list: Arc<[Backend]> = backends
        .iter()
        .map(|address| Backend {
            address: IpAddr::V4(Ipv4Addr::from(*address)),
            port: 8080,
            protocol: Protocol::Tcp,
            serving: true,
            local: *address == [10, 244, 1, 7],
            weight: 1,
        })
        .collect();
    let port = ServicePort {
        addresses: vec![([10, 96, 0, 10].into(), AddressKind::ClusterIp)],
        port: 80,
        node_port: 0,
        cluster: Arc::clone(&list),
        local: Arc::new([]),
        serving: list,
        internal_local: false,
        external_local: false,
        has_any_endpoint: true,
        scheduler: Scheduler::Random,
        affinity_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
        created_s: 0,
    };
    let key = ServicePortKey {
        namespace: "default".into(),
        name: "web".into(),
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    Arc::new(State { ports: [(key, Arc::new(port))].into() })
}

fn pins(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Programs come to the bridge, its veths and the uplink; a second run adopts maps and links, and
/// the same state is no operation for it.
#[test]
fn a_second_run_adopts_what_the_first_left() {
    let Some(node) = Node::new("adopt") else { return };
    let mut first = node.open();
    let report = first.sync(&state(&[[10, 244, 1, 7], [10, 244, 2, 7]])).unwrap();
    // Two backends, a table, a frontend and its address.
    assert_eq!((report.operations, report.frontends, report.backends), (5, 1, 2));
    let attached: Vec<(String, &str)> =
        first.status().attached.iter().map(|one| (one.interface.clone(), one.program)).collect();
    for wanted in [
        ("kube-bridge", "from_pod"),
        ("kube-bridge", "to_pods"),
        ("veth0", "from_pod"),
        ("uplink", "from_network"),
    ] {
        assert!(attached.contains(&(wanted.0.to_owned(), wanted.1)), "{wanted:?} in {attached:?}");
    }
    assert_eq!(
        first.reconcile_links().unwrap().unresolved_pods,
        0,
        "the pod behind veth0 is known"
    );
    let before = pins(&node.pins().join("links"));
    drop(first);
    let mut second = node.open();
    assert_eq!(second.status().frontends, 1);
    let report = second.sync(&state(&[[10, 244, 1, 7], [10, 244, 2, 7]])).unwrap();
    assert_eq!(report.operations, 0, "nothing to do");
    assert_eq!(pins(&node.pins().join("links")), before);
    let report = second.sync(&state(&[[10, 244, 2, 7]])).unwrap();
    assert_eq!(report.operations, 3, "a table, a frontend, a retirement");
}

/// What a version with another layout has pinned goes with the first sync, and not before.
#[test]
fn pins_of_another_layout_are_removed() {
    let Some(node) = Node::new("layout") else { return };
    drop(node.open());
    let old = node.bpf_dir.join("v1");
    fs::rename(node.pins(), &old).unwrap();
    let mut plane = node.open();
    assert!(old.exists(), "its programs serve until ours are ready");
    plane.sync(&state(&[[10, 244, 1, 7]])).unwrap();
    assert!(!old.exists() && node.pins().exists());
}

/// What is left after it is what was there before the first run, and what others have put beside.
#[test]
fn cleanup_removes_what_is_ours_and_only_that() {
    let Some(node) = Node::new("cleanup") else { return };
    let ports = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    fs::write(ports, "8080,9000-9100").unwrap();
    let before = fs::read_to_string(ports).unwrap();
    let mut plane = node.open();
    plane.sync(&state(&[[10, 244, 1, 7]])).unwrap();
    drop(plane);
    assert!(has_program("uplink") && fs::read_to_string(ports).unwrap() != before);
    let foreign = node.bpf_dir.join("of-somebody-else");
    fs::create_dir(&foreign).unwrap();

    let removed = cleanup(&node.bpf_dir).unwrap();
    assert!(removed.len() >= 2, "{removed:?}");
    assert_eq!(pins(&node.bpf_dir), ["of-somebody-else"]);
    assert!(loses_program("uplink") && loses_program("veth0"));
    assert_eq!(fs::read_to_string(ports).unwrap(), before);
    assert_eq!(cleanup(&node.bpf_dir).unwrap(), Vec::<String>::new(), "nothing is left");

    fs::remove_dir(&foreign).unwrap();
    assert_eq!(cleanup(&node.bpf_dir).unwrap(), [node.bpf_dir.display().to_string()]);
    assert!(!node.bpf_dir.exists());
    // As on a node that never had it.
    let mut plane = node.open();
    assert_eq!(plane.sync(&state(&[[10, 244, 1, 7]])).unwrap().frontends, 1);
}

/// Strict reverse path filters are loosened where services answer, and nowhere else.
#[test]
fn strict_reverse_path_filters_are_loosened() {
    let Some(node) = Node::new("rp") else { return };
    let filter = |name: &str| PathBuf::from(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    fs::write(filter("uplink"), "1").unwrap();
    fs::write(filter("lo"), "1").unwrap();
    let _plane = node.open();
    assert_eq!(fs::read_to_string(filter("uplink")).unwrap().trim(), "2");
    assert_eq!(fs::read_to_string(filter("lo")).unwrap().trim(), "1");
}

/// Upkeep and views work on an open data plane: they need the kernel's clock.
#[test]
fn upkeep_and_views_work() {
    let Some(node) = Node::new("upkeep") else { return };
    let mut plane = node.open();
    plane.sync(&state(&[[10, 244, 1, 7]])).unwrap();
    plane.maintain(1_000).unwrap();
    assert!(plane.flows(10).unwrap().is_empty());
    assert!(plane.counters().unwrap().iter().any(|(name, _)| *name == "forward_peer"));
    assert!([100, 250, 300, 1_000].contains(&plane.status().jiffies_hz));
}

/// A veth that goes takes its pin with it; one that comes gets its program.
#[test]
fn veths_come_and_go() {
    let Some(node) = Node::new("veths") else { return };
    let mut plane = node.open();
    ip(&format!("link add veth1 type veth peer name eth1 netns {}", node.pod));
    ip("link set veth1 master kube-bridge");
    assert_eq!(plane.reconcile_links().unwrap().attached, ["veth1"]);
    let links = node.pins().join("links");
    let (attached, pinned) = (plane.status().attached.len(), pins(&links).len());
    ip("link del veth1");
    plane.reconcile_links().unwrap();
    assert_eq!(plane.status().attached.len(), attached - 1);
    // Without TCX there are no links to pin.
    assert_eq!(pins(&links).len(), pinned.saturating_sub(1));
}

/// R12: a pod's veth may be told by its name and not by a bridge; it has the program and its pod is
/// known as long as names tell.
#[test]
fn pods_without_a_bridge_are_told_by_names() {
    let Some(node) = Node::new("names") else { return };
    let pod = &node.pod;
    ip(&format!("link add cali1 type veth peer name eth1 netns {pod}"));
    ip("link set cali1 up");
    ip(&format!("-n {pod} addr add 10.244.1.8/32 dev eth1"));
    ip(&format!("-n {pod} link set eth1 up"));
    let attached = |plane: &Dataplane| {
        let attached = plane.status().attached;
        attached.iter().any(|one| (one.interface.as_str(), one.program) == ("cali1", "from_pod"))
    };
    let mut options = node.options(vec![[192, 168, 77, 11].into()]);
    options.local_pods = Some(LocalPods::ByInterface);
    options.pod_prefix = Some("cali".into());
    let mut plane = Dataplane::open(options).unwrap();
    plane.sync(&state(&[[10, 244, 1, 7]])).unwrap();
    assert!(attached(&plane));
    assert_eq!(plane.reconcile_links().unwrap().unresolved_pods, 0);
    drop(plane);
    let mut plane = node.open();
    plane.reconcile_links().unwrap();
    assert!(!attached(&plane));
}

/// Whether there is a program on the ingress of an interface, as the kernel says.
fn has_program(interface: &str) -> bool {
    match SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        Ok((_, programs)) => !programs.is_empty(),
        Err(_) => {
            let line = ["filter", "show", "dev", interface, "ingress"];
            let output = Command::new("tc").args(line).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains("from_")
        }
    }
}

/// The kernel lets go of a link a moment after its pin.
fn loses_program(interface: &str) -> bool {
    let tries = 0..200;
    tries.into_iter().any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !has_program(interface)
    })
}

/// The program follows the node's address to another interface, also while no agent runs, and stays
/// where it is while it is not known where the address is.
#[test]
fn what_is_no_uplink_any_more_loses_its_program() {
    const ADDRESS: &str = "192.168.77.11/24";
    let Some(node) = Node::new("move") else { return };
    ip("link add other type veth peer name beyond");
    let mut plane = node.open();
    assert!(has_program("uplink") && !has_program("other"));

    ip(&format!("addr del {ADDRESS} dev uplink"));
    plane.reconcile_links().unwrap();
    assert!(has_program("uplink"), "an address that is nowhere may come back");
    drop(plane);
    let mut plane = node.open_for(Vec::new());
    plane.reconcile_links().unwrap();
    assert!(has_program("uplink"), "no address is known");
    drop(plane);

    let mut plane = node.open();
    ip(&format!("addr add {ADDRESS} dev other"));
    assert_eq!(plane.reconcile_links().unwrap().attached, ["other", "other"], "both ways");
    assert!(loses_program("uplink"));
    assert!(has_program("other"));
    let uplinks = |plane: &Dataplane| -> Vec<String> {
        let attached = plane.status().attached.into_iter();
        let uplinks = attached.filter(|one| one.program == "from_network");
        uplinks.map(|one| one.interface).collect()
    };
    assert_eq!(uplinks(&plane), ["other"]);
    drop(plane);

    ip(&format!("addr del {ADDRESS} dev other"));
    ip(&format!("addr add {ADDRESS} dev uplink"));
    let plane = node.open();
    assert!(loses_program("other"));
    assert!(has_program("uplink"));
    assert_eq!(uplinks(&plane), ["uplink"]);
}

/// What is on loopback costs all that the node tells itself: nothing is there until it is needed.
#[test]
fn loopback_gets_a_program_for_services_at_the_nodes_own_addresses_only() {
    let Some(node) = Node::new("itself") else { return };
    let at = |address: [u8; 4]| {
        let mut state = (*state(&[[10, 244, 1, 7]])).clone();
        for port in state.ports.values_mut() {
            Arc::make_mut(port).addresses = vec![(address.into(), AddressKind::ExternalIp)];
        }
        Arc::new(state)
    };
    let attached =
        |plane: &Dataplane| plane.status().attached.iter().any(|one| one.interface == "lo");
    let mut plane = node.open();
    plane.sync(&at([10, 96, 0, 10])).unwrap();
    assert!(!attached(&plane));
    plane.sync(&at([192, 168, 77, 11])).unwrap();
    assert!(attached(&plane));
    drop(plane);

    let mut next = node.open();
    assert!(attached(&next), "taken over, with no moment in between");
    next.sync(&at([10, 96, 0, 10])).unwrap();
    next.reconcile_links().unwrap();
    assert!(attached(&next), "connections outlive their service");
    drop(next);
    assert!(!attached(&node.open()));
}
