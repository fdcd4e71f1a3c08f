//! The agent's configuration: the command line with its defaults filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::bgp;
use crate::cli::AgentArgs;
use crate::detector::Mode;
use crate::nodeports::NodePortAddresses;
use crate::watch::{ApiAccess, Requests, Timing};

/// Everything the agent runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The flags of the command line with their values, to be shown (R51).
    pub flags: BTreeMap<String, String>,
    /// Name of the own Node, trimmed and lower case (R8).
    pub node_name: String,
    /// The API server.
    pub api: ApiAccess,
    /// Folder of socket and lock.
    pub state_dir: PathBuf,
    /// Address of the agent's HTTP server.
    pub http_addr: SocketAddr,
    /// Address of kube-proxy's health endpoint.
    pub healthz_addr: SocketAddr,
    /// Address of kube-proxy's metrics.
    pub metrics_addr: SocketAddr,
    /// Ranges that ClusterIPs come from; empty: as the ServiceCIDR objects say (R41).
    pub service_ranges: Vec<IpNet>,
    /// Where node ports and health check ports are open (R20, R24).
    pub nodeports: NodePortAddresses,
    /// Whether the data plane depends on the Node's `spec.podCIDRs` (R12).
    pub pod_cidrs: bool,
    /// Where node ports are expected; node ports outside are reported.
    pub node_port_range: Option<RangeInclusive<u16>>,
    /// Whether `spec.externalIPs` are served (R18, KEP-5707).
    pub external_ips: bool,
    /// Ranges that `spec.externalIPs` have to lie in; empty: anywhere.
    pub external_ranges: Vec<IpNet>,
    /// Ranges that addresses of load balancers have to lie in; empty: anywhere.
    pub load_balancer_ranges: Vec<IpNet>,
    /// Shortest time between the end of a sync and the next.
    pub min_sync_period: Duration,
    /// How long to wait for the own Node's addresses before going on without (R37).
    pub node_wait: Duration,
    /// Whether this kernel has IPv6 (R3).
    pub ipv6: bool,
    /// The router part; `None` without it.
    pub bgp: Option<bgp::Settings>,
    /// Limits of the watches.
    pub timing: Timing,
}

/// kube-proxy waits this long for its own Node (R37).
const NODE_WAIT: Duration = Duration::from_secs(30);

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody says what this node is called.
    #[error("--node-name is not given and the host has no name")]
    NoNodeName,
    /// Flags of the router do not fit each other.
    #[error("{0}")]
    Bgp(String),
}

impl Config {
    /// Fills in what the command line leaves open from the host.
    ///
    /// # Errors
    /// When there is no name for the node, or flags do not fit each other.
    pub fn from_args(args: &AgentArgs) -> Result<Self, ConfigError> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = args.node_name.as_deref().unwrap_or(&host).trim().to_lowercase();
        if name.is_empty() {
            return Err(ConfigError::NoNodeName);
        }
        // Without validation the ranges say nothing.
        let checked = |ranges: &[IpNet]| match args.strict_external_ip_validation {
            true => ranges.iter().map(IpNet::trunc).collect(),
            false => Vec::new(),
        };
        Ok(Self {
            flags: BTreeMap::new(),
            node_name: name,
            api: ApiAccess {
                kubeconfig: args.kubeconfig.clone(),
                master: args.master.clone().filter(|url| !url.is_empty()),
                requests: Requests::default(),
                warnings: crate::watch::Warnings::default(),
            },
            state_dir: args.state_dir.clone(),
            http_addr: args.http_addr,
            healthz_addr: args.healthz_bind_address,
            metrics_addr: args.metrics_bind_address,
            service_ranges: args.service_cluster_ip_range.clone(),
            nodeports: NodePortAddresses::new(args.nodeport_addresses.clone()),
            pod_cidrs: args.detect_local_mode == Mode::NodeCidr,
            node_port_range: args.service_node_port_range.clone(),
            external_ips: args.allow_service_external_ips,
            external_ranges: checked(&args.service_external_ip_range),
            load_balancer_ranges: checked(&args.loadbalancer_ip_range),
            min_sync_period: args.min_sync_period,
            node_wait: NODE_WAIT,
            // Present only in namespaces and kernels that have IPv6.
            ipv6: Path::new("/proc/net/if_inet6").exists(),
            bgp: match args.run_router {
                true => Some(bgp::Settings::from_args(&args.bgp).map_err(ConfigError::Bgp)?),
                false => None,
            },
            timing: Timing::default(),
        })
    }
}
