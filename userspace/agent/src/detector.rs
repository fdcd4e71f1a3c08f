//! Which clients are pods of the cluster or node: `--detect-local-mode` with kube-proxy's words (R12).
//! Pure; what the Node says is a parameter.

use clap::ValueEnum;
use ipnet::IpNet;
use sluice_dataplane::LocalPods;

use crate::cli::AgentArgs;

/// How local pods are told from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// By their addresses: those in --cluster-cidr, of other nodes too
    #[default]
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By their addresses: those in the Node's spec.podCIDRs, followed
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// Who comes by the pods' bridge
    #[value(name = "BridgeInterface")]
    Bridge,
    /// Who comes by an interface whose name starts with --pod-interface-name-prefix, or by the
    /// pods' bridge
    #[value(name = "InterfaceNamePrefix")]
    Prefix,
}

impl Mode {
    /// What the data plane is told; `None` while the Node has no ranges of pods.
    #[must_use]
    pub fn local_pods(self, cluster: &[IpNet], node: &[IpNet]) -> Option<LocalPods> {
        match self {
            Self::ClusterCidr => Some(LocalPods::Within(cluster.to_vec())),
            Self::NodeCidr => (!node.is_empty()).then(|| LocalPods::Within(node.to_vec())),
            Self::Bridge | Self::Prefix => Some(LocalPods::ByInterface),
        }
    }
}

/// What is wrong with the flags together, if something is.
#[must_use]
pub fn contradiction(args: &AgentArgs) -> Option<String> {
    let (mode, bridge) = (args.detect_local_mode, &args.bridge);
    let named = args.pod_bridge_interface.as_ref();
    let prefix = args.pod_interface_name_prefix.as_ref();
    match mode {
        Mode::Bridge if named.is_some_and(|name| name != bridge) => Some(format!(
            "--pod-bridge-interface: the pods' bridge is {bridge}; to change it, --bridge"
        )),
        Mode::Prefix if prefix.is_none_or(String::is_empty) => {
            Some("--detect-local-mode=InterfaceNamePrefix needs --pod-interface-name-prefix".into())
        }
        Mode::Bridge | Mode::Prefix => None,
        Mode::ClusterCidr | Mode::NodeCidr if named.is_some() => {
            Some("--pod-bridge-interface is for --detect-local-mode=BridgeInterface".into())
        }
        Mode::ClusterCidr | Mode::NodeCidr if prefix.is_some() => Some(
            "--pod-interface-name-prefix is for --detect-local-mode=InterfaceNamePrefix".into(),
        ),
        Mode::ClusterCidr | Mode::NodeCidr => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r12_each_mode_has_its_detector() {
        let cluster: Vec<IpNet> = vec!["10.244.0.0/16".parse().expect("a range")];
        let node: Vec<IpNet> = vec!["10.244.1.0/24".parse().expect("a range")];
        let of = |mode: Mode, node: &[IpNet]| mode.local_pods(&cluster, node);
        assert_eq!(of(Mode::ClusterCidr, &node), Some(LocalPods::Within(cluster.clone())));
        assert_eq!(of(Mode::NodeCidr, &node), Some(LocalPods::Within(node.clone())));
        assert_eq!(of(Mode::NodeCidr, &[]), None, "nobody has said yet");
        assert_eq!(of(Mode::Bridge, &node), Some(LocalPods::ByInterface));
        assert_eq!(of(Mode::Prefix, &node), Some(LocalPods::ByInterface));
    }
}
