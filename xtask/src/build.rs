//! `cargo xtask build`: release binaries with the object embedded.

use anyhow::Result;

use crate::build_ebpf;
use crate::process;
use crate::repo::Repo;

/// Builds the object, then `target/release/sluice`, and says where it lies.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    release(repo, &["sluice-agent"])?;
    println!("{}", repo.release("sluice").display());
    Ok(())
}

/// Builds the object, then the binaries of `packages` in release mode.
pub(crate) fn release(repo: &Repo, packages: &[&str]) -> Result<()> {
    binaries(repo, packages, &["--release"])
}

/// Builds the object, then the binaries of `packages` with the profile that tests are built with.
pub(crate) fn development(repo: &Repo, packages: &[&str]) -> Result<()> {
    binaries(repo, packages, &[])
}

fn binaries(repo: &Repo, packages: &[&str], profile: &[&str]) -> Result<()> {
    build_ebpf::build(repo, false)?;
    let mut cargo = process::cargo(repo.root());
    cargo.args(["build", "--bins"]).args(profile);
    for package in packages {
        cargo.args(["-p", package]);
    }
    process::run(&mut cargo)
}
