//! Owns what the demo creates in the cluster, and finding it again: services' addresses, pods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::console::Console;
use crate::cluster::{self, Cluster, Pod, wait_for};
use crate::traffic::{self, Load, Plan, Report};

/// Ports of the echo pods.
pub(super) const TARGETS: [(&str, u16); 2] = [("TCP", 8080), ("UDP", 5353)];
/// Ports of the services in front of them.
pub(super) const PORTS: [(&str, u16, u16); 2] = [("TCP", 80, 8080), ("UDP", 53, 5353)];
/// Backends of `web` on each node.
const PER_NODE: usize = 2;

/// Protocol and family, the four ways to ask for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) tcp: bool,
    pub(super) v4: bool,
}

pub(super) const WAYS: [Way; 4] = [
    Way { name: "TCP/IPv4", tcp: true, v4: true },
    Way { name: "TCP/IPv6", tcp: true, v4: false },
    Way { name: "UDP/IPv4", tcp: false, v4: true },
    Way { name: "UDP/IPv6", tcp: false, v4: false },
];

impl Way {
    pub(super) fn load(self, per_s: u32) -> Load {
        if self.tcp { Load::Connections { per_s } } else { Load::Datagrams { per_s } }
    }

    fn pick(self, addresses: &[IpAddr]) -> Result<IpAddr> {
        let found = addresses.iter().find(|ip| ip.is_ipv4() == self.v4);
        found.copied().with_context(|| format!("no address for {}", self.name))
    }
}

/// The cluster with the demo's objects in it.
pub(super) struct Scene<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) console: &'a Console,
    /// The backends of `web`: name and node.
    pub(super) web: Vec<(String, String)>,
}

impl<'a> Scene<'a> {
    /// Creates clients on all nodes, service `web` with backends on all nodes, and the services
    /// `near` and `far` with one backend each, on n1 and on n2.
    pub(super) fn create(cluster: &'a Cluster, console: &'a Console) -> Result<Self> {
        let nodes: Vec<String> =
            cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
        ensure!(nodes.len() >= 2, "the demo needs two nodes");
        for service in ["web", "near", "far"] {
            cluster.apply(cluster::service(service, &json!({ "app": service }), &PORTS))?;
        }
        let mut web = Vec::new();
        for (number, node) in
            nodes.iter().flat_map(|node| std::iter::repeat_n(node, PER_NODE)).enumerate()
        {
            web.push((format!("web-{}", number + 1), node.clone()));
        }
        for node in &nodes {
            cluster.apply(cluster::pod(
                &format!("client-{node}"),
                node,
                "pause",
                &json!({}),
                &[],
            ))?;
        }
        let scene = Self { cluster, console, web };
        for (name, node) in &scene.web {
            scene.add_backend("web", name, node)?;
        }
        for (name, node) in ["near", "far"].iter().zip(&nodes) {
            scene.add_backend(name, name, node)?;
        }
        for name in
            scene.clients().into_iter().chain(scene.backends()).chain(["near".into(), "far".into()])
        {
            cluster.wait_for_pod(&name)?;
        }
        scene.settle("web", &scene.backends())?;
        scene.settle("near", &["near".to_owned()])?;
        scene.settle("far", &["far".to_owned()])?;
        Ok(scene)
    }

    /// Starts an echo pod behind a service.
    pub(super) fn add_backend(&self, service: &str, name: &str, node: &str) -> Result<Value> {
        let labels = json!({ "app": service });
        self.cluster.apply(cluster::pod(name, node, "echo", &labels, &TARGETS))
    }

    /// The client pods, one on each node.
    pub(super) fn clients(&self) -> Vec<String> {
        self.cluster.nodes().iter().map(|node| format!("client-{}", node.name())).collect()
    }

    pub(super) fn backends(&self) -> Vec<String> {
        self.web.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn pod(&self, name: &str) -> Result<Pod> {
        self.cluster.pod(name).with_context(|| format!("pod {name}"))
    }

    /// Address and port of a service, for a way of asking.
    pub(super) fn service(&self, name: &str, way: Way) -> Result<SocketAddr> {
        let addresses = self.cluster.api().cluster_ips(name)?;
        Ok(SocketAddr::new(way.pick(&addresses)?, if way.tcp { 80 } else { 53 }))
    }

    /// Address and port of a pod itself.
    pub(super) fn direct(&self, pod: &str, way: Way) -> Result<SocketAddr> {
        Ok(SocketAddr::new(way.pick(&self.pod(pod)?.addresses)?, if way.tcp { 8080 } else { 5353 }))
    }

    /// Runs traffic from a pod to the end of its plan.
    pub(super) fn ask(&self, client: &str, plan: Plan) -> Result<Report> {
        traffic::run(&self.pod(client)?.netns, plan)
    }

    /// Waits until every node serves exactly these backends for a service, as its clients see it:
    /// none else answers, and each one has.
    pub(super) fn settle(&self, service: &str, expected: &[String]) -> Result<()> {
        let attempts = u64::try_from(expected.len() * 8).unwrap_or(u64::MAX);
        for (client, way) in self.clients().iter().flat_map(|client| WAYS.map(|way| (client, way)))
        {
            let limit = Duration::from_secs(3);
            let plan =
                Plan { timeout: limit, ..Plan::new(self.service(service, way)?, way.load(400)) };
            let names = expected.join(", ");
            wait_for(
                &format!("{service} to lead from {client} by {} to {names}", way.name),
                || {
                    let report = self.ask(client, plan.limit(attempts))?;
                    let settled =
                        report.failed() == 0 && report.backends.keys().eq(sorted(expected).iter());
                    Ok(settled.then_some(()))
                },
            )?;
        }
        Ok(())
    }

    /// Prints nodes, services and pods as kubectl would.
    pub(super) fn show(&self) -> Result<()> {
        let console = self.console;
        let text = |addresses: &[IpAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let nodes: Vec<Vec<String>> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| {
                let cidrs: Vec<String> = node.pod_cidrs().iter().map(ToString::to_string).collect();
                let plan = node.plan();
                vec![
                    plan.name.clone(),
                    plan.zone.clone(),
                    text(&[plan.v4.into(), plan.v6.into()]),
                    cidrs.join(","),
                ]
            })
            .collect();
        console.table(&["NODE", "ZONE", "INTERNAL-IP", "POD-CIDRS"], &nodes);
        console.line("");
        let mut services = Vec::new();
        for name in ["web", "near", "far"] {
            let backends = self.cluster.api().ready_endpoints(name);
            let ports = PORTS.map(|(protocol, port, _)| format!("{port}/{protocol}")).join(",");
            let addresses = text(&self.cluster.api().cluster_ips(name)?);
            services.push(vec![name.to_owned(), addresses, ports, backends.to_string()]);
        }
        console.table(&["SERVICE", "CLUSTER-IPS", "PORTS", "READY ENDPOINTS"], &services);
        console.line("");
        let mut pods = Vec::new();
        for name in
            self.clients().into_iter().chain(self.backends()).chain(["near".into(), "far".into()])
        {
            let pod = self.pod(&name)?;
            pods.push(vec![name, pod.node.clone(), text(&pod.addresses)]);
        }
        console.table(&["POD", "NODE", "IPS"], &pods);
        Ok(())
    }
}

pub(super) fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}
