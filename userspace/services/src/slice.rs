//! An EndpointSlice as the proxy reads it, and the union of a Service's slices (R7-R10).
//!
//! Called by the index: a slice is parsed once, at arrival; the union is made per service port when
//! the Service is computed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;

use crate::index::Config;
use crate::parse::{self, Use, family_name};
use crate::problem::{Problems, Reason};
use crate::service::has_label;
use crate::state::{Family, Protocol};

/// Names the Service a slice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// On slices of Services without ClusterIP; hides them from proxies (R1).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What the state needs of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Name of its Service, in the slice's namespace.
    pub(crate) service: String,
    pub(crate) family: Family,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    protocol: Protocol,
    port: u16,
}

/// An endpoint's address and what is known of it; the same for every port of its slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// On this node (R8).
    pub(crate) local: bool,
    /// Name of its node.
    pub(crate) node: Option<Box<str>>,
    /// Name of its pod, where it is one.
    pub(crate) pod: Option<Box<str>>,
    pub(crate) node_hint: NodeHint,
    /// Zones this endpoint is meant for; empty without hint.
    pub(crate) zone_hints: Box<[Box<str>]>,
}

/// What an endpoint's `hints.forNodes` says to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeHint {
    /// There is no such hint.
    None,
    /// It names this node.
    ThisNode,
    /// It names other nodes only.
    OtherNodes,
}

impl Endpoint {
    /// Serving and terminating: the last resort of section 3.
    pub(crate) fn draining(&self) -> bool {
        self.serving && self.terminating
    }

    /// Which of two entries for one ip:port counts (R9): one that is not terminating before one
    /// that is, then the ready one, then the serving one. Greater wins, equal ones keep the first.
    fn preference(&self) -> (bool, bool, bool) {
        (!self.terminating, self.ready, self.serving)
    }
}

/// The slice, or `None` if it is hidden, of no use, or nobody's (R1, R3, R5).
pub(crate) fn parse(
    slice: &discovery::EndpointSlice,
    config: &Config,
    problems: &mut Problems,
) -> Option<Slice> {
    if has_label(&slice.metadata, HEADLESS_LABEL) {
        return None;
    }
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    let Some(service) = service.filter(|name| !name.is_empty()) else {
        problems.add(|| format!("metadata.labels[{SERVICE_NAME_LABEL}]"), Reason::Unnamed);
        return None;
    };
    // FQDN slices are legal and not for proxies; other types do not exist yet.
    let family = parse::family(&slice.address_type)?;
    if family == Family::V6 && !config.ipv6 {
        return None;
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    let ports =
        ports.iter().enumerate().filter_map(|(i, port)| parse_port(i, port, problems)).collect();
    let endpoints = slice.endpoints.iter().enumerate();
    let endpoints = endpoints
        .filter_map(|(i, endpoint)| parse_endpoint(i, endpoint, family, config, problems))
        .collect();
    Some(Slice { service: service.clone(), family, ports, endpoints })
}

/// R5: a port without name or number is ignored, one without protocol is TCP.
fn parse_port(i: usize, port: &discovery::EndpointPort, problems: &mut Problems) -> Option<Port> {
    let name = port.name.clone().ok_or(Reason::Missing);
    let name = problems.ok(name, || format!("ports[{i}].name"))?;
    let number = port.port.ok_or(Reason::Missing).and_then(parse::port);
    let port_number = problems.ok(number, || format!("ports[{i}].port"))?;
    let protocol = parse::protocol(port.protocol.as_deref());
    let protocol = problems.ok(protocol, || format!("ports[{i}].protocol"))?;
    Some(Port { name, protocol, port: port_number })
}

fn parse_endpoint(
    i: usize,
    endpoint: &discovery::Endpoint,
    family: Family,
    config: &Config,
    problems: &mut Problems,
) -> Option<Endpoint> {
    // R6: only the first address counts; no address, no endpoint.
    let text = endpoint.addresses.first()?;
    let field = || format!("endpoints[{i}].addresses[0]");
    let address = problems.ok(parse::usable_address(text, Use::Outside), field)?;
    if Family::of(address) != family {
        // R43
        let wanted = family_name(family);
        problems.add(field, Reason::OtherFamily { address: address.to_string(), wanted });
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    let me = config.node_name.as_str();
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|h| h.for_nodes.as_deref()).unwrap_or_default();
    let node_hint = if nodes.is_empty() {
        NodeHint::None
    } else if !me.is_empty() && nodes.iter().any(|node| node.name == me) {
        NodeHint::ThisNode
    } else {
        NodeHint::OtherNodes
    };
    let zones = hints.and_then(|h| h.for_zones.as_deref()).unwrap_or_default();
    Some(Endpoint {
        address,
        // R7
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        // R8
        local: !me.is_empty() && endpoint.node_name.as_deref() == Some(me),
        node: endpoint.node_name.as_deref().map(Box::from),
        pod: pod(endpoint).map(Box::from),
        node_hint,
        zone_hints: zones.iter().map(|zone| zone.name.as_str().into()).collect(),
    })
}

/// The name of the pod behind an endpoint; it is in the slice's namespace.
fn pod(endpoint: &discovery::Endpoint) -> Option<&str> {
    let target = endpoint.target_ref.as_ref()?;
    target.name.as_deref().filter(|_| target.kind.as_deref() == Some("Pod"))
}

/// The endpoints of a service port in one family: the union over the Service's slices, one entry
/// per address and port (R9).
///
/// The result does not depend on the order in which slices arrived, only on the order of `slices`.
pub(crate) fn union<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    family: Family,
    name: &str,
    protocol: Protocol,
) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut union: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        for port in slice.ports.iter().filter(|p| p.protocol == protocol && p.name == name) {
            for endpoint in &slice.endpoints {
                union
                    .entry((endpoint.address, port.port))
                    .and_modify(|kept| {
                        if endpoint.preference() > kept.preference() {
                            *kept = endpoint;
                        }
                    })
                    .or_insert(endpoint);
            }
        }
    }
    union
}
