//! What the flags say, checked: lists that belong together are lists of one type.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use sluice_bgp::driver::Password;

use super::flags::BgpArgs;
use super::peer_options::PeerOptions;

/// Where a TCP MD5 key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nowhere: there is none.
    None,
    /// Here.
    Given(Password),
    /// At this position of `--peer-router-passwords-file`.
    Entry(usize),
    /// In this file below `--peer-passwords-dir`.
    File(String),
}

/// A router outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Its port.
    pub port: u16,
    /// Our address towards it.
    pub local_address: Option<IpAddr>,
    /// Whether BFD watches the path.
    pub bfd: bool,
    /// Hops for TTL security (RFC 5082); `None`: without.
    pub ttl_security: Option<u8>,
    /// Where its TCP MD5 key is.
    pub key: Key,
    /// What else is said about it alone.
    pub options: PeerOptions,
}

/// A router, and its password if it has one.
pub type KeyedRouter = (RouterPeer, Option<Password>);

/// Which kinds of addresses are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advertise {
    /// ClusterIPs
    pub cluster_ip: bool,
    /// External addresses
    pub external_ip: bool,
    /// Addresses of load balancers
    pub load_balancer_ip: bool,
}

/// Settings of the router that no object changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--enable-ibgp`
    pub ibgp: bool,
    /// `--nodes-full-mesh`
    pub full_mesh: bool,
    /// `--cluster-asn`
    pub asn: u32,
    /// `--peer-router-*`
    pub routers: Vec<RouterPeer>,
    /// `--peer-router-passwords-file`
    pub passwords_file: Option<PathBuf>,
    /// `--peer-passwords-dir`
    pub passwords_dir: Option<PathBuf>,
    /// `--peer-router-multihop-ttl`
    pub multihop: u8,
    /// `--bgp-port`
    pub port: u16,
    /// `--bgp-holdtime`
    pub hold_s: u16,
    /// `--bgp-graceful-restart`, towards routers
    pub graceful_restart: bool,
    /// `--bgp-graceful-restart-time`
    pub restart_s: u16,
    /// `--bgp-graceful-restart-deferral-time`
    pub deferral: Duration,
    /// `--router-id`
    pub router_id: Option<Ipv4Addr>,
    /// `--override-nexthop`
    pub override_next_hop: bool,
    /// `--advertise-cluster-ip` and its like
    pub advertise: Advertise,
    /// `--advertise-pod-cidr`
    pub advertise_pod_cidr: bool,
    /// `--advertise-only-with-endpoints`
    pub only_with_endpoints: bool,
    /// `--advertise-aggregate`
    pub aggregates: Vec<IpNet>,
    /// `--import-allow`
    pub import_allow: Vec<IpNet>,
    /// `--max-prefixes`
    pub max_prefixes: u32,
}

impl Settings {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// What does not fit, with the flag's name.
    pub fn from_args(args: &BgpArgs) -> Result<Self, String> {
        let count = args.peer_router_ips.len();
        if args.peer_router_asns.len() != count {
            return Err(format!(
                "--peer-router-asns: {} for {count} --peer-router-ips; accepted: one for each",
                args.peer_router_asns.len()
            ));
        }
        if args.peer_router_bfd
            && args.peer_router_multihop_ttl.max(args.peer_router_ttl_security) > 1
        {
            let text = "--peer-router-bfd: not over several hops; accepted with \
                        --peer-router-multihop-ttl and --peer-router-ttl-security 0 and 1";
            return Err(text.to_owned());
        }
        if args.peer_router_ttl_security > 0 && args.peer_router_multihop_ttl > 1 {
            let text = "--peer-router-ttl-security: says itself how many hops there may be; accepted \
                        with --peer-router-multihop-ttl 0 and 1";
            return Err(text.to_owned());
        }
        let ports = args.peer_router_ports.len();
        if ports != 0 && ports != count {
            return Err(format!(
                "--peer-router-ports: {ports} for {count} --peer-router-ips; accepted: none, or \
                 one for each"
            ));
        }
        let security = args.peer_router_ttl_security;
        let ttl_security = (security > 0).then_some(security);
        let keyed = args.peer_router_passwords_file.is_some();
        let ports = args.peer_router_ports.iter().copied().chain(std::iter::repeat(179));
        let pairs = args.peer_router_ips.iter().zip(&args.peer_router_asns).zip(ports);
        let routers: Vec<RouterPeer> = pairs
            .enumerate()
            .map(|(at, ((address, asn), port))| RouterPeer {
                address: *address,
                asn: *asn,
                port,
                local_address: None,
                bfd: args.peer_router_bfd,
                ttl_security,
                key: if keyed { Key::Entry(at) } else { Key::None },
                options: PeerOptions::default(),
            })
            .collect();
        for (at, router) in routers.iter().enumerate() {
            if routers.iter().skip(at + 1).any(|other| other.address == router.address) {
                return Err(format!("--peer-router-ips: {} stands twice", router.address));
            }
        }
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        Ok(Self {
            ibgp: args.enable_ibgp,
            full_mesh: args.nodes_full_mesh,
            asn: args.cluster_asn,
            routers,
            passwords_file: args.peer_router_passwords_file.clone(),
            passwords_dir: args.peer_passwords_dir.clone(),
            multihop: args.peer_router_multihop_ttl,
            port: args.bgp_port,
            hold_s: seconds(args.bgp_holdtime),
            graceful_restart: args.bgp_graceful_restart,
            restart_s: seconds(args.bgp_graceful_restart_time),
            deferral: args.bgp_graceful_restart_deferral_time,
            router_id: args.router_id,
            override_next_hop: args.override_nexthop,
            advertise: Advertise {
                cluster_ip: args.advertise_cluster_ip,
                external_ip: args.advertise_external_ip,
                load_balancer_ip: args.advertise_loadbalancer_ip,
            },
            advertise_pod_cidr: args.advertise_pod_cidr,
            only_with_endpoints: args.advertise_only_with_endpoints,
            aggregates: args.advertise_aggregate.clone(),
            import_allow: args.import_allow.clone(),
            max_prefixes: args.max_prefixes,
        })
    }
}

#[cfg(test)]
pub(super) fn for_tests() -> Settings {
    Settings {
        ibgp: true,
        full_mesh: true,
        asn: 64512,
        routers: Vec::new(),
        passwords_file: None,
        passwords_dir: None,
        multihop: 0,
        port: 179,
        hold_s: 90,
        graceful_restart: true,
        restart_s: 90,
        deferral: Duration::from_secs(360),
        router_id: None,
        override_next_hop: false,
        advertise: Advertise::default(),
        advertise_pod_cidr: true,
        only_with_endpoints: false,
        aggregates: Vec::new(),
        import_allow: Vec::new(),
        max_prefixes: 1000,
    }
}
