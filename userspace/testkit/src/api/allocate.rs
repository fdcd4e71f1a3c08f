//! Service addresses and node ports: which ranges there are, which are taken, picking free ones.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::Rng;
use serde_json::Value;

use super::json::{array_at, str_at, strings};
use super::store::Key;

/// Where the server allocates from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// The service ranges, one or two families, the first is the default; they become the
    /// ServiceCIDR `kubernetes` (K33).
    pub service_cidrs: Vec<IpNet>,
    /// Node ports, first and last.
    pub node_ports: (u16, u16),
}

impl Default for Ranges {
    /// kubeadm's 10.96.0.0/12, an IPv6 range beside it, and the API server's 30000-32767.
    fn default() -> Self {
        let v4 = IpNet::new_assert([10, 96, 0, 0].into(), 12);
        let v6 = IpNet::new_assert([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0].into(), 112);
        Self { service_cidrs: vec![v4, v6], node_ports: (30000, 32767) }
    }
}

/// Addresses and node ports in use, kept with the services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    addresses: HashMap<IpAddr, Key>,
    /// Port and protocol to the owner; health-check node ports count as TCP.
    ports: HashMap<(u16, String), Key>,
}

pub(crate) fn port_number(value: Option<&Value>) -> u16 {
    value.and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(0)
}

fn claimed_ports(service: &Value) -> Vec<(u16, String)> {
    let health = port_number(service.pointer("/spec/healthCheckNodePort"));
    array_at(service, "/spec/ports")
        .iter()
        .map(|p| (port_number(p.get("nodePort")), str_at(p, "/protocol").to_owned()))
        .chain([(health, "TCP".to_owned())])
        .filter(|(port, _)| *port != 0)
        .collect()
}

impl Claims {
    pub(crate) fn claim(&mut self, key: &Key, service: &Value) {
        for address in strings(service, "/spec/clusterIPs") {
            if let Ok(address) = address.parse() {
                self.addresses.insert(address, key.clone());
            }
        }
        for port in claimed_ports(service) {
            self.ports.insert(port, key.clone());
        }
    }

    pub(crate) fn release(&mut self, service: &Value) {
        for address in strings(service, "/spec/clusterIPs") {
            if let Ok(address) = address.parse() {
                self.addresses.remove(&address);
            }
        }
        for port in claimed_ports(service) {
            self.ports.remove(&port);
        }
    }

    /// Whether another service holds the address.
    pub(crate) fn address_taken(&self, address: IpAddr, by: &Key) -> bool {
        self.addresses.get(&address).is_some_and(|owner| owner != by)
    }

    /// Whether another service holds the node port.
    pub(crate) fn port_taken(&self, port: u16, protocol: &str, by: &Key) -> bool {
        self.ports.get(&(port, protocol.to_owned())).is_some_and(|owner| owner != by)
    }

    /// A free address of the ranges, none when they are full. As the real allocator does, the first
    /// few addresses are left to those who ask for them by number.
    pub(crate) fn free_address(&self, ranges: &[IpNet], random: &mut impl Rng) -> Option<IpAddr> {
        for range in ranges {
            let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(16);
            // Without the network address, and without the last one (broadcast in IPv4).
            let size = (1_u64 << bits).saturating_sub(2).max(1);
            let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
            let start = random.random_range(reserved.min(size - 1)..size);
            let order = (start..size).chain((0..start).rev());
            for offset in order {
                let address = offset_in(range, offset + 1);
                if !self.addresses.contains_key(&address) {
                    return Some(address);
                }
            }
        }
        None
    }

    /// A node port that is free for the protocol and not in `chosen`. As the real allocator does
    /// (KEP-3668), the first few are left to those who ask for them by number.
    pub(crate) fn free_port(
        &self,
        range: (u16, u16),
        protocol: &str,
        chosen: &[(u16, String)],
        random: &mut impl Rng,
    ) -> Option<u16> {
        let size = range.1.saturating_sub(range.0).saturating_add(1);
        let reserved = if size < 16 { 0 } else { (size / 32).clamp(16, 128) };
        let dynamic = range.0.saturating_add(reserved).min(range.1);
        let start = random.random_range(dynamic..=range.1);
        let mut order = (start..=range.1).chain(dynamic..start).chain(range.0..dynamic);
        order.find(|port| {
            !self.ports.contains_key(&(*port, protocol.to_owned()))
                && !chosen.iter().any(|(p, proto)| p == port && proto == protocol)
        })
    }
}

/// The address at an offset from the network's own.
pub(crate) fn offset_in(range: &IpNet, offset: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(u32::from(base).wrapping_add(offset).into())
        }
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).wrapping_add(u128::from(offset)).into()),
    }
}
