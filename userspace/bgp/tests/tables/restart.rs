//! B17, B18: refreshes and graceful restart in the tables.

use std::net::Ipv4Addr;
use std::time::Instant;

use sluice_bgp::policy::Tag;
use sluice_bgp::rib::{LocalRoute, Policies, Rib};
use sluice_bgp::{AfiSafi, Attributes, Family, Refresh, RefreshKind, Update};

use crate::{
    ASN, address, announce, end_of_rib, graceful, lose, net, open_policies, prefixes, rib, s, told,
    up,
};

const EXTERNAL: u32 = 65001;

#[test]
fn b18_stale_routes_of_a_peer_that_is_back_wait_for_its_end_of_rib_not_its_restart_time() {
    for marked in [true, false] {
        let mut rib = rib(&[(1, EXTERNAL, open_policies())]);
        let mut theirs = graceful(1, EXTERNAL);
        up(&mut rib, 1, &theirs, s(0));
        for prefix in ["10.1.0.0/24", "10.2.0.0/24"] {
            rib.update(address(1), announce(1, EXTERNAL, prefix)).unwrap();
        }
        lose(&mut rib, 1, &theirs, s(10));
        theirs.restarted = true;
        up(&mut rib, 1, &theirs, s(13));
        // Its restart time of 4 s is over; it is still reading its own tables.
        for now in [15, 100, 372] {
            rib.tick(s(now));
            assert_eq!(prefixes(&rib).len(), 2, "after {now} s");
        }
        rib.update(address(1), announce(1, EXTERNAL, "10.2.0.0/24")).unwrap();
        if marked {
            rib.update(address(1), end_of_rib(Family::Ipv4Unicast)).unwrap();
        } else {
            // FRR's stalepath-time, 360 s, from when it was back.
            rib.tick(s(373));
        }
        assert_eq!(prefixes(&rib), ["10.2.0.0/24"], "marked: {marked}");
    }
}

fn ends(rib: &mut Rib, n: u8) -> bool {
    told(rib, n).contains(&Update::end_of_rib(Family::Ipv4Unicast))
}

/// A reflector with two clients and another reflector.
fn reflector() -> Rib {
    let client = || Policies { client: true, ..open_policies() };
    rib(&[(1, ASN, client()), (2, ASN, client()), (3, ASN, open_policies())])
}

#[test]
fn b18_a_reflector_ends_when_all_clients_have_and_waits_for_none_that_may_wait_for_it() {
    let mut rib = reflector();
    let mut other = graceful(3, ASN);
    other.restarted = true;
    up(&mut rib, 1, &graceful(1, ASN), s(1));
    up(&mut rib, 3, &other, s(1));
    for family in Family::ALL {
        rib.update(address(1), end_of_rib(family)).unwrap();
    }
    assert!(!ends(&mut rib, 1), "the other client is not back");
    up(&mut rib, 2, &graceful(2, ASN), s(2));
    rib.update(address(2), announce(2, ASN, "10.2.0.0/24")).unwrap();
    assert_eq!(told(&mut rib, 1)[0].nlri, [net("10.2.0.0/24")]);
    rib.update(address(2), end_of_rib(Family::Ipv4Unicast)).unwrap();
    assert!(!ends(&mut rib, 1), "IPv6 is still owed");
    rib.update(address(2), end_of_rib(Family::Ipv6Unicast)).unwrap();
    for n in 1..=3 {
        assert!(ends(&mut rib, n), "peer {n}");
    }
}

#[test]
fn b18_a_reflector_ends_without_a_client_that_never_comes_and_at_once_later_on() {
    let mut rib = reflector();
    up(&mut rib, 1, &graceful(1, ASN), s(1));
    assert_eq!(rib.deadline(), Some(s(60)));
    rib.tick(s(59));
    assert!(!ends(&mut rib, 1));
    rib.tick(s(60));
    assert!(ends(&mut rib, 1));
    up(&mut rib, 2, &graceful(2, ASN), s(70));
    assert!(ends(&mut rib, 2));
    // One that tells of its own routes only has nobody to wait for.
    let mut plain = crate::rib(&[(1, ASN, open_policies()), (2, ASN, open_policies())]);
    up(&mut plain, 1, &graceful(1, ASN), s(1));
    assert!(ends(&mut plain, 1));
}

#[test]
fn b22_what_is_kept_over_a_restart_does_not_count_until_it_is_sent_again() {
    let limited = Policies { max_prefixes: Some(4), ..open_policies() };
    let mut rib = rib(&[(1, EXTERNAL, limited)]);
    let theirs = graceful(1, EXTERNAL);
    let send = |rib: &mut Rib, n: u8| {
        rib.update(address(1), announce(1, EXTERNAL, &format!("10.{n}.0.0/24")))
    };
    let warnings = |rib: &mut Rib| -> Vec<usize> {
        rib.take_warnings().into_iter().map(|(_, _, count)| count).collect()
    };
    up(&mut rib, 1, &theirs, s(0));
    for n in 0..4 {
        send(&mut rib, n).unwrap();
    }
    assert_eq!(warnings(&mut rib), [3]);
    lose(&mut rib, 1, &theirs, s(1));
    up(&mut rib, 1, &theirs, s(2));
    assert!(!rib.show_peer(address(1)).near_limit, "it has sent nothing yet");
    // Two that it had, two others: four in this session.
    for n in [0, 1, 8, 9] {
        send(&mut rib, n).unwrap();
    }
    assert_eq!(warnings(&mut rib), [3]);
    assert_eq!(prefixes(&rib).len(), 6);
    send(&mut rib, 9).expect("the same again is no more");
    for n in [10, 2] {
        assert!(send(&mut rib, n).is_err(), "10.{n}.0.0/24 is the fifth, new or kept");
    }
    rib.update(address(1), end_of_rib(Family::Ipv4Unicast)).unwrap();
    assert_eq!(prefixes(&rib).len(), 4);
    assert!(send(&mut rib, 10).is_err());
}

#[test]
fn b22_a_peer_that_comes_back_with_others_again_and_again_has_twice_its_limit_at_most() {
    let limited = Policies { max_prefixes: Some(4), ..open_policies() };
    let mut rib = rib(&[(1, EXTERNAL, limited)]);
    let theirs = graceful(1, EXTERNAL);
    for round in 0..5 {
        up(&mut rib, 1, &theirs, s(round));
        for n in 0..4 {
            let prefix = format!("10.{}.0.0/24", round * 4 + n);
            let result = rib.update(address(1), announce(1, EXTERNAL, &prefix));
            assert_eq!(result.is_err(), round > 1, "{prefix}");
        }
        lose(&mut rib, 1, &theirs, s(round));
    }
    assert_eq!(prefixes(&rib).len(), 8);
}

#[test]
fn b17_a_peer_that_asks_and_asks_costs_no_more_than_one_that_asks() {
    let mut rib = rib(&[(1, EXTERNAL, open_policies())]);
    let route = |n: u32| LocalRoute {
        prefix: net(&format!("{}/32", Ipv4Addr::from_bits(0x0a60_0000 + n))),
        tag: Tag(1),
        attributes: Attributes::default(),
    };
    rib.set_locals((0..20_000).map(route).collect(), true);
    up(&mut rib, 1, &graceful(1, EXTERNAL), s(0));
    let prefixes = |updates: Vec<Update>| updates.iter().map(|u| u.nlri.len()).sum::<usize>();
    assert_eq!(prefixes(told(&mut rib, 1)), 20_000);
    let refresh = Refresh { afi_safi: AfiSafi { afi: 1, safi: 1 }, kind: RefreshKind::Request };
    let started = Instant::now();
    for _ in 0..5000 {
        rib.refresh(address(1), refresh, s(1));
    }
    let took = started.elapsed();
    assert!(took < s(1), "{took:?} for 5,000 requests of 20,000 prefixes");
    assert_eq!(prefixes(told(&mut rib, 1)), 20_000);
    rib.refresh(address(1), refresh, s(2));
    assert_eq!(prefixes(told(&mut rib, 1)), 20_000, "and again");
}
