//! What the logic asks of the tables.

use sluice_abi::{
    Affinity, AffinityKey, Backend, Config, Connected, Flow, FlowKey, FragmentKey, Held, HeldKey,
    Peer, Ports, Range, Reason, Service, ServiceKey, SocketKey,
};

use crate::Family;

/// How an insertion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The entry is there.
    Done,
    /// Another entry stands under the key.
    Exists,
    /// The table took none.
    Failed,
}

/// The flow table of one family. Changes through `get` are seen by other CPUs as they happen;
/// they race, and lose at most one refresh.
pub trait FlowTable<F: Family> {
    /// What leads to a live entry without another look-up.
    type Entry: Copy;
    /// Looks for the live entry under a key.
    fn find(&mut self, key: &FlowKey<F::Addr>) -> Option<Self::Entry>;
    /// A live entry that was found before; `None` if it is known to be gone.
    fn at(&mut self, entry: Self::Entry) -> Option<&mut Flow<F::Addr>>;
    /// The live entry under a key.
    #[inline(always)]
    fn get(&mut self, key: &FlowKey<F::Addr>) -> Option<&mut Flow<F::Addr>> {
        let entry = self.find(key)?;
        self.at(entry)
    }
    /// Inserts unless the key is taken.
    fn insert(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Inserted;
    /// Inserts or replaces; false if the table took none.
    fn replace(&mut self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> bool;
    /// Removes an entry, if there is one.
    fn remove(&mut self, key: &FlowKey<F::Addr>);
}

/// Frontends of one family, and what is known of their clients.
pub trait Lookup<F: Family> {
    /// The frontend under a key.
    fn service(&self, key: &ServiceKey<F::Addr>) -> Option<&Service>;
    /// Where a client was sent last.
    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<Affinity>;
    /// Notes where a client is sent; one that can't be noted is drawn for anew.
    fn bind(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity);
    /// What is known of the TCP socket with this cookie.
    fn connected(&self, cookie: [u32; 2]) -> Option<Connected<F::Addr>>;
    /// Notes a TCP socket's peer.
    fn remember_connected(&self, connected: &Connected<F::Addr>);
    /// What a UDP socket's peer was translated from or to.
    fn peer(&self, key: &SocketKey<F::Addr>) -> Option<Peer<F::Addr>>;
    /// Notes a UDP socket's peer; false if the table took none.
    fn remember_peer(&self, key: &SocketKey<F::Addr>, peer: &Peer<F::Addr>) -> bool;
    /// The ports of a datagram in fragments.
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<Ports>;
    /// Notes the ports of a datagram in fragments; one that can't be noted passes by.
    fn remember_fragment(&self, key: &FragmentKey<F::Addr>, ports: &Ports);
    /// Reads a held fragment.
    fn held<R>(&self, key: &HeldKey<F::Addr>, read: impl FnOnce(&Held) -> R) -> Option<R>;
    /// Holds a fragment unless the key is taken; false if it is, or the table took none.
    fn hold(&self, key: &HeldKey<F::Addr>, fragment: &Held) -> bool;
    /// Forgets a held fragment.
    fn release(&self, key: &HeldKey<F::Addr>);
    /// Whether a service's source ranges hold an address.
    fn allows(&self, client: &Range<F::Addr>) -> bool;
}

/// Tables of both families, the clock, chance and the counters.
pub trait NodeTables {
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// The backend of an id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Connections of a backend that are [`sluice_abi::flags::COUNTED`]: about so many, a hint.
    fn connections(&self, backend: u32) -> u64;
    /// Counts one more connection of a backend, or one less.
    fn count_connection(&self, backend: u32, opened: bool);
    /// The node's configuration.
    fn config(&self) -> Option<&Config>;
    /// Low 32 bits of jiffies.
    fn now(&self) -> u32;
    /// Jiffies a second.
    fn hz(&self) -> u32;
    /// 32 random bits.
    fn random(&self) -> u32;
    /// Whether one more packet may be refused in this second.
    fn may_refuse(&self, now: u32) -> bool;
    /// Room for a packet, of any content; this processor's own.
    fn buffer<R>(&self, with: impl FnOnce(&mut Held) -> R) -> Option<R>;
    /// Counts a way out.
    fn count(&self, reason: Reason);
}

/// Everything a packet of family `F` needs, as two parts that can be borrowed at once.
pub trait Tables<F: Family> {
    /// The flow table.
    type Flows: FlowTable<F>;
    /// The rest, read only.
    type Node: NodeTables + Lookup<F>;
    /// Both parts.
    fn split(&mut self) -> (&mut Self::Flows, &Self::Node);
}
