//! Which slots are taken: first fit over free extents.

use std::collections::BTreeMap;

/// The free extents of the slot array, by offset.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    free: BTreeMap<u32, u32>,
    used: u32,
}

impl Slots {
    /// All slots free.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { free: BTreeMap::from([(0, capacity)]), used: 0 }
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Takes `len` slots anywhere; `None` where no extent is long enough.
    pub(crate) fn allocate(&mut self, len: u32) -> Option<u32> {
        let (&offset, &extent) = self.free.iter().find(|(_, extent)| **extent >= len)?;
        self.free.remove(&offset);
        if extent > len {
            self.free.insert(offset + len, extent - len);
        }
        self.used += len;
        Some(offset)
    }

    /// Takes these slots (found in use by an earlier run); false if one is taken already.
    pub(crate) fn claim(&mut self, offset: u32, len: u32) -> bool {
        let Some((&start, &extent)) = self.free.range(..=offset).next_back() else { return false };
        let end = start + extent;
        let Some(claimed_end) = offset.checked_add(len).filter(|claimed| *claimed <= end) else {
            return false;
        };
        self.free.remove(&start);
        if offset > start {
            self.free.insert(start, offset - start);
        }
        if end > claimed_end {
            self.free.insert(claimed_end, end - claimed_end);
        }
        self.used += len;
        true
    }

    /// Gives slots back.
    pub(crate) fn free(&mut self, offset: u32, len: u32) {
        let (mut start, mut extent) = (offset, len);
        if let Some((&before, &size)) = self.free.range(..offset).next_back()
            && before + size == offset
        {
            self.free.remove(&before);
            (start, extent) = (before, size + len);
        }
        if let Some(after) = self.free.remove(&(offset + len)) {
            extent += after;
        }
        self.free.insert(start, extent);
        self.used -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Extents never overlap, and everything freed can be had again in one piece.
        #[test]
        fn allocations_are_disjoint_and_come_back(lens in prop::collection::vec(1u32..50, 1..60)) {
            let mut slots = Slots::new(1_000);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (turn, len) in lens.iter().enumerate() {
                if turn % 3 == 2 && !held.is_empty() {
                    let (offset, len) = held.swap_remove(turn % held.len());
                    slots.free(offset, len);
                }
                if let Some(offset) = slots.allocate(*len) {
                    for (other, size) in &held {
                        prop_assert!(offset + len <= *other || other + size <= offset);
                    }
                    held.push((offset, *len));
                }
            }
            prop_assert_eq!(slots.used(), held.iter().map(|(_, len)| len).sum::<u32>());
            let mut again = Slots::new(1_000);
            for (offset, len) in &held {
                prop_assert!(again.claim(*offset, *len));
                prop_assert!(!again.claim(*offset, 1));
            }
            prop_assert_eq!(again.used(), slots.used());
            for (offset, len) in held {
                slots.free(offset, len);
            }
            prop_assert_eq!(slots.allocate(1_000), Some(0));
        }
    }
}
