//! Debian packages: which ones the work needs and why, which are missing, and installing those.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Packages and the reason that is given when one has to be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// What they are for, as the end of "needed to ...".
    pub(crate) why: &'static str,
    /// Names of Debian packages.
    pub(crate) packages: &'static [&'static str],
}

/// A rustc with a libcore for BPF, and LLVM's libraries for bpf-linker.
pub(crate) const COMPILER: Need = Need {
    why: "compile the eBPF programs",
    packages: &[
        "rustc-web",
        "libstd-rust-web-dev-bpf",
        "llvm-22-dev",
        "libzstd-dev",
        "zlib1g-dev",
        "g++",
    ],
};

/// What tests and the demo build their clusters from.
pub(crate) const CLUSTER: Need = Need {
    why: "build clusters in network namespaces",
    packages: &[
        "containernetworking-plugins",
        "iproute2",
        "bpftool",
        "ethtool",
        "nftables",
        "iptables",
        "ipvsadm",
    ],
};

/// Another's implementation of SCTP, in user space.
pub(crate) const SCTP: Need =
    Need { why: "let another SCTP judge ours", packages: &["libusrsctp-examples"] };

/// BGP speakers of others: the router of the demo, and peers in interop tests.
pub(crate) const ROUTERS: Need = Need {
    why: "speak BGP with other speakers",
    packages: &["bird2", "frr", "gobgpd", "openbgpd", "exabgp"],
};

/// What a virtual machine with another kernel is made of.
pub(crate) const MACHINE: Need = Need {
    why: "run virtual machines",
    packages: &[
        "qemu-system-x86",
        "busybox-static",
        "kmod",
        "cpio",
        "xz-utils",
        "debian-archive-keyring",
    ],
};

/// What the real Kubernetes asks for besides its own binaries: keys of its API server, and kube-proxy's
/// way into the kernel.
pub(crate) const KUBERNETES: Need =
    Need { why: "run the real Kubernetes", packages: &["openssl", "conntrack", "nftables"] };

/// Whether this is a system with apt and dpkg.
pub(crate) fn is_debian() -> bool {
    process::succeeds(Command::new("apt-get").arg("--version"))
        && process::succeeds(Command::new("dpkg-query").arg("--version"))
}

/// Which of `names` are not installed.
pub(crate) fn missing(names: &[&'static str]) -> Result<Vec<&'static str>> {
    // Exit status 1 means that some name is unknown to dpkg, which is an answer too.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Package} ${db:Status-Status}\\n"])
        .args(names)
        .output()
        .context("starting dpkg-query")?;
    let installed = installed(&String::from_utf8_lossy(&output.stdout));
    Ok(names.iter().copied().filter(|name| !installed.contains(*name)).collect())
}

/// Names of installed packages in lines `NAME STATUS`. A removed package may still be listed, as
/// `config-files` or `not-installed`.
fn installed(listing: &str) -> BTreeSet<String> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Installs what is missing of `need`, saying what and why. Does nothing when all is there.
///
/// # Errors
/// Without apt, without root, or when apt fails: the error holds the line to run.
pub(crate) fn ensure(need: Need) -> Result<()> {
    if !is_debian() {
        bail!(
            "this is not a Debian system. Needed to {}: install what your system calls {}",
            need.why,
            need.packages.join(" ")
        );
    }
    let missing = missing(need.packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {} (needed to {})", missing.join(" "), need.why);
    let by_hand =
        || format!("run by hand: apt-get update && apt-get install {}", missing.join(" "));
    let install = |root: &[&str]| {
        process::run(apt(root)?.args(["install", "-y", "--no-install-recommends"]).args(&missing))
    };
    let root = as_root().with_context(by_hand)?;
    // The lists may be absent (containers) or old (a package was superseded): fetch, try again.
    if install(root).is_err() {
        println!("apt's lists may be old: updating them");
        process::run(apt(root)?.args(["update", "-q"])).with_context(by_hand)?;
        install(root).with_context(by_hand)?;
    }
    let still = self::missing(need.packages)?;
    if !still.is_empty() {
        bail!("apt-get install succeeded, but {} is not installed", still.join(" "));
    }
    Ok(())
}

/// The prefix that makes a command run as root.
fn as_root() -> Result<&'static [&'static str]> {
    if nix::unistd::geteuid().is_root() {
        Ok(&[])
    } else if process::succeeds(Command::new("sudo").args(["-n", "true"])) {
        Ok(&["sudo", "-n"])
    } else {
        bail!("root is needed to install packages")
    }
}

fn apt(root: &[&str]) -> Result<Command> {
    let mut words = root.iter().chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    let mut command = Command::new(words.next().context("an empty command")?);
    command.args(words);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let listing = "busybox-static installed\nkmod config-files\ncpio not-installed\nxz-utils half-installed\n";
        assert_eq!(installed(listing), BTreeSet::from(["busybox-static".to_owned()]));
    }

    #[test]
    fn an_unknown_package_is_missing() {
        if !is_debian() {
            println!("SKIP: not a Debian system");
            return;
        }
        let missing = missing(&["dpkg", "sluice-no-such-package"]).unwrap();
        assert_eq!(missing, ["sluice-no-such-package"]);
    }
}
