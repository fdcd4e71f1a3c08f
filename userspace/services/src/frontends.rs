//! Who owns an address and port that several service ports want (R42).
//!
//! Called by the data plane when it plans; deterministic, so every node gives the same answer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::state::{AddressKind, Family, Frontend, Protocol, ServicePort, ServicePortKey, State};

/// A frontend that more than one service port wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What they want.
    pub frontend: Frontend,
    /// Who is served.
    pub winner: ServicePortKey,
    /// Who is not, the next in line first.
    pub losers: Vec<ServicePortKey>,
}

/// A service port and what it wants to be.
type Claim<'a> = (&'a ServicePortKey, &'a Arc<ServicePort>, AddressKind);

/// Lower comes first: a ClusterIP before the others, whatever it leads to (else whoever may write
/// externalIPs could take an address while its Service has no endpoint), then with endpoints before
/// without, then the older Service, then the name.
fn rank<'a>((key, port, kind): &Claim<'a>) -> (bool, bool, i64, &'a ServicePortKey) {
    (*kind != AddressKind::ClusterIp, !port.has_any_endpoint, port.created_s, key)
}

impl State {
    /// What clients can connect to by service address and port, and which service port serves it.
    ///
    /// Where several want the same: a ClusterIP beats other addresses, one with endpoints beats one
    /// without, an older Service a younger one, and at last the name decides (R42).
    #[must_use]
    pub fn frontends(
        &self,
    ) -> BTreeMap<Frontend, (&ServicePortKey, &Arc<ServicePort>, AddressKind)> {
        let mut owners = BTreeMap::new();
        for (frontend, claim) in self.claims() {
            keep_first(&mut owners, frontend, claim);
        }
        owners
    }

    /// Node ports by family, protocol and number (host order), and which service port serves each.
    /// The same order holds as for [`State::frontends`].
    #[must_use]
    pub fn node_ports(
        &self,
    ) -> BTreeMap<(Family, Protocol, u16), (&ServicePortKey, &Arc<ServicePort>)> {
        let mut owners = BTreeMap::new();
        for (key, port) in self.ports.iter().filter(|(_, port)| port.node_port != 0) {
            // No node port is a ClusterIP: the kind does not decide between them.
            let claim = (key, port, AddressKind::ExternalIp);
            keep_first(&mut owners, (key.family, key.protocol, port.node_port), claim);
        }
        owners.into_iter().map(|(at, (key, port, _))| (at, (key, port))).collect()
    }

    /// The frontends that more than one service port wants, in order; for warnings.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut wanted: BTreeMap<Frontend, Vec<Claim<'_>>> = BTreeMap::new();
        let owners = self.frontends();
        for (frontend, claim) in self.claims() {
            if owners.get(&frontend).is_some_and(|(winner, ..)| *winner != claim.0) {
                wanted.entry(frontend).or_default().push(claim);
            }
        }
        let mut conflicts = Vec::with_capacity(wanted.len());
        for (frontend, mut losers) in wanted {
            losers.sort_by(|a, b| rank(a).cmp(&rank(b)));
            if let Some((winner, ..)) = owners.get(&frontend) {
                let losers = losers.into_iter().map(|(key, ..)| key.clone()).collect();
                conflicts.push(Conflict { frontend, winner: (*winner).clone(), losers });
            }
        }
        conflicts
    }

    fn claims(&self) -> impl Iterator<Item = (Frontend, Claim<'_>)> {
        self.ports.iter().flat_map(|(key, port)| {
            port.addresses.iter().map(move |&(address, kind)| {
                (Frontend { address, port: port.port, protocol: key.protocol }, (key, port, kind))
            })
        })
    }
}

fn keep_first<'a, K: Ord>(owners: &mut BTreeMap<K, Claim<'a>>, at: K, claim: Claim<'a>) {
    match owners.entry(at) {
        Entry::Vacant(free) => {
            free.insert(claim);
        }
        Entry::Occupied(mut owner) => {
            if rank(&claim) < rank(owner.get()) {
                owner.insert(claim);
            }
        }
    }
}
