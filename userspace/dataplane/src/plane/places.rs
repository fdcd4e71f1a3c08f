//! Where programs belong: on interfaces to pods, on uplinks, on loopback where it is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_abi::{Service, service_flags};
use sluice_services::Protocol;

use super::Dataplane;
use crate::interfaces::Inventory;
use crate::links::Place;

/// What an uplink gets.
const UPLINK_PROGRAMS: [&str; 2] = ["from_network", "to_network"];

pub(super) const LOOPBACK: &str = "lo";
/// What loopback gets, where it gets anything.
const TO_SELF: &str = "to_network";

impl Dataplane {
    /// Whether there are services at the node's own addresses that its own processes reach by packets only:
    /// what is not translated at the socket. Only then loopback gets a program, which all else there pays
    /// for.
    pub(super) fn serves(&self, mut own: impl Iterator<Item = IpAddr> + Clone) -> bool {
        let by_packet = |(protocol, service): (Protocol, Service)| {
            // As `sluice_core::socket::to_service` decides.
            let always = service_flags::NODE_PORT | service_flags::STACK;
            self.sockets.is_empty()
                || service.flags & service_flags::RANGES != 0
                || match protocol {
                    Protocol::Tcp => false,
                    Protocol::Udp => service.flags & always == 0 || service.cluster.len == 0,
                    Protocol::Sctp => true,
                }
        };
        self.layout.as_ref().is_some_and(|layout| {
            own.any(|address| !address.is_loopback() && layout.served_at(address).any(by_packet))
        })
    }

    /// Where programs are wanted, with the interfaces' names.
    pub(super) fn places(&self, inventory: &Inventory) -> Vec<(Place, String)> {
        let mut places = Vec::new();
        let mut want = |index, name: &str, program| {
            places.push((Place { ifindex: index, program }, name.to_owned()));
        };
        for veth in inventory.to_pods() {
            want(veth.index, &veth.name, "from_pod");
        }
        if let Some(bridge) = inventory.by_name(&self.options.bridge) {
            want(bridge.index, &bridge.name, "from_pod");
            want(bridge.index, &bridge.name, "to_pods");
        }
        if let Some(loopback) = inventory.by_name(LOOPBACK) {
            // Once there it stays for this run: connections outlive their service.
            let has = self.links.has(&Place { ifindex: loopback.index, program: TO_SELF });
            if has || self.serves(inventory.addresses()) {
                want(loopback.index, &loopback.name, TO_SELF);
            }
        }
        for interface in &inventory.interfaces {
            let uplink = if self.options.uplinks.is_empty() {
                let own = |address| interface.addresses.contains(address);
                self.options.node_addresses.iter().any(own)
            } else {
                let named = |pattern: &String| match pattern.strip_suffix('*') {
                    Some(start) => interface.name.starts_with(start),
                    None => interface.name == *pattern,
                };
                self.options.uplinks.iter().any(named)
            };
            if uplink && interface.name != self.options.bridge && interface.controller.is_none() {
                for program in UPLINK_PROGRAMS {
                    want(interface.index, &interface.name, program);
                }
            }
        }
        places
    }

    /// Where an uplink's or a pod's program is not wanted, by places. `None` while the uplinks are not known for
    /// certain: an interface that is there keeps its program then, since it harms nothing and connections
    /// may need it. So it is while no address of the node is known, or one is on no interface (a lease that
    /// is renewed takes it away for a moment).
    pub(super) fn strays(
        &self,
        inventory: &Inventory,
        places: &[(Place, String)],
    ) -> Option<BTreeMap<Place, String>> {
        let bridge = inventory.by_name(&self.options.bridge)?.index;
        let is_here =
            |address| inventory.interfaces.iter().any(|one| one.addresses.contains(address));
        let mut addresses = self.options.node_addresses.iter();
        if self.options.uplinks.is_empty() && (addresses.len() == 0 || !addresses.all(is_here)) {
            return None;
        }
        let others = inventory
            .interfaces
            .iter()
            .filter(|one| one.index != bridge && one.controller != Some(bridge));
        let [in_, out] = UPLINK_PROGRAMS;
        let strays = others.flat_map(|one| {
            [in_, out, "from_pod"]
                .map(|program| (Place { ifindex: one.index, program }, one.name.clone()))
        });
        Some(strays.filter(|stray| !places.contains(stray)).collect())
    }
}
