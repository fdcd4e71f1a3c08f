//! The tables alone, in virtual time: what goes into them and what comes out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod paths;
mod restart;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use sluice_bgp::fsm::{Event, Machine, Negotiated, Settings};
use sluice_bgp::policy::Policy;
use sluice_bgp::rib::{Identity, Keep, Policies, Rib, SessionUp};
use sluice_bgp::{AsPath, Attributes, Family, Message, Origin, Received, ReceivedUpdate, Update};

const ASN: u32 = 64512;
const ID: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const DEFERRAL: Duration = Duration::from_secs(60);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// Tables whose own routes are known, with peers: number, AS, policies.
fn rib(peers: &[(u8, u32, Policies)]) -> Rib {
    let identity = Identity {
        asn: ASN,
        bgp_id: ID,
        cluster_id: None,
        addresses: vec![IpAddr::V4(ID), "fd00::9".parse().unwrap()],
        max_paths: 8,
    };
    let mut rib = Rib::new(identity, DEFERRAL);
    for (n, asn, policies) in peers {
        rib.set_peer(address(*n), (ASN, *asn), policies.clone());
    }
    rib.peers_known(Duration::ZERO);
    rib.set_locals(vec![], true);
    rib
}

fn open_policies() -> Policies {
    Policies { import: Policy::accept_all(), export: Policy::accept_all(), ..Policies::default() }
}

/// What a peer says of itself that restarts gracefully within 4 s and kept forwarding.
fn graceful(n: u8, asn: u32) -> Settings {
    let mut settings = Settings::new(asn, Ipv4Addr::new(1, 1, 1, n), ASN);
    settings.graceful_restart_s = Some(4);
    settings.forwarding = true;
    settings
}

/// What its OPEN and ours make of the session.
fn negotiated(theirs: &Settings) -> Negotiated {
    let mut ours = Settings::new(ASN, ID, theirs.asn);
    ours.graceful_restart_s = Some(120);
    ours.passive = true;
    let (mut machine, _) = Machine::new(ours, 1).step(Event::Start, Duration::ZERO);
    let link = machine.name_link();
    let (machine, _) = machine.step(Event::Accepted(link), Duration::ZERO);
    let open = Event::Received(link, Box::new(Received::Open(theirs.open())));
    machine.step(open, Duration::ZERO).0.negotiated(link).expect("an OPEN that fits").clone()
}

fn up(rib: &mut Rib, n: u8, theirs: &Settings, now: Duration) {
    let session = SessionUp { negotiated: negotiated(theirs), local_address: IpAddr::V4(ID) };
    rib.up(address(n), session, now);
}

/// The session is lost; the peer's routes stay.
fn lose(rib: &mut Rib, n: u8, theirs: &Settings, now: Duration) {
    let negotiated = negotiated(theirs);
    let time = s(negotiated.graceful_restart.as_ref().map_or(0, |restart| restart.time_s).into());
    rib.down(address(n), Some(Keep { families: negotiated.restart_families(), time }), now);
}

/// An UPDATE of one IPv4 prefix by a peer.
fn announce(n: u8, asn: u32, prefix: &str) -> ReceivedUpdate {
    let path = if asn == ASN { AsPath::default() } else { AsPath::sequence(&[asn]) };
    let update = Update {
        attributes: Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(path),
            ..Attributes::default()
        },
        next_hop: Some(Ipv4Addr::new(10, 0, 0, n)),
        nlri: vec![net(prefix)],
        ..Update::default()
    };
    ReceivedUpdate { update, ..ReceivedUpdate::default() }
}

fn end_of_rib(family: Family) -> ReceivedUpdate {
    let update = Update::end_of_rib(family);
    ReceivedUpdate { update, end_of_rib: Some(family), ..ReceivedUpdate::default() }
}

fn prefixes(rib: &Rib) -> Vec<String> {
    rib.show(None, usize::MAX).iter().map(|view| view.prefix.to_string()).collect()
}

/// Everything that a peer is to be sent now.
fn told(rib: &mut Rib, n: u8) -> Vec<Update> {
    let mut updates = Vec::new();
    while rib.has_batch(address(n)) {
        for message in rib.take_batch(address(n), usize::MAX).messages {
            if let Message::Update(update) = message {
                updates.push(*update);
            }
        }
    }
    updates
}
