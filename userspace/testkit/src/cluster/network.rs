//! Owns the namespaces of the site and what is set in them: links, addresses, routes, sysctls.

use anyhow::Result;
use ipnet::IpNet;

use super::netns::Netns;
use super::registry::Claim;
use super::topology::{self, BRIDGE_SYSCTLS, NodePlan, ROUTER_SYSCTLS, ROUTER_V4, ROUTER_V6};

/// Router, office client and nodes, connected.
#[derive(Clone, Debug)]
pub struct Network {
    /// The router, where the API server listens as well.
    pub router: Netns,
    /// A client outside the cluster.
    pub office: Netns,
    /// The nodes.
    pub nodes: Vec<(NodePlan, Netns)>,
}

impl Network {
    /// Makes and connects the namespaces of a site with `nodes` nodes.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks veth or bridge.
    pub fn build(claim: &Claim, nodes: usize) -> Result<Self> {
        let router = Netns::create(&claim.netns("router"))?;
        let office = Netns::create(&claim.netns("office"))?;
        let mut made = Vec::new();
        for plan in topology::nodes(nodes) {
            let netns = Netns::create(&claim.netns(&plan.name))?;
            made.push((plan, netns));
        }
        let plans: Vec<NodePlan> = made.iter().map(|(plan, _)| plan.clone()).collect();
        router.sysctl(ROUTER_SYSCTLS, false)?;
        router
            .ip(&topology::router_script(&plans, |part| claim.netns(part).display().to_string()))?;
        office.ip(&topology::office_script())?;
        for (plan, netns) in &made {
            netns.sysctl(ROUTER_SYSCTLS, false)?;
            netns.sysctl(BRIDGE_SYSCTLS, true)?;
            netns.ip(&topology::host_script(plan.v4, plan.v6, ROUTER_V4, ROUTER_V6))?;
        }
        Ok(Self { router, office, nodes: made })
    }

    /// Routes each node's pods, on the router and on the other nodes.
    ///
    /// # Errors
    /// When a route can't be set.
    pub fn route_pods(&self, cidrs: &[(NodePlan, Vec<IpNet>)]) -> Result<()> {
        self.router.ip(&topology::pod_routes(cidrs, None))?;
        for (plan, netns) in &self.nodes {
            netns.ip(&topology::pod_routes(cidrs, Some(&plan.name)))?;
        }
        Ok(())
    }
}
