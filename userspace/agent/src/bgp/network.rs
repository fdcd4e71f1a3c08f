//! Carries chosen routes into the kernel: owns the table of wanted and standing routes, and what
//! the node's links are.

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_bgp::rib::RouteChange;
use sluice_network::routes::{Kernel, Links, RouteError, Table, Target};
use tracing::{debug, warn};

/// The node's routes by BGP.
#[derive(Debug)]
pub(super) struct Routes {
    kernel: Kernel,
    table: Table,
    /// Own pod ranges, which must not leave by the default route.
    own: Vec<IpNet>,
    /// The Node's addresses, which own packets come from where the node has them.
    of_node: Vec<IpAddr>,
    links: Links,
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
        table.observe(kernel.routes().await?);
        let links = kernel.links().await?;
        Ok(Self { kernel, table, own: Vec::new(), of_node: Vec::new(), links })
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

    /// The node's own pod ranges, and the addresses that others know it by.
    pub(super) async fn set_own(&mut self, own: &[IpNet], addresses: &[IpAddr]) {
        if self.own == own && self.of_node == addresses {
            return;
        }
        self.of_node = addresses.to_vec();
        self.set_sources();
        self.table.set_fixed(own.iter().map(|cidr| (*cidr, Target::Unreachable)).collect());
        self.own = own.to_vec();
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
        match self.kernel.routes().await {
            Ok(routes) => self.table.observe(routes),
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
