//! What a plan promises, whatever prefix of it is carried out.

mod model;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use sluice_services::{AddressKind, Family, Protocol, Scheduler, ServicePortKey};

use super::*;
use crate::wire::words;
use model::{BACKENDS, Model, SLOTS, Sketch, backends, frontend, random, sketches, state};

fn check(model: &Model, wanted: &BTreeMap<u8, Sketch>) -> Result<(), TestCaseError> {
    // Each has its address beside it.
    prop_assert_eq!(model.frontends.len(), 2 * wanted.len());
    for (octet, sketch) in wanted {
        let service = model.frontends.get(&frontend(*octet)).copied();
        let Some(service) = service else {
            return Err(TestCaseError::fail(format!("frontend {octet} is missing")));
        };
        prop_assert_eq!(model.reachable(service)?, sketch.listed.clone());
        let reject = service.flags & service_flags::REJECT != 0;
        prop_assert_eq!(reject, sketch.listed.is_empty());
    }
    Ok(())
}

proptest! {
    /// After every operation of every plan: a frontend that is in both states is served, by backends
    /// of one of the two; and no slot of any frontend leads to an unused backend.
    #[test]
    fn no_prefix_leaves_a_frontend_without_its_backends(
        history in prop::collection::vec((sketches(), 0_u64..90), 1..8),
    ) {
        let mut model = Model::default();
        let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
        let (mut before, mut now_s) = (BTreeMap::new(), 0);
        for (wanted, wait_s) in history {
            now_s += wait_s;
            let freed = layout.collect(now_s);
            let plan = layout.plan(&state(&wanted), &Ways::default(), now_s);
            prop_assert!(plan.skipped.is_empty(), "{:?}", plan.skipped);
            for op in freed.iter().chain(&plan.ops) {
                op.apply(&mut model)?;
                for (octet, new) in &wanted {
                    let Some(old): Option<&Sketch> = before.get(octet) else { continue };
                    let service = model.frontends.get(&frontend(*octet)).copied();
                    let Some(service) = service else {
                        return Err(TestCaseError::fail(format!("{octet} vanished")));
                    };
                    let found = model.reachable(service)?;
                    prop_assert!(found == old.listed || found == new.listed, "{:?}", found);
                }
                for service in model.frontends.values() {
                    model.reachable(*service)?;
                }
            }
            check(&model, &wanted)?;
            before = wanted;
        }
    }

    /// A restart at any moment, even in the middle of a plan, ends in the same place.
    #[test]
    fn what_an_earlier_run_left_is_adopted(
        first in sketches(), second in sketches(), cut in 0_usize..40,
    ) {
        let mut model = Model::default();
        let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
        let plan = layout.plan(&state(&first), &Ways::default(), 0);
        for op in &plan.ops {
            op.apply(&mut model)?;
        }
        let plan = layout.plan(&state(&second), &Ways::default(), 1);
        for op in plan.ops.iter().take(cut) {
            op.apply(&mut model)?;
        }
        let mut adopted = Layout::adopt(&model, SLOTS, BACKENDS, 60)?;
        let plan = adopted.plan(&state(&second), &Ways::default(), 2);
        for op in &plan.ops {
            op.apply(&mut model)?;
        }
        check(&model, &second)?;
        // The same state again changes nothing.
        let mut again = Layout::adopt(&model, SLOTS, BACKENDS, 60)?;
        let plan = again.plan(&state(&second), &Ways::default(), 3);
        prop_assert!(plan.ops.is_empty(), "{:?}", plan.ops);
    }
}

/// An id that another endpoint gets has another generation: an old UDP flow is not taken for its own.
#[test]
fn a_reused_id_has_a_new_generation() {
    let mut layout = Layout::with_capacity(SLOTS, 1);
    let state_of = |octet| state(&BTreeMap::from([(1, random(&[octet]))]));
    let first = layout.plan(&state_of(1), &Ways::default(), 0);
    layout.plan(&State::default(), &Ways::default(), 0);
    let full = layout.plan(&state_of(2), &Ways::default(), 1);
    assert_eq!(full.skipped.len(), 1, "the only id is in its grace time");
    layout.collect(BACKEND_GRACE_S);
    let second = layout.plan(&state_of(2), &Ways::default(), BACKEND_GRACE_S);
    let generation = |plan: &Plan| match plan.ops.first() {
        Some(Op::PutBackend { id: 0, backend }) => backend.generation,
        other => panic!("{other:?}"),
    };
    assert_eq!((generation(&first), generation(&second)), (1, 2));
}

/// R23: a backend that was away for a moment is another one to what was bound to it before.
#[test]
fn r23_a_backend_that_comes_back_has_a_new_generation() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let mut model = Model::default();
    let mut become_of = |octets: &[u8], now_s| {
        let wanted = state(&BTreeMap::from([(1, random(octets))]));
        for op in layout.plan(&wanted, &Ways::default(), now_s).ops {
            op.apply(&mut model).unwrap();
        }
        let found = model.backends.get(&0).copied().unwrap();
        (found.state, found.generation)
    };
    let (serving, retired) = (BackendState::Serving as u8, BackendState::Retired as u8);
    assert_eq!(become_of(&[1], 0), (serving, 1));
    assert_eq!(become_of(&[1, 2], 1), (serving, 1));
    assert_eq!(become_of(&[2], 2), (retired, 1));
    assert_eq!(become_of(&[1, 2], 3), (serving, 2));
}

/// Work in the order of what changed: a change of one service touches nothing of a thousand others.
#[test]
fn one_change_is_a_handful_of_operations() {
    let mut layout = Layout::default();
    let mut wanted = State::default();
    for name in 0..1_000_u16 {
        let [high, low] = name.to_be_bytes();
        let one = state(&BTreeMap::from([(1, random(&[1, 2, 3]))]));
        for (mut key, port) in one.ports {
            key.name = format!("s{name}");
            let mut port = ServicePort::clone(&port);
            port.addresses =
                vec![(Ipv4Addr::new(10, 97, high, low).into(), AddressKind::ClusterIp)];
            wanted.ports.insert(key, Arc::new(port));
        }
    }
    layout.plan(&wanted, &Ways::default(), 0);
    let slots = layout.slots.used();
    assert_eq!(slots, 3 * 1_000, "each service port has a table of its own");
    if let Some(port) = wanted.ports.values_mut().next() {
        *port = Arc::new(ServicePort { cluster: backends(&[1, 2]), ..ServicePort::clone(port) });
    }
    let plan = layout.plan(&wanted, &Ways::default(), 1);
    assert_eq!(plan.ops.len(), 3, "a table, a frontend, a retirement: {:?}", plan.ops);
}

/// The grace time of a backend counts from when it was last let go of, and ends when it is used.
#[test]
fn a_backend_that_is_used_again_is_not_freed() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let used = state(&BTreeMap::from([(1, random(&[1]))]));
    let unused = state(&BTreeMap::from([(1, random(&[]))]));
    layout.plan(&used, &Ways::default(), 0);
    layout.plan(&unused, &Ways::default(), 10);
    layout.plan(&used, &Ways::default(), 20);
    assert_eq!(layout.collect(10 + BACKEND_GRACE_S), [], "it is in use");
    layout.plan(&unused, &Ways::default(), 100);
    assert_eq!(layout.collect(99 + BACKEND_GRACE_S), []);
    assert_eq!(layout.collect(100 + BACKEND_GRACE_S).len(), 1);
    assert_eq!(layout.leftovers, BTreeMap::new());
}

/// Backends of a frontend that found no slots are freed in time, and not while another uses them.
#[test]
fn what_was_held_for_a_skipped_frontend_is_freed() {
    let mut layout = Layout::with_capacity(1, BACKENDS);
    let both = BTreeMap::from([(1, random(&[1])), (2, random(&[1, 2]))]);
    let plan = layout.plan(&state(&both), &Ways::default(), 0);
    assert_eq!(plan.skipped.len(), 1);
    assert_eq!(layout.collect(BACKEND_GRACE_S).len(), 2, "those of the second");
    assert_eq!(layout.backends.len(), 1);
}

/// Two addresses of one service port, which share its table.
fn twofold(listed: &[u8]) -> State {
    let mut state = state(&BTreeMap::from([(1, random(listed))]));
    for port in state.ports.values_mut() {
        let external = (frontend(2).address(), AddressKind::ExternalIp);
        Arc::make_mut(port).addresses.push(external);
    }
    state
}

fn tables(plan: &Plan) -> Vec<u32> {
    let offset =
        |op: &Op| if let Op::WriteTable { offset, .. } = op { Some(*offset) } else { None };
    plan.ops.iter().filter_map(offset).collect()
}

#[test]
fn addresses_of_a_service_port_share_its_table() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    layout.plan(&twofold(&[1, 2]), &Ways::default(), 0);
    assert_eq!((layout.slots.used(), layout.frontends.len()), (2, 3));
}

/// The slots of a table that holds an unknown id are given to no other before the last frontend
/// that reads them has been rewritten and the grace time is over.
#[test]
fn slots_of_a_distrusted_table_are_kept_for_who_reads_them() {
    let mut model = Model::default();
    let plan = Layout::with_capacity(SLOTS, BACKENDS).plan(&twofold(&[1, 2]), &Ways::default(), 0);
    for op in &plan.ops {
        op.apply(&mut model).unwrap();
    }
    model.slots.insert(1, 40);
    let mut layout = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    assert_eq!(layout.slots.used(), 2);
    let plan = layout.plan(&twofold(&[1, 2]), &Ways::default(), 100);
    assert_eq!(tables(&plan), [2]);
    let rewritten = plan.ops.iter().filter(|op| matches!(op, Op::PutFrontend { .. })).count();
    assert_eq!(rewritten, 2);

    layout.collect(99 + TABLE_GRACE_S);
    assert_eq!(tables(&layout.plan(&twofold(&[1]), &Ways::default(), 101)), [4]);
    layout.collect(100 + TABLE_GRACE_S);
    assert_eq!(tables(&layout.plan(&twofold(&[2]), &Ways::default(), 102)), [0]);
    assert!(layout.distrusted.is_empty());
}

/// The same table a second time, as an interrupted plan leaves it: one is believed, the other's slots
/// are kept until its frontend reads the first.
#[test]
fn a_table_that_is_there_twice_is_adopted_once() {
    let mut model = Model::default();
    let wanted = twofold(&[1, 2]);
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    for op in layout.plan(&wanted, &Ways::default(), 0).ops {
        op.apply(&mut model).unwrap();
    }
    model.write_table(10, &[model.slots[&0], model.slots[&1]]).unwrap();
    model.frontends.get_mut(&frontend(2)).unwrap().cluster.offset = 10;

    let mut layout = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    assert_eq!(layout.slots.used(), 4);
    let plan = layout.plan(&wanted, &Ways::default(), 0);
    assert_eq!(plan.ops.len(), 1, "the second frontend: {:?}", plan.ops);
    layout.collect(TABLE_GRACE_S - 1);
    assert_eq!(layout.slots.used(), 4);
    layout.collect(TABLE_GRACE_S);
    assert_eq!(layout.slots.used(), 2);
}

/// A service port of this change, as the only one.
fn changed(change: impl FnOnce(&mut ServicePort)) -> State {
    let mut state = state(&BTreeMap::from([(1, random(&[1, 2]))]));
    if let Some(port) = state.ports.values_mut().next() {
        change(Arc::make_mut(port));
    }
    state
}

fn placed(layout: &Layout, address: IpAddr, port: u16) -> Option<Service> {
    let front = Front::Port(Frontend { address, port, protocol: Protocol::Tcp });
    layout.frontends.get(&front).map(|placed| placed.service)
}

/// Node ports are open on the addresses they may be, follow them, and never on a service address (R19).
#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let (node, moved) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    let service = frontend(1).address();
    let wanted = changed(|port| port.node_port = 30_080);
    let ways = |open: &[IpAddr]| Ways { node_ports: open.to_vec(), ..Ways::default() };
    layout.plan(&wanted, &ways(&[node, service]), 0);
    let flags = placed(&layout, node, 30_080).unwrap().flags;
    assert_eq!(flags & service_flags::EXTERNAL, service_flags::EXTERNAL);
    assert_eq!(placed(&layout, service, 30_080), None);
    let ops = layout.plan(&wanted, &ways(&[moved]), 1).ops;
    assert_eq!(ops.len(), 2, "{ops:?}");
    assert!(placed(&layout, node, 30_080).is_none() && placed(&layout, moved, 30_080).is_some());
}

/// With policy Local an external address has both lists: pods and the node are not outside.
#[test]
fn an_external_address_with_policy_local_has_both_lists() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let external = IpAddr::from([203, 0, 113, 1]);
    let wanted = changed(|port| {
        port.addresses.push((external, AddressKind::ExternalIp));
        port.external_local = true;
        port.local = backends(&[2]);
    });
    layout.plan(&wanted, &Ways::default(), 0);
    let found = placed(&layout, external, 80).unwrap();
    assert_eq!((found.cluster.len, found.local.len), (2, 1));
    let inside = placed(&layout, frontend(1).address(), 80).unwrap();
    assert_eq!((inside.cluster.len, inside.local.len), (2, 0), "the ClusterIP is not Local");
}

/// Ranges come before the frontend that asks for them and go after; the node among them lets the
/// balancer's own address in (R17).
#[test]
fn source_ranges_are_there_before_they_are_asked_for() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let vip = IpAddr::from([203, 0, 113, 1]);
    let range: IpNet = "192.0.2.0/24".parse().unwrap();
    let balanced = |ranges: &[IpNet]| {
        changed(|port| {
            port.addresses.push((vip, AddressKind::LoadBalancer));
            port.source_ranges = ranges.to_vec();
        })
    };
    let ways = Ways { node: vec![[192, 0, 2, 1].into()], ..Ways::default() };
    let ops = layout.plan(&balanced(&[range]), &ways, 0).ops;
    let at = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted).unwrap();
    let ranges = ops.iter().filter(|op| matches!(op, Op::PutRange { .. })).count();
    assert_eq!(ranges, 2, "the range and the address itself: {ops:?}");
    assert!(
        at(&|op| matches!(op, Op::PutRange { .. }))
            < at(&|op| matches!(op, Op::PutFrontend { .. }))
    );
    let flags = placed(&layout, vip, 80).unwrap().flags;
    assert_eq!(flags & service_flags::RANGES, service_flags::RANGES);
    let ops = layout.plan(&balanced(&[]), &ways, 1).ops;
    assert!(matches!(ops.last(), Some(Op::RemoveRange { .. })), "{ops:?}");
    assert_eq!(placed(&layout, vip, 80).unwrap().flags & service_flags::RANGES, 0);
}

/// Affinities outlive a restart: the service port keeps its id (R23).
#[test]
fn a_service_port_keeps_its_id_over_a_restart() {
    let mut model = Model::default();
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let wanted = changed(|port| {
        port.affinity_s = Some(10);
        port.scheduler = Scheduler::Maglev;
    });
    for op in layout.plan(&wanted, &Ways::default(), 0).ops {
        op.apply(&mut model).unwrap();
    }
    let before = placed(&layout, frontend(1).address(), 80).unwrap();
    assert_eq!(before.flags & service_flags::HASH, service_flags::HASH);
    let mut adopted = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    let plan = adopted.plan(&wanted, &Ways::default(), 1);
    assert!(plan.ops.is_empty(), "{:?}", plan.ops);
    assert_eq!(placed(&adopted, frontend(1).address(), 80).unwrap(), before);
}

/// A backend says which lists it is in, from before a frontend leads there; by that session affinity holds
/// (R23).
#[test]
fn backends_know_their_lists() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let mut model = Model::default();
    let both = lists::CLUSTER | lists::LOCAL;
    for (cluster, local, serving, expected) in [
        (&[1, 2][..], &[2][..], &[3][..], [lists::CLUSTER, both, 0]),
        (&[2, 3], &[3, 1], &[], [lists::LOCAL, lists::CLUSTER, both]),
        (&[1], &[], &[3], [lists::CLUSTER, 0, 0]),
    ] {
        let state = changed(|port| {
            (port.cluster, port.local) = (backends(cluster), backends(local));
            (port.serving, port.external_local) = (backends(serving), true);
            port.addresses.push((frontend(2).address(), AddressKind::ExternalIp));
        });
        let ops = layout.plan(&state, &Ways::default(), 0).ops;
        let last_joins = ops.iter().rposition(|op| {
            matches!(op, Op::PutBackend { backend, .. } if backend.state == BackendState::Serving as u8)
        });
        let first_leads = ops.iter().position(|op| matches!(op, Op::PutFrontend { .. }));
        assert!(last_joins < first_leads, "{ops:?}");
        for op in ops {
            op.apply(&mut model).unwrap();
        }
        for (octet, expected) in (1_u8..).zip(expected) {
            let address = words(Ipv4Addr::new(10, 244, 0, octet).into());
            let found = model.backends.values().find(|backend| backend.addr == address).unwrap();
            assert_eq!(found.lists, expected, "{octet} of {cluster:?} {local:?} {serving:?}");
        }
    }
}

/// Last octets of the endpoints in the table of the first service, slot by slot.
fn octets(model: &Model) -> Vec<u8> {
    let sluice_abi::Table { offset, len } = model.frontends[&frontend(1)].cluster;
    let octet = |slot| model.backends[&model.slots[&slot]].addr[0].to_ne_bytes()[3];
    (offset..offset + len).map(octet).collect()
}

/// A list by its weights, which are those of the endpoints 1, 2 and so on.
fn with_weights(scheduler: Scheduler, weights: &[u8]) -> State {
    changed(|port| {
        let octets: Vec<u8> = (1..).zip(weights).map(|(octet, _)| octet).collect();
        let list = backends(&octets)
            .iter()
            .zip(weights)
            .map(|(b, w)| Backend { weight: *w, ..*b })
            .collect();
        (port.cluster, port.scheduler) = (list, scheduler);
    })
}

/// Slots are shared by weight, in the fewest that do.
#[test]
fn slots_are_shared_by_weight() {
    use Scheduler::{LeastConnections, Maglev, Random, SourceHash};
    for (scheduler, weights, expected) in [
        (Random, &[1, 1][..], Some(&[1, 2][..])),
        (Random, &[100, 100], Some(&[1, 2])),
        (Random, &[2, 6, 4], Some(&[1, 2, 2, 2, 3, 3])),
        (LeastConnections, &[3, 1], Some(&[1, 1, 1, 2])),
        (Maglev, &[3, 1], None),
        (SourceHash, &[3, 1], None),
    ] {
        let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
        let mut model = Model::default();
        for op in layout.plan(&with_weights(scheduler, weights), &Ways::default(), 0).ops {
            op.apply(&mut model).unwrap();
        }
        let found = octets(&model);
        match expected {
            Some(expected) => assert_eq!(found, expected, "{scheduler:?} {weights:?}"),
            // Maglev's: three quarters of 251 places.
            None => {
                let first = found.iter().filter(|octet| **octet == 1).count();
                assert!(found.len() == 251 && (187..=189).contains(&first), "{first} {found:?}");
            }
        }
        let flag = match scheduler {
            Random => 0,
            LeastConnections => service_flags::LEAST,
            SourceHash => service_flags::SOURCE,
            Maglev => service_flags::HASH,
        };
        assert_eq!(model.frontends[&frontend(1)].flags, flag, "{scheduler:?}");
    }
}

/// A Maglev table of an earlier run is known again by what stands in it, weights and all, and serves
/// all its frontends; one that holds something else is written anew.
#[test]
fn maglev_tables_are_recognised_after_a_restart() {
    let mut model = Model::default();
    let mut wanted = with_weights(Scheduler::Maglev, &[3, 2]);
    for port in wanted.ports.values_mut() {
        let external = (frontend(2).address(), AddressKind::ExternalIp);
        Arc::make_mut(port).addresses.push(external);
    }
    for op in Layout::with_capacity(SLOTS, BACKENDS).plan(&wanted, &Ways::default(), 0).ops {
        op.apply(&mut model).unwrap();
    }
    let mut layout = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    let plan = layout.plan(&wanted, &Ways::default(), 1);
    assert!(plan.ops.is_empty(), "{:?}", plan.ops);
    assert!(layout.recognised.is_empty());
    layout.plan(&State::default(), &Ways::default(), 2);
    layout.collect(100);
    assert_eq!(layout.slots.used(), 0, "every use has ended");

    model.slots.insert(0, 1 - model.slots[&0]);
    let mut layout = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    let plan = layout.plan(&wanted, &Ways::default(), 1);
    assert_eq!(tables(&plan).len(), 1);
    layout.collect(100);
    assert_eq!(layout.slots.used(), 251, "the one of before is free again");
}

/// Whoever lays claim to the node's own address takes one port of it, not all node ports.
#[test]
fn a_claim_to_the_nodes_address_closes_no_node_port() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let node = IpAddr::from([192, 0, 2, 1]);
    let wanted = changed(|port| {
        port.node_port = 30_080;
        port.addresses.push((node, AddressKind::ExternalIp));
    });
    let ways = Ways { node_ports: vec![node], node: vec![node], ..Ways::default() };
    layout.plan(&wanted, &ways, 0);
    assert!(placed(&layout, node, 30_080).is_some() && placed(&layout, node, 80).is_some());
}

/// Ranges that find no room close their service, and no other.
#[test]
fn too_many_source_ranges_harm_their_own_service_alone() {
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let mut wanted = state(&BTreeMap::from([(1, random(&[1])), (2, random(&[2]))]));
    let guarded = |port: &mut Arc<ServicePort>, vip: [u8; 4], ranges: u32| {
        let port = Arc::make_mut(port);
        port.addresses.push((vip.into(), AddressKind::LoadBalancer));
        let range = |n: u32| IpNet::from(IpAddr::from(Ipv4Addr::from(n)));
        port.source_ranges = (0..ranges).map(range).collect();
    };
    let mut ports = wanted.ports.values_mut();
    guarded(ports.next().unwrap(), [203, 0, 113, 1], 70_000);
    guarded(ports.next().unwrap(), [203, 0, 113, 2], 10);
    let plan = layout.plan(&wanted, &Ways::default(), 0);
    assert_eq!(plan.skipped.len(), 1);
    assert_eq!(layout.ranges.len(), 10);
    let closed = placed(&layout, [203, 0, 113, 1].into(), 80).unwrap();
    assert_eq!(closed.flags & service_flags::RANGES, service_flags::RANGES);
    assert!(placed(&layout, [203, 0, 113, 2].into(), 80).is_some());
}

/// A service port is known again by its ClusterIP, whatever other addresses have come since (R23).
#[test]
fn ids_are_inherited_by_cluster_ip() {
    let mut model = Model::default();
    let mut layout = Layout::with_capacity(SLOTS, BACKENDS);
    let two = BTreeMap::from([(1, random(&[1])), (2, random(&[2]))]);
    for op in layout.plan(&state(&two), &Ways::default(), 0).ops {
        op.apply(&mut model).unwrap();
    }
    let id = |layout: &Layout, octet| placed(layout, frontend(octet).address(), 80).unwrap().id;
    let before = (id(&layout, 1), id(&layout, 2));
    let mut adopted = Layout::adopt(&model, SLOTS, BACKENDS, 60).unwrap();
    let mut wanted = state(&two);
    for (port, address) in wanted.ports.values_mut().zip([[9, 9, 9, 9], [9, 9, 9, 8]]) {
        Arc::make_mut(port).addresses.push((address.into(), AddressKind::ExternalIp));
    }
    adopted.plan(&wanted, &Ways::default(), 1);
    assert_eq!((id(&adopted, 1), id(&adopted, 2)), before);
    assert!(adopted.last_service >= before.1);
}
