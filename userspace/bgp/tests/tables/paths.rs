//! B12, B24: next hops that may be used, and those that may be named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_bgp::policy::{Change, Condition, Policy, Rule, Tag, Verdict};
use sluice_bgp::rib::{LocalRoute, Policies, Rib, SessionUp, Unfit};
use sluice_bgp::{AsPath, Attributes, Family, MpReach, NextHop, Origin, ReceivedUpdate, Update};

use crate::{address, graceful, negotiated, net, open_policies, rib, s, told, up};

const EXTERNAL: u32 = 65001;

fn v6(address: &str, link_local: Option<&str>) -> NextHop {
    let parse = |text: &str| text.parse::<Ipv6Addr>().expect("an address");
    NextHop::V6 { address: parse(address), link_local: link_local.map(parse) }
}

fn announce_v6(prefix: &str, next_hop: NextHop) -> ReceivedUpdate {
    let update = Update {
        attributes: Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(&[EXTERNAL])),
            ..Attributes::default()
        },
        mp_reach: Some(MpReach {
            family: Family::Ipv6Unicast,
            next_hop,
            prefixes: vec![net(prefix)],
        }),
        ..Update::default()
    };
    ReceivedUpdate { update, ..ReceivedUpdate::default() }
}

#[test]
fn b12_a_next_hop_that_is_link_local_only_is_not_used_whatever_links_there_are() {
    for links in [None, Some(vec![net("fd00::/64"), net("fe80::/64")])] {
        let mut rib = rib(&[(1, EXTERNAL, open_policies())]);
        rib.set_links(links);
        up(&mut rib, 1, &graceful(1, EXTERNAL), s(0));
        let rows = [
            ("fd01::/64", v6("fe80::1", None), Some(Unfit::LinkLocal)),
            ("fd02::/64", v6("fe80::1", Some("fe80::1")), Some(Unfit::LinkLocal)),
            ("fd03::/64", v6("fd00::1", Some("fe80::1")), None),
        ];
        for (prefix, next_hop, unfit) in rows {
            rib.update(address(1), announce_v6(prefix, next_hop)).unwrap();
            let shown = rib.show(Some(net(prefix)), 1);
            assert_eq!(shown[0].route.unfit, unfit, "{prefix}");
        }
        let installed = rib.take_changes(9);
        assert_eq!(installed.len(), 1);
        assert_eq!(installed[0].0, net("fd03::/64"));
    }
}

/// What the peer is told of a route of ours of each family, and why not: IPv4, IPv6.
fn named(rib: &mut Rib) -> ([Option<IpAddr>; 2], Vec<String>) {
    let updates = told(rib, 1);
    let hop = |v4: bool| {
        let all = updates.iter().flat_map(Update::announcements);
        let mut hops = all.filter(|(prefix, _)| prefix.addr().is_ipv4() == v4);
        hops.next().map(|(_, hop)| hop.address())
    };
    let views = rib.show(None, usize::MAX).into_iter();
    let why = views.flat_map(|view| view.announced).filter_map(|told| told.path.err()).collect();
    ([hop(true), hop(false)], why)
}

#[test]
fn b15_no_loopback_link_local_unspecified_or_multicast_address_is_named_as_next_hop() {
    let parse = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    };
    let none = "we have no address of this family that the peer could use as next hop";
    // (configured, the session's own, the node's, what is named)
    type Row =
        (&'static [&'static str], &'static str, &'static [&'static str], [Option<&'static str>; 2]);
    let rows: [Row; 8] = [
        (&[], "192.0.2.1", &["192.0.2.9", "fd00::9"], [Some("192.0.2.1"), Some("fd00::9")]),
        (&["192.0.2.3"], "fd00::1", &[], [Some("192.0.2.3"), Some("fd00::1")]),
        // What a node with a local resolver and a link has beside its own.
        (
            &[],
            "127.0.0.1",
            &["169.254.20.10", "fe80::1", "192.0.2.9", "::1", "fd00::9"],
            [Some("192.0.2.9"), Some("fd00::9")],
        ),
        (&["127.0.0.1", "::1"], "fe80::1", &["127.0.0.1"], [None, None]),
        (&[], "0.0.0.0", &["fe80::1"], [None, None]),
        (&["224.0.0.5", "ff02::5"], "::", &["fd00::9"], [None, Some("fd00::9")]),
        (&["240.0.0.1", "::ffff:192.0.2.1"], "192.0.2.1", &[], [Some("192.0.2.1"), None]),
        (&[], "169.254.1.1", &[], [None, None]),
    ];
    for (configured, local, own, expected) in rows {
        let name = format!("{configured:?}, {local}, {own:?}");
        let policies = Policies { next_hops: parse(configured), ..open_policies() };
        let mut rib = rib(&[(1, EXTERNAL, policies)]);
        rib.set_addresses(parse(own));
        let local_address = local.parse().unwrap();
        let negotiated = negotiated(&graceful(1, EXTERNAL));
        rib.up(address(1), SessionUp { negotiated, local_address }, s(0));
        let route = |prefix| LocalRoute {
            prefix: net(prefix),
            tag: Tag(1),
            attributes: Attributes::default(),
        };
        rib.set_locals(vec![route("10.1.0.0/24"), route("fd01::/64")], true);
        let (hops, why) = named(&mut rib);
        assert_eq!(
            hops.map(|hop| hop.map(|hop| hop.to_string())),
            expected.map(|hop| hop.map(str::to_owned)),
            "{name}"
        );
        assert_eq!(why, vec![none; expected.iter().filter(|hop| hop.is_none()).count()], "{name}");
    }
}

#[test]
fn b15_nor_by_a_policy() {
    let useless = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let export = Policy {
        rules: vec![Rule {
            name: "all".to_owned(),
            when: Condition::default(),
            verdict: Verdict::Accept(vec![Change::NextHop(useless)]),
        }],
    };
    let mut rib = rib(&[(1, EXTERNAL, Policies { export, ..open_policies() })]);
    up(&mut rib, 1, &graceful(1, EXTERNAL), s(0));
    let attributes = Attributes::default();
    rib.set_locals(vec![LocalRoute { prefix: net("10.1.0.0/24"), tag: Tag(1), attributes }], true);
    let (hops, why) = named(&mut rib);
    assert_eq!(
        (hops, why),
        ([None, None], vec!["the peer cannot use its next hop, 127.0.0.1".to_owned()])
    );
}
