//! Flags that Sluice does not take, and what to do instead: those of kube-router and kube-proxy
//! that have no place here, and those of parts that a later version brings.
//!
//! A flag is never taken and ignored: whoever sets it relies on it. Flags of parts that are not built
//! yet are taken with the value that means there is no such part, so that one command line fits this
//! version and the next.

use clap::{ArgAction, Args, ValueEnum};

/// How answers to traffic from outside go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExternalTraffic {
    /// By the node that was asked.
    Snat,
    /// From the backend's node straight to the client.
    Dsr,
    /// UDP as with snat, TCP as with dsr.
    Hybrid,
}

/// Flags of parts that this version does not have.
#[derive(Clone, Debug, Args)]
pub struct LaterArgs {
    /// Tunnels between nodes; not in this version
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub enable_overlay: bool,
    /// Which nodes tunnels are for; not in this version
    #[arg(long, hide = true)]
    pub overlay_type: Option<String>,
    /// Give traffic of pods that leaves the cluster the node's address; not in this version
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub enable_pod_egress: bool,
    /// Fit the pods' MTU to the uplink; not in this version
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub auto_mtu: bool,
    /// How answers to traffic from outside go back; only snat in this version
    #[arg(long, value_enum, default_value_t = ExternalTraffic::Snat)]
    pub external_traffic: ExternalTraffic,
}

impl LaterArgs {
    /// What is asked for and not there, and what to do instead.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        let all = [
            (
                self.enable_overlay,
                "--enable-overlay: there are no tunnels in this version; instead, nodes on one link, or \
                 routers between them that learn the pod ranges by BGP (--peer-router-ips, or the \
                 annotation `peers`); accepted: false",
            ),
            (
                self.overlay_type.is_some(),
                "--overlay-type: there are no tunnels in this version; accepted: nothing, with \
                 --enable-overlay=false",
            ),
            (
                self.enable_pod_egress,
                "--enable-pod-egress: pods leave the cluster with their own addresses in this version; \
                 instead, routes to the pod ranges (--advertise-pod-cidr), or masquerading at the \
                 router or by the CNI plugin (`ipMasq`); accepted: false",
            ),
            (
                self.auto_mtu,
                "--auto-mtu: this version does not wire pods and sets no MTU; instead, `mtu` in the CNI \
                 plugin's configuration; accepted: false",
            ),
            (
                self.external_traffic != ExternalTraffic::Snat,
                "--external-traffic: answers go back by the node that was asked in this version; \
                 instead, externalTrafficPolicy Local, with which backends see the client's address; \
                 accepted: snat",
            ),
        ];
        all.into_iter().find_map(|(asked, text)| asked.then_some(text))
    }
}

/// What to tell about a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Use this instead.
    Instead(&'static str),
    /// Part of Sluice, but not built yet.
    Later,
}

use Advice::{Instead, Later};

const NO_IPVS: Advice =
    Instead("nothing: there is no IPVS; connections live in Sluice's flow table");
const NO_POLICY: Advice =
    Instead("a network policy controller of your choice: Sluice does not enforce NetworkPolicies");
const NO_TUNNELS: Advice = Instead("nothing: there are no tunnels in this version");
const NO_LB_CONTROLLER: Advice =
    Instead("a load balancer controller that sets status.loadBalancer of Services");

/// Flags by name, without the dashes.
const FLAGS: &[(&str, Advice)] = &[
    // kube-router
    ("hostname-override", Instead("--node-name")),
    ("health-port", Instead("--http-addr")),
    ("metrics-port", Instead("--http-addr")),
    ("metrics-addr", Instead("--http-addr")),
    ("metrics-path", Instead("--http-addr; the path is /metrics")),
    ("cleanup-config", Instead("the command `sluice cleanup`")),
    ("cache-sync-timeout", Instead("nothing: Sluice waits until the API server has listed all")),
    ("enable-pprof", Instead("nothing: use perf on the process")),
    ("enable-ipv4", Instead("nothing: families follow the Services and addresses of the node")),
    ("enable-ipv6", Instead("nothing: families follow the Services and addresses of the node")),
    ("hairpin-mode", Instead("nothing: a pod always reaches itself through a Service")),
    ("nodeport-bindon-all-ip", Instead("--nodeport-addresses all")),
    ("excluded-cidrs", NO_IPVS),
    ("ipvs-graceful-period", NO_IPVS),
    ("ipvs-graceful-termination", NO_IPVS),
    ("ipvs-permit-all", NO_IPVS),
    ("ipvs-sync-period", Instead("--min-sync-period")),
    ("iptables-sync-period", NO_POLICY),
    ("run-firewall", NO_POLICY),
    ("run-loadbalancer", NO_LB_CONTROLLER),
    ("loadbalancer-default-class", NO_LB_CONTROLLER),
    ("loadbalancer-sync-period", NO_LB_CONTROLLER),
    ("runtime-endpoint", Instead("nothing: Sluice does not enter pods, also not for DSR")),
    ("injected-routes-sync-period", Instead("nothing: routes are followed by events")),
    ("routes-sync-period", Instead("nothing: routes are followed by events")),
    ("disable-source-dest-check", Instead("your cloud's own tool")),
    ("overlay-encap", NO_TUNNELS),
    ("overlay-encap-port", NO_TUNNELS),
    ("service-tcp-timeout", Instead("--flow-entries: the flow table expires by TCP state")),
    ("service-tcpfin-timeout", Instead("--flow-entries: the flow table expires by TCP state")),
    ("service-udp-timeout", Instead("--flow-entries: the flow table expires by use")),
    ("v", Instead("--log-level, or RUST_LOG")),
    // kube-proxy
    ("proxy-mode", Instead("nothing: there is one mode, eBPF")),
    ("config", Instead("the flags of `sluice agent`")),
    ("sync-period", Instead("--min-sync-period")),
    ("iptables-min-sync-period", Instead("--min-sync-period")),
    ("ipvs-min-sync-period", Instead("--min-sync-period")),
    ("ipvs-scheduler", Instead("the annotation sluice.io/service.scheduler of a Service")),
    ("healthz-port", Instead("--healthz-bind-address")),
    ("cleanup", Instead("the command `sluice cleanup`")),
    ("conntrack-max-per-core", Instead("--flow-entries")),
    ("conntrack-min", Instead("--flow-entries")),
    ("conntrack-tcp-timeout-established", Instead("nothing: 24 h, as by default there")),
    ("conntrack-tcp-timeout-close-wait", Instead("nothing: 1 h, as by default there")),
    // Sluice, later
    ("peer-router-passwords", Instead("--peer-router-passwords-file")),
    ("adopt", Later),
];

/// Commands of Sluice that a later version brings.
pub const LATER_COMMANDS: &[&str] = &["routes", "monitor", "top", "doctor"];

/// What to tell about an argument that the command line does not know, such as
/// `--health-port=20244`; `None` for one that nobody knows.
#[must_use]
pub fn advice(argument: &str) -> Option<String> {
    let name = argument.trim_start_matches('-').split('=').next()?;
    let (_, advice) = FLAGS.iter().find(|(flag, _)| *flag == name)?;
    Some(match advice {
        Instead(what) => format!("--{name} has no place here; use instead: {what}"),
        Later => format!("--{name} is not in this version of Sluice"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_by_name_with_and_without_a_value() {
        for argument in ["--hostname-override", "--hostname-override=n1", "-hostname-override"] {
            let text = advice(argument).expect("known");
            assert!(text.ends_with("--node-name"), "{text}");
        }
        assert!(advice("--adopt").expect("known").contains("not in this version"));
        assert_eq!(advice("--nonsense"), None);
    }

    #[test]
    fn every_flag_stands_once_and_is_really_unknown_to_the_agent() {
        use clap::CommandFactory as _;
        let cli = crate::cli::Cli::command();
        let agent = cli.find_subcommand("agent").expect("agent");
        let taken: Vec<&str> = agent.get_arguments().filter_map(clap::Arg::get_long).collect();
        for (at, (flag, _)) in FLAGS.iter().enumerate() {
            assert!(!taken.contains(flag), "--{flag} is a flag of the agent");
            assert!(!FLAGS.iter().skip(at + 1).any(|(other, _)| other == flag), "--{flag} twice");
        }
    }
}
