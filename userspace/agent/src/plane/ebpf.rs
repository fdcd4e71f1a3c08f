//! The real data plane behind the agent's boundary.

use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::Reason;
use sluice_dataplane::{ConnectionState, Dataplane, Error, Options, Walked, find_cgroup};
use sluice_services::State;

use super::{
    Attachment, FlowRow, LinkReport, OpenPlane, OwnNode, Plane, PlaneError, PlaneStatus,
    ReasonCount, SyncReport,
};
use crate::cli::AgentArgs;
use crate::nodeports::NodePortAddresses;

impl From<Error> for PlaneError {
    fn from(error: Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self(text)
    }
}

/// Opens the data plane as the command line says, for a node with the addresses it will be given.
#[must_use]
pub fn opener(args: &AgentArgs) -> OpenPlane {
    let args = args.clone();
    let nodeports = NodePortAddresses::new(args.nodeport_addresses.clone());
    if nodeports.names_loopback() && options(&args, &OwnNode::default()).cgroup.is_none() {
        tracing::warn!("node ports on loopback addresses need --cgroup: they are not served");
    }
    Box::new(move |node: &OwnNode| Ok(Box::new(Dataplane::open(options(&args, node))?)))
}

fn options(args: &AgentArgs, node: &OwnNode) -> Options {
    let OwnNode { addresses, pod_cidrs } = node;
    let nodeports = NodePortAddresses::new(args.nodeport_addresses.clone());
    Options {
        bpf_dir: args.bpf_dir.clone(),
        bridge: args.bridge.clone(),
        uplinks: args.uplink.clone(),
        node_addresses: addresses.to_vec(),
        cluster_cidrs: args.cluster_cidr.clone(),
        local_pods: args.detect_local_mode.local_pods(&args.cluster_cidr, pod_cidrs),
        pod_prefix: args.pod_interface_name_prefix.clone(),
        node_port_ranges: nodeports.ranges(addresses),
        cgroup: match &args.cgroup {
            Some(folder) if folder.as_os_str() == "none" => None,
            Some(folder) => Some(folder.clone()),
            None => find_cgroup(),
        },
        masquerade_all: args.masquerade_all,
        flow_entries: args.flow_entries,
    }
}

impl Plane for Dataplane {
    fn sync(&mut self, state: &Arc<State>) -> Result<SyncReport, PlaneError> {
        let report = Self::sync(self, state)?;
        Ok(SyncReport {
            operations: report.operations,
            frontends: report.frontends,
            backends: report.backends,
            skipped: report.skipped,
        })
    }

    fn set_service_cidrs(&mut self, cidrs: &[IpNet]) {
        Self::set_service_cidrs(self, cidrs);
    }

    fn reconcile_links(&mut self) -> Result<LinkReport, PlaneError> {
        let report = Self::reconcile_links(self)?;
        Ok(LinkReport {
            attached: report.attached,
            failed: report.failed,
            unresolved_pods: report.unresolved_pods,
        })
    }

    fn maintain(&mut self, budget: usize) -> Result<Vec<Walked>, PlaneError> {
        Ok(Self::maintain(self, budget)?)
    }

    fn flows(&mut self, limit: usize) -> Result<Vec<FlowRow>, PlaneError> {
        let flows = Self::flows(self, limit)?;
        Ok(flows
            .into_iter()
            .map(|flow| FlowRow {
                protocol: flow.protocol.to_string(),
                client: flow.client.to_string(),
                frontend: flow.frontend.to_string(),
                backend: flow.backend.to_string(),
                source: flow.source.to_string(),
                state: state_name(flow.connection).to_owned(),
                idle_s: flow.idle.as_secs_f64(),
            })
            .collect())
    }

    fn counters(&self) -> Result<Vec<ReasonCount>, PlaneError> {
        let counters = Self::counters(self)?;
        Ok(counters
            .into_iter()
            .map(|(name, packets)| ReasonCount {
                reason: name.to_owned(),
                drop: Reason::ALL.iter().any(|reason| reason.name() == name && reason.is_drop()),
                packets,
            })
            .collect())
    }

    fn status(&self) -> PlaneStatus {
        let status = Self::status(self);
        PlaneStatus {
            bpf_dir: status.bpf_dir.display().to_string(),
            attached: status
                .attached
                .into_iter()
                .map(|at| Attachment {
                    interface: at.interface,
                    program: at.program.to_owned(),
                    mode: at.mode.to_owned(),
                })
                .collect(),
            frontends: status.frontends as u64,
            backends: status.backends as u64,
            slots_used: status.slots_used.into(),
            slots_capacity: status.slots_capacity.into(),
            flows_capacity: status.flows_capacity.into(),
        }
    }
}

fn state_name(tcp: Option<ConnectionState>) -> &'static str {
    match tcp {
        None => "-",
        Some(ConnectionState::Opening) => "opening",
        Some(ConnectionState::Established) => "established",
        Some(ConnectionState::Closing) => "closing",
        Some(ConnectionState::Closed) => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    #[test]
    fn r11_r20_flags_reach_the_data_plane() {
        let of = |flags: &[&str]| {
            let line = ["sluice", "agent"].iter().chain(flags).copied();
            let Ok(Command::Agent(args)) = parse(line).map(|cli| cli.command) else {
                panic!("{flags:?}")
            };
            let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("one"));
            let node = OwnNode { addresses: addresses.to_vec(), pod_cidrs: Vec::new() };
            let options = options(&args, &node);
            let ranges = options.node_port_ranges.iter().map(ToString::to_string).collect();
            (options.masquerade_all, ranges)
        };
        let primary: Vec<String> = vec!["192.0.2.1/32".to_owned(), "2001:db8::1/128".to_owned()];
        assert_eq!(of(&[]), (false, primary));
        let all = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        assert_eq!(of(&["--masquerade-all", "--nodeport-addresses=all"]), (true, all));
    }
}
