//! The command line: its words, its defaults, and what is said about words it does not know.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::bgp::BgpArgs;
use crate::detector::{self, Mode};
use crate::flags::{self, LaterArgs};
use crate::nodeports::{self, Word};

/// Default of `--state-dir`.
pub const STATE_DIR: &str = "/run/sluice";
/// Default of `--bpf-dir`.
pub const BPF_DIR: &str = "/sys/fs/bpf/sluice";

/// Sluice: Kubernetes services by eBPF, one agent per node.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent
    Agent(Box<AgentArgs>),
    /// Show the agent's and the data plane's state
    Status(ViewArgs),
    /// Show Services and their backends
    Services {
        /// Only this Service: NAME or NAMESPACE/NAME, then with all its backends
        name: Option<String>,
        /// How to show it.
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Show remembered flows
    Flows {
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// How to show them.
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Show how many packets were dropped and why
    Drops(ViewArgs),
    /// Show peers and routes of BGP
    Bgp {
        /// What to show.
        #[command(subcommand)]
        what: BgpView,
    },
    /// Remove all that the agent has left on this node, and nothing else; services are then served
    /// no more. No agent may be running
    Cleanup {
        /// Folder of the pinned programs and maps
        #[arg(long, default_value = BPF_DIR)]
        bpf_dir: PathBuf,
        /// Where it is and how to show it.
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Show what this node's kernel allows; needs no agent
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What `sluice bgp` shows.
#[derive(Debug, Subcommand)]
pub enum BgpView {
    /// Peers: state, what they told and were told
    Neighbors(ViewArgs),
    /// Routes: received, chosen, announced, and why not
    Routes {
        /// Only routes within this prefix; with an exact prefix also why peers are not told
        prefix: Option<IpNet>,
        /// How to show them.
        #[command(flatten)]
        view: ViewArgs,
    },
}

/// What all views take.
#[derive(Clone, Debug, Args)]
pub struct ViewArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The agent's folder; its control socket is agent.sock in there
    #[arg(long, default_value = STATE_DIR)]
    pub state_dir: PathBuf,
}

/// How XDP is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    /// Where it serves; this version uses tc everywhere
    Auto,
    /// Nowhere
    Off,
}

/// Flags of `sluice agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Name of the own Node object [default: the host's name]
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig file [default: the pod's service account]
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, in place of the kubeconfig's
    #[arg(long)]
    pub master: Option<String>,
    /// Folder of the control socket agent.sock
    #[arg(long, default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Folder of the pinned programs and maps, on a bpffs
    #[arg(long, default_value = BPF_DIR)]
    pub bpf_dir: PathBuf,
    /// cgroup v2 folder for balancing at the socket, `none` for packets alone [default: where it is
    /// mounted]
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Interfaces to the other nodes, repeatable [default: those with the node's addresses]
    #[arg(long, value_delimiter = ',')]
    pub uplink: Vec<String>,
    /// The pods' bridge
    #[arg(long, default_value = "kube-bridge")]
    pub bridge: String,
    /// Use of XDP
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    pub xdp: Xdp,
    /// Balance Services; the only part of this version
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub run_service_proxy: bool,
    /// Announce and learn routes by BGP
    #[arg(long, num_args = 0..=1, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub run_router: bool,
    /// Wire pods; not in this version
    #[arg(long, num_args = 0..=1, default_value_t = false,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_cni: bool,
    /// Address of /healthz, /livez, /readyz and /metrics
    #[arg(long, default_value = "0.0.0.0:20244")]
    pub http_addr: SocketAddr,
    /// Address of kube-proxy's health endpoint
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Address of kube-proxy's /metrics and /proxyMode
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
    /// Ranges of ClusterIPs, repeatable [default: the ServiceCIDR objects, live; 10.96.0.0/12 where
    /// the API server has none]; ClusterIPs outside are reported
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Where node ports and health check ports are open: ranges of local addresses, primary (the
    /// Node's first address of each family), localhost, all; repeatable [default: primary for node
    /// ports, all for health check ports]
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<Word>,
    /// Node ports of the cluster, e.g. 30000-32767; node ports outside are reported
    #[arg(long, value_parser = nodeports::parse_port_range)]
    pub service_node_port_range: Option<RangeInclusive<u16>>,
    /// Give all traffic to ClusterIPs the node's address as its source
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub masquerade_all: bool,
    /// Serve spec.externalIPs of Services (KEP-5707)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_service_external_ips: bool,
    /// Ranges that spec.externalIPs of Services have to lie in, repeatable [default: anywhere]
    #[arg(long, value_delimiter = ',')]
    pub service_external_ip_range: Vec<IpNet>,
    /// Ranges that addresses of load balancers have to lie in, repeatable [default: anywhere]
    #[arg(long, value_delimiter = ',')]
    pub loadbalancer_ip_range: Vec<IpNet>,
    /// Neither serve nor announce addresses outside of these ranges; they are reported
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub strict_external_ip_validation: bool,
    /// Ranges of pod addresses in the whole cluster, repeatable
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// How local pods are told from other clients, as in kube-proxy
    #[arg(long, value_enum, default_value_t)]
    pub detect_local_mode: Mode,
    /// The pods' bridge once more, for --detect-local-mode=BridgeInterface; the same as --bridge
    #[arg(long)]
    pub pod_bridge_interface: Option<String>,
    /// How names of pods' interfaces start, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long)]
    pub pod_interface_name_prefix: Option<String>,
    /// Shortest time between two syncs, e.g. 50ms or 1s
    #[arg(long, default_value = "50ms", value_parser = parse_duration)]
    pub min_sync_period: Duration,
    /// Entries of the flow table, per address family
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1024..))]
    pub flow_entries: u32,
    /// Flags of the router part.
    #[command(flatten)]
    pub bgp: BgpArgs,
    /// Flags of parts that are not built yet.
    #[command(flatten)]
    pub later: LaterArgs,
    /// error, warn, info, debug or trace, or a filter as in RUST_LOG
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

/// Reads a duration as Go's flags take it: a number with ms, s, m or h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let expected = "expected a number with ms, s, m or h, e.g. 50ms";
    let (number, seconds) = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or(expected)?;
    let number: f64 = number.parse().map_err(|_| expected)?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| expected.to_owned())
}

/// Reads the command line.
///
/// # Errors
/// Help and version texts, and errors; those about flags of others say what to use instead.
pub fn parse<I, S>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = S>,
    S: Into<std::ffi::OsString> + Clone,
{
    let cli = Cli::try_parse_from(arguments).map_err(advise)?;
    if let Command::Agent(args) = &cli.command {
        let refused = [
            (args.enable_cni, "--enable-cni: wiring pods is not in this version; accepted: false"),
            (
                !args.run_service_proxy,
                "--run-service-proxy: the service proxy is the only part of this version; \
                 accepted: true",
            ),
        ];
        if let Some((_, text)) = refused.iter().find(|(refused, _)| *refused) {
            return Err(clap::Error::raw(ErrorKind::InvalidValue, format!("{text}\n")));
        }
        if let Some(text) = args.later.refused() {
            return Err(clap::Error::raw(ErrorKind::InvalidValue, format!("{text}\n")));
        }
        if let Some(text) = detector::contradiction(args) {
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, format!("{text}\n")));
        }
    }
    Ok(cli)
}

/// The flags of `sluice agent` with their values, defaults included, as they stand on a command line
/// that has been read; what is neither given nor has a default is left out.
pub fn flags<I, T>(arguments: I) -> BTreeMap<String, String>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = Cli::command();
    let Ok(matches) = command.try_get_matches_from_mut(arguments) else { return BTreeMap::new() };
    let agent = command.find_subcommand("agent");
    let (Some(agent), Some(("agent", matches))) = (agent, matches.subcommand()) else {
        return BTreeMap::new();
    };
    let value = |argument: &clap::Arg| {
        let values = matches.get_raw(argument.get_id().as_str())?;
        let values: Vec<String> = values.map(|one| one.to_string_lossy().into_owned()).collect();
        Some((argument.get_long()?.to_owned(), values.join(",")))
    };
    agent.get_arguments().filter_map(value).collect()
}

fn advise(error: clap::Error) -> clap::Error {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    };
    let text = match error.kind() {
        ErrorKind::UnknownArgument => {
            word(ContextKind::InvalidArg).and_then(|flag| flags::advice(&flag))
        }
        ErrorKind::InvalidSubcommand => word(ContextKind::InvalidSubcommand)
            .filter(|name| flags::LATER_COMMANDS.contains(&name.as_str()))
            .map(|name| format!("`sluice {name}` is not in this version")),
        _ => None,
    };
    text.map_or(error, |text| clap::Error::raw(ErrorKind::UnknownArgument, format!("{text}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(arguments: &[&str]) -> Result<AgentArgs, String> {
        let all = ["sluice", "agent"].iter().chain(arguments);
        match parse(all.copied()) {
            Ok(Cli { command: Command::Agent(args) }) => Ok(*args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn r51_flags_are_shown_as_they_hold() {
        let flags =
            flags(["sluice", "agent", "--node-name=n1", "--uplink", "a,b", "--masquerade-all"]);
        let of = |name: &str| flags.get(name).map(String::as_str);
        assert_eq!((of("node-name"), of("uplink")), (Some("n1"), Some("a,b")));
        assert_eq!((of("masquerade-all"), of("min-sync-period")), (Some("true"), Some("50ms")));
        assert_eq!(of("master"), None);
        assert!(super::flags(["sluice", "status"]).is_empty());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_a_node_in_a_namespace() {
        let args = agent(&[
            "--node-name",
            "n1",
            "--kubeconfig",
            "/k",
            "--state-dir",
            "/s",
            "--bpf-dir",
            "/b",
            "--cgroup",
            "none",
            "--uplink",
            "eth0",
            "--uplink",
            "eth1,eth2",
            "--http-addr",
            "127.0.0.1:1",
            "--cluster-cidr",
            "10.1.0.0/16",
            "--cluster-cidr=fd00::/48",
            "--run-router",
            "false",
            "--enable-cni=false",
            "--xdp",
            "off",
            "--run-service-proxy",
            "--min-sync-period",
            "1.5s",
            "--nodeport-addresses",
            "primary,192.0.2.7/24",
            "--nodeport-addresses=localhost",
            "--service-node-port-range=30000-30100",
            "--masquerade-all",
            "--allow-service-external-ips=false",
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=cali",
        ])
        .expect("accepted");
        assert_eq!(args.uplink, ["eth0", "eth1", "eth2"]);
        assert_eq!(args.cluster_cidr.len(), 2);
        assert_eq!(args.min_sync_period, Duration::from_millis(1500));
        assert_eq!(args.healthz_bind_address.port(), 10256);
        assert_eq!(args.metrics_bind_address.port(), 10249);
        let range = Word::Range("192.0.2.0/24".parse().expect("a range"));
        assert_eq!(args.nodeport_addresses, [Word::Primary, range, Word::Localhost]);
        assert_eq!(args.service_node_port_range, Some(30000..=30100));
        assert_eq!(args.detect_local_mode, Mode::Prefix);
        assert_eq!(args.pod_interface_name_prefix.as_deref(), Some("cali"));
        assert!(args.masquerade_all && !args.allow_service_external_ips);
    }

    #[test]
    fn ranges_of_external_addresses_hold_unless_validation_is_off() {
        let flags =
            ["--loadbalancer-ip-range=198.18.0.7/24", "--loadbalancer-ip-range", "fd00::/8"];
        let ranges = |more: &[&str]| {
            let args = agent(&[&flags[..], more].concat()).expect("accepted");
            let config = crate::config::Config::from_args(&args).expect("fits");
            assert_eq!(config.external_ranges, [], "none of its kind: anywhere");
            config.load_balancer_ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ranges(&[]), ["198.18.0.0/24", "fd00::/8"]);
        assert!(ranges(&["--strict-external-ip-validation=false"]).is_empty());
    }

    #[test]
    fn parts_that_are_not_built_yet_can_be_switched_off() {
        let flags = ["--enable-overlay=false", "--enable-pod-egress=false", "--auto-mtu=false"];
        assert!(agent(&[&flags[..], &["--external-traffic=snat"]].concat()).is_ok());
    }

    #[test]
    fn nothing_is_taken_and_ignored() {
        let cases: &[(&[&str], &str)] = &[
            (&["--hostname-override=n1"], "--node-name"),
            (&["--ipvs-sync-period", "1m"], "--min-sync-period"),
            (&["--run-firewall=true"], "NetworkPolicies"),
            (&["--enable-overlay"], "accepted: false"),
            (&["--overlay-type=full"], "--enable-overlay=false"),
            (&["--enable-pod-egress=true"], "accepted: false"),
            (&["--auto-mtu=true"], "accepted: false"),
            (&["--external-traffic=dsr"], "accepted: snat"),
            (&["--external-traffic=nat"], "snat, dsr, hybrid"),
            (&["--bgp-holdtime", "2s"], "3s to 65535s"),
            (&["--cluster-asn", "0"], "--cluster-asn"),
            (&["--peer-router-ips", "192.0.2"], "--peer-router-ips"),
            (&["--bgp-graceful-restart-time=2h"], "1s to 4095s"),
            (&["--enable-cni=true"], "accepted: false"),
            (&["--run-service-proxy=false"], "accepted: true"),
            (&["--xdp", "native"], "auto, off"),
            (&["--cluster-cidr", "10.0.0.0"], "--cluster-cidr"),
            (&["--loadbalancer-ip-range", "198.18.0.0"], "--loadbalancer-ip-range"),
            (&["--service-external-ip-range=fd00::/129"], "--service-external-ip-range"),
            (&["--strict-external-ip-validation=yes"], "--strict-external-ip-validation"),
            (&["--min-sync-period", "1"], "50ms"),
            (&["--flow-entries", "0"], "--flow-entries"),
            (&["--nodeport-addresses", "primray"], "primary, localhost, all"),
            (&["--nodeport-addresses", "10.0.0.1"], "primary, localhost, all"),
            (&["--service-node-port-range", "30000"], "30000-32767"),
            (&["--masquerade-all=yes"], "--masquerade-all"),
            (&["--detect-local-mode=clustercidr"], "ClusterCIDR, NodeCIDR, BridgeInterface"),
            (&["--detect-local-mode=InterfaceNamePrefix"], "--pod-interface-name-prefix"),
            (&["--pod-interface-name-prefix=veth"], "InterfaceNamePrefix"),
            (
                &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
                "kube-bridge; to change it, --bridge",
            ),
            (&["--detect-local-mode=NodeCIDR", "--pod-bridge-interface=cni0"], "BridgeInterface"),
            (&["--nonsense"], "--nonsense"),
        ];
        for (arguments, expected) in cases {
            let error = agent(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn commands_of_later_versions_say_so() {
        let error = parse(["sluice", "doctor"]).expect_err("refused").to_string();
        assert!(error.contains("not in this version"), "{error}");
        assert!(parse(["sluice", "dance"]).is_err());
    }
}
