//! Remembers which objects of one type exist, so that a list becomes changes: what is missing in
//! it is gone, what could not be decoded stays as it was (K5, K11).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::object::{Item, Key};

/// Changes to one type of objects, in the order in which they are to be applied.
#[derive(Debug, PartialEq)]
pub struct Changes<T> {
    /// These are gone.
    pub gone: Vec<Key>,
    /// These are so now.
    pub objects: Vec<T>,
}

/// Names and identities of the objects handed on so far.
#[derive(Debug, Default)]
pub struct Known {
    uids: HashMap<Key, String>,
}

/// Objects collected while a list is under way; the last word on each counts.
#[derive(Debug)]
pub struct Collected<T> {
    items: BTreeMap<Key, Item<T>>,
}

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new() }
    }
}

impl<T> Collected<T> {
    /// Takes in one object.
    pub fn upsert(&mut self, item: Item<T>) {
        self.items.insert(item.key.clone(), item);
    }

    /// Forgets one object that was deleted meanwhile.
    pub fn delete(&mut self, key: &Key) {
        self.items.remove(key);
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl Known {
    /// Number of objects that exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// Whether no object exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// A complete list took the place of everything known.
    pub fn replace<T>(&mut self, collected: Collected<T>) -> Changes<T> {
        let listed: HashSet<&Key> = collected.items.keys().collect();
        let gone: Vec<Key> =
            self.uids.keys().filter(|key| !listed.contains(key)).cloned().collect();
        let mut changes = Changes { gone, objects: Vec::with_capacity(collected.len()) };
        for key in &changes.gone {
            self.uids.remove(key);
        }
        for item in collected.items.into_values() {
            self.apply(item, &mut changes);
        }
        changes
    }

    /// One object was added or modified; whether it was known does not matter (K11).
    pub fn upsert<T>(&mut self, item: Item<T>) -> Changes<T> {
        let mut changes = Changes { gone: Vec::new(), objects: Vec::new() };
        self.apply(item, &mut changes);
        changes
    }

    /// One object was deleted; an unknown one is no change (K11).
    pub fn delete<T>(&mut self, key: &Key) -> Changes<T> {
        let gone = self.uids.remove(key).map(|_| key.clone()).into_iter().collect();
        Changes { gone, objects: Vec::new() }
    }

    fn apply<T>(&mut self, item: Item<T>, changes: &mut Changes<T>) {
        let before = self.uids.get(&item.key);
        // Another object under a known name: the old one was deleted unseen.
        if before.is_some_and(|uid| *uid != item.uid) {
            self.uids.remove(&item.key);
            changes.gone.push(item.key.clone());
        }
        // What cannot be decoded stays as it was; if it was not, there is nothing to hand on.
        if let Ok(object) = item.object {
            self.uids.insert(item.key, item.uid);
            changes.objects.push(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "d".to_owned(), name: name.to_owned() }
    }

    fn item(name: &str, uid: &str, object: Result<u32, String>) -> Item<u32> {
        Item { key: key(name), uid: uid.to_owned(), resource_version: String::new(), object }
    }

    fn list(items: Vec<Item<u32>>) -> Collected<u32> {
        let mut collected = Collected::default();
        items.into_iter().for_each(|item| collected.upsert(item));
        collected
    }

    #[test]
    fn k5_what_a_new_list_lacks_is_gone() {
        let mut known = Known::default();
        known.replace(list(vec![item("a", "1", Ok(1)), item("b", "2", Ok(2))]));
        let changes = known.replace(list(vec![item("b", "2", Ok(3)), item("c", "3", Ok(4))]));
        assert_eq!(changes, Changes { gone: vec![key("a")], objects: vec![3, 4] });
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn k11_upserts_deletes_and_another_object_under_the_same_name() {
        let mut known = Known::default();
        assert_eq!(known.upsert(item("a", "1", Ok(1))).objects, [1]);
        assert_eq!(known.upsert(item("a", "1", Ok(2))), Changes { gone: vec![], objects: vec![2] });
        let reborn = known.upsert(item("a", "9", Ok(3)));
        assert_eq!(reborn, Changes { gone: vec![key("a")], objects: vec![3] });
        assert_eq!(known.delete::<u32>(&key("a")).gone, [key("a")]);
        assert_eq!(known.delete::<u32>(&key("a")).gone, []);
    }

    #[test]
    fn k11_an_undecodable_object_keeps_its_last_good_state() {
        let mut known = Known::default();
        known.upsert(item("a", "1", Ok(1)));
        let unreadable = || item("a", "1", Err("bad".to_owned()));
        assert_eq!(known.upsert(unreadable()), Changes { gone: vec![], objects: vec![] });
        let relisted = known.replace(list(vec![unreadable(), item("b", "2", Ok(2))]));
        assert_eq!(relisted, Changes { gone: vec![], objects: vec![2] });
    }

    #[test]
    fn k15_deleted_while_collecting() {
        let mut collected = list(vec![item("a", "1", Ok(1)), item("a", "1", Ok(2))]);
        assert_eq!(collected.len(), 1);
        collected.delete(&key("a"));
        assert!(collected.is_empty());
    }
}
