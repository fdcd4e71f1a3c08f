//! Maglev tables: equal shares, little disruption, the same on every node.

use std::net::IpAddr;

use proptest::prelude::*;
use sluice_services::maglev::{TableSize, for_set, seed, table, weighted};
use sluice_services::{Backend, Protocol};

fn size(places: u32) -> TableSize {
    TableSize::new(places).unwrap()
}

fn backend(address: &str, port: u16) -> Backend {
    let address: IpAddr = address.parse().unwrap();
    Backend { address, port, protocol: Protocol::Tcp, serving: true, local: false, weight: 1 }
}

/// Who holds each place, by seed instead of position.
fn holders(seeds: &[u64], size: TableSize) -> Vec<u64> {
    table(seeds, size)
        .into_iter()
        .map(|position| seeds[usize::try_from(position).unwrap()])
        .collect()
}

#[test]
fn sizes_are_primes_and_leave_100_places_a_backend_up_to_the_bound() {
    for (backends, places) in [
        (0, 251),
        (1, 251),
        (2, 251),
        (3, 509),
        (5, 509),
        (6, 1021),
        (100, 16381),
        (1310, 131_071),
        (5000, 131_071),
    ] {
        assert_eq!(TableSize::for_backends(backends).places(), places, "{backends}");
        assert_eq!(TableSize::new(places), Some(TableSize::for_backends(backends)));
    }
    assert_eq!(TableSize::for_backends(usize::MAX).places(), 131_071);
    for composite in [0, 1, 4, 9, 65_537 * 3, 131_072] {
        assert_eq!(TableSize::new(composite), None, "{composite}");
    }
    for prime in [2, 3, 5, 65_537, 4_294_967_291] {
        assert_eq!(TableSize::new(prime).map(TableSize::places), Some(prime));
    }
}

#[test]
fn small_tables() {
    assert!(table(&[], size(7)).is_empty());
    assert_eq!(table(&[42], size(2)), [0, 0]);
    // Fewer places than backends: each place has one backend, no backend two.
    let mut few = table(&(0..20).collect::<Vec<_>>(), size(7));
    few.sort_unstable();
    few.dedup();
    assert_eq!(few.len(), 7);
}

/// Two nodes that disagree break every flow that moves between them: the table of a set is fixed.
/// The positions are those an independent program (the same steps written in Python) gives.
#[test]
fn the_table_of_a_set_is_the_same_for_ever() {
    let set = [backend("10.1.0.1", 8080), backend("10.1.0.2", 8080), backend("fd00::1", 8080)];
    let seeds: Vec<u64> = set.iter().map(seed).collect();
    assert_eq!(seeds, SEEDS);
    assert_eq!(table(&seeds, size(13)), TABLE);
}

const SEEDS: [u64; 3] = [0xcd3a_c886_c284_b5ed, 0x35b3_9819_937a_2816, 0x2473_0271_7114_6632];
const TABLE: [u32; 13] = [0, 2, 0, 1, 2, 2, 1, 2, 2, 0, 1, 0, 1];

#[test]
fn only_address_port_and_protocol_make_the_seed() {
    let one = backend("10.1.0.1", 8080);
    assert_eq!(seed(&one), seed(&Backend { local: true, serving: false, ..one }));
    let others = [
        backend("10.1.0.2", 8080),
        backend("10.1.0.1", 8081),
        Backend { protocol: Protocol::Udp, ..one },
        backend("::a01:1", 8080),
    ];
    assert!(others.iter().all(|other| seed(other) != seed(&one)));
}

#[test]
fn a_rolling_update_of_100_backends_moves_about_one_place_in_100_each_time() {
    let mut seeds: Vec<u64> =
        (0..100).map(|i| seed(&backend(&format!("10.1.0.{i}"), 8080))).collect();
    let size = TableSize::for_backends(seeds.len());
    for i in 0..20 {
        let before = holders(&seeds, size);
        let gone = seeds[i];
        seeds[i] = seed(&backend(&format!("10.2.0.{i}"), 8080));
        let after = holders(&seeds, size);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **b != gone).count();
        // The places of the one that went must move; of the others' few may.
        assert!(moved * 100 < before.len() * 3, "{moved} of {}", before.len());
    }
}

#[test]
fn a_set_of_backends_gets_its_table() {
    let set: Vec<Backend> = (1..=30).map(|i| backend(&format!("10.1.0.{i}"), 80)).collect();
    let table = for_set(&set);
    assert_eq!(table.len(), 4093);
    for position in 0..30 {
        let share = table.iter().filter(|p| **p == position).count();
        assert!((136..=137).contains(&share), "{position}: {share}");
    }
    assert!(for_set(&[]).is_empty());
}

#[test]
fn sizes_leave_room_for_the_lightest() {
    for (weights, places) in [
        (&[1, 1, 1][..], 509),
        (&[7, 7, 7], 509),
        (&[1, 100], 2039),
        (&[100, 99, 98], 509),
        (&[0, 0], 251),
        (&[], 251),
    ] {
        assert_eq!(TableSize::for_weights(weights).places(), places, "{weights:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Places are shared by weight, none goes to weight 0, and twice the weights are the same table.
    #[test]
    fn shares_follow_weights(
        set in prop::collection::btree_map(any::<u64>(), 0_u8..=50, 1..30),
    ) {
        let set: Vec<(u64, u8)> = set.into_iter().collect();
        let weights: Vec<u8> = set.iter().map(|(_, weight)| *weight).collect();
        let size = TableSize::for_weights(&weights);
        let table = weighted(&set, size);
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        prop_assert_eq!(table.is_empty(), sum == 0);
        for (position, weight) in (0_u32..).zip(&weights) {
            let share = table.iter().filter(|p| **p == position).count() as f64;
            let due = f64::from(size.places()) * f64::from(*weight) / (sum as f64).max(1.0);
            // Of the rounds it is due in none is split: one place at either end, and its part of what the
            // others have not yet used of theirs, less than a place each.
            let bound = 2.0 + set.len() as f64 * f64::from(*weight) / (sum as f64).max(1.0);
            prop_assert!((share - due).abs() <= bound, "{position}: {share} of {due}");
            prop_assert!(*weight > 0 || share == 0.0);
        }
        let doubled: Vec<(u64, u8)> = set.iter().map(|(seed, weight)| (*seed, weight * 2)).collect();
        prop_assert_eq!(weighted(&doubled, size), table);
    }

    #[test]
    fn shares_differ_by_one_at_most(seeds in prop::collection::hash_set(any::<u64>(), 1..60)) {
        let seeds: Vec<u64> = seeds.into_iter().collect();
        let table = table(&seeds, TableSize::for_backends(seeds.len()));
        let mut shares = vec![0_usize; seeds.len()];
        for position in &table {
            shares[usize::try_from(*position).unwrap()] += 1;
        }
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{shares:?}");
    }

    #[test]
    fn the_order_of_backends_does_not_matter(
        seeds in prop::collection::hash_set(any::<u64>(), 1..40), turn in any::<prop::sample::Index>(),
    ) {
        let seeds: Vec<u64> = seeds.into_iter().collect();
        let mut turned = seeds.clone();
        turned.rotate_left(turn.index(seeds.len()));
        turned.reverse();
        let size = TableSize::for_backends(seeds.len());
        prop_assert_eq!(holders(&seeds, size), holders(&turned, size));
    }
}

/// The paper gives no bound for one set, and two permutations that run in step move many places: what
/// holds is the mean.
#[test]
fn one_backend_gone_moves_few_places_of_the_others() {
    let (mut moved, mut all) = (0, 0);
    for backends in 3..40_u8 {
        let seeds: Vec<u64> =
            (0..backends).map(|i| seed(&backend(&format!("10.{backends}.0.{i}"), 8080))).collect();
        let size = TableSize::for_backends(seeds.len());
        let before = holders(&seeds, size);
        for gone in &seeds {
            let left: Vec<u64> = seeds.iter().filter(|seed| *seed != gone).copied().collect();
            let after = holders(&left, size);
            moved += before.iter().zip(&after).filter(|(b, a)| b != a && *b != gone).count();
            all += before.len();
            assert!(!after.contains(gone));
        }
    }
    // Choice by `hash % n` would move most.
    assert!(moved * 50 < all, "{moved} of {all}");
}
