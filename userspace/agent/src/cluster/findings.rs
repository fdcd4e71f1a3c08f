//! What is not served as it is written, and who is told: the pure part, from objects' problems and the
//! state to lines about Services. Called by [`super::Cluster`].

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use sluice_services::{AddressKind, Conflict, Kind, Problem, ServicePortKey, State};

use crate::ranges::Source;
use crate::watch::object::Key;

/// Something that is not served as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The Service it is about, if it is about one.
    pub service: Option<Key>,
    /// Which object, what is wrong, what is done about it.
    pub text: String,
}

impl Finding {
    fn of_object(problem: &Problem) -> Self {
        let object = &problem.object;
        let named = object.kind == Kind::Service && !object.name.is_empty();
        let key = Key { namespace: object.namespace.clone(), name: object.name.clone() };
        Self { service: named.then_some(key), text: problem.to_string() }
    }

    pub(super) fn of_service(key: &Key, what: &str) -> Self {
        Self { service: Some(key.clone()), text: format!("Service {key}: {what}") }
    }

    fn of_port(port: &ServicePortKey, what: String) -> Self {
        let key = Key { namespace: port.namespace.clone(), name: port.name.clone() };
        Self { service: Some(key), text: format!("Service {port}: {what}") }
    }
}

/// What is known of the ranges that Services get their addresses and ports from.
pub(super) struct Known<'a> {
    /// Of ClusterIPs.
    pub(super) ranges: &'a [IpNet],
    /// Who says so.
    pub(super) source: Source,
    /// Of node ports, if the operator names it.
    pub(super) node_ports: Option<&'a RangeInclusive<u16>>,
}

/// Fields of objects that can't be used, addresses that several Services want, and ClusterIPs and node
/// ports outside their ranges.
pub(super) fn find<'a>(
    problems: impl Iterator<Item = &'a Problem>,
    state: &State,
    known: &Known<'_>,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = problems.map(Finding::of_object).collect();
    for Conflict { frontend, winner, losers } in state.conflicts() {
        findings.extend(losers.iter().map(|loser| {
            let at = SocketAddr::new(frontend.address, frontend.port);
            Finding::of_port(loser, format!("{at} is served for {winner}"))
        }));
    }
    outside(state, known, &mut findings);
    findings
}

fn outside(state: &State, known: &Known<'_>, findings: &mut Vec<Finding>) {
    // The default is a guess: nobody has said that other ClusterIPs are wrong.
    let ranges = if known.source == Source::Default { &[] } else { known.ranges };
    let is_outside = |address: &IpAddr| {
        let mut ranges = ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4());
        ranges.clone().next().is_some() && !ranges.any(|range| range.contains(address))
    };
    for (key, port) in &state.ports {
        for (address, kind) in &port.addresses {
            if *kind == AddressKind::ClusterIp && is_outside(address) {
                let source = known.source.name();
                let text =
                    format!("ClusterIP {address} is outside of the service ranges ({source})");
                findings.push(Finding::of_port(key, text));
            }
        }
        let node_ports = known.node_ports.filter(|_| port.node_port != 0);
        if node_ports.is_some_and(|range| !range.contains(&port.node_port)) {
            let text =
                format!("node port {} is outside of --service-node-port-range", port.node_port);
            findings.push(Finding::of_port(key, text));
        }
    }
}
