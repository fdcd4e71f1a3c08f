//! The flags of the router: kube-router's, with its names and meaning, and a few of our own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use ipnet::IpNet;

use crate::cli::parse_duration;

/// Flags of `sluice agent` that only the router reads.
#[derive(Clone, Debug, Args)]
pub struct BgpArgs {
    /// Peer with the other nodes by BGP; the annotation enable-ibgp of a Node goes before
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub enable_ibgp: bool,
    /// Peer with all nodes; false: with those of the own AS (annotation node.asn)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub nodes_full_mesh: bool,
    /// AS of the nodes
    #[arg(long, default_value_t = 64512, value_parser = clap::value_parser!(u32).range(1..))]
    pub cluster_asn: u32,
    /// Routers that every node peers with
    #[arg(long, value_delimiter = ',')]
    pub peer_router_ips: Vec<IpAddr>,
    /// Their ASes, one for each
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub peer_router_asns: Vec<u32>,
    /// Their ports, one for each [default: 179]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_router_ports: Vec<u16>,
    /// File with their TCP MD5 passwords, Base64, one for each, separated by commas; read again
    /// when it changes
    #[arg(long)]
    pub peer_router_passwords_file: Option<PathBuf>,
    /// Hops to them; 0 and 1: on a link
    #[arg(long, default_value_t = 0)]
    pub peer_router_multihop_ttl: u8,
    /// TTL security (RFC 5082): they are at most so many hops away, send with TTL 255, and take
    /// nothing less themselves; 0: without
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=254))]
    pub peer_router_ttl_security: u8,
    /// Folder with passwords of routers in the annotation `peers`, a file for each, as a Secret is
    /// mounted; read again when they change
    #[arg(long)]
    pub peer_passwords_dir: Option<PathBuf>,
    /// Watch the paths to them by BFD (RFC 5880), which they have to be configured for, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub peer_router_bfd: bool,
    /// Port of BGP, own and of the other nodes
    #[arg(long, default_value_t = 179, value_parser = clap::value_parser!(u16).range(1..))]
    pub bgp_port: u16,
    /// Hold time, 3 s to 65535 s
    #[arg(long, default_value = "90s", value_parser = hold_time)]
    pub bgp_holdtime: Duration,
    /// Ask routers to keep routes while the agent restarts (nodes always do)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub bgp_graceful_restart: bool,
    /// For how long
    #[arg(long, default_value = "90s", value_parser = restart_time)]
    pub bgp_graceful_restart_time: Duration,
    /// Longest wait for what peers have to say before routes of an earlier run are removed
    #[arg(long, default_value = "360s", value_parser = parse_duration)]
    pub bgp_graceful_restart_deferral_time: Duration,
    /// BGP identifier [default: the Node's first IPv4 address]
    #[arg(long)]
    pub router_id: Option<Ipv4Addr>,
    /// Name the address of the session as next hop towards routers, not the Node's
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub override_nexthop: bool,
    /// Announce ClusterIPs to routers
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub advertise_cluster_ip: bool,
    /// Announce external addresses of Services to routers
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub advertise_external_ip: bool,
    /// Announce addresses of load balancers to routers
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub advertise_loadbalancer_ip: bool,
    /// Announce the node's pod ranges to routers (to nodes always)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub advertise_pod_cidr: bool,
    /// Announce addresses of Services only while there is any endpoint
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub advertise_only_with_endpoints: bool,
    /// Announce these ranges in place of the single addresses within, repeatable
    #[arg(long, value_delimiter = ',')]
    pub advertise_aggregate: Vec<IpNet>,
    /// Routes of routers that are used, with all within, repeatable [default: none]
    #[arg(long, value_delimiter = ',')]
    pub import_allow: Vec<IpNet>,
    /// Most prefixes of a peer, per family; more end its session for ten minutes
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_prefixes: u32,
}

fn hold_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let fits = (3..=65535).contains(&time.as_secs());
    if fits { Ok(time) } else { Err("expected 3s to 65535s".to_owned()) }
}

fn restart_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    // 12 bits (RFC 4724 3).
    let fits = (1..=4095).contains(&time.as_secs());
    if fits { Ok(time) } else { Err("expected 1s to 4095s".to_owned()) }
}
