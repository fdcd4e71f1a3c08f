//! `cargo xtask build-ebpf`: the kernel programs, compiled, checked and laid where the dataplane
//! crate embeds them from.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::object::Report;
use crate::process;
use crate::repo::{PROGRAMS, Repo};
use crate::toolchain::{TARGET, Toolchain};

/// Builds the object and prints what is in it. With `log`, the programs record packets through
/// aya-log; never for production.
pub(crate) fn run(repo: &Repo, log: bool) -> Result<()> {
    let report = build(repo, log)?;
    let object = repo.object();
    println!("{}", object.display());
    let sum = process::read(Command::new("sha256sum").arg(&object))?;
    println!("sha256 {}", sum.split_whitespace().next().unwrap_or_default());
    print!("{report}");
    Ok(())
}

/// Builds the object if it is not up to date, checks it, and lays it under `target/`.
///
/// # Errors
/// When it does not compile, when a panic can be reached in it, or when it holds no program.
pub(crate) fn build(repo: &Repo, log: bool) -> Result<Report> {
    let toolchain = Toolchain::ensure()?;
    let mut cargo = toolchain.cargo(repo.root());
    cargo.args(["-p", PROGRAMS, "--target-dir"]).arg(repo.ebpf_target());
    if log {
        cargo.args(["--features", "log"]);
    }
    process::run(&mut cargo).context("building the eBPF programs")?;

    let built = repo.ebpf_target().join(TARGET).join("release").join(PROGRAMS);
    let report = Report::read(&built)?;
    if !report.panics.is_empty() {
        bail!("a panic can be reached in the programs: {}", report.panics.join(", "));
    }
    if report.programs.is_empty() {
        bail!("{} holds no program", built.display());
    }
    lay(&built, &repo.object())?;
    Ok(report)
}

/// Copies the object, but only when it differs: its time makes the dataplane crate build again.
fn lay(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Renamed into place: a build that runs beside this one never embeds half a file.
    let half = to.with_extension("o.new");
    std::fs::write(&half, new).with_context(|| format!("writing {}", half.display()))?;
    std::fs::rename(&half, to).with_context(|| format!("writing {}", to.display()))
}
