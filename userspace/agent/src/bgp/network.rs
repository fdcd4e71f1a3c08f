//! Carries chosen routes into the kernel: owns the table of wanted and standing routes, and what
//! the node's links are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_bgp::rib::RouteChange;
use sluice_network::routes::{Kernel, Links, RouteError, Shown, Table, Target, Way};
use tracing::{debug, warn};

/// The node's routes by BGP.
#[derive(Debug)]
pub(super) struct Routes {
    kernel: Kernel,
    table: Table,
    ends: Ends,
    /// Where default routes lead.
    ways_out: Vec<Way>,
    /// The Node's addresses, which own packets come from where the node has them.
    of_node: Vec<IpAddr>,
    links: Links,
}

/// Ranges that others come here for, so that what nobody in them has must not leave by the default
/// route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Own pod ranges, which the bridge's own routes go before.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// Announced aggregates.
    pub(super) aggregates: Vec<IpNet>,
    /// Addresses in these that are served. What comes from outside and from pods is translated before
    /// it is routed, but the node's own packets after that (`to_network`): they need their way out.
    pub(super) served: Vec<IpAddr>,
}

impl Ends {
    /// The routes that follow.
    fn routes(&self, ways_out: &[Way]) -> BTreeMap<IpNet, Target> {
        let ranges = self.aggregates.iter().chain(&self.pod_cidrs);
        let mut routes: BTreeMap<IpNet, Target> =
            ranges.map(|range| (range.trunc(), Target::Unreachable)).collect();
        let way = |address: &IpAddr| {
            let of_family =
                |way: &&Way| way.next_hops.iter().any(|h| h.is_ipv4() == address.is_ipv4());
            ways_out.iter().find(of_family).cloned().map(Target::Via)
        };
        let served = self.served.iter();
        routes.extend(served.filter_map(|address| Some((IpNet::from(*address), way(address)?))));
        routes
    }
}

/// Numbers of the kernel's routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Routes that stand.
    pub standing: usize,
    /// Those of an earlier run that nobody has told of yet.
    pub adopted: usize,
    /// Those that the kernel refused.
    pub refused: usize,
}

impl Routes {
    /// Opens the kernel and adopts what an earlier run left.
    pub(super) async fn open() -> Result<Self, RouteError> {
        let kernel = Kernel::open()?;
        let mut table = Table::default();
        let Shown { ours, ways_out } = kernel.shown().await?;
        table.observe(ours);
        let links = kernel.links().await?;
        Ok(Self { kernel, table, ends: Ends::default(), ways_out, of_node: Vec::new(), links })
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    pub(super) fn counts(&self) -> RouteCounts {
        RouteCounts {
            standing: self.table.standing().count(),
            adopted: self.table.adopted(),
            refused: self.table.refused().count(),
        }
    }

    pub(super) fn refused(&self, prefix: &IpNet) -> Option<String> {
        let found = self.table.refused().find(|(refused, _)| *refused == prefix);
        found.map(|(_, why)| why.to_owned())
    }

    /// The ranges that end here, and the addresses that others know the node by.
    pub(super) async fn set_own(&mut self, ends: Ends, addresses: &[IpAddr]) {
        if self.ends == ends && self.of_node == addresses {
            return;
        }
        self.of_node = addresses.to_vec();
        self.set_sources();
        self.ends = ends;
        self.table.set_fixed(self.ends.routes(&self.ways_out));
        self.apply().await;
    }

    /// What BGP chose anew.
    pub(super) async fn change(&mut self, changes: Vec<RouteChange>) {
        for (prefix, chosen) in changes {
            let target = chosen.and_then(|chosen| Target::via(chosen.next_hops));
            self.table.want(prefix, target);
        }
        self.apply().await;
    }

    /// All has been heard: what an earlier run left may go.
    pub(super) async fn complete(&mut self) {
        self.table.complete();
        self.apply().await;
    }

    /// Looks at the kernel again, after links changed or routes were lost. True if the links differ.
    pub(super) async fn look(&mut self) -> bool {
        let links = match self.kernel.links().await {
            Ok(links) => links,
            Err(fault) => {
                warn!(%fault, "cannot look at the links; routes by BGP stay as they are");
                return false;
            }
        };
        match self.kernel.shown().await {
            Ok(Shown { ours, ways_out }) => {
                self.table.observe(ours);
                self.ways_out = ways_out;
                self.table.set_fixed(self.ends.routes(&self.ways_out));
            }
            Err(fault) => warn!(%fault, "cannot look at the routes"),
        }
        let news = links != self.links;
        self.links = links;
        self.set_sources();
        self.apply().await;
        news
    }

    /// An address that the Node says and the node does not have would be refused by the kernel.
    fn set_sources(&mut self) {
        let all = self.of_node.iter().filter(|address| self.links.sources.contains(address));
        self.table.set_sources(all.copied().collect());
    }

    async fn apply(&mut self) {
        let ops = self.table.plan();
        for (op, result) in self.kernel.apply(ops).await {
            match &result {
                Ok(()) => debug!(?op, "route"),
                Err(why) => {
                    warn!(prefix = %op.prefix(), why, "route refused; tried again when links change");
                }
            }
            self.table.applied(&op, result);
        }
    }
}

/// The node's addresses: those that others know first.
pub(super) fn addresses(of_node: &[IpAddr], links: &Links) -> Vec<IpAddr> {
    let mut all = of_node.to_vec();
    all.extend(links.addresses.iter().filter(|address| !of_node.contains(address)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b26_what_ends_here_is_unreachable_but_for_what_is_served() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ends = Ends {
            pod_cidrs: vec![net("10.244.1.0/24")],
            aggregates: vec![net("198.18.0.7/24"), net("2001:db8::/64"), net("192.0.2.1/32")],
            served: vec![ip("198.18.0.1"), ip("2001:db8::1"), ip("192.0.2.1")],
        };
        let Some(Target::Via(way)) = Target::via(vec![ip("192.168.1.1")]) else { panic!("a way") };
        let routes = ends.routes(std::slice::from_ref(&way));
        let shown: Vec<String> = routes.iter().map(|(net, to)| format!("{net} {to}")).collect();
        let expected = [
            "10.244.1.0/24 unreachable",
            "192.0.2.1/32 via 192.168.1.1",
            "198.18.0.0/24 unreachable",
            "198.18.0.1/32 via 192.168.1.1",
            "2001:db8::/64 unreachable",
        ];
        assert_eq!(shown, expected, "there is no way out by IPv6");
    }
}
