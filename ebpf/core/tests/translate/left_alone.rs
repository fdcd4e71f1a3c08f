//! What is dropped, and what passes as it came.

use sluice_abi::{BackendState, Reason, Service, Table};
use sluice_core::host::HostPacket;
use sluice_core::wire::SYN;
use sluice_core::{Action, Hook, process};

use crate::build::{CLIENT_IF, count, frontend, host, nets, run};
use crate::octets::packet;

/// A frontend whose policy allows none of its endpoints, a slot that leads nowhere: counted drops, nothing remembered.
#[test]
fn what_cannot_be_served_is_dropped_and_counted() {
    for net in nets() {
        let mut host = host(net);
        frontend(&mut host, net.vip, 6, Service::default());
        let cluster = Table { offset: 900, len: 1 };
        frontend(&mut host, net.other_vip, 6, Service { cluster, ..Service::default() });
        for vip in [net.vip, net.other_vip] {
            let out = run(
                &mut host,
                Hook::FromPod,
                CLIENT_IF,
                packet((net.client, 4000), (vip, 80), Some(SYN)),
            );
            assert_eq!(out.action, Action::Drop);
        }
        host.node.backends[1].state = BackendState::Free as u8;
        let out = run(
            &mut host,
            Hook::FromPod,
            CLIENT_IF,
            packet((net.client, 4000), (net.vip, 80), None),
        );
        assert_eq!(out.action, Action::Drop);
        assert_eq!((count(&host, Reason::NoEndpoints), count(&host, Reason::StaleSlot)), (1, 2));
        assert!(host.flows4.0.is_empty() && host.flows6.0.is_empty());
    }
}

/// A UDP datagram over IPv4 may come without a checksum (RFC 768), and goes without.
#[test]
fn no_udp_checksum_stays_none() {
    let [net, _] = nets();
    let mut host = host(net);
    let mut bytes = packet((net.client, 4000), (net.vip, 80), None);
    bytes[40..42].copy_from_slice(&[0, 0]);
    let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes);
    assert_eq!(out.action, Action::Peer);
    assert_eq!(out.packet.bytes[40..42], [0, 0]);
}

/// What is not ours is not touched: other protocols, marked and malformed packets.
#[test]
fn everything_else_passes_untouched() {
    for net in nets() {
        let good = packet((net.client, 4000), (net.vip, 80), Some(SYN));
        let v4 = net.vip.is_ipv4();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let (protocol, version) = if v4 { (23, 0x65) } else { (20, 0x45) };
        let cases = [
            (with(13, 0x42), Reason::NotIp),
            (with(protocol, 1), Reason::OtherProtocol),
            (with(14, version), Reason::Malformed),
            (good[..40].to_vec(), Reason::Malformed),
            (packet((net.client, 4000), (net.backend, 80), Some(SYN)), Reason::NotService),
        ];
        for (bytes, reason) in cases {
            let mut host = host(net);
            let out = run(&mut host, Hook::FromPod, CLIENT_IF, bytes.clone());
            assert_eq!((out.action, out.packet.bytes), (Action::Pass, bytes), "{reason:?}");
            assert_eq!(count(&host, reason), 1, "{reason:?}");
        }
        let mut host = host(net);
        let mut marked = HostPacket { marked: true, ..HostPacket::new(good.clone(), CLIENT_IF) };
        assert_eq!(process(&mut marked, &mut host, Hook::FromPod), Action::Pass);
        assert_eq!(marked.bytes, good);
    }
}
