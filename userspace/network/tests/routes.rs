//! Routes in a kernel: a network namespace of its own per test. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use ipnet::IpNet;
use sluice_network::routes::{Kernel, Op, Table, Target, changes};

/// Runs a test on a thread in a new namespace with one link: 10.0.0.1/24 and fd00:1::1/64.
fn in_a_namespace(test: impl AsyncFnOnce(Kernel) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root");
        return;
    }
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        for command in [
            "link set lo up",
            "link add link0 type veth peer name link1",
            "link set link0 up",
            "link set link1 up",
            "addr add 10.0.0.1/24 dev link0",
            "addr add fd00:1::1/64 dev link0 nodad",
        ] {
            ip(command);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(Kernel::open().expect("a socket")).await });
    })
    .join()
    .expect("the test");
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn via(hops: &[&str]) -> Option<Target> {
    Target::via(hops.iter().map(|hop| hop.parse::<IpAddr>().unwrap()).collect())
}

async fn settle(table: &mut Table, kernel: &Kernel) -> usize {
    let ops = table.plan();
    let count = ops.len();
    for (op, result) in kernel.apply(ops).await {
        table.applied(&op, result);
    }
    count
}

/// What `sluice cleanup` does: ours are gone, those of others stay.
#[test]
fn all_of_ours_are_removed_and_nothing_else() {
    in_a_namespace(async |kernel| {
        ip("route add 10.8.0.0/16 via 10.0.0.9");
        ip("-6 route add fd08::/64 via fd00:1::9 proto bird");
        let others = (ip("route"), ip("-6 route"));
        let mut table = Table::default();
        table.want(net("10.1.0.0/24"), via(&["10.0.0.2", "10.0.0.3"]));
        table.want(net("10.3.0.0/24"), Some(Target::Unreachable));
        table.want(net("fd02::/64"), via(&["fd00:1::2"]));
        assert_eq!(settle(&mut table, &kernel).await, 3);
        let removed = kernel.remove_all().await.unwrap();
        let mut prefixes: Vec<String> = removed.iter().map(|(net, _)| net.to_string()).collect();
        prefixes.sort();
        assert_eq!(prefixes, ["10.1.0.0/24", "10.3.0.0/24", "fd02::/64"]);
        assert!(removed.iter().all(|(_, result)| result.is_ok()), "{removed:?}");
        assert_eq!((ip("route"), ip("-6 route")), others);
        assert_eq!(kernel.remove_all().await.unwrap(), []);
    });
}

/// Routes of both families by one next hop, by several, and by none.
fn of_all_kinds() -> [(&'static str, Option<Target>); 6] {
    [
        ("10.1.0.0/24", via(&["10.0.0.2"])),
        ("10.2.0.0/24", via(&["10.0.0.2", "10.0.0.3"])),
        ("10.3.0.0/24", Some(Target::Unreachable)),
        ("fd01::/64", via(&["fd00:1::2"])),
        ("fd02::/64", via(&["fd00:1::2", "fd00:1::3"])),
        ("fd03::/64", Some(Target::Unreachable)),
    ]
}

#[test]
fn b26_what_is_wanted_stands_with_our_protocol_and_is_read_back_as_it_is() {
    in_a_namespace(async |kernel| {
        let mut table = Table::default();
        let mut wanted = of_all_kinds().to_vec();
        wanted.push(("0.0.0.0/0", via(&["10.0.0.9"])));
        for (prefix, target) in &wanted {
            table.want(net(prefix), target.clone());
        }
        assert_eq!(settle(&mut table, &kernel).await, wanted.len());
        assert_eq!(table.refused().collect::<Vec<_>>(), []);
        let mut again = Table::default();
        again.observe(kernel.routes().await.unwrap());
        for (prefix, target) in wanted {
            again.want(net(prefix), target);
        }
        again.complete();
        assert_eq!(again.plan(), [], "adopted: nothing to do");
        let shown = ip("route show proto 92") + &ip("-6 route show proto 92");
        assert_eq!(shown.matches("metric 2092").count(), 7, "{shown}");
    });
}

#[test]
fn b26_a_change_is_one_step_between_every_two_kinds_of_target() {
    in_a_namespace(async |kernel| {
        let mut table = Table::default();
        for (prefix, one, other) in
            [("10.1.0.0/24", "10.0.0.2", "10.0.0.3"), ("fd01::/64", "fd00:1::2", "fd00:1::3")]
        {
            let targets =
                [via(&[one]), via(&[one, other]), via(&[other]), Some(Target::Unreachable)];
            for from in &targets {
                for to in &targets {
                    table.want(net(prefix), from.clone());
                    settle(&mut table, &kernel).await;
                    table.want(net(prefix), to.clone());
                    settle(&mut table, &kernel).await;
                    assert_eq!(table.refused().collect::<Vec<_>>(), []);
                    let stands = kernel.routes().await.unwrap();
                    assert_eq!(stands.len(), 1, "{from:?} to {to:?}: {stands:?}");
                    assert_eq!(Some(&stands[0].target), to.as_ref(), "{from:?} to {to:?}");
                }
            }
            table.want(net(prefix), None);
            settle(&mut table, &kernel).await;
            assert_eq!(kernel.routes().await.unwrap(), []);
        }
    });
}

#[test]
fn b26_routes_of_others_are_not_touched_and_win() {
    in_a_namespace(async |kernel| {
        ip("route add 10.1.0.0/24 via 10.0.0.7 proto static");
        ip("-6 route add fd01::/64 via fd00:1::7 proto static");
        let mut table = Table::default();
        for (prefix, hop) in [("10.1.0.0/24", "10.0.0.2"), ("fd01::/64", "fd00:1::2")] {
            table.want(net(prefix), via(&[hop]));
        }
        settle(&mut table, &kernel).await;
        assert!(ip("route get 10.1.0.5").contains("via 10.0.0.7"));
        assert!(ip("-6 route get fd01::5").contains("via fd00:1::7"));
        for prefix in ["10.1.0.0/24", "fd01::/64"] {
            table.want(net(prefix), None);
        }
        settle(&mut table, &kernel).await;
        assert!(ip("route show proto static").contains("10.1.0.0/24"));
        assert!(ip("-6 route show proto static").contains("fd01::/64"));
        // Deleting what is not there is no error.
        let result = kernel.apply(vec![Op::Delete(net("10.9.0.0/24"))]).await;
        assert_eq!(result[0].1, Ok(()));
        assert!(ip("route show").contains("10.0.0.0/24"), "the link's own stays");
    });
}

#[test]
fn b26_the_nodes_own_packets_come_from_its_address_and_such_routes_are_adopted() {
    in_a_namespace(async |kernel| {
        // Newer addresses that the kernel would not choose of itself.
        ip("addr add 192.0.2.1/32 dev link0");
        ip("addr add fd99::1/128 dev link0 nodad");
        let sources: Vec<IpAddr> = ["192.0.2.1", "fd99::1"].map(|ip| ip.parse().unwrap()).into();
        let found = kernel.links().await.unwrap().sources;
        assert!(sources.iter().all(|source| found.contains(source)), "{found:?}");
        let wanted = of_all_kinds();
        let want = |table: &mut Table| {
            table.set_sources(sources.clone());
            for (prefix, target) in &wanted {
                table.want(net(prefix), target.clone());
            }
        };
        let mut table = Table::default();
        want(&mut table);
        settle(&mut table, &kernel).await;
        assert_eq!(table.refused().collect::<Vec<_>>(), []);
        for (to, from) in [
            ("10.1.0.5", "src 192.0.2.1"),
            ("10.2.0.5", "src 192.0.2.1"),
            ("fd01::5", "src fd99::1"),
            ("fd02::5", "src fd99::1"),
        ] {
            let shown = ip(&format!("route get {to}"));
            assert!(shown.contains(from), "{shown}");
        }
        let mut again = Table::default();
        again.observe(kernel.routes().await.unwrap());
        want(&mut again);
        again.complete();
        assert_eq!(again.plan(), [], "adopted: nothing to do");
        // The address goes, and the kernel takes from its routes what it will.
        ip("addr del 192.0.2.1/32 dev link0");
        ip("addr del fd99::1/128 dev link0");
        table.observe(kernel.routes().await.unwrap());
        table.set_sources(vec![]);
        settle(&mut table, &kernel).await;
        assert_eq!(table.refused().collect::<Vec<_>>(), []);
        assert_eq!(kernel.routes().await.unwrap().len(), wanted.len());
        assert!(!ip("-4 route show proto 92").contains("src"));
        assert!(!ip("-6 route show proto 92").contains("src"));
    });
}

/// The routes that lead served addresses out of an unreachable range, whatever way out there is.
#[test]
fn b26_ways_out_are_followed_and_such_routes_are_read_back_as_they_are() {
    in_a_namespace(async |kernel| {
        assert_eq!(kernel.shown().await.unwrap().ways_out, []);
        let mut events = changes().unwrap();
        for route in [
            "route add default via 10.0.0.9",
            "route add default via 10.0.0.8 metric 50",
            "route add default via 10.0.0.7 table 100",
            "-6 route add default via fe80::9 dev link0",
        ] {
            ip(route);
        }
        let heard = tokio::time::timeout(Duration::from_secs(2), events.next()).await;
        assert_eq!(heard, Ok(Some(())));
        let ways = kernel.shown().await.unwrap().ways_out;
        let hops: Vec<String> = ways.iter().map(|way| way.next_hops[0].to_string()).collect();
        assert_eq!(hops, ["10.0.0.9", "fe80::9"]);
        assert_eq!((ways[0].link, ways[1].link.is_some()), (None, true), "where it is needed");
        let fixed = BTreeMap::from([
            (net("198.18.0.0/24"), Target::Unreachable),
            (net("198.18.0.1/32"), Target::Via(ways[0].clone())),
            (net("2001:db8::/64"), Target::Unreachable),
            (net("2001:db8::1/128"), Target::Via(ways[1].clone())),
        ]);
        let mut table = Table::default();
        table.set_sources(vec!["10.0.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()]);
        table.set_fixed(fixed);
        assert_eq!(settle(&mut table, &kernel).await, 4);
        assert_eq!(table.refused().collect::<Vec<_>>(), []);
        table.observe(kernel.routes().await.unwrap());
        assert_eq!(table.plan(), [], "as they were asked for");
        assert!(ip("route get 198.18.0.1").contains("via 10.0.0.9"));
        assert!(ip("-6 route get 2001:db8::1").contains("via fe80::9 dev link0"));
        for nobody in ["198.18.0.2", "2001:db8::2"] {
            let output = Command::new("ip").args(["route", "get", nobody]).output().unwrap();
            assert!(!output.status.success(), "not out by the default route: {output:?}");
        }
    });
}

/// Protocol 92 in another table, or with another metric, is somebody's who took the number, too.
#[test]
fn b26_a_route_of_our_protocol_alone_is_not_ours() {
    in_a_namespace(async |kernel| {
        for route in [
            "route add 10.1.0.0/24 via 10.0.0.2 proto 92 metric 2092 table 100",
            "route add 10.2.0.0/24 via 10.0.0.2 proto 92 metric 7",
            "route add 10.3.0.0/24 via 10.0.0.2 proto 92",
            "-6 route add fd01::/64 via fd00:1::2 proto 92 metric 2092 table 100",
            "-6 route add fd02::/64 via fd00:1::2 proto 92",
        ] {
            ip(route);
        }
        let shown =
            || ip("-4 route show table all proto 92") + &ip("-6 route show table all proto 92");
        let before = shown();
        assert_eq!(before.lines().count(), 5, "{before}");
        assert_eq!(kernel.routes().await.unwrap(), []);
        let mut table = Table::default();
        table.observe(kernel.routes().await.unwrap());
        table.complete();
        assert_eq!(settle(&mut table, &kernel).await, 0);
        assert_eq!(kernel.remove_all().await.unwrap(), []);
        // One of ours beside them is, and goes alone.
        table.want(net("10.1.0.0/24"), via(&["10.0.0.3"]));
        table.want(net("10.2.0.0/24"), via(&["10.0.0.3"]));
        settle(&mut table, &kernel).await;
        assert_eq!(kernel.routes().await.unwrap().len(), 2);
        assert_eq!(kernel.remove_all().await.unwrap().len(), 2);
        assert_eq!(shown(), before);
    });
}

#[test]
fn b26_the_own_range_is_unreachable_only_until_the_bridge_has_it() {
    in_a_namespace(async |kernel| {
        let mut table = Table::default();
        table.want(net("10.5.0.0/24"), Some(Target::Unreachable));
        table.want(net("fd05::/64"), Some(Target::Unreachable));
        settle(&mut table, &kernel).await;
        ip("route add default via 10.0.0.9");
        let refused = Command::new("ip").args(["route", "get", "10.5.0.7"]).output().unwrap();
        assert!(!refused.status.success(), "not out by the default route");
        ip("link add br0 type veth peer name br1");
        ip("link set br0 up");
        ip("link set br1 up");
        ip("addr add 10.5.0.1/24 dev br0");
        ip("addr add fd05::1/64 dev br0 nodad");
        assert!(ip("route get 10.5.0.7").contains("dev br0"));
        assert!(ip("-6 route get fd05::7").contains("dev br0"));
    });
}

#[test]
fn b26_what_goes_with_an_interface_is_heard_of_and_comes_back() {
    in_a_namespace(async |kernel| {
        let mut events = changes().unwrap();
        let mut table = Table::default();
        table.want(net("10.1.0.0/24"), via(&["10.0.0.2"]));
        table.want(net("fd01::/64"), via(&["fd00:1::2"]));
        settle(&mut table, &kernel).await;
        assert!(kernel.links().await.unwrap().networks.contains(&net("10.0.0.0/24")));
        ip("link set link0 down");
        let heard = tokio::time::timeout(Duration::from_secs(2), events.next()).await;
        assert_eq!(heard, Ok(Some(())));
        assert!(!kernel.links().await.unwrap().networks.contains(&net("10.0.0.0/24")));
        table.observe(kernel.routes().await.unwrap());
        assert_eq!(settle(&mut table, &kernel).await, 2);
        assert_eq!(table.refused().count(), 2, "no way to the next hops");
        ip("link set link0 up");
        ip("-6 addr replace fd00:1::1/64 dev link0 nodad");
        table.observe(kernel.routes().await.unwrap());
        settle(&mut table, &kernel).await;
        assert_eq!(table.refused().collect::<Vec<_>>(), []);
        assert_eq!(kernel.routes().await.unwrap().len(), 2);
    });
}

#[test]
fn b26_a_change_of_one_among_many_is_one_operation() {
    in_a_namespace(async |kernel| {
        let mut table = Table::default();
        let started = Instant::now();
        for n in 0..20_000_u32 {
            let prefix = IpNet::new(IpAddr::from((0x0b00_0000 + n * 256).to_be_bytes()), 24);
            table.want(prefix.unwrap(), via(&["10.0.0.2"]));
        }
        assert_eq!(settle(&mut table, &kernel).await, 20_000);
        println!("20,000 routes in {:?}", started.elapsed());
        table.want(net("11.0.7.0/24"), via(&["10.0.0.3"]));
        assert_eq!(settle(&mut table, &kernel).await, 1);
        assert_eq!(kernel.routes().await.unwrap().len(), 20_000);
    });
}
