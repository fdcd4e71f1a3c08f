//! Owns what the matrix makes in a cluster, pods and Services with slices written by hand, and
//! finding it again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::cases::{BACKENDS, Case, MORE, WITH, WITHOUT};
use super::grid::{Frontends, PORTS, Pair, SOURCES, Site};
use super::rules::{Endpoint, Front, Policy, State, WORLD};
use super::ways;
use crate::cluster::{self, Cluster, wait_for};
use crate::traffic::{self, Load, Plan};

/// Where external addresses come from: ranges for documentation.
pub(super) const EXTERNAL: (&str, &str) = ("203.0.113", "2001:db8:203:");
pub(super) const LOAD_BALANCER: (&str, &str) = ("198.51.100", "2001:db8:198:");
/// Services that are written last, one after the other.
const LAST: [&str; 2] = ["matrix-last-1", "matrix-last-2"];

/// Makes the pods, and returns where everybody is.
pub(super) fn site(cluster: &Cluster) -> Result<Site> {
    let names: Vec<&str> = cluster.nodes().iter().map(|node| node.name()).collect();
    ensure!(
        [WITH, MORE, WITHOUT].iter().all(|name| names.contains(name)),
        "the matrix needs the nodes {WITH}, {MORE} and {WITHOUT}"
    );
    let ports = PORTS.map(|(protocol, _, target)| (protocol, target));
    for (name, node) in BACKENDS {
        cluster.apply(cluster::pod(name, node, "echo", &json!({}), &ports))?;
    }
    for node in [WITH, WITHOUT] {
        let name = format!("client-{node}");
        cluster.apply(cluster::pod(&name, node, "pause", &json!({}), &[]))?;
    }
    let mut pods = BTreeMap::new();
    for name in BACKENDS.iter().map(|(name, _)| *name).chain(["client-n1", "client-n3"]) {
        let pod = cluster.wait_for_pod(name)?;
        pods.insert(name.to_owned(), pair(&pod.addresses)?);
    }
    let mut nodes = BTreeMap::new();
    let mut bridges = BTreeMap::new();
    for node in cluster.nodes() {
        let plan = node.plan();
        nodes.insert(plan.name.clone(), [plan.v4.into(), plan.v6.into()]);
        let gateways: Vec<IpAddr> = node.pod_cidrs().iter().filter_map(first_host).collect();
        bridges.insert(plan.name.clone(), pair(&gateways)?);
    }
    let office = ways::office()?;
    let unallocated = free(cluster, &ways::service_ranges(cluster)?)?;
    Ok(Site { nodes, bridges, pods, office, unallocated })
}

/// Writes the Service of a case and its slices; `number` chooses its external addresses.
pub(super) fn create(
    cluster: &Cluster,
    site: &Site,
    case: &Case,
    number: usize,
) -> Result<Frontends> {
    let external = numbered(EXTERNAL, number)?;
    let load_balancer = numbered(LOAD_BALANCER, number)?;
    let mut service = cluster::service(&case.name, &Value::Null, &PORTS);
    let rules = &case.rules;
    let mut spec = json!({
        "type": match case.kind {
            Front::ClusterIp | Front::ExternalIp => "ClusterIP",
            Front::NodePort => "NodePort",
            Front::LoadBalancer => "LoadBalancer",
        },
        "internalTrafficPolicy": policy(rules.internal),
        "sessionAffinity": if rules.sticky { "ClientIP" } else { "None" },
    });
    if case.kind != Front::ClusterIp {
        merge(&mut spec, json!({ "externalTrafficPolicy": policy(rules.external) }));
    }
    if case.kind == Front::ExternalIp {
        merge(&mut spec, json!({ "externalIPs": external }));
    }
    if !rules.ranges.is_empty() {
        let ranges: Vec<String> = rules.ranges.iter().map(IpNet::to_string).collect();
        merge(&mut spec, json!({ "loadBalancerSourceRanges": ranges }));
    }
    if let Some(own) = service.get_mut("spec") {
        merge(own, spec);
    }
    let stored = cluster.apply(service)?;
    if case.kind == Front::LoadBalancer {
        let mode = if case.proxied { "Proxy" } else { "VIP" };
        let ingress: Vec<Value> =
            load_balancer.iter().map(|ip| json!({ "ip": ip, "ipMode": mode })).collect();
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        cluster.api().patch_status("services", "default", &case.name, &status)?;
    }
    slices(cluster, site, &case.name, &rules.endpoints)?;
    let node_port = |n: usize| {
        let port = stored.pointer(&format!("/spec/ports/{n}/nodePort")).and_then(Value::as_u64);
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default()
    };
    Ok(Frontends {
        cluster: pair(&cluster.api().cluster_ips(&case.name)?)?,
        external,
        load_balancer,
        node_ports: [node_port(0), node_port(1), node_port(2)],
    })
}

/// The frontends of no Service.
pub(super) fn nowhere(site: &Site) -> Frontends {
    let none = site.unallocated;
    Frontends { cluster: none, external: none, load_balancer: none, node_ports: [0; 3] }
}

/// One slice for each family; without endpoints none at all.
fn slices(cluster: &Cluster, site: &Site, service: &str, endpoints: &[Endpoint]) -> Result<()> {
    if endpoints.is_empty() {
        return Ok(());
    }
    for (number, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let mut slice =
            cluster::slice(&format!("{service}-{}", family.to_lowercase()), service, &[], &PORTS);
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|endpoint| {
                let address = site.pods.get(&endpoint.name).and_then(|pair| pair.get(number));
                let (ready, serving, terminating) = match endpoint.state {
                    State::Ready => (true, true, false),
                    State::Draining => (false, true, true),
                    State::Down => (false, false, false),
                };
                let named = |names: &[String]| -> Vec<Value> {
                    names.iter().map(|name| json!({ "name": name })).collect()
                };
                json!({
                    "addresses": [address],
                    "nodeName": endpoint.node,
                    "conditions":
                        { "ready": ready, "serving": serving, "terminating": terminating },
                    "hints":
                        { "forZones": named(&endpoint.zones), "forNodes": named(&endpoint.nodes) },
                })
            })
            .collect();
        merge(&mut slice, json!({ "addressType": family, "endpoints": endpoints }));
        cluster.apply(slice)?;
    }
    Ok(())
}

/// Writes two more Services and waits each time until all pods that ask are served at it. Services
/// and slices come to an agent in the order of their writing: with the first, the agent knows all
/// others; with the second, it has also written all that it knew by then.
pub(super) fn settle(cluster: &Cluster, site: &Site) -> Result<()> {
    let endpoint = |(name, node): (&str, &str)| Endpoint {
        name: name.to_owned(),
        node: node.to_owned(),
        state: State::Ready,
        zones: Vec::new(),
        nodes: Vec::new(),
    };
    for name in LAST {
        cluster.apply(cluster::service(name, &Value::Null, &PORTS))?;
        slices(cluster, site, name, &BACKENDS.map(endpoint))?;
        for ip in cluster.api().cluster_ips(name)? {
            for source in SOURCES.iter().filter(|source| site.pods.contains_key(source.name)) {
                served(cluster, source.name, name, SocketAddr::new(ip, 80))?;
            }
        }
    }
    Ok(())
}

fn served(cluster: &Cluster, from: &str, service: &str, at: SocketAddr) -> Result<()> {
    let pod = cluster.pod(from).with_context(|| format!("pod {from}"))?;
    let plan = Plan::new(at, Load::Connections { per_s: 200 }).limit(1);
    let plan = Plan { timeout: Duration::from_secs(1), ..plan };
    wait_for(&format!("{service} to be served to {from}"), || {
        let answers = traffic::run(&pod.netns, plan)?.backends;
        Ok((!answers.is_empty() && !answers.contains_key(WORLD)).then_some(()))
    })
}

/// An address near the end of each family's range that no Service has.
fn free(cluster: &Cluster, ranges: &[IpNet]) -> Result<Pair> {
    let services = cluster.store().list("services");
    let taken = |ip: &IpAddr| {
        let ip = json!(ip);
        services.iter().any(|service| {
            let own = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
            own.is_some_and(|own| own.contains(&ip))
        })
    };
    let of_range = |range: &IpNet| {
        let last = range.broadcast();
        let mut down = (2..200_u8).map(|n| match last {
            IpAddr::V4(ip) => IpAddr::from((u32::from(ip) - u32::from(n)).to_be_bytes()),
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) - u128::from(n)).to_be_bytes()),
        });
        down.find(|ip| !taken(ip))
    };
    pair(&ranges.iter().filter_map(of_range).collect::<Vec<_>>())
}

/// The address of the bridge: the plugin takes a range's first.
fn first_host(range: &IpNet) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| IpAddr::from(n.to_be_bytes())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| IpAddr::from(n.to_be_bytes())),
    }
}

fn numbered((v4, v6): (&str, &str), number: usize) -> Result<Pair> {
    Ok([format!("{v4}.{}", number + 1).parse()?, format!("{v6}:{:x}", number + 1).parse()?])
}

/// The first address of each family.
fn pair(addresses: &[IpAddr]) -> Result<Pair> {
    let of = |v4: bool| addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
    Ok([of(true).context("an IPv4 address")?, of(false).context("an IPv6 address")?])
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
