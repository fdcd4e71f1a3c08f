//! The kernel's maps: the one place with `unsafe`, for shared memory and for keys and values as bytes.
#![allow(unsafe_code, reason = "memory shared with the kernel; each use says why it is sound")]

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use sluice_abi::{
    Addr4, Addr6, Backend, Config, Deliver, Flow, FlowKey, MAX_BACKENDS, MAX_SLOTS,
    MapData as Layout, Peer, Range, Reason, Service, ServiceKey, SocketKey,
};

use crate::error::Error;
use crate::wire::Addr;

/// A map key or value as bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `Layout` is implemented for plain integers without padding only (asserted there).
unsafe impl<T: Layout> aya::Pod for Plain<T> {}

/// A hash map of the kernel.
pub(crate) type Hash<K, V> = HashMap<MapData, Plain<K>, Plain<V>>;

/// Source ranges of one family.
pub(crate) type Trie<A> = LpmTrie<MapData, Plain<Range<A>>, u32>;

/// A flow table.
pub(crate) struct Flows<A: Copy + 'static> {
    map: Hash<FlowKey<A>, Flow<A>>,
    fd: OwnedFd,
}

/// All maps of the data plane.
pub(crate) struct Maps {
    pub(crate) services4: Hash<ServiceKey<Addr4>, Service>,
    pub(crate) services6: Hash<ServiceKey<Addr6>, Service>,
    pub(crate) flows4: Flows<Addr4>,
    pub(crate) flows6: Flows<Addr6>,
    pub(crate) sockets4: Hash<SocketKey<Addr4>, Peer<Addr4>>,
    pub(crate) sockets6: Hash<SocketKey<Addr6>, Peer<Addr6>>,
    pub(crate) ranges4: Trie<Addr4>,
    pub(crate) ranges6: Trie<Addr6>,
    config: Array<MapData, Plain<Config>>,
    counters: PerCpuArray<MapData, u64>,
    slots: Mapped<u32>,
    backends: Mapped<Backend>,
    connections: Mapped<u64>,
}

fn find(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| Error::map(name, "find", "not in the object"))
}

pub(crate) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(find(ebpf, name)?).map_err(|error| Error::map(name, "open", error))
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            services4: take(ebpf, "SERVICES4")?,
            services6: take(ebpf, "SERVICES6")?,
            flows4: Flows::take(ebpf, "FLOWS4")?,
            flows6: Flows::take(ebpf, "FLOWS6")?,
            sockets4: take(ebpf, "SOCKETS4")?,
            sockets6: take(ebpf, "SOCKETS6")?,
            ranges4: take(ebpf, "RANGES4")?,
            ranges6: take(ebpf, "RANGES6")?,
            config: take(ebpf, "CONFIG")?,
            counters: take(ebpf, "COUNTERS")?,
            slots: Mapped::take(ebpf, "SLOTS", MAX_SLOTS)?,
            backends: Mapped::take(ebpf, "BACKENDS", MAX_BACKENDS)?,
            connections: Mapped::take(ebpf, "CONNECTIONS", MAX_BACKENDS)?,
        })
    }

    /// Writes what the programs know of the node.
    pub(crate) fn set_config(&mut self, config: Config) -> Result<(), Error> {
        self.config.set(0, Plain(config), 0).map_err(|error| Error::map("CONFIG", "write", error))
    }

    /// What the programs know of the node, also from an earlier run.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        let config = self.config.get(&0, 0).map_err(|error| Error::map("CONFIG", "read", error))?;
        Ok(config.0)
    }

    /// Packets per reason, summed over the CPUs.
    pub(crate) fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let sum = |reason: &Reason| {
            let values = self
                .counters
                .get(&(*reason as u32), 0)
                .map_err(|error| Error::map("COUNTERS", "read", error))?;
            Ok((reason.name(), values.iter().sum()))
        };
        Reason::ALL.iter().map(sum).collect()
    }

    /// The backend id in a slot.
    pub(crate) fn slot(&self, index: u32) -> Option<u32> {
        self.slots.at(index).map(|at| {
            // SAFETY: `at` is an aligned element of the mapping.
            unsafe { at.read_volatile() }
        })
    }

    /// Writes backend ids into consecutive slots; false beyond the end.
    pub(crate) fn write_slots(&mut self, offset: u32, ids: &[u32]) -> bool {
        for (index, id) in (offset..).zip(ids) {
            let Some(at) = self.slots.at(index) else { return false };
            // SAFETY: as in `slot`; programs read whole words.
            unsafe { at.write_volatile(*id) }
        }
        // The system call that makes a table reachable comes after.
        fence(Ordering::Release);
        true
    }

    /// Connections of a backend, as programs count them; more than 2^63 are less than none.
    pub(crate) fn connections(&self, id: u32) -> Option<u64> {
        self.connections.at(id).map(|at| {
            // SAFETY: as in `slot`.
            unsafe { at.read_volatile() }
        })
    }

    /// Corrects that number.
    pub(crate) fn set_connections(&mut self, id: u32, number: u64) {
        if let Some(at) = self.connections.at(id) {
            // SAFETY: as in `write_slots`.
            unsafe { at.write_volatile(number) }
        }
    }

    /// The backend that a socket has got as `peer`, in the place of a service's address.
    pub(crate) fn backend_of(&self, cookie: u64, peer: SocketAddr) -> Option<u32> {
        let cookie = [cookie as u32, (cookie >> 32) as u32];
        let port_be = peer.port().to_be().into();
        match peer.ip().into() {
            Addr::V4(addr) => {
                let known = self.sockets4.get(&Plain(SocketKey { cookie, addr, port_be }), 0);
                known.ok().map(|peer| peer.0.backend)
            }
            Addr::V6(addr) => {
                let known = self.sockets6.get(&Plain(SocketKey { cookie, addr, port_be }), 0);
                known.ok().map(|peer| peer.0.backend)
            }
        }
    }

    /// The backend of an id.
    pub(crate) fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.at(id).map(|at| {
            // SAFETY: as in `slot`.
            unsafe { at.read_volatile() }
        })
    }

    /// Writes a backend so that a program that reads meanwhile sees an unused backend, or one to be
    /// reached through the stack, but never half of a new way; false beyond the end.
    pub(crate) fn write_backend(&mut self, id: u32, backend: Backend) -> bool {
        let Some(at) = self.backends.at(id) else { return false };
        // SAFETY: fields of an aligned element of the mapping.
        unsafe {
            let old = at.read_volatile();
            let same = old.addr == backend.addr
                && old.port_be == backend.port_be
                && old.generation == backend.generation;
            if !same {
                (&raw mut (*at).state).write_volatile(0);
            }
            (&raw mut (*at).deliver).write_volatile(Deliver::Stack as u8);
            fence(Ordering::Release);
            let staged = Backend { state: if same { old.state } else { 0 }, deliver: 0, ..backend };
            at.write_volatile(staged);
            fence(Ordering::Release);
            (&raw mut (*at).deliver).write_volatile(backend.deliver);
            fence(Ordering::Release);
            (&raw mut (*at).state).write_volatile(backend.state);
        }
        true
    }
}

/// Entries, and the cursor of the rest.
type Batch<K, V> = io::Result<(Vec<(K, V)>, Option<u32>)>;

impl<A: Copy + 'static> Flows<A> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = find(ebpf, name)?;
        let Map::LruHashMap(data) = &map else {
            return Err(Error::map(name, "open", "not an LRU hash map"));
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd: fd.map_err(|error| Error::map(name, "open", error))?,
            map: HashMap::try_from(map).map_err(|error| Error::map(name, "open", error))?,
        })
    }

    /// The flow under a key.
    pub(crate) fn get(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.map.get(&Plain(*key), 0).ok().map(|flow| flow.0)
    }

    /// Removes a flow; as well if a program has removed it meanwhile.
    pub(crate) fn remove(&mut self, key: &FlowKey<A>) {
        let _ = self.map.remove(&Plain(*key));
    }

    /// Flows from a cursor on, at most `count`, and the cursor of the rest (`None`: the end).
    pub(crate) fn batch(&self, cursor: Option<u32>, count: u32) -> Batch<FlowKey<A>, Flow<A>> {
        batch(self.fd.as_fd(), cursor, count)
    }
}

/// Entries of a hash map from a cursor on, at most `count`, and the cursor of the rest.
///
/// `BPF_MAP_LOOKUP_BATCH` (5.6): the one way to walk a map in steps that survive deletions. aya
/// has none. A bucket is never split, so fewer than `count` may come before the end.
fn batch<K: Layout, V: Layout>(fd: BorrowedFd<'_>, cursor: Option<u32>, count: u32) -> Batch<K, V> {
    /// The member `batch` of `union bpf_attr` (linux/bpf.h).
    #[repr(C)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: i32,
        elem_flags: u64,
        flags: u64,
    }
    const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
    let mut keys: Vec<K> = Vec::with_capacity(count as usize);
    let mut values: Vec<V> = Vec::with_capacity(count as usize);
    let (from, mut next) = (cursor.unwrap_or(0), 0_u32);
    let mut attr = Attr {
        in_batch: cursor.map_or(0, |_| (&raw const from) as u64),
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: fd.as_raw_fd(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes at most `count` elements to each buffer, and reads and writes one
    // cursor word each; all live until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<Attr>())
    };
    let rest = if result == 0 {
        Some(next)
    } else {
        let error = io::Error::last_os_error();
        // ENOENT is the end of the map, with the last entries.
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        None
    };
    let filled = (attr.count.min(count)) as usize;
    // SAFETY: the kernel has filled that many, and every bit pattern is a value (`Layout`).
    unsafe {
        keys.set_len(filled);
        values.set_len(filled);
    }
    Ok((keys.into_iter().zip(values).collect(), rest))
}

/// An array map (`BPF_F_MMAPABLE`) in this process's memory.
struct Mapped<T> {
    base: NonNull<T>,
    len: usize,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread; access goes through `&self` for
// whole words and `&mut self` for writes.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T> Mapped<T> {
    /// Elements are rounded up to 8 bytes (kernel/bpf/arraymap.c).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    fn take(ebpf: &mut Ebpf, name: &'static str, len: usize) -> Result<Self, Error> {
        let Map::Array(map) = find(ebpf, name)? else {
            return Err(Error::map(name, "open", "not an array"));
        };
        let Some(bytes) = NonZeroUsize::new(len * Self::STRIDE) else {
            return Err(Error::map(name, "map into memory", "no elements"));
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address that the kernel chooses.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map.fd(), 0) }
            .map_err(|error| Error::map(name, "map into memory", error))?;
        Ok(Self { base: base.cast(), len, bytes })
    }

    /// An element: page-aligned base plus a multiple of 8.
    fn at(&self, index: u32) -> Option<*mut T> {
        let index = usize::try_from(index).ok().filter(|index| *index < self.len)?;
        // SAFETY: within the mapping.
        Some(unsafe { self.base.cast::<u8>().add(index * Self::STRIDE) }.cast().as_ptr())
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no pointer into it outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}
