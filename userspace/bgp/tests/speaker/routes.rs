//! Section 4: what the running speaker makes of routes, and what it tells others of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use sluice_bgp::driver::Happening;
use sluice_bgp::fsm::Reason;
use sluice_bgp::policy::{Change, Condition, Policy, Rule, Tag, Verdict};
use sluice_bgp::rib::{LocalRoute, Standing, Step, Unfit};
use sluice_bgp::{
    AfiSafi, AsPath, Attributes, Code, Community, Family, LargeCommunity, Message, NextHop, Origin,
    Received, ReceivedUpdate, Refresh, RefreshKind, Update,
};

use crate::peer::{RawPeer, net};
use crate::rig::{ASN, EXTERNAL, ID, Rig, open_policies, peer, peer_address, says};

const POD: Tag = Tag(1);

pub(crate) fn local(prefix: &str) -> LocalRoute {
    LocalRoute { prefix: net(prefix), tag: POD, attributes: Attributes::default() }
}

/// An UPDATE of one IPv4 prefix.
pub(crate) fn announce(prefix: &str, path: &[u32], next_hop: [u8; 4]) -> Update {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(path)),
        ..Attributes::default()
    };
    Update {
        attributes,
        next_hop: Some(Ipv4Addr::from(next_hop)),
        nlri: vec![net(prefix)],
        ..Update::default()
    }
}

pub(crate) async fn send(peer: &mut RawPeer, update: Update) {
    peer.send(&Message::Update(Box::new(update))).await;
}

pub(crate) async fn connect(rig: &Rig, n: u8, asn: u32) -> RawPeer {
    RawPeer::established(peer_address(n), rig.address, &says(n, asn)).await
}

/// The next UPDATE or End-of-RIB.
async fn next(peer: &mut RawPeer) -> ReceivedUpdate {
    loop {
        if let Received::Update(received) = peer.receive().await {
            return *received;
        }
    }
}

#[tokio::test]
async fn b15_our_routes_have_our_next_hop_and_the_attributes_of_the_kind_of_peer() {
    let rig = Rig::start(vec![peer(1, ASN), peer(2, EXTERNAL)]).await;
    rig.set_locals(vec![local("10.1.0.0/24"), local("fd01::/64")]).await;
    for (n, asn, path, preference) in
        [(1, ASN, AsPath::default(), Some(100)), (2, EXTERNAL, AsPath::sequence(&[ASN]), None)]
    {
        let mut raw = connect(&rig, n, asn).await;
        let (mut v4, mut v6, mut ends) = (None, None, Vec::new());
        while ends.len() < 2 {
            let ReceivedUpdate { update, end_of_rib, .. } = next(&mut raw).await;
            match (end_of_rib, &update.mp_reach) {
                (Some(family), _) => ends.push(family),
                (None, Some(_)) => v6 = Some(update),
                (None, None) => v4 = Some(update),
            }
        }
        let (v4, v6) = (v4.expect("IPv4"), v6.expect("IPv6"));
        assert_eq!(v4.nlri, [net("10.1.0.0/24")]);
        assert_eq!(v4.next_hop, Some(Ipv4Addr::new(10, 255, 9, 9)));
        let hop = v6.mp_reach.as_ref().unwrap().next_hop.address();
        assert_eq!(hop, "fd00::9".parse::<IpAddr>().unwrap());
        for update in [v4, v6] {
            let attributes = update.attributes;
            assert_eq!(attributes.as_path, Some(path.clone()), "{asn}");
            assert_eq!(attributes.local_pref, preference, "{asn}");
        }
    }
}

#[tokio::test]
async fn b19_end_of_rib_waits_until_all_of_our_routes_are_known() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    rig.speaker.lock().await.set_locals(vec![local("10.1.0.0/24")], false).await;
    assert_eq!(next(&mut raw).await.update.nlri, [net("10.1.0.0/24")]);
    let quiet = tokio::time::timeout(Duration::from_millis(200), next(&mut raw)).await;
    assert!(quiet.is_err(), "an End-of-RIB would make a helper drop what is still to come");
    rig.set_locals(vec![local("10.1.0.0/24"), local("10.2.0.0/24")]).await;
    assert_eq!(next(&mut raw).await.update.nlri, [net("10.2.0.0/24")]);
    assert_eq!(next(&mut raw).await.end_of_rib, Some(Family::Ipv4Unicast));
    assert_eq!(next(&mut raw).await.end_of_rib, Some(Family::Ipv6Unicast));
}

#[tokio::test]
async fn b15_the_node_is_no_transit_by_policy_and_internal_routes_stay_between_internal_peers() {
    let own = Policy {
        rules: vec![Rule {
            name: "own".to_owned(),
            when: Condition { tags: Some(vec![POD]), ..Condition::default() },
            verdict: Verdict::Accept(vec![]),
        }],
    };
    let mut external = peer(1, EXTERNAL);
    external.policies.export = own;
    let rig = Rig::start(vec![external, peer(2, ASN), peer(3, ASN)]).await;
    rig.set_locals(vec![]).await;
    let mut one = connect(&rig, 2, ASN).await;
    let mut other = connect(&rig, 3, ASN).await;
    let mut outside = connect(&rig, 1, EXTERNAL).await;
    send(&mut one, announce("10.7.0.0/24", &[], [10, 0, 0, 2])).await;
    rig.until_installed(&["10.7.0.0/24"]).await;
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    for raw in [&mut other, &mut outside] {
        assert_eq!(raw.update().await.nlri, [net("10.1.0.0/24")], "only our own");
    }
    let routes = rig.routes().await;
    let learned = routes.iter().find(|view| view.prefix == net("10.7.0.0/24")).unwrap();
    let why: Vec<String> =
        learned.announced.iter().filter_map(|told| told.path.clone().err()).collect();
    assert_eq!(
        why,
        [
            "export policy: no rule accepts it",
            "learned from this peer",
            "learned from an internal peer, and no client is involved"
        ]
    );
}

#[tokio::test]
async fn rfc4456_a_reflector_passes_on_with_originator_and_cluster_and_knows_itself() {
    let mut client = peer(1, ASN);
    client.policies.client = true;
    let rig = Rig::start(vec![client, peer(2, ASN)]).await;
    rig.set_locals(vec![]).await;
    let mut client = connect(&rig, 1, ASN).await;
    let mut other = connect(&rig, 2, ASN).await;
    send(&mut client, announce("10.7.0.0/24", &[], [10, 0, 0, 1])).await;
    let told = other.update().await;
    assert_eq!(told.nlri, [net("10.7.0.0/24")]);
    assert_eq!(told.next_hop, Some(Ipv4Addr::new(10, 0, 0, 1)), "the next hop stays");
    assert_eq!(told.attributes.originator_id, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(told.attributes.cluster_list, [ID]);
    for (prefix, change) in [("10.8.0.0/24", 0), ("10.9.0.0/24", 1)] {
        let mut update = announce(prefix, &[], [10, 0, 0, 2]);
        match change {
            0 => update.attributes.originator_id = Some(ID),
            _ => update.attributes.cluster_list = vec![Ipv4Addr::new(1, 1, 1, 1), ID],
        }
        send(&mut other, update).await;
    }
    send(&mut other, announce("10.10.0.0/24", &[], [10, 0, 0, 2])).await;
    assert_eq!(client.update().await.nlri, [net("10.10.0.0/24")]);
    let unfit: Vec<_> =
        rig.routes().await.into_iter().filter_map(|view| view.route.unfit).collect();
    assert_eq!(unfit, [Unfit::OriginatorLoop, Unfit::ClusterLoop]);
}

#[tokio::test]
async fn b14_loops_first_as_and_own_next_hops_are_not_used_but_shown() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    send(&mut raw, announce("10.1.0.0/24", &[EXTERNAL, ASN, 7], [10, 0, 0, 1])).await;
    send(&mut raw, announce("10.2.0.0/24", &[7, EXTERNAL], [10, 0, 0, 1])).await;
    let mut own = announce("fd01::/64", &[EXTERNAL], [10, 0, 0, 1]);
    own.mp_reach = Some(sluice_bgp::MpReach {
        family: Family::Ipv6Unicast,
        next_hop: NextHop::from("fd00::9".parse::<IpAddr>().unwrap()),
        prefixes: std::mem::take(&mut own.nlri),
    });
    own.next_hop = None;
    send(&mut raw, own).await;
    send(&mut raw, announce("10.4.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.4.0.0/24"]).await;
    let unfit: Vec<_> =
        rig.routes().await.into_iter().filter_map(|view| view.route.unfit).collect();
    assert_eq!(unfit, [Unfit::AsLoop, Unfit::FirstAs, Unfit::OwnNextHop]);
}

#[tokio::test]
async fn b24_the_decision_process_step_by_step() {
    // (what is better about the second route, the step at which the first loses)
    type Better = fn(&mut Update);
    let rows: Vec<(&str, Better, Step)> = vec![
        (
            "shorter path",
            |u| u.attributes.as_path = Some(AsPath::sequence(&[EXTERNAL])),
            Step::PathLength,
        ),
        ("origin", |u| u.attributes.origin = Some(Origin::Igp), Step::Origin),
        ("MED", |u| u.attributes.med = Some(5), Step::Med),
    ];
    let base = |n: u8| {
        let mut update = announce("10.1.0.0/24", &[EXTERNAL, 9], [10, 0, 0, n]);
        update.attributes.origin = Some(Origin::Egp);
        update.attributes.med = Some(10);
        update
    };
    let rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL), peer(3, ASN)]).await;
    let mut first = connect(&rig, 1, EXTERNAL).await;
    let mut second = connect(&rig, 2, EXTERNAL).await;
    let mut internal = connect(&rig, 3, ASN).await;
    let standing = async |rig: &Rig, n: u8| {
        let routes = rig.routes().await;
        let found = routes.into_iter().find(|v| v.route.source.peer() == Some(peer_address(n)));
        found.map(|view| view.standing)
    };
    let until = async |rig: &Rig, n: u8, expected: Standing| {
        for _ in 0..500 {
            if standing(rig, n).await == Some(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("peer {n}: {:?}, not {expected:?}", standing(rig, n).await);
    };
    send(&mut first, base(1)).await;
    send(&mut second, base(2)).await;
    until(&rig, 1, Standing::Best).await;
    until(&rig, 2, Standing::Multipath).await;
    let hops = rig.installed.lock().unwrap()[&net("10.1.0.0/24")].next_hops.clone();
    assert_eq!(hops, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
    for (name, better, step) in rows {
        let mut update = base(2);
        better(&mut update);
        send(&mut second, update).await;
        until(&rig, 1, Standing::Lost(step)).await;
        assert_eq!(standing(&rig, 2).await, Some(Standing::Best), "{name}");
        send(&mut second, base(2)).await;
        until(&rig, 1, Standing::Best).await;
    }
    // An internal route: the same but for where it is from; then with more LOCAL_PREF.
    send(&mut internal, base(3)).await;
    until(&rig, 3, Standing::Lost(Step::External)).await;
    let mut preferred = base(3);
    preferred.attributes.local_pref = Some(200);
    send(&mut internal, preferred).await;
    until(&rig, 3, Standing::Best).await;
    until(&rig, 1, Standing::Lost(Step::LocalPref)).await;
    // Our own comes before all.
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    until(&rig, 3, Standing::Lost(Step::Local)).await;
    rig.until_installed(&[]).await;
}

#[tokio::test]
async fn b24_next_hops_that_are_on_no_link_are_not_used_and_links_are_followed() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    rig.speaker.lock().await.set_links(Some(vec![net("10.0.0.0/24")])).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    send(&mut raw, announce("10.1.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    send(&mut raw, announce("10.2.0.0/24", &[EXTERNAL], [10, 0, 1, 1])).await;
    rig.until_installed(&["10.1.0.0/24"]).await;
    rig.speaker.lock().await.set_links(Some(vec![net("10.0.1.0/24")])).await;
    rig.until_installed(&["10.2.0.0/24"]).await;
}

#[tokio::test]
async fn b16_a_changed_policy_counts_at_once_without_a_reset() {
    let mut rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    assert_eq!(raw.update().await.nlri, [net("10.1.0.0/24")]);
    send(&mut raw, announce("10.7.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.7.0.0/24"]).await;
    let mut closed = peer(1, EXTERNAL);
    closed.policies.import = Policy::default();
    closed.policies.export = Policy::default();
    rig.speaker.lock().await.set_peers(vec![closed]).await.unwrap();
    rig.until_installed(&[]).await;
    assert_eq!(raw.update().await.withdrawn, [net("10.1.0.0/24")]);
    let mut changed = peer(1, EXTERNAL);
    let changes = vec![
        Change::Prepend(ASN, 2),
        Change::Med(7),
        Change::LocalPref(900),
        Change::AddCommunities(vec![Community(0x0001_0002)]),
        Change::AddLargeCommunities(vec![LargeCommunity { global: 1, local1: 2, local2: 3 }]),
        Change::NextHop(IpAddr::from([10, 3, 3, 3])),
    ];
    changed.policies.export.rules = vec![Rule {
        name: "all".to_owned(),
        when: Condition::default(),
        verdict: Verdict::Accept(changes),
    }];
    rig.speaker.lock().await.set_peers(vec![changed]).await.unwrap();
    rig.until_installed(&["10.7.0.0/24"]).await;
    let told = raw.update().await;
    assert_eq!(told.attributes.as_path, Some(AsPath::sequence(&[ASN; 3])));
    assert_eq!((told.attributes.med, told.attributes.local_pref), (Some(7), None));
    assert_eq!(told.attributes.communities, [Community(0x0001_0002)]);
    assert_eq!(told.attributes.large_communities.len(), 1);
    assert_eq!(told.next_hop, Some(Ipv4Addr::new(10, 3, 3, 3)));
    assert_eq!(rig.happening().await, Happening::Up);
    assert!(rig.happenings.try_recv().is_err(), "no reset");
}

#[tokio::test]
async fn b21_nothing_is_sent_twice_and_a_change_back_within_a_batch_is_none() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    assert_eq!(raw.update().await.nlri, [net("10.1.0.0/24")]);
    rig.set_locals(vec![local("10.1.0.0/24")]).await;
    rig.speaker.lock().await.set_draining(true).await;
    let told = raw.update().await;
    assert_eq!(told.attributes.communities, [Community::GRACEFUL_SHUTDOWN], "B10");
    rig.set_locals(vec![local("10.1.0.0/24"), local("10.2.0.0/24")]).await;
    assert_eq!(raw.update().await.nlri, [net("10.2.0.0/24")], "only what is new");
}

#[tokio::test]
async fn b10_what_a_peer_is_about_to_take_away_is_the_last_choice() {
    let rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL)]).await;
    let mut one = connect(&rig, 1, EXTERNAL).await;
    let mut two = connect(&rig, 2, EXTERNAL).await;
    send(&mut two, announce("10.7.0.0/24", &[EXTERNAL, 1, 2, 3], [10, 0, 0, 2])).await;
    let mut going = announce("10.7.0.0/24", &[EXTERNAL], [10, 0, 0, 1]);
    going.attributes.communities = vec![Community::GRACEFUL_SHUTDOWN];
    send(&mut one, going).await;
    send(&mut one, announce("10.8.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24"]).await;
    let hops = rig.installed.lock().unwrap()[&net("10.7.0.0/24")].next_hops.clone();
    assert_eq!(hops, [IpAddr::from([10, 0, 0, 2])]);
}

#[tokio::test]
async fn b17_a_refresh_sends_all_of_the_family_again_between_marks() {
    let rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    rig.set_locals(vec![local("10.1.0.0/24"), local("fd01::/64")]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    for _ in 0..2 {
        raw.update().await;
    }
    let v4 = AfiSafi { afi: 1, safi: 1 };
    let mark = |kind| Refresh { afi_safi: v4, kind };
    raw.send(&Message::Refresh(mark(RefreshKind::Request))).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&"end") {
        match raw.receive().await {
            Received::Refresh(refresh) if refresh == Some(mark(RefreshKind::Begin)) => {
                seen.push("begin");
            }
            Received::Refresh(refresh) if refresh == Some(mark(RefreshKind::End)) => {
                seen.push("end");
            }
            Received::Update(update) if update.update.nlri == [net("10.1.0.0/24")] => {
                seen.push("route");
            }
            Received::Update(update) if update.end_of_rib.is_some() => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["begin", "route", "end"]);
    // And the other way: what the peer does not send again between its marks is gone.
    for prefix in ["10.7.0.0/24", "10.8.0.0/24"] {
        send(&mut raw, announce(prefix, &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24"]).await;
    raw.send(&Message::Refresh(mark(RefreshKind::Begin))).await;
    send(&mut raw, announce("10.8.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    raw.send(&Message::Refresh(mark(RefreshKind::End))).await;
    rig.until_installed(&["10.8.0.0/24"]).await;
}

#[tokio::test]
async fn b22_too_many_prefixes_end_the_session_with_the_limit_and_it_stays_down() {
    let mut limited = peer(1, EXTERNAL);
    limited.policies.max_prefixes = Some(4);
    let mut rig = Rig::start(vec![limited]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    for n in 0..5 {
        send(&mut raw, announce(&format!("10.{n}.0.0/24"), &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    let told = raw.ended().await.expect("a NOTIFICATION");
    assert_eq!((told.code, &told.data[..]), (Code::MAX_PREFIXES, &[0, 1, 1, 0, 0, 0, 4][..]));
    rig.until_installed(&[]).await;
    assert_eq!(rig.happening().await, Happening::Up);
    let mut what = [rig.happening().await, rig.happening().await];
    what.sort_by_key(|what| !matches!(what, Happening::NearLimit { .. }));
    let near = Happening::NearLimit { family: Family::Ipv4Unicast, count: 3 };
    assert_eq!(what[0], near, "at three quarters, once");
    assert!(matches!(what[1], Happening::Down { reason: Reason::Sent(_), graceful: false }));
    let mut again = RawPeer::connect(peer_address(1), rig.address).await;
    assert_eq!(again.try_receive().await, None, "down until an operator acts");
    rig.speaker.lock().await.start_peer(peer_address(1)).await;
    connect(&rig, 1, EXTERNAL).await;
}

#[tokio::test]
async fn b22_each_family_is_counted_by_itself_before_the_policy_and_a_prefix_once() {
    let mut limited = peer(1, EXTERNAL);
    limited.policies.max_prefixes = Some(4);
    limited.policies.import = Policy::default();
    let mut rig = Rig::start(vec![limited]).await;
    let mut raw = connect(&rig, 1, EXTERNAL).await;
    let v6 = |n: u32| {
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(&[EXTERNAL])),
            ..Attributes::default()
        };
        let prefix = net(&format!("fd00:{n}::/64"));
        let hop = NextHop::from("fd00::1".parse::<IpAddr>().unwrap());
        let params = sluice_bgp::Params { four_octet_as: true, ..sluice_bgp::Params::default() };
        Update::announce(Family::Ipv6Unicast, &attributes, hop, &[prefix], &params).unwrap()
    };
    assert_eq!(rig.happening().await, Happening::Up);
    // Twice the same is one prefix: two are not yet near.
    for n in [0, 1, 1, 2] {
        send(&mut raw, announce(&format!("10.{n}.0.0/24"), &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    let near = |family| Happening::NearLimit { family, count: 3 };
    assert_eq!(rig.happening().await, near(Family::Ipv4Unicast));
    for n in 0..3 {
        for update in v6(n) {
            send(&mut raw, update).await;
        }
    }
    assert_eq!(rig.happening().await, near(Family::Ipv6Unicast));
    let report = rig.speaker.lock().await.peers().await.remove(0);
    assert_eq!((report.routes.received, report.routes.accepted), ([3, 3], 0));
    assert!(report.routes.near_limit);
}

#[tokio::test]
async fn b13_an_old_speaker_gets_as_trans_and_as4_path_and_its_own_are_merged() {
    let mut old = peer(1, 64999);
    old.settings.asn = ASN;
    let rig = Rig::start(vec![old, peer(2, EXTERNAL)]).await;
    rig.set_locals(vec![]).await;
    let mut open = says(1, 64999).open();
    open.capabilities.retain(|capability| capability.code() != 65);
    let mut raw = RawPeer::connect(peer_address(1), rig.address).await;
    raw.receive().await;
    raw.send(&Message::Open(open)).await;
    raw.send(&Message::Keepalive).await;
    raw.params = sluice_bgp::Params {
        extended_messages: true,
        families: sluice_bgp::Families::ALL,
        ..sluice_bgp::Params::default()
    };
    let mut new = connect(&rig, 2, EXTERNAL).await;
    send(&mut new, announce("10.7.0.0/24", &[EXTERNAL, 7], [10, 0, 0, 2])).await;
    let told = raw.update().await;
    // Our own decoder has merged AS_PATH (64512 23456 7) and AS4_PATH.
    assert_eq!(told.attributes.as_path, Some(AsPath::sequence(&[ASN, EXTERNAL, 7])));
    send(&mut raw, announce("10.8.0.0/24", &[64999, EXTERNAL + 5], [10, 0, 0, 1])).await;
    let told = new.update().await;
    assert_eq!(told.attributes.as_path, Some(AsPath::sequence(&[ASN, 64999, EXTERNAL + 5])));
}

#[tokio::test]
async fn b9_a_removed_peer_is_told_and_its_routes_go() {
    let rig = Rig::start(vec![peer(1, EXTERNAL), peer(2, EXTERNAL)]).await;
    let mut one = connect(&rig, 1, EXTERNAL).await;
    let mut two = connect(&rig, 2, EXTERNAL).await;
    send(&mut one, announce("10.1.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    send(&mut two, announce("10.2.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
    rig.until_installed(&["10.1.0.0/24", "10.2.0.0/24"]).await;
    rig.speaker.lock().await.set_peers(vec![peer(2, EXTERNAL)]).await.unwrap();
    assert_eq!(one.ended().await.map(|n| n.code), Some(Code::DECONFIGURED));
    rig.until_installed(&["10.2.0.0/24"]).await;
    let mut other = peer(2, EXTERNAL);
    other.settings.hold_s = 30;
    rig.speaker.lock().await.set_peers(vec![other]).await.unwrap();
    assert_eq!(two.ended().await.map(|n| n.code), Some(Code::CONFIG_CHANGE));
    assert_eq!(open_policies().max_prefixes, None);
}
