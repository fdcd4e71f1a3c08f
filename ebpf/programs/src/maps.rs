//! The maps, and the logic's view of them.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64};
use aya_ebpf::macros::btf_map;
use sluice_abi::{
    Addr4, Addr6, Affinity, AffinityKey, Backend, Config, Connected, DEFAULT_FLOWS, Flow, FlowKey,
    FragmentKey, Held, HeldKey, MAX_AFFINITIES, MAX_BACKENDS, MAX_FRAGMENTS, MAX_HELD, MAX_RANGES,
    MAX_REFUSALS, MAX_SERVICES, MAX_SLOTS, MAX_SOCKETS, Namespace, Peer, Ports, Range, Reason,
    Service, ServiceKey, SocketKey,
};
use sluice_core::{FlowTable, Inserted, Lookup, NodeTables, Tables, V4, V6};

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static SERVICES4: HashMap<ServiceKey<Addr4>, Service, MAX_SERVICES, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVICES6: HashMap<ServiceKey<Addr6>, Service, MAX_SERVICES, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SLOTS: Array<u32, MAX_SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, MAX_BACKENDS, MMAPABLE> = Array::new();
/// Connections by backend; user space counts them anew at each walk through the flows.
#[btf_map]
static CONNECTIONS: Array<u64, MAX_BACKENDS, MMAPABLE> = Array::new();
#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static FLOWS4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>, DEFAULT_FLOWS> = LruHashMap::new();
#[btf_map]
static FLOWS6: LruHashMap<FlowKey<Addr6>, Flow<Addr6>, DEFAULT_FLOWS> = LruHashMap::new();
#[btf_map]
static AFFINITIES4: LruHashMap<AffinityKey<Addr4>, Affinity, MAX_AFFINITIES> = LruHashMap::new();
#[btf_map]
static AFFINITIES6: LruHashMap<AffinityKey<Addr6>, Affinity, MAX_AFFINITIES> = LruHashMap::new();
#[btf_map]
static CONNECTED4: Array<Connected<Addr4>, MAX_SOCKETS> = Array::new();
#[btf_map]
static CONNECTED6: Array<Connected<Addr6>, MAX_SOCKETS> = Array::new();
#[btf_map]
static SOCKETS4: LruHashMap<SocketKey<Addr4>, Peer<Addr4>, MAX_SOCKETS> = LruHashMap::new();
#[btf_map]
static SOCKETS6: LruHashMap<SocketKey<Addr6>, Peer<Addr6>, MAX_SOCKETS> = LruHashMap::new();
/// The node's network namespace.
#[btf_map]
static NAMESPACE: Array<Namespace, 1> = Array::new();
#[btf_map]
static FRAGMENTS4: LruHashMap<FragmentKey<Addr4>, Ports, MAX_FRAGMENTS> = LruHashMap::new();
#[btf_map]
static FRAGMENTS6: LruHashMap<FragmentKey<Addr6>, Ports, MAX_FRAGMENTS> = LruHashMap::new();
#[btf_map]
static HELD4: LruHashMap<HeldKey<Addr4>, Held, MAX_HELD> = LruHashMap::new();
#[btf_map]
static HELD6: LruHashMap<HeldKey<Addr6>, Held, MAX_HELD> = LruHashMap::new();
/// Room for a packet, of this CPU.
#[btf_map]
static BUFFER: PerCpuArray<Held, 1> = PerCpuArray::new();
#[btf_map]
static RANGES4: LpmTrie<Range<Addr4>, u32, MAX_RANGES> = LpmTrie::new();
#[btf_map]
static RANGES6: LpmTrie<Range<Addr6>, u32, MAX_RANGES> = LpmTrie::new();
/// Refusals of this CPU: the second they are counted in, and how many.
#[btf_map]
static REFUSALS: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

/// Jiffies a second; user space sets it when it loads the object.
#[unsafe(no_mangle)]
static HZ: u32 = 250;

/// Low 32 bits of jiffies.
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as u32 }
}

/// The maps of the kernel, for either family.
pub(crate) struct Kernel {
    flows: Flows,
    node: Node,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { flows: Flows, node: Node }
    }
}

/// The flow tables.
pub(crate) struct Flows;
/// Everything else.
pub(crate) struct Node;

/// What is known of the node's network namespace.
#[inline(always)]
pub(crate) fn namespace() -> Option<*mut Namespace> {
    NAMESPACE.get_ptr_mut(0)
}

macro_rules! family {
    ($family:ty, $addr:ty, $flows:ident, $services:ident, $affinities:ident, $connected:ident, $sockets:ident, $fragments:ident, $held:ident, $ranges:ident) => {
        impl Tables<$family> for Kernel {
            type Flows = Flows;
            type Node = Node;
            #[inline(always)]
            fn split(&mut self) -> (&mut Flows, &Node) {
                (&mut self.flows, &self.node)
            }
        }

        impl FlowTable<$family> for Flows {
            type Entry = NonNull<Flow<$addr>>;

            #[inline(always)]
            fn find(&mut self, key: &FlowKey<$addr>) -> Option<Self::Entry> {
                $flows.get_ptr_mut(key).and_then(NonNull::new)
            }

            #[inline(always)]
            fn at(&mut self, mut entry: Self::Entry) -> Option<&mut Flow<$addr>> {
                // SAFETY: the map owns the value as long as the program runs. Other CPUs may write
                // to it: fields are integers, and a lost write is a lost refresh.
                Some(unsafe { entry.as_mut() })
            }

            #[inline(always)]
            fn insert(&mut self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> Inserted {
                const EEXIST: i32 = -17;
                match $flows.insert(key, flow, BPF_NOEXIST.into()) {
                    Ok(()) => Inserted::Done,
                    Err(EEXIST) => Inserted::Exists,
                    Err(_) => Inserted::Failed,
                }
            }

            #[inline(always)]
            fn replace(&mut self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> bool {
                $flows.insert(key, flow, BPF_ANY.into()).is_ok()
            }

            #[inline(always)]
            fn remove(&mut self, key: &FlowKey<$addr>) {
                let _ = $flows.remove(key);
            }
        }

        impl Lookup<$family> for Node {
            #[inline(always)]
            fn service(&self, key: &ServiceKey<$addr>) -> Option<&Service> {
                // SAFETY: values are replaced whole by user space, never written in place; the kernel
                // frees one after this program has ended (RCU).
                unsafe { $services.get(key) }
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<Affinity> {
                // SAFETY: replaced whole by this program on any CPU.
                unsafe { $affinities.get(key) }.copied()
            }

            #[inline(always)]
            fn bind(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                let _ = $affinities.insert(key, affinity, BPF_ANY.into());
            }

            #[inline(always)]
            fn connected(&self, cookie: [u32; 2]) -> Option<Connected<$addr>> {
                let found = $connected.get(Connected::<$addr>::index(cookie)).copied()?;
                (found.cookie == cookie).then_some(found)
            }

            #[inline(always)]
            fn remember_connected(&self, connected: &Connected<$addr>) {
                let index = Connected::<$addr>::index(connected.cookie);
                if let Some(place) = $connected.get_ptr_mut(index) {
                    // SAFETY: a value of the map, that lives as long as the program. Two sockets whose
                    // cookies are a multiple of the places apart would have to connect within a few
                    // nanoseconds to write it at once.
                    unsafe { *place = *connected }
                }
            }

            #[inline(always)]
            fn peer(&self, key: &SocketKey<$addr>) -> Option<Peer<$addr>> {
                // SAFETY: written whole by programs, and read whole.
                unsafe { $sockets.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_peer(&self, key: &SocketKey<$addr>, peer: &Peer<$addr>) -> bool {
                $sockets.insert(key, peer, BPF_ANY.into()).is_ok()
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<Ports> {
                // SAFETY: replaced whole by this program on any CPU.
                unsafe { $fragments.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_fragment(&self, key: &FragmentKey<$addr>, ports: &Ports) {
                let _ = $fragments.insert(key, ports, BPF_ANY.into());
            }

            #[inline(always)]
            fn held<R>(&self, key: &HeldKey<$addr>, read: impl FnOnce(&Held) -> R) -> Option<R> {
                // SAFETY: written whole, by one program that then leaves it alone; its memory is another
                // entry's only after this program has ended, or, evicted, in the worst case earlier: then
                // a fragment of another datagram is read, which its receiver's checksum tells.
                unsafe { $held.get(key) }.map(read)
            }

            #[inline(always)]
            fn hold(&self, key: &HeldKey<$addr>, fragment: &Held) -> bool {
                $held.insert(key, fragment, BPF_NOEXIST.into()).is_ok()
            }

            #[inline(always)]
            fn release(&self, key: &HeldKey<$addr>) {
                let _ = $held.remove(key);
            }

            #[inline(always)]
            fn allows(&self, client: &Range<$addr>) -> bool {
                const BITS: u32 = size_of::<Range<$addr>>() as u32 * 8;
                $ranges.get(&Key::new(BITS, *client)).is_some()
            }
        }
    };
}
family!(
    V4,
    Addr4,
    FLOWS4,
    SERVICES4,
    AFFINITIES4,
    CONNECTED4,
    SOCKETS4,
    FRAGMENTS4,
    HELD4,
    RANGES4
);
family!(
    V6,
    Addr6,
    FLOWS6,
    SERVICES6,
    AFFINITIES6,
    CONNECTED6,
    SOCKETS6,
    FRAGMENTS6,
    HELD6,
    RANGES6
);

impl NodeTables for Node {
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn connections(&self, backend: u32) -> u64 {
        // A count that fell below zero is none.
        CONNECTIONS.get(backend).map_or(0, |number| (*number as i64).max(0) as u64)
    }

    #[inline(always)]
    fn count_connection(&self, backend: u32, opened: bool) {
        if let Some(number) = CONNECTIONS.get_ptr_mut(backend) {
            // SAFETY: a word of the map, that lives as long as the program. Others change it likewise, and
            // one of two changes at once may be lost: rustc has no atomic addition for this machine, and
            // user space counts anew.
            unsafe {
                *number = if opened { (*number).wrapping_add(1) } else { (*number).wrapping_sub(1) }
            }
        }
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        jiffies()
    }

    #[inline(always)]
    fn hz(&self) -> u32 {
        // SAFETY: an initialised static; volatile because the loader writes it.
        unsafe { core::ptr::read_volatile(&raw const HZ) }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn may_refuse(&self, now: u32) -> bool {
        let Some(refusals) = REFUSALS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own value.
        let [since, number] = unsafe { &mut *refusals };
        if now.wrapping_sub(*since) >= self.hz() {
            (*since, *number) = (now, 0);
        }
        *number = number.wrapping_add(1);
        *number <= MAX_REFUSALS
    }

    #[inline(always)]
    fn buffer<R>(&self, with: impl FnOnce(&mut Held) -> R) -> Option<R> {
        // SAFETY: this CPU's own, and no program of ours interrupts another.
        BUFFER.get_ptr_mut(0).map(|buffer| with(unsafe { &mut *buffer }))
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *counter += 1 }
        }
    }
}
