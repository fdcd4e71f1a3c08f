//! SCTP: translated with its ports, and a checksum that is right without reading what it covers.

use crc::{CRC_32_ISCSI, Crc};
use proptest::prelude::*;
use sluice_abi::Reason;
use sluice_core::host::Host;
use sluice_core::{Action, Hook};

use crate::build::{
    BACKEND_IF, CLIENT_IF, NO_ENDPOINT, Net, count, frontend, known, nets, run, serve,
    service_range,
};
use crate::octets::{End, ends_unchecked, frame, transport};

const SCTP: u8 = 132;
/// The algorithm of RFC 9260 appendix A, by another's hand.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;

fn host(net: Net) -> Host {
    let mut host = crate::build::host(net);
    serve(&mut host, net, SCTP);
    host
}

/// A packet of one chunk.
fn sctp(from: End, to: End, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut content = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    content.extend([1, 2, 3, 4, 0, 0, 0, 0, kind, 0]);
    content.extend(u16::try_from(4 + body.len()).unwrap().to_be_bytes());
    content.extend(body);
    let check = CRC32C.checksum(&content).to_le_bytes();
    content[8..12].copy_from_slice(&check);
    frame(from.0, to.0, SCTP, &content)
}

/// Its ends, if its checksums are right.
fn ends(bytes: &[u8]) -> (End, End) {
    let at = transport(bytes);
    let mut content = bytes[at..].to_vec();
    let check: [u8; 4] = content[8..12].try_into().unwrap();
    content[8..12].fill(0);
    assert_eq!(CRC32C.checksum(&content).to_le_bytes(), check, "CRC32c");
    ends_unchecked(bytes)
}

proptest! {
    #[test]
    fn ports_and_checksum_change_at_any_length(
        body in prop::collection::vec(any::<u8>(), 0..9_000),
        port in 1_u16..,
    ) {
        for net in nets() {
            let mut host = host(net);
            let asked = sctp((net.client, port), (net.vip, 80), INIT, &body);
            let got = run(&mut host, Hook::FromPod, CLIENT_IF, asked);
            prop_assert_eq!(got.action, Action::Peer);
            prop_assert_eq!(ends(&got.packet.bytes), ((net.client, port), (net.backend, 8080)));
            let answer = sctp((net.backend, 8080), (net.client, port), INIT_ACK, &body);
            let got = run(&mut host, Hook::FromPod, BACKEND_IF, answer);
            prop_assert_eq!(got.action, Action::Peer);
            prop_assert_eq!(ends(&got.packet.bytes), ((net.vip, 80), (net.client, port)));
        }
    }
}

/// As TCP with its SYN: what is of no known association is dropped.
#[test]
fn only_an_init_opens_a_flow() {
    for net in nets() {
        let mut host = host(net);
        for kind in [DATA, INIT_ACK, ABORT, SHUTDOWN] {
            let stray = sctp((net.client, 4000), (net.vip, 80), kind, &[]);
            assert_eq!(run(&mut host, Hook::FromPod, CLIENT_IF, stray).action, Action::Drop);
        }
        assert_eq!(count(&host, Reason::NoFlow), 4);
    }
}

/// After its end, and only then, a client's port opens to a backend of the day.
#[test]
fn an_association_keeps_its_backend_until_its_end() {
    let ends_by: [&[(bool, u8)]; 2] =
        [&[(true, SHUTDOWN), (false, SHUTDOWN_ACK)], &[(false, ABORT)]];
    for (net, last) in nets().into_iter().flat_map(|net| ends_by.map(|last| (net, last))) {
        let mut host = host(net);
        let from_client = |kind| sctp((net.client, 4000), (net.vip, 80), kind, &[]);
        let ask = |host: &mut Host, kind| {
            let got = run(host, Hook::FromPod, CLIENT_IF, from_client(kind)).packet.bytes;
            ends(&got).1.1
        };
        assert_eq!(ask(&mut host, INIT), 8080);
        host.node.backends[2].port_be = 9090_u16.to_be();
        assert_eq!(ask(&mut host, INIT), 8080, "sent again");
        assert_eq!(ask(&mut host, DATA), 8080);
        for (client, kind) in last {
            if *client {
                ask(&mut host, *kind);
            } else {
                let bytes = sctp((net.backend, 8080), (net.client, 4000), *kind, &[]);
                run(&mut host, Hook::FromPod, BACKEND_IF, bytes);
            }
        }
        assert_eq!(ask(&mut host, INIT), 9090, "{last:?}");
    }
}

/// ICMP port unreachable, as for every protocol but TCP (R15).
#[test]
fn r15_refused_without_endpoints() {
    for net in nets() {
        let mut host = host(net);
        frontend(&mut host, net.vip, SCTP, NO_ENDPOINT);
        let asked = sctp((net.client, 4000), (net.vip, 80), INIT, &[0; 16]);
        let got = run(&mut host, Hook::FromPod, CLIENT_IF, asked);
        assert_eq!(got.action, Action::Back);
        let icmp = transport(&got.packet.bytes);
        let expected = if net.vip.is_ipv4() { [3, 3] } else { [1, 4] };
        assert_eq!(got.packet.bytes[icmp..icmp + 2], expected);
    }
}

/// One that is cut before its first chunk is not ours to translate.
#[test]
fn cut_packets_are_left_alone() {
    for net in nets() {
        let mut host = host(net);
        let whole = sctp((net.client, 4000), (net.vip, 80), INIT, &[]);
        let short = whole[..whole.len() - 1].to_vec();
        let out = run(&mut host, Hook::FromPod, CLIENT_IF, short.clone());
        assert_eq!((out.action, out.packet.bytes), (Action::Pass, short));
        assert_eq!(count(&host, Reason::Malformed), 1);
    }
}

/// A port that the service does not have is refused; what opens nothing gets no answer.
#[test]
fn an_unknown_port_is_refused() {
    for net in nets() {
        let mut host = host(net);
        service_range(&mut host);
        known(&mut host, net.vip);
        let ask = |host: &mut Host, kind| {
            let bytes = sctp((net.client, 4000), (net.vip, 4321), kind, &[]);
            run(host, Hook::FromPod, CLIENT_IF, bytes).action
        };
        assert_eq!((ask(&mut host, INIT), ask(&mut host, DATA)), (Action::Back, Action::Drop));
    }
}

/// The kernel's SCTP leaves the checksum to the device, which sums over a field of zeros.
#[test]
fn a_checksum_that_is_left_to_the_device_stays_zero() {
    for net in nets() {
        let mut host = host(net);
        let mut asked = sctp((net.client, 4000), (net.vip, 80), INIT, &[]);
        let check = transport(&asked) + 8;
        asked[check..check + 4].fill(0);
        let got = run(&mut host, Hook::FromPod, CLIENT_IF, asked).packet.bytes;
        assert_eq!(ends_unchecked(&got).1, (net.backend, 8080));
        assert_eq!(got[check..check + 4], [0; 4]);
    }
}
