//! What etcd is to the real server: objects, one counter of versions for all of them, and a log of
//! changes that remembers deletions. Outlives the server; tests write to it directly.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::watch;

use super::allocate::{Claims, Ranges};
use super::error::ApiError;
use super::json::set;
use super::resource::Resource;
use super::write::{self, WriteOptions};

/// Where an object lies within its type; the namespace is "" for cluster-scoped ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, "" for none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One change, as the log keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) rv: u64,
    pub(crate) table: &'static str,
    pub(crate) key: Key,
    /// State after the change; none for a deletion.
    pub(crate) after: Option<Arc<Value>>,
    /// State before the change; none for a creation. A deletion has here the last state, with the
    /// deletion's own version, and in `undo` the one that was stored.
    pub(crate) before: Option<Arc<Value>>,
    undo: Option<Arc<Value>>,
}

/// Everything under the lock.
#[derive(Debug)]
pub(crate) struct State {
    rv: u64,
    tables: HashMap<&'static str, BTreeMap<Key, Arc<Value>>>,
    log: VecDeque<Arc<Change>>,
    log_limit: usize,
    /// Watches from before this version get 410.
    oldest: u64,
    /// How far the watch cache of each type has come (K4): moved by events, progress, quorum lists.
    reached: HashMap<&'static str, u64>,
    pub(crate) claims: Claims,
    pub(crate) ranges: Ranges,
}

/// The objects at one moment, for playing an etcd restore (K32).
#[derive(Clone, Debug)]
pub struct Snapshot {
    rv: u64,
    tables: HashMap<&'static str, BTreeMap<Key, Arc<Value>>>,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(Ranges::default())
    }
}

impl Store {
    /// A store with the namespaces `default`, `kube-system`, `kube-public` and `kube-node-lease`
    /// and the ServiceCIDR `kubernetes`.
    ///
    /// The first version comes from the clock, so that a store made later never repeats one.
    #[must_use]
    pub fn new(ranges: Ranges) -> Self {
        const EPOCH_2025_S: u64 = 1_735_689_600;
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_2025_S);
        // Microseconds: nobody writes faster than that, so the next process starts above this one.
        let elapsed = SystemTime::now().duration_since(epoch).unwrap_or_default();
        let rv = u64::try_from(elapsed.as_micros()).unwrap_or_default() + 1;
        let state = State {
            rv,
            tables: HashMap::new(),
            log: VecDeque::new(),
            log_limit: 20_000,
            oldest: rv,
            reached: HashMap::new(),
            claims: Claims::default(),
            ranges,
        };
        let store = Self { state: Arc::new(Mutex::new(state)), version: watch::Sender::new(rv) };
        store.with(super::bootstrap::fill);
        store
    }

    /// Runs a transaction, then wakes the watches.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = run(&mut state);
        let rv = state.rv;
        drop(state);
        self.version.send_if_modified(|seen| std::mem::replace(seen, rv) != rv);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of new versions.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().rv
    }

    /// Creates or replaces an object, with what the server fills in, checks and allocates.
    /// Status is written too.
    ///
    /// # Errors
    /// What the server would answer to such an object.
    pub fn apply(&self, object: Value) -> Result<Value, ApiError> {
        self.with(|state| write::put_whole(state, object, &WriteOptions::direct()))
            .map(|stored| (*stored).clone())
    }

    /// Stores an object as it is: nothing filled in, nothing checked, but for uid and version. For
    /// objects that an older server let in (K23).
    ///
    /// # Errors
    /// 400 for a kind that is not known.
    pub fn apply_unchecked(&self, object: Value) -> Result<Value, ApiError> {
        self.with(|state| write::put_unchecked(state, object)).map(|stored| (*stored).clone())
    }

    /// Merges a JSON merge patch into an object; `subresource` is "" or "status".
    ///
    /// # Errors
    /// What the server would answer.
    pub fn merge(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let resource = known(plural)?;
        let options =
            WriteOptions { subresource: subresource.to_owned(), ..WriteOptions::direct() };
        let key = Key::new(namespace, name);
        let kind = super::patch::Kind::Merge;
        self.with(|state| write::patch(state, resource, &key, kind, patch, &options))
            .map(|written| (*written.object).clone())
    }

    /// Removes an object at once, whatever its finalizers and grace; true if there was one.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        Resource::by_plural(plural).is_some_and(|resource| {
            self.with(|state| state.remove(resource, &Key::new(namespace, name)).is_some())
        })
    }

    /// One object, without kind and apiVersion.
    #[must_use]
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = Resource::by_plural(plural)?;
        self.lock().get(resource, &Key::new(namespace, name)).map(|o| (*o).clone())
    }

    /// All objects of a type, ordered by namespace and name.
    #[must_use]
    pub fn list(&self, plural: &str) -> Vec<Arc<Value>> {
        Resource::by_plural(plural)
            .map_or_else(Vec::new, |r| self.lock().all(r).map(|(_, o)| Arc::clone(o)).collect())
    }

    /// How many changes the log keeps, 20,000 unless told; older ones are answered with 410.
    pub fn keep_changes(&self, count: usize) {
        self.with(|state| {
            state.log_limit = count;
            state.trim();
        });
    }

    /// Forgets the log: every watch and exact version from before gets 410 (K5, K31).
    pub fn forget_history(&self) {
        let mut state = self.lock();
        state.log.clear();
        state.oldest = state.rv;
    }

    /// The objects as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot { rv: state.rv, tables: state.tables.clone() }
    }

    /// An etcd restore that does not bump the revision: objects and version go back, and clients
    /// that are ahead hear nothing (K32). Stop the server before, start it after.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.with(|state| {
            state.rv = snapshot.rv;
            state.tables = snapshot.tables.clone();
            state.log.clear();
            state.oldest = snapshot.rv;
            state.reached.clear();
            state.claims = Claims::default();
            for service in state.tables.get("services").into_iter().flat_map(BTreeMap::iter) {
                state.claims.claim(service.0, service.1);
            }
        });
    }
}

fn known(plural: &str) -> Result<&'static Resource, ApiError> {
    Resource::by_plural(plural).ok_or_else(|| {
        ApiError::new(404, "NotFound", format!("the server has no resource {plural}"))
    })
}

impl State {
    pub(crate) fn rv(&self) -> u64 {
        self.rv
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The version the type's watch cache stands at.
    pub(crate) fn reached(&self, table: &'static str) -> u64 {
        self.reached.get(table).copied().unwrap_or(self.oldest)
    }

    /// Moves the type's watch cache to the present (a quorum list, or progress).
    pub(crate) fn catch_up(&mut self, table: &'static str) {
        self.reached.insert(table, self.rv);
    }

    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
        self.tables.get(resource.table)?.get(key).cloned()
    }

    /// All objects of a type in order.
    pub(crate) fn all(&self, resource: &Resource) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.tables.get(resource.table).into_iter().flatten()
    }

    /// The objects of a type as they were at a version; none if the log does not reach back.
    pub(crate) fn at(&self, resource: &Resource, rv: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if rv < self.oldest {
            return None;
        }
        let mut table = self.tables.get(resource.table).cloned().unwrap_or_default();
        for change in
            self.log.iter().rev().take_while(|c| c.rv > rv).filter(|c| c.table == resource.table)
        {
            match &change.undo {
                Some(before) => table.insert(change.key.clone(), Arc::clone(before)),
                None => table.remove(&change.key),
            };
        }
        Some(table)
    }

    /// The changes of a type after a version, in order; none if the log does not reach back.
    pub(crate) fn changes(&self, table: &'static str, after: u64) -> Option<Vec<Arc<Change>>> {
        if after < self.oldest {
            return None;
        }
        let start = self.log.partition_point(|c| c.rv <= after);
        Some(self.log.range(start..).filter(|c| c.table == table).cloned().collect())
    }

    /// The changes of every type after a version, in order.
    pub(crate) fn all_changes(&self, after: u64) -> Option<Vec<Arc<Change>>> {
        if after < self.oldest {
            return None;
        }
        let start = self.log.partition_point(|c| c.rv <= after);
        Some(self.log.range(start..).cloned().collect())
    }

    /// Stores an object under a new version. The caller has done all checks.
    pub(crate) fn put(&mut self, resource: &Resource, key: &Key, mut object: Value) -> Arc<Value> {
        self.rv += 1;
        set(&mut object, &["metadata", "resourceVersion"], self.rv.to_string());
        let object = Arc::new(object);
        let table = self.tables.entry(resource.table).or_default();
        let before = table.insert(key.clone(), Arc::clone(&object));
        if resource.table == "services" {
            if let Some(before) = &before {
                self.claims.release(before);
            }
            self.claims.claim(key, &object);
        }
        self.record(resource, key, Some(Arc::clone(&object)), before.clone(), before);
        object
    }

    /// Removes an object; gives its last state, which carries the version of the removal.
    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
        let stored = self.tables.get_mut(resource.table)?.remove(key)?;
        if resource.table == "services" {
            self.claims.release(&stored);
        }
        self.rv += 1;
        let mut last = (*stored).clone();
        set(&mut last, &["metadata", "resourceVersion"], self.rv.to_string());
        let last = Arc::new(last);
        self.record(resource, key, None, Some(Arc::clone(&last)), Some(stored));
        Some(last)
    }

    fn record(
        &mut self,
        resource: &Resource,
        key: &Key,
        after: Option<Arc<Value>>,
        before: Option<Arc<Value>>,
        undo: Option<Arc<Value>>,
    ) {
        let change =
            Change { rv: self.rv, table: resource.table, key: key.clone(), after, before, undo };
        self.log.push_back(Arc::new(change));
        self.reached.insert(resource.table, self.rv);
        self.trim();
    }

    fn trim(&mut self) {
        while self.log.len() > self.log_limit {
            if let Some(dropped) = self.log.pop_front() {
                self.oldest = dropped.rv;
            }
        }
    }
}
