//! `cargo xtask setup`: everything the other verbs need, installed once, versions printed.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::packages::{self, CLUSTER, COMPILER, MACHINE, Need};
use crate::process;
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
    ("qemu-system-x86_64", &["--version"]),
    ("busybox", &["--help"]),
];

/// Installs what lacks and prints what there is.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let toolchain = Toolchain::ensure()?;
    components()?;
    for need in [CLUSTER, MACHINE] {
        packages::ensure(need)?;
    }
    println!("{:<20} {}", "eBPF compiler", toolchain.describe());
    println!("{:<20} {}", "bpf-linker", bpf_linker_version().unwrap_or_default());
    for (tool, args) in TOOLS {
        let version = process::version(tool, args).unwrap_or_else(|| "does not run".to_owned());
        println!("{tool:<20} {version}");
    }
    let count: usize = [COMPILER, CLUSTER, MACHINE].iter().map(|n: &Need| n.packages.len()).sum();
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
