//! `cargo xtask setup`: everything the other verbs need, installed once, versions printed.

pub(crate) mod kubernetes;

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::packages::{self, CLUSTER, COMPILER, MACHINE, Need, ROUTERS, SCTP};
use crate::process;
use crate::repo::Repo;
use crate::toolchain::{Toolchain, bpf_linker_version};

/// Programs whose versions are reported, with the arguments that make them tell.
const TOOLS: &[(&str, &[&str])] = &[
    ("cargo", &["--version"]),
    ("rustc", &["--version"]),
    ("ip", &["-Version"]),
    ("bpftool", &["version"]),
    ("nft", &["--version"]),
    ("iptables", &["--version"]),
    ("ethtool", &["--version"]),
    ("bird", &["--version"]),
    ("gobgpd", &["--version"]),
    ("qemu-system-x86_64", &["--version"]),
    ("busybox", &["--help"]),
];

/// What to set up.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Also the real Kubernetes and etcd, from Go modules into target/kubernetes; `api` and `proxy`
    /// are parts of it
    #[arg(long, value_enum, value_name = "PART", num_args = 0..=1, require_equals = true,
          default_missing_value = "all")]
    kubernetes: Option<kubernetes::Part>,
}

/// Installs what lacks and prints what there is.
pub(crate) fn run(repo: &Repo, options: Options) -> Result<()> {
    let start = Instant::now();
    let toolchain = Toolchain::ensure()?;
    components()?;
    for need in [CLUSTER, ROUTERS, MACHINE, SCTP] {
        packages::ensure(need)?;
    }
    if let Some(part) = options.kubernetes {
        packages::ensure(packages::KUBERNETES)?;
        kubernetes::ensure(repo, part, "have the real Kubernetes as judge")?;
    }
    println!("{:<20} {}", "eBPF compiler", toolchain.describe());
    println!("{:<20} {}", "bpf-linker", bpf_linker_version().unwrap_or_default());
    for (tool, args) in TOOLS {
        let version = process::version(tool, args).unwrap_or_else(|| "does not run".to_owned());
        println!("{tool:<20} {version}");
    }
    for (tool, version) in kubernetes::versions(repo) {
        println!("{tool:<20} {version}");
    }
    let count: usize =
        [COMPILER, CLUSTER, ROUTERS, MACHINE, SCTP].iter().map(|n: &Need| n.packages.len()).sum();
    println!("all there ({count} packages looked at, {:.1} s)", start.elapsed().as_secs_f32());
    Ok(())
}

/// Makes sure of rustfmt and clippy, which `test` runs.
fn components() -> Result<()> {
    for (tool, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if !process::succeeds(Command::new(tool).arg("--version")) {
            println!("installing {component} (needed by cargo xtask test)");
            process::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}
