//! What kube-proxy has left on this node, told at start (R56). Nothing of it is removed: kube-proxy does
//! that best itself (`kube-proxy --cleanup`), and whatever is not Sluice's own is not Sluice's to remove.
//!
//! Its rules change no packet that Sluice translates, but they still serve, refuse and drop what Sluice
//! leaves to the stack, by endpoints that are long gone.

use std::path::Path;
use std::process::Command;

use tracing::warn;

/// Table of the nftables mode.
const TABLE: &str = "kube-proxy";
/// How names of chains of the iptables and IPVS modes start; the kubelet's own (`KUBE-FIREWALL`,
/// `KUBE-KUBELET-CANARY`) are not among them.
const CHAINS: [&str; 6] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-PROXY-CANARY",
    "KUBE-SVC-",
    "KUBE-SEP-",
];
/// Interface of the IPVS mode, which has all service addresses.
const IPVS_INTERFACE: &str = "/sys/class/net/kube-ipvs0";

/// Tells of everything that is found.
pub fn report() {
    for found in kube_proxys() {
        warn!(found, "kube-proxy has left rules that serve beside Sluice: kube-proxy --cleanup");
    }
}

/// What is found, one line each. Where the tools of netfilter are not installed their rules are not
/// seen.
#[must_use]
pub fn kube_proxys() -> Vec<String> {
    let mut found: Vec<String> = tables(&output("nft", &["list", "tables"]))
        .map(|table| format!("nftables {table}"))
        .collect();
    for tool in ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"]
    {
        let chains = chains(&output(tool, &[]));
        if chains > 0 {
            found.push(format!("{chains} chains KUBE-* in {tool}"));
        }
    }
    if Path::new(IPVS_INTERFACE).exists() {
        found.push("the interface kube-ipvs0".to_owned());
    }
    found
}

/// What a tool prints; nothing where it cannot be run.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// kube-proxy's tables in `nft list tables`.
fn tables(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| {
        let mut words = line.split(' ');
        words.next() == Some("table") && words.nth(1) == Some(TABLE)
    })
}

/// How many chains of kube-proxy are in what `iptables-save` prints.
fn chains(text: &str) -> usize {
    let names = text.lines().filter_map(|line| line.strip_prefix(':'));
    names.filter(|name| CHAINS.iter().any(|start| name.starts_with(start))).count()
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn r56_the_proxys_chains_are_told_from_the_kubelets() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
                     :KUBE-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
                     -A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(chains(saved), 2);
        let listed =
            "table ip kube-proxy\ntable ip6 kube-proxy\ntable inet kube-proxy-not\ntable ip nat\n";
        assert_eq!(
            tables(listed).collect::<Vec<_>>(),
            ["table ip kube-proxy", "table ip6 kube-proxy"]
        );
    }

    #[test]
    fn r56_what_is_left_is_found_in_the_kernel() {
        let root = nix::unistd::geteuid().is_root();
        if !root || unshare(CloneFlags::CLONE_NEWNET).is_err() {
            println!("SKIP: needs root");
            return;
        }
        let made = Command::new("nft").args(["add", "table", "ip6", TABLE]).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("SKIP: nft is not installed, or this kernel has no nftables");
            return;
        }
        assert!(kube_proxys().contains(&"nftables table ip6 kube-proxy".to_owned()));
    }
}
