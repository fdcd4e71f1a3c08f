//! Packets at random: requests, answers, errors about them, and damage.

use std::net::IpAddr;

use rand::Rng;
use rand::rngs::StdRng;
use sluice_core::Hook;
use sluice_core::wire::{ACK, FIN, RST, SCTP, SYN, TCP, UDP};

use super::Net;
use crate::wire::words;

/// Types of SCTP's first chunk: DATA, INIT, INIT ACK, ABORT, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
const CHUNKS: [u8; 8] = [0, 1, 1, 2, 6, 7, 8, 14];

/// An endpoint of a packet.
type End = (IpAddr, u16);

/// A packet as a host would send it, with lengths that fit; checksums are any.
fn packet(rng: &mut StdRng, from: End, to: End, protocol: u8, flags: u8) -> Vec<u8> {
    let mut l4: Vec<u8> = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    match protocol {
        UDP => {
            l4.extend([0, 12, rng.random(), rng.random()]);
            if rng.random_ratio(1, 8) {
                l4[6..8].fill(0);
            }
        }
        TCP => {
            l4.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 1, 0]);
            l4.extend([rng.random(), rng.random(), 0, 0]);
        }
        _ => {
            l4.extend([1, 2, 3, 4, rng.random(), rng.random(), rng.random(), rng.random()]);
            l4.extend([CHUNKS[rng.random_range(0..CHUNKS.len())], 0, 0, 8]);
            l4.extend(vec![7; rng.random_range(0..1_400)]);
        }
    }
    l4.extend([1, 2, 3, 4]);
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
            let behind = if part.is_some() { 44 } else { protocol };
            let (next, extensions) = extensions(rng, behind);
            bytes.extend(length(extensions.len() + if part.is_some() { 8 } else { 0 }));
            bytes.extend([next, if rng.random_ratio(1, 10) { 1 } else { 64 }]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(extensions);
            if let Some(first) = part {
                bytes.extend([protocol, 0, 0, if first { 1 } else { 24 }, 0, 0, 0, 7]);
            }
        }
        _ => panic!("one family"),
    }
    bytes.extend(l4);
    bytes
}

/// IPv6 extension headers, mostly none, and the number of the first.
fn extensions(rng: &mut StdRng, behind: u8) -> (u8, Vec<u8>) {
    let mut next = behind;
    let mut all: Vec<u8> = Vec::new();
    while rng.random_ratio(1, 8) {
        let units = if rng.random_ratio(1, 8) { rng.random_range(0..40) } else { 0 };
        let kind = [0, 43, 60, 60, 51][rng.random_range(0..5)];
        let mut header = vec![next, units, rng.random(), u8::from(rng.random_ratio(1, 4))];
        header.resize(8 + usize::from(units) * 8, 1);
        header.extend(all);
        (all, next) = (header, kind);
    }
    (next, all)
}

/// Requests from few clients and ports, so that flows are met again, answers to what backends were
/// sent, direct connections on the same tuples; every fourth packet is damaged.
pub(super) fn generate(rng: &mut StdRng, net: &Net, sent: &[(Hook, Vec<u8>)]) -> (Hook, Vec<u8>) {
    let protocol = [TCP, TCP, UDP, UDP, SCTP][rng.random_range(0..5)];
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
            packet(rng, from, (to, 80), protocol, flags)
        }
        5..6 => {
            let port = if rng.random() { 80 } else { 8080 };
            let to = (net.backend)(rng.random_range(0..4) * 10 + rng.random_range(0..6));
            packet(rng, from, (to, port), protocol, flags)
        }
        _ => match sent.len() {
            0 => packet(rng, from, ((net.vip)(1), 81), protocol, flags),
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
pub(super) fn is_askable(bytes: &[u8]) -> bool {
    let header = match bytes[12..14] {
        [8, 0] => 20,
        [0x86, 0xdd] => 40,
        _ => 1,
    };
    (14 + header..3_000).contains(&bytes.len())
}
