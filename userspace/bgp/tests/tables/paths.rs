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
