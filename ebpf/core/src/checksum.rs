//! One's-complement differences (RFC 1624) and the tuple hash.

use sluice_abi::FlowKey;

use crate::Family;

/// Adds the change from `old` to `new` to a running difference.
#[inline(always)]
pub(crate) fn change(diff: u64, old: u32, new: u32) -> u64 {
    diff + u64::from(!old) + u64::from(new)
}

/// Folds a running difference into the 32 bits that `bpf_l4_csum_replace` takes.
#[inline(always)]
pub(crate) fn fold32(diff: u64) -> u32 {
    let diff = (diff & 0xffff_ffff) + (diff >> 32);
    ((diff & 0xffff_ffff) + (diff >> 32)) as u32
}

/// Applies a difference to a checksum field: HC' = ~(~HC + diff) (RFC 1624 equation 3).
#[inline(always)]
pub(crate) fn apply(check_be: u16, diff: u32) -> u16 {
    let sum = u32::from(!check_be) + (diff & 0xffff) + (diff >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Hashes a client's tuple, the same on every node: what consistent tables are indexed by.
#[inline(always)]
#[must_use]
pub(crate) fn hash_tuple<F: Family>(key: &FlowKey<F::Addr>) -> u32 {
    let ports =
        (u64::from(key.sport_be) << 32) | (u64::from(key.dport_be) << 16) | u64::from(key.protocol);
    let mut h = mix(ports ^ 0x9e37_79b9_7f4a_7c15);
    h = mix(h ^ F::word(key.src));
    h = mix(h ^ F::word(key.dst));
    (h >> 32) as u32
}

/// Hashes a client's address.
#[inline(always)]
pub(crate) fn hash_source<F: Family>(client: F::Addr) -> u32 {
    (mix(F::word(client) ^ 0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
#[inline(always)]
pub(crate) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
