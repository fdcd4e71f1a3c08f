//! The ways to a service that are compared, and what each needs on the node.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use sluice_testkit::cluster::netns::Netns;

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// To the pod's own address, over the plain bridge
    Direct,
    /// To the ClusterIP, by our programs on the veths
    Tc,
    /// To the ClusterIP, by one DNAT rule
    Iptables,
    /// To the ClusterIP, by IPVS with NAT
    Ipvs,
    /// To the ClusterIP from a process of the node, by our programs at the cgroup
    Socket,
    /// To the pod's own address from a process of the node on which no agent runs
    Bare,
}

/// Who asks, in one line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod of the server's node. Direct: no agent runs there.
    Pod,
    /// A process of the server's node, in its namespace and cgroup. Direct: from the same cgroup, with
    /// the agent's programs attached.
    Node,
}

impl Mode {
    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tc => "tc",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Socket => "socket",
            Self::Bare => "bare",
        }
    }

    /// Whether an agent is to run on the node.
    pub(crate) const fn has_agent(self, client: Client) -> bool {
        match self {
            Self::Tc | Self::Socket => true,
            Self::Direct => matches!(client, Client::Node),
            Self::Iptables | Self::Ipvs | Self::Bare => false,
        }
    }

    /// Who asks in this way; `None` for the one that every client has.
    pub(crate) const fn client(self) -> Option<Client> {
        match self {
            Self::Direct => None,
            Self::Tc | Self::Iptables | Self::Ipvs => Some(Client::Pod),
            Self::Socket | Self::Bare => Some(Client::Node),
        }
    }

    /// Whether the ClusterIP is asked, not the pod.
    pub(crate) const fn has_service(self) -> bool {
        !matches!(self, Self::Direct | Self::Bare)
    }

    /// Makes the node serve `service` by `backend` in this way.
    ///
    /// # Errors
    /// When the kernel has no such thing; the caller leaves the mode out then.
    pub(crate) fn prepare(
        self,
        node: &Netns,
        service: IpAddr,
        backend: IpAddr,
        port: u16,
    ) -> Result<()> {
        let vip = format!("{service}:{port}");
        let pod = format!("{backend}:{port}");
        match self {
            Self::Direct | Self::Tc | Self::Socket | Self::Bare => Ok(()),
            Self::Iptables => {
                see_bridged(node)?;
                let (service, port) = (service.to_string(), port.to_string());
                let rule = ["-p", "tcp", "-d", &service, "--dport", &port];
                let mut line = vec!["iptables", "-w", "-t", "nat", "-A", "PREROUTING"];
                line.extend(rule);
                line.extend(["-j", "DNAT", "--to-destination", &pod]);
                run(node, &line)
            }
            Self::Ipvs => {
                load("ip_vs")?;
                see_bridged(node)?;
                // Local, so that packets to it come to IPVS's hook.
                run(node, &["ip", "addr", "add", &format!("{service}/32"), "dev", "lo"])?;
                run(node, &["ipvsadm", "-A", "-t", &vip, "-s", "rr"])?;
                run(node, &["ipvsadm", "-a", "-t", &vip, "-r", &pod, "-m"])
            }
        }
    }
}

/// Lets netfilter see bridged packets: a reply from pod to pod is switched, and would pass the
/// translation by. Every cluster with such a proxy has this on.
fn see_bridged(node: &Netns) -> Result<()> {
    load("br_netfilter")?;
    node.sysctl(&[("bridge/bridge-nf-call-iptables", "1")], false)
}

fn load(module: &str) -> Result<()> {
    let output = Command::new("modprobe").arg(module).output().context("starting modprobe")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("this kernel has no {module}: {}", why.trim());
    }
    Ok(())
}

fn run(node: &Netns, line: &[&str]) -> Result<()> {
    let (program, args) = line.split_first().context("an empty command")?;
    let output = node
        .run(|| Command::new(program).args(args).output())?
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", line.join(" "), why.trim());
    }
    Ok(())
}
