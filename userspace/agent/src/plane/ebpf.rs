//! The real data plane behind the agent's boundary.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::Reason;
use sluice_dataplane::{Dataplane, Error, Options, TcpState};
use sluice_services::State;

use super::{
    Attachment, FlowRow, LinkReport, OpenPlane, Plane, PlaneError, PlaneStatus, ReasonCount,
    SyncReport,
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
    let options = Options {
        bpf_dir: args.bpf_dir.clone(),
        bridge: args.bridge.clone(),
        uplinks: args.uplink.clone(),
        node_addresses: Vec::new(),
        cluster_cidrs: args.cluster_cidr.clone(),
        node_port_ranges: Vec::new(),
        masquerade_all: args.masquerade_all,
        flow_entries: args.flow_entries,
    };
    let nodeports = NodePortAddresses::new(args.nodeport_addresses.clone());
    Box::new(move |addresses: &[IpAddr]| {
        let options = Options {
            node_addresses: addresses.to_vec(),
            node_port_ranges: nodeports.ranges(addresses),
            ..options.clone()
        };
        Ok(Box::new(Dataplane::open(options)?))
    })
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

    fn maintain(&mut self, budget: usize) -> Result<(), PlaneError> {
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
                state: state_name(flow.tcp).to_owned(),
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

fn state_name(tcp: Option<TcpState>) -> &'static str {
    match tcp {
        None => "-",
        Some(TcpState::Opening) => "opening",
        Some(TcpState::Established) => "established",
        Some(TcpState::Closing) => "closing",
        Some(TcpState::Closed) => "closed",
    }
}
