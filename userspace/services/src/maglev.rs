//! Maglev tables: which backend a hash belongs to, the same on every node.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4. Each backend has a permutation of the table's places; in turns each takes the next
//! free place of its own. So all get the same share, and when one comes or goes few places of the
//! others change. Called by the data plane, once per set of backends, whoever uses the set.

use std::net::IpAddr;

use crate::state::Backend;

/// Places per backend to aim at: the paper's bound for shares that differ by less than 1 %.
const PLACES_PER_BACKEND: usize = 100;

/// Places to aim at for the lightest of backends with weights: its share is right to 5 %.
const PLACES_OF_THE_LIGHTEST: usize = 20;

/// Table sizes: the greatest primes below powers of two, 2^8 to 2^17. Few sizes, so that a set that
/// grows by a backend rarely changes its table's size, which moves most places.
const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// A place nobody has taken yet.
const FREE: u32 = u32::MAX;

/// Number of places in a table: a prime, so that every step size visits all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(u32);

impl TableSize {
    /// The size for a set: at least 100 places a backend up to 131,071 places, which are 13 each
    /// for 10,000 backends.
    #[must_use]
    pub fn for_backends(backends: usize) -> Self {
        Self::at_least(backends.saturating_mul(PLACES_PER_BACKEND))
    }

    fn at_least(wanted: usize) -> Self {
        let fits = |size: &&u32| usize::try_from(**size).is_ok_and(|size| size >= wanted);
        let [.., largest] = SIZES;
        Self(SIZES.iter().find(fits).copied().unwrap_or(largest))
    }

    /// The size for a set with weights: as for one without, and room for the lightest.
    #[must_use]
    pub fn for_weights(weights: &[u8]) -> Self {
        let weights =
            weights.iter().filter(|weight| **weight > 0).map(|weight| usize::from(*weight));
        let all = weights.clone().count();
        let sum: usize = weights.clone().sum();
        let lightest = (sum * PLACES_OF_THE_LIGHTEST).div_ceil(weights.min().unwrap_or(1));
        Self::at_least(lightest.max(all * PLACES_PER_BACKEND))
    }

    /// A size of one's own; `None` unless it is a prime.
    #[must_use]
    pub fn new(places: u32) -> Option<Self> {
        let divisors =
            (2..).take_while(|d: &u32| d.checked_mul(*d).is_some_and(|square| square <= places));
        (places >= 2 && divisors.into_iter().all(|d| !places.is_multiple_of(d)))
            .then_some(Self(places))
    }

    /// Number of places.
    #[must_use]
    pub fn places(self) -> u32 {
        self.0
    }
}

/// What stands for a backend in the table: a hash of its address, port and protocol and of nothing
/// that differs from node to node.
#[must_use]
pub fn seed(backend: &Backend) -> u64 {
    let address = match backend.address {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            // Truncation is meant: the two halves.
            mix(mix((bits >> 64) as u64) ^ (bits as u64))
        }
    };
    mix(address ^ (u64::from(backend.port) << 8 | backend.protocol as u64))
}

/// The table of a set of backends by their weights, in the size fit for it: places hold positions
/// in `set`.
#[must_use]
pub fn for_set(set: &[Backend]) -> Vec<u32> {
    let weights: Vec<u8> = set.iter().map(|backend| backend.weight).collect();
    let seeds: Vec<(u64, u8)> = set.iter().map(|b| (seed(b), b.weight)).collect();
    weighted(&seeds, TableSize::for_weights(&weights))
}

/// A table of `size` places that hold positions in `seeds`; empty without backends.
///
/// The same seeds in another order give the same table, but for the positions. With fewer places
/// than backends some get none. Takes time in the order of `size * log(size)`, and `size` units of
/// four bytes.
#[must_use]
pub fn table(seeds: &[u64], size: TableSize) -> Vec<u32> {
    let seeds: Vec<(u64, u8)> = seeds.iter().map(|seed| (*seed, 1)).collect();
    weighted(&seeds, size)
}

/// As [`table`], with a weight for each seed: the heaviest takes a place in every round, the others
/// in as many as their share of its weight. Those of weight 0 get none; equal weights give the table
/// without weights.
#[must_use]
pub fn weighted(seeds: &[(u64, u8)], size: TableSize) -> Vec<u32> {
    let places = u64::from(size.0);
    let heaviest = seeds.iter().map(|(_, weight)| u16::from(*weight)).max().unwrap_or(0);
    let mut turns: Vec<Turn> = (0_u32..)
        .zip(seeds)
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(position, &(seed, weight))| Turn {
            seed,
            position,
            place: mix(seed ^ 0x6f66_6673_6574) % places,
            step: mix(seed ^ 0x736b_6970) % (places - 1) + 1,
            weight: weight.into(),
            credit: 0,
        })
        .collect();
    if turns.is_empty() {
        return Vec::new();
    }
    turns.sort_unstable_by_key(|turn| (turn.seed, turn.position));
    let mut table = vec![FREE; usize::try_from(places).unwrap_or_default()];
    let mut free = table.len();
    while free > 0 {
        for turn in &mut turns {
            if free > 0 && turn.is_due(heaviest) {
                turn.take_place(&mut table, places);
                free -= 1;
            }
        }
    }
    table
}

/// A backend's way through the places.
struct Turn {
    seed: u64,
    position: u32,
    place: u64,
    step: u64,
    weight: u16,
    /// What of its weight it has not yet used.
    credit: u16,
}

impl Turn {
    /// Whether it takes a place in this round.
    fn is_due(&mut self, heaviest: u16) -> bool {
        self.credit += self.weight;
        let due = self.credit >= heaviest;
        if due {
            self.credit -= heaviest;
        }
        due
    }

    /// Takes the next free place; there must be one.
    fn take_place(&mut self, table: &mut [u32], places: u64) {
        for _ in 0..places {
            let place = usize::try_from(self.place).ok().and_then(|place| table.get_mut(place));
            self.place = (self.place + self.step) % places;
            if let Some(place) = place
                && *place == FREE
            {
                *place = self.position;
                return;
            }
        }
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014): every input bit changes about half of the output bits.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
