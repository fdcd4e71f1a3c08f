//! A Service as the proxy reads it: addresses by family, ports, policies. Parsed once, at arrival.
//!
//! Called by the index; what it returns holds all that may influence the state, so that a Service
//! update without effect compares equal (R38).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::annotations::Annotated;
use crate::index::Config;
use crate::parse::{self, Use, family_name};
use crate::problem::{Problems, Reason, excerpt};
use crate::state::{AddressKind, Family, Protocol};

/// Hides a Service from this proxy, whatever its value (R1).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Flags of the agent that [`Config::external_ranges`] and [`Config::load_balancer_ranges`] are of.
const EXTERNAL_RANGE: &str = "--service-external-ip-range";
const LOAD_BALANCER_RANGE: &str = "--loadbalancer-ip-range";

/// `DefaultClientIPServiceAffinitySeconds` of the API (R22).
const DEFAULT_AFFINITY_S: u32 = 10_800;

/// `MaxClientIPServiceAffinitySeconds` of the API: a day (R22).
const MOST_AFFINITY_S: i64 = 86_400;

/// What the state needs of a Service that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) families: Vec<FamilyPart>,
    pub(crate) ports: Vec<Port>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) annotated: Annotated,
    pub(crate) affinity_s: Option<u32>,
    pub(crate) health_check_node_port: u16,
    pub(crate) created_s: i64,
}

/// The addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FamilyPart {
    pub(crate) family: Family,
    pub(crate) addresses: Vec<(IpAddr, AddressKind)>,
    pub(crate) source_ranges: Vec<IpNet>,
    /// There is an external or LB address of this family (section 3).
    pub(crate) external_addresses: bool,
}

/// A service port; both numbers in host order, `node_port` 0 for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: u16,
}

/// The Service to serve, or `None` if it is not for a proxy, or not for this one (R1, R2).
/// `before`: what it was last, which counts for annotations that do not parse.
pub(crate) fn parse(
    service: &core::Service,
    config: &Config,
    before: Option<&Service>,
    problems: &mut Problems,
) -> Option<Service> {
    if has_label(&service.metadata, PROXY_NAME_LABEL) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if cluster_ip.is_empty() || cluster_ip == "None" || kind == "ExternalName" {
        return None;
    }
    let before = before.map(|before| &before.annotated);
    let annotated = Annotated::read(&service.metadata, before, problems);
    let families = families(service, spec, config, problems);
    let ports = ports(spec, problems);
    let external_ips =
        config.external_ips && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    // R45: eTP counts only where the type makes the Service reachable from outside.
    let policy_counts =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips);
    let says_local = policy_counts && spec.external_traffic_policy.as_deref() == Some("Local");
    let external_local = says_local || annotated.local;
    let health_check_node_port = match spec.health_check_node_port {
        // R24
        Some(number) if number != 0 && kind == "LoadBalancer" && external_local => {
            problems.ok(parse::port(number), || "spec.healthCheckNodePort".into()).unwrap_or(0)
        }
        _ => 0,
    };
    Some(Service {
        families,
        ports,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local") || annotated.local,
        external_local,
        annotated,
        affinity_s: affinity(spec, problems),
        health_check_node_port,
        created_s: service
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(i64::MAX, |t| t.0.as_second()),
    })
}

pub(crate) fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// The ClusterIP of each family the Service exists for (R3), as the object writes it.
fn cluster_ips(spec: &core::ServiceSpec, problems: &mut Problems) -> BTreeMap<Family, IpAddr> {
    let mut found = BTreeMap::new();
    let names = spec.ip_families.as_deref().unwrap_or_default();
    if names.is_empty() {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        if let Some(address) =
            problems.ok(parse::usable_address(text, Use::Service), || "spec.clusterIP".into())
        {
            found.insert(Family::of(address), address);
        }
        return found;
    }
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    for (i, name) in names.iter().enumerate() {
        let Some(family) = parse::family(name) else {
            problems.add(|| format!("spec.ipFamilies[{i}]"), Reason::UnknownFamily(excerpt(name)));
            continue;
        };
        let field = || format!("spec.clusterIPs[{i}]");
        let Some(text) = addresses.get(i) else {
            problems.add(field, Reason::Missing);
            continue;
        };
        let Some(address) = problems.ok(parse::usable_address(text, Use::Service), field) else {
            continue;
        };
        if Family::of(address) == family {
            found.entry(family).or_insert(address);
        } else {
            let wanted = family_name(family);
            problems.add(field, Reason::OtherFamily { address: address.to_string(), wanted });
        }
    }
    found
}

fn families(
    service: &core::Service,
    spec: &core::ServiceSpec,
    config: &Config,
    problems: &mut Problems,
) -> Vec<FamilyPart> {
    let cluster_ips = cluster_ips(spec, problems);
    let external = match (config.external_ips, &spec.external_ips) {
        (true, Some(texts)) => {
            let texts = texts.iter().map(String::as_str);
            let within = Within { ranges: &config.external_ranges, flag: EXTERNAL_RANGE };
            addresses(texts, Use::Outside, &within, problems, |i| format!("spec.externalIPs[{i}]"))
        }
        _ => Vec::new(),
    };
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default();
    // R16: with ipMode "Proxy" traffic must leave to the load balancer.
    let vips = ingress.iter().map(|entry| match (&entry.ip, entry.ip_mode.as_deref()) {
        (Some(ip), None | Some("VIP")) => ip.as_str(),
        _ => "",
    });
    let within = Within { ranges: &config.load_balancer_ranges, flag: LOAD_BALANCER_RANGE };
    let vips = addresses(vips, Use::Service, &within, problems, |i| {
        format!("status.loadBalancer.ingress[{i}].ip")
    });
    let ranges = source_ranges(spec, problems);

    let mut parts = Vec::with_capacity(2);
    for (family, cluster_ip) in cluster_ips {
        if family == Family::V6 && !config.ipv6 {
            continue;
        }
        let of_family = |list: &[IpAddr]| -> Vec<IpAddr> {
            list.iter().copied().filter(|a| Family::of(*a) == family).collect()
        };
        let (external, vips) = (of_family(&external), of_family(&vips));
        // One address listed twice: a ClusterIP stays one, and source ranges of an LB address also
        // hold where it is an external address too (R17).
        let mut kinds: BTreeMap<IpAddr, AddressKind> = BTreeMap::new();
        kinds.extend(external.iter().map(|a| (*a, AddressKind::ExternalIp)));
        kinds.extend(vips.iter().map(|a| (*a, AddressKind::LoadBalancer)));
        kinds.insert(cluster_ip, AddressKind::ClusterIp);
        let mut addresses: Vec<_> = kinds.into_iter().collect();
        addresses.sort_by_key(|(address, kind)| (*kind, *address));
        let source_ranges = ranges_of(family, spec, &ranges, !vips.is_empty(), problems);
        let external_addresses = !external.is_empty() || !vips.is_empty();
        parts.push(FamilyPart { family, addresses, source_ranges, external_addresses });
    }
    parts
}

/// Where the operator wants addresses of a kind to be.
struct Within<'a> {
    ranges: &'a [IpNet],
    flag: &'static str,
}

impl Within<'_> {
    fn check(&self, address: IpAddr) -> Result<IpAddr, Reason> {
        if self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(&address)) {
            return Ok(address);
        }
        Err(Reason::OutsideRanges { address: address.to_string(), flag: self.flag })
    }
}

/// The addresses of a list that can be served, "" standing for an entry without one (R4).
fn addresses<'a>(
    texts: impl Iterator<Item = &'a str>,
    usage: Use,
    within: &Within<'_>,
    problems: &mut Problems,
    field: impl Fn(usize) -> String,
) -> Vec<IpAddr> {
    let read = |text| parse::usable_address(text, usage).and_then(|address| within.check(address));
    texts
        .enumerate()
        .filter(|(_, text)| !text.is_empty())
        .filter_map(|(i, text)| problems.ok(read(text), || field(i)))
        .collect()
}

fn source_ranges(spec: &core::ServiceSpec, problems: &mut Problems) -> Vec<IpNet> {
    let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let field = |i| move || format!("spec.loadBalancerSourceRanges[{i}]");
    let parsed =
        texts.iter().enumerate().filter_map(|(i, text)| problems.ok(parse::range(text), field(i)));
    let mut ranges: Vec<IpNet> = parsed.collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// The ranges of one family; empty is open: nothing listed, a zero range, or nothing left (R17).
fn ranges_of(
    family: Family,
    spec: &core::ServiceSpec,
    ranges: &[IpNet],
    has_vips: bool,
    problems: &mut Problems,
) -> Vec<IpNet> {
    let own: Vec<IpNet> =
        ranges.iter().copied().filter(|r| Family::of(r.addr()) == family).collect();
    let listed = spec.load_balancer_source_ranges.as_ref().is_some_and(|list| !list.is_empty());
    if own.is_empty() && listed && has_vips {
        let reason = Reason::OpenToAll(family_name(family));
        problems.add(|| "spec.loadBalancerSourceRanges".into(), reason);
    }
    if own.iter().any(|r| r.prefix_len() == 0) { Vec::new() } else { own }
}

fn ports(spec: &core::ServiceSpec, problems: &mut Problems) -> Vec<Port> {
    let listed = spec.ports.as_deref().unwrap_or_default();
    if listed.is_empty() {
        problems.add(|| "spec.ports".into(), Reason::NoPorts);
    }
    let mut ports: BTreeMap<(&str, Protocol), Port> = BTreeMap::new();
    for (i, port) in listed.iter().enumerate() {
        let number = problems.ok(parse::port(port.port), || format!("spec.ports[{i}].port"));
        let protocol = parse::protocol(port.protocol.as_deref());
        let protocol = problems.ok(protocol, || format!("spec.ports[{i}].protocol"));
        let (Some(number), Some(protocol)) = (number, protocol) else { continue };
        let name = port.name.as_deref().unwrap_or_default();
        if ports.contains_key(&(name, protocol)) {
            problems.add(|| format!("spec.ports[{i}].name"), Reason::DuplicatePort(excerpt(name)));
            continue;
        }
        let node_port = match port.node_port {
            None | Some(0) => 0,
            Some(number) => problems
                .ok(parse::port(number), || format!("spec.ports[{i}].nodePort"))
                .unwrap_or(0),
        };
        ports.insert(
            (name, protocol),
            Port { name: name.into(), protocol, port: number, node_port },
        );
    }
    ports.into_values().collect()
}

fn affinity(spec: &core::ServiceSpec, problems: &mut Problems) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let Some(timeout_s) = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_S);
    };
    let allowed = (1..=MOST_AFFINITY_S).contains(&timeout_s.into());
    let seconds = u32::try_from(timeout_s).ok().filter(|_| allowed);
    if seconds.is_none() {
        problems.add(
            || "spec.sessionAffinityConfig.clientIP.timeoutSeconds".into(),
            Reason::OutOfRange {
                value: timeout_s.into(),
                least: 1,
                most: MOST_AFFINITY_S,
                instead: DEFAULT_AFFINITY_S.into(),
            },
        );
    }
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_S))
}
