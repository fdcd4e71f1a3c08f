//! The host build against the loaded programs: the same packets, tables and order must give the same
//! verdict, the same bytes and the same mark. Also what loading costs. Needs root.

mod packets;

use std::net::IpAddr;

use aya::programs::{ProgramInfo, TestRun, TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sluice_abi::{
    Backend, BackendState, Config, Deliver, Mac, Range, RangeKey, Service, Table, service_flags,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::{Action, Hook, process};
use sluice_services::{Frontend, Protocol};

use packets::{generate, is_askable};

use crate::layout::Kernel as _;
use crate::maps::Maps;
use crate::object::{self, PROGRAMS, classifier};
use crate::wire::{Addr, Front, key, words};

/// Packets per family.
const PACKETS: usize = 12_000;
/// Return values of a classifier (linux/pkt_cls.h).
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

fn skip_without_root() -> bool {
    let missing = !nix::unistd::geteuid().is_root();
    if missing {
        println!("SKIP: loading programs needs root");
    }
    missing
}

fn load() -> (Ebpf, Maps) {
    // No routes, no interfaces but the loopback one: `bpf_fib_lookup` finds nothing.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("FLOWS4", 262_144).map_max_entries("FLOWS6", 262_144);
    // Nothing is evicted.
    loader.map_max_entries("HELD4", 4_096).map_max_entries("HELD6", 4_096);
    loader.override_global("HZ", &1_000_000_u32, true);
    let mut ebpf = loader.load(object::OBJECT).unwrap();
    for name in PROGRAMS {
        classifier(&mut ebpf, name).unwrap().load().unwrap();
    }
    let maps = Maps::take(&mut ebpf).unwrap();
    (ebpf, maps)
}

/// The addresses of a family.
struct Net {
    client: fn(u8) -> IpAddr,
    backend: fn(u8) -> IpAddr,
    vip: fn(u8) -> IpAddr,
    outside: fn(u8) -> IpAddr,
}

const NETS: [Net; 2] = [
    Net {
        client: |n| [10, 244, 1, n].into(),
        backend: |n| [10, 244, 2, n].into(),
        vip: |n| [10, 96, 0, n].into(),
        outside: |n| [192, 168, 88, n].into(),
    },
    Net {
        client: |n| [0xfd00, 0x244, 0, 0, 0, 0, 1, n.into()].into(),
        backend: |n| [0xfd00, 0x244, 0, 0, 0, 0, 2, n.into()].into(),
        vip: |n| [0xfd00, 0x96, 0, 0, 0, 0, 0, n.into()].into(),
        outside: |n| [0xfd00, 0x88, 0, 0, 0, 0, 0, n.into()].into(),
    },
];

/// What each frontend is; tables have as many backends, up to 6.
const FLAGS: [u32; 9] = [
    service_flags::REJECT,
    // Of one backend, so that both draw the same.
    service_flags::LEAST,
    service_flags::EXTERNAL | service_flags::SOURCE,
    service_flags::EXTERNAL | service_flags::LOCAL,
    service_flags::LOCAL,
    // Its backends are unused ids.
    0,
    0,
    // Its table lies beyond the slots.
    0,
    service_flags::EXTERNAL | service_flags::RANGES,
];
/// The frontend with session affinity, and the address that has no frontend.
const AFFINE: u8 = 6;
const BARE: u8 = 9;

/// The same tables on both sides: frontends of every kind over tables of 0 to 6 backends of every
/// kind.
fn fill(host: &mut Host, maps: &mut Maps, net: &Net) {
    let four = (net.vip)(1).is_ipv4();
    let mut id = 0;
    for (n, flags) in (0..).zip(FLAGS) {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let offset = id;
            for m in 0..n.min(6) {
                // Two frontends share each backend, so that tuples collide.
                let address = (net.backend)(n / 2 * 10 + m);
                let backend = Backend {
                    addr: words(address),
                    port_be: if m % 2 == 0 { 8080_u16 } else { 80 }.to_be(),
                    protocol: protocol as u8,
                    state: if n == 5 { BackendState::Free } else { BackendState::Serving } as u8,
                    generation: 1,
                    ifindex: u32::from(m) + 10,
                    mac: Mac::from_octets([2, 0, 0, 0, 1, m]),
                    deliver: [Deliver::Peer, Deliver::Stack, Deliver::Route][usize::from(m % 3)]
                        as u8,
                    ip_version: if four { 4 } else { 6 },
                    lists: m % 4,
                    pad: 0,
                    service: n.into(),
                };
                maps.put_backend(id, backend).unwrap();
                maps.write_table(id, &[id]).unwrap();
                host.node.backends.push(backend);
                host.node.slots.push(id);
                id += 1;
            }
            let len = u32::from(n.min(6));
            let cluster = Table { offset: if n == 7 { u32::MAX - 3 } else { offset }, len };
            let service = Service {
                cluster,
                // Of some the local list is empty.
                local: Table { offset: offset + len / 2, len: len % 4 },
                flags: if flags & service_flags::SOURCE == 0 {
                    flags | service_flags::HASH
                } else {
                    flags
                },
                affinity_s: if n == AFFINE { 10 } else { 0 },
                id: n.into(),
            };
            put(
                host,
                maps,
                Front::Port(Frontend { address: (net.vip)(n), port: 80, protocol }),
                service,
            );
        }
        put(host, maps, Front::Address((net.vip)(n)), Service::default());
    }
    put(host, maps, Front::Address((net.vip)(BARE)), Service::default());
    for allowed in [IpNet::from((net.client)(2)), IpNet::new((net.outside)(0), 24).unwrap()] {
        maps.put_range(8, allowed).unwrap();
        let prefix_len = 32 + u32::from(allowed.prefix_len());
        match allowed.network().into() {
            Addr::V4(addr) => {
                let range = Range { service: 8, addr };
                host.node.ranges4.push(RangeKey { prefix_len, range });
            }
            Addr::V6(addr) => {
                let range = Range { service: 8, addr };
                host.node.ranges6.push(RangeKey { prefix_len, range });
            }
        }
    }
    let mut config = Config::EMPTY;
    if four {
        [config.gateway4, ..] = words((net.client)(1));
        [config.node4, ..] = words((net.outside)(1));
        config.pods4 = [[10, 244, 0, 0], [255, 255, 0, 0]].map(u32::from_ne_bytes);
        config.services4[0] = [[10, 96, 0, 0], [255, 255, 0, 0]].map(u32::from_ne_bytes);
    } else {
        config.gateway6 = words((net.client)(1));
        config.node6 = words((net.outside)(1));
        let [pods, ..] = words((net.client)(1));
        config.pods6 = [[pods, 0, 0, 0], [u32::MAX, 0, 0, 0]];
        let [services, ..] = words((net.vip)(1));
        config.services6[1] = [[services, 0, 0, 0], [u32::MAX, 0, 0, 0]];
    }
    maps.set_config(config).unwrap();
    host.node.config = config;
    host.node.hz = 1_000_000;
}

fn put(host: &mut Host, maps: &mut Maps, front: Front, service: Service) {
    maps.put_frontend(front, service).unwrap();
    match front.address().into() {
        Addr::V4(addr) => host.node.services4.insert(key(addr, front), service),
        Addr::V6(addr) => host.node.services6.insert(key(addr, front), service),
    };
}

fn run(ebpf: &mut Ebpf, hook: Hook, packet: &[u8]) -> (i32, Vec<u8>, bool) {
    let name = match hook {
        Hook::FromPod => "from_pod",
        Hook::FromNetwork => "from_network",
        Hook::ToPods => "to_pods",
        Hook::ToNetwork => "to_network",
    };
    let mut out = vec![0; packet.len() + 64];
    // `struct __sk_buff`; the mark is its third word.
    let mut context = [0_u8; 192];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: None,
        ctx_out: Some(&mut context),
        repeat: 1,
        attrs: TestRunAttrs::new(),
    };
    let result = classifier(ebpf, name).unwrap().test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    let mark = u32::from_ne_bytes(context[8..12].try_into().unwrap());
    (result.return_value as i32, out, mark & sluice_abi::MARK_TRANSLATED != 0)
}

/// At least 10,000 packets per family, malformed ones included.
#[test]
fn host_and_kernel_decide_alike() {
    if skip_without_root() {
        return;
    }
    // Refusals are counted by processor.
    let mut here = CpuSet::new();
    here.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    for (net, seed) in NETS.iter().zip(1..) {
        let (mut ebpf, mut maps) = load();
        let mut host = Host::default();
        fill(&mut host, &mut maps, net);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sent: Vec<(Hook, Vec<u8>)> = Vec::new();
        let (mut translated, mut dropped, mut refused, mut errors) = (0, 0, 0, 0);
        for number in 0..PACKETS {
            let mut next = generate(&mut rng, net, &sent);
            while !is_askable(&next.1) {
                next = generate(&mut rng, net, &sent);
            }
            let (hook, bytes) = next;
            let mut packet = HostPacket::new(bytes.clone(), 1);
            // BPF_PROG_TEST_RUN gives each packet a socket.
            packet.own = true;
            let action = process(&mut packet, &mut host, hook);
            let expected = match action {
                Action::Pass => UNSPEC,
                Action::Drop => SHOT,
                Action::Peer | Action::Veth | Action::Neighbour | Action::Back => REDIRECT,
            };
            let (returned, out, marked) = run(&mut ebpf, hook, &bytes);
            assert_eq!(
                (returned, &out, marked),
                (expected, &packet.bytes, packet.marked),
                "packet {number} of seed {seed}, {hook:?}: {bytes:02x?}",
            );
            dropped += usize::from(action == Action::Drop);
            refused += usize::from(action == Action::Back);
            let control = [(8, 23, 1), (0x86, 20, 58)];
            let control = control.iter().any(|(kind, at, protocol)| {
                bytes[12] == *kind && bytes[*at] == *protocol && packet.bytes != bytes
            });
            errors += usize::from(control && action != Action::Back);
            if action != Action::Back && packet.bytes != bytes {
                translated += 1;
                sent.push((hook, packet.bytes));
            }
        }
        // The generator must reach all of it, not only what passes.
        assert!(translated > PACKETS / 5, "{translated} translated");
        assert!(dropped > PACKETS / 50, "{dropped} dropped");
        assert!(refused > PACKETS / 50, "{refused} refused");
        assert!(errors > PACKETS / 200, "{errors} errors translated");
        let counted: u64 = maps.counters().unwrap().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, PACKETS as u64, "every packet is counted once");
        let known: u64 = host.node.counts.borrow().values().sum();
        assert_eq!(known, PACKETS as u64);
        for (name, count) in maps.counters().unwrap() {
            let counts = host.node.counts.borrow();
            let host = counts.iter().find(|(reason, _)| reason.name() == name);
            assert_eq!(count, host.map_or(0, |(_, count)| *count), "{name}");
        }
    }
}

/// Instructions after verification. A budget, so that growth is a decision: raise it with a reason.
#[test]
fn programs_stay_within_their_budget() {
    if skip_without_root() {
        return;
    }
    let (mut ebpf, _maps) = load();
    for (name, budget) in
        [("from_pod", 9_900), ("from_network", 9_900), ("to_pods", 4_500), ("to_network", 9_200)]
    {
        let program = classifier(&mut ebpf, name).unwrap();
        let info: ProgramInfo = program.info().unwrap();
        let instructions = info.size_translated().unwrap_or(0) / 8;
        println!(
            "{name}: {instructions} instructions loaded, {} visited by the verifier",
            info.verified_instruction_count().map_or("? (5.16)".to_owned(), |n| n.to_string()),
        );
        assert!(instructions <= budget, "{name}: {instructions} instructions, budget {budget}");
        if let Some(verified) = info.verified_instruction_count() {
            assert!(verified < 250_000, "{name}: {verified} visited; an agent starts as slowly");
        }
    }
}
