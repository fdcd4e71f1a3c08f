//! What is wanted: which frontends lead to which service port, who may connect to them, and how many there
//! is room for.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_services::{AddressKind, Family, Frontend, ServicePort, ServicePortKey, State};

use crate::layout::{Kind, Ways};
use crate::wire::Front;

/// What a key of the frontends' maps is to lead to.
pub(super) type Wanted<'a> =
    BTreeMap<Front, Option<(&'a ServicePortKey, &'a Arc<ServicePort>, Kind)>>;

/// Everything that clients can connect to. A service address takes precedence over a node port on the
/// same address, and no node port is open on a service address (R19) but the node's own.
pub(super) fn wanted<'a>(state: &'a State, ways: &Ways) -> Wanted<'a> {
    let mut wanted = Wanted::new();
    let mut service_addresses = HashSet::new();
    for (frontend, (key, port, kind)) in state.frontends() {
        service_addresses.insert(frontend.address);
        let kind = match kind {
            AddressKind::ClusterIp => Kind::Cluster,
            AddressKind::ExternalIp => Kind::External,
            AddressKind::LoadBalancer => Kind::LoadBalancer,
        };
        if kind == Kind::Cluster {
            wanted.insert(Front::Address(frontend.address), None);
        }
        wanted.insert(Front::Port(frontend), Some((key, port, kind)));
    }
    // The node's own address stays open, whoever else lays claim to it.
    let open =
        |address: &&IpAddr| ways.node.contains(address) || !service_addresses.contains(*address);
    let addresses: Vec<IpAddr> = ways.node_ports.iter().filter(open).copied().collect();
    for ((family, protocol, port_number), (key, port)) in state.node_ports() {
        for address in addresses.iter().filter(|address| Family::of(**address) == family) {
            let frontend = Frontend { address: *address, port: port_number, protocol };
            wanted.entry(Front::Port(frontend)).or_insert(Some((key, port, Kind::NodePort)));
        }
    }
    wanted
}

/// What is left of a map of each family.
pub(super) struct Room {
    v4: usize,
    v6: usize,
}

impl Room {
    /// All but a margin for what comes before what is gone has left.
    pub(super) fn of(capacity: usize) -> Self {
        let usable = capacity - capacity / 16;
        Self { v4: usable, v6: usable }
    }

    /// Takes `number` of the address's family; false if there are not so many.
    pub(super) fn take(&mut self, address: IpAddr, number: usize) -> bool {
        let left = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let rest = left.checked_sub(number);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }
}

/// Who may connect to the load-balancer addresses of a service port; empty is everybody (R17).
pub(super) fn source_ranges(port: &ServicePort, ways: &Ways) -> Vec<IpNet> {
    let mut ranges = port.source_ranges.clone();
    let own = ranges.iter().any(|range| {
        let of_family = |address: &&IpAddr| Family::of(**address) == Family::of(range.addr());
        ways.node.iter().find(of_family).is_some_and(|own| range.contains(own))
    });
    if own {
        // The node reaches the address from that address itself.
        let balancers =
            port.addresses.iter().filter(|(_, kind)| *kind == AddressKind::LoadBalancer);
        ranges.extend(balancers.map(|(address, _)| IpNet::from(*address)));
    }
    ranges
}
