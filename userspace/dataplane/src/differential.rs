//! The host build against the loaded programs: the same packets, tables and order must give the same
//! verdict, the same bytes and the same mark. Also what loading costs. Needs root.

use std::net::IpAddr;

use aya::programs::{ProgramInfo, TestRun, TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_abi::{
    Backend, BackendState, Config, Deliver, Mac, Range, RangeKey, Service, Table, service_flags,
};
use sluice_core::host::{Host, HostPacket};
use sluice_core::wire::{ACK, FIN, RST, SYN};
use sluice_core::{Action, Hook, process};
use sluice_services::{Frontend, Protocol};

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
    0,
    service_flags::EXTERNAL,
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
        for protocol in [Protocol::Tcp, Protocol::Udp] {
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
                flags: flags | service_flags::HASH,
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

/// An endpoint of a packet.
type End = (IpAddr, u16);

/// A packet as a host would send it, with lengths that fit; checksums are any.
fn packet(rng: &mut StdRng, from: End, to: End, udp: bool, flags: u8) -> Vec<u8> {
    let mut l4: Vec<u8> = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    if udp {
        l4.extend([0, 12, rng.random(), rng.random()]);
        if rng.random_ratio(1, 8) {
            l4[6..8].fill(0);
        }
    } else {
        l4.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 1, 0, rng.random(), rng.random(), 0, 0]);
    }
    l4.extend([1, 2, 3, 4]);
    let protocol = if udp { 17 } else { 6 };
    let mut bytes: Vec<u8> = (1..13).collect();
    let length = |extra: usize| u16::try_from(l4.len() + extra).unwrap().to_be_bytes();
    // All fragments are of few datagrams: the first ones and others of the same meet.
    let part = rng.random_ratio(1, 8).then(|| rng.random_bool(0.5));
    match (from.0, to.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let options = if rng.random_ratio(1, 10) { rng.random_range(1..11) } else { 0 };
            bytes.extend([8, 0, 0x45 + options, 0]);
            bytes.extend(length(20 + usize::from(options) * 4));
            let ttl = if rng.random_ratio(1, 10) { 1 } else { 64 };
            let fragment = part.map_or([0x40, 0], |first| if first { [0x20, 0] } else { [0, 3] });
            bytes.extend([0, 1]);
            bytes.extend(fragment);
            bytes.extend([ttl, protocol, rng.random(), rng.random()]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(vec![1; usize::from(options) * 4]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, rng.random()]);
            bytes.extend(length(if part.is_some() { 8 } else { 0 }));
            let next = if part.is_some() { 44 } else { protocol };
            bytes.extend([next, if rng.random_ratio(1, 10) { 1 } else { 64 }]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            if let Some(first) = part {
                bytes.extend([protocol, 0, 0, if first { 1 } else { 24 }, 0, 0, 0, 7]);
            }
        }
        _ => panic!("one family"),
    }
    bytes.extend(l4);
    bytes
}

/// Requests from few clients and ports, so that flows are met again, answers to what backends were
/// sent, direct connections on the same tuples; every fourth packet is damaged.
fn generate(rng: &mut StdRng, net: &Net, sent: &[(Hook, Vec<u8>)]) -> (Hook, Vec<u8>) {
    let udp = rng.random_bool(0.4);
    let flags = [SYN, SYN, ACK, ACK, FIN | ACK, RST, SYN | ACK][rng.random_range(0..7)];
    let hook = [Hook::FromPod, Hook::FromPod, Hook::FromNetwork, Hook::ToPods, Hook::ToNetwork]
        [rng.random_range(0..5)];
    let client = match rng.random_range(0..10) {
        0 => (net.outside)(rng.random_range(2..4)),
        1 => (net.backend)(rng.random_range(0..4) * 10),
        _ => (net.client)(rng.random_range(2..6)),
    };
    let from = (client, rng.random_range(4_000..4_006));
    let mut bytes = match rng.random_range(0..10) {
        0..5 => {
            let to = (net.vip)(rng.random_range(0..11));
            packet(rng, from, (to, 80), udp, flags)
        }
        5..6 => {
            let port = if rng.random() { 80 } else { 8080 };
            let to = (net.backend)(rng.random_range(0..4) * 10 + rng.random_range(0..6));
            packet(rng, from, (to, port), udp, flags)
        }
        _ => match sent.len() {
            0 => packet(rng, from, ((net.vip)(1), 81), udp, flags),
            known => {
                let (_, bytes) = &sent[rng.random_range(0..known)];
                if rng.random_ratio(1, 4) && bytes.len() >= 14 + 48 {
                    error(rng, net, bytes)
                } else {
                    answer(rng, bytes, flags)
                }
            }
        },
    };
    if rng.random_ratio(1, 4) {
        match rng.random_range(0..4) {
            0 => bytes.truncate(rng.random_range(15..=bytes.len())),
            1 => {
                let at = rng.random_range(12..bytes.len());
                bytes[at] = rng.random();
            }
            2 => {
                // The first octets of the network header decide most.
                let at = rng.random_range(12..24);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            _ => bytes.extend(vec![0; rng.random_range(1..1_400)]),
        }
    }
    (hook, bytes)
}

/// An ICMP or ICMPv6 error about a packet, from a router or from whom it was sent to.
fn error(rng: &mut StdRng, net: &Net, sent: &[u8]) -> Vec<u8> {
    let four = sent[12..14] == [8, 0];
    let (addresses, size) = if four { (26, 4) } else { (22, 16) };
    let router = words((net.outside)(9));
    let router: Vec<u8> = router.iter().flat_map(|word| word.to_ne_bytes()).take(size).collect();
    let from = if rng.random() { &sent[addresses + size..addresses + 2 * size] } else { &router };
    let to = &sent[addresses..addresses + size];
    let quoted = &sent[14..sent.len().min(14 + 60)];
    let kinds: [u8; 4] = if four { [3, 11, 12, 8] } else { [1, 2, 3, 128] };
    let mut icmp = vec![kinds[rng.random_range(0..4)], 0, rng.random(), rng.random(), 0, 0, 5, 0];
    icmp.extend(quoted);
    let mut bytes: Vec<u8> = (1..13).collect();
    let length = |extra: usize| u16::try_from(icmp.len() + extra).unwrap().to_be_bytes();
    if four {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend(length(20));
        bytes.extend([0, 1, 0, 0, 64, 1, rng.random(), rng.random()]);
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(length(0));
        bytes.extend([58, 64]);
    }
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(icmp);
    bytes
}

/// The same packet the other way round.
fn answer(rng: &mut StdRng, sent: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = sent.to_vec();
    let (addresses, size, l4) = if sent[12..14] == [8, 0] {
        (26, 4, 14 + usize::from(sent[14] & 15) * 4)
    } else {
        (22, 16, 54)
    };
    if bytes.len() < l4 + 14 {
        return bytes;
    }
    let (source, destination) = bytes[addresses..addresses + 2 * size].split_at_mut(size);
    source.swap_with_slice(destination);
    let (source, destination) = bytes[l4..l4 + 4].split_at_mut(2);
    source.swap_with_slice(destination);
    if rng.random() {
        bytes[l4 + 13] = flags;
    }
    bytes
}

/// BPF_PROG_TEST_RUN refuses a packet whose network header is cut, and one that does not fit into a
/// page (net/bpf/test_run.c); what the host build makes of the former is tested in `sluice-core`.
fn is_askable(bytes: &[u8]) -> bool {
    let header = match bytes[12..14] {
        [8, 0] => 20,
        [0x86, 0xdd] => 40,
        _ => 1,
    };
    (14 + header..3_000).contains(&bytes.len())
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
                Action::Peer | Action::Neighbour | Action::Back => REDIRECT,
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
        [("from_pod", 6_500), ("from_network", 6_500), ("to_pods", 3_500), ("to_network", 6_500)]
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
            assert!(verified < 500_000, "{name}: {verified} visited, the limit is 1,000,000");
        }
    }
}
