//! Parts of what the programs know of the node, from what the agent knows.
//!
//! Called by the facade whenever something of it changes; the rest stays as it is.

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::Config;

use crate::wire::words;

/// How clients that are pods are told from others (R12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalPods {
    /// By their addresses: the first range of each family counts; a family without one has no
    /// detector.
    Within(Vec<IpNet>),
    /// By the interface they come by.
    ByInterface,
}

/// Puts the detector of pods into a configuration, in the place of what is there.
pub(crate) fn local_pods(config: &mut Config, pods: &LocalPods) {
    (config.pods4, config.pods6) = (Config::EMPTY.pods4, Config::EMPTY.pods6);
    config.pods_by_interface = (*pods == LocalPods::ByInterface).into();
    let LocalPods::Within(ranges) = pods else { return };
    for cidr in ranges.iter().rev() {
        let (net, mask) = (words(cidr.network()), words(cidr.netmask()));
        match cidr {
            IpNet::V4(_) => {
                let ([net, ..], [mask, ..]) = (net, mask);
                config.pods4 = [net, mask];
            }
            IpNet::V6(_) => config.pods6 = [net, mask],
        }
    }
}

/// Puts ranges of ClusterIPs into a configuration, in the place of all that are there.
pub(crate) fn service_ranges(config: &mut Config, cidrs: &[IpNet]) {
    (config.services4, config.services6) = (Config::EMPTY.services4, Config::EMPTY.services6);
    let (mut free4, mut free6) = (config.services4.iter_mut(), config.services6.iter_mut());
    for cidr in cidrs {
        let (net, mask) = (words(cidr.network()), words(cidr.netmask()));
        let full = match cidr {
            IpNet::V4(_) => {
                let ([net, ..], [mask, ..]) = (net, mask);
                free4.next().map(|range| *range = [net, mask]).is_none()
            }
            IpNet::V6(_) => free6.next().map(|range| *range = [net, mask]).is_none(),
        };
        if full {
            tracing::warn!(%cidr, "too many ranges of ClusterIPs: this one is not checked");
        }
    }
}

/// The first address of each family, as words.
pub(crate) fn first_of_each<'a>(
    addresses: impl Iterator<Item = &'a IpAddr>,
) -> (Option<u32>, Option<[u32; 4]>) {
    let (mut v4, mut v6) = (None, None);
    for address in addresses {
        let all @ [word, ..] = words(*address);
        if address.is_ipv4() {
            v4.get_or_insert(word);
        } else {
            v6.get_or_insert(all);
        }
    }
    (v4, v6)
}
