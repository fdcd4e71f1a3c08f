//! `cargo xtask demo`: the cluster in namespaces with real agents and real traffic, on this kernel
//! or in a machine with another. The engine is `sluice-testkit demo`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::packages::{self, CLUSTER, KUBERNETES};
use crate::process::line;
use crate::repo::Repo;
use crate::setup::kubernetes::{self, Part};
use crate::vm::{self, Kernel};

/// The engine's binary.
const ENGINE: &str = "sluice-testkit";

/// What the demo is to show.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Run unattended; exit non-zero on any failed expectation
    #[arg(long)]
    check: bool,
    /// Leave the cluster up, with a kubeconfig, until Ctrl-C
    #[arg(long, conflicts_with = "kernel")]
    keep: bool,
    /// Print who answers whom
    #[arg(long)]
    matrix: bool,
    /// Only these parts of the matrix, separated by commas
    #[arg(long, requires = "matrix")]
    only: Option<String>,
    /// Only these sources of the matrix: pod, node, backend, office
    #[arg(long, requires = "matrix")]
    from: Option<String>,
    /// How much longer than usual the matrix waits for answers, for slow machines
    #[arg(long, requires = "matrix")]
    patience: Option<String>,
    /// Balance by packets alone, not at the socket
    #[arg(long)]
    packets_only: bool,
    /// The API server: embedded or kubernetes
    #[arg(long)]
    api: Option<String>,
    /// The service proxy: sluice, kube-proxy or none
    #[arg(long)]
    proxy: Option<String>,
    /// Run in a machine with this kernel
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
}

impl Options {
    /// The engine's arguments.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["demo".to_owned()];
        for (flag, set) in [
            ("--check", self.check),
            ("--keep", self.keep),
            ("--matrix", self.matrix),
            ("--packets-only", self.packets_only),
        ] {
            if set {
                arguments.push(flag.to_owned());
            }
        }
        for (flag, value) in [
            ("--only", &self.only),
            ("--from", &self.from),
            ("--patience", &self.patience),
            ("--api", &self.api),
            ("--proxy", &self.proxy),
        ] {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.clone()]);
            }
        }
        arguments
    }

    /// Builds the parts of the real Kubernetes that these options ask for.
    fn ensure_kubernetes(&self, repo: &Repo) -> Result<()> {
        let parts = [
            (&self.api, "kubernetes", Part::Api, "run the demo on the real API server"),
            (&self.proxy, "kube-proxy", Part::Proxy, "run the demo with kube-proxy"),
        ];
        for (chosen, name, part, why) in parts {
            if chosen.as_deref() == Some(name) {
                packages::ensure(KUBERNETES)?;
                kubernetes::ensure(repo, part, why)?;
            }
        }
        Ok(())
    }
}

/// Builds what is needed and runs the demo; its exit status becomes ours.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<ExitCode> {
    build(repo)?;
    options.ensure_kubernetes(repo)?;
    let engine = binary(repo);
    if let Some(kernel) = options.kernel {
        let mut command = vec![engine.to_string_lossy().into_owned()];
        command.extend(options.arguments());
        return vm::run(repo, &vm::Options::new(kernel), &command);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root: sudo -E env PATH=\"$PATH\" cargo xtask demo");
    }
    let mut command = Command::new(engine);
    command.args(options.arguments()).current_dir(repo.root());
    let status = command.status().with_context(|| format!("starting {}", line(&command)))?;
    // Without a code, a signal ended it.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, Into::into))
}

/// Builds the agent and the engine, and installs what a cluster is made of.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    packages::ensure(CLUSTER)?;
    build::development(repo, &["sluice-agent", "sluice-testkit"])
}

/// Where the engine lies once built.
pub(crate) fn binary(repo: &Repo) -> PathBuf {
    repo.development(ENGINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn flags_reach_the_engine() {
        let line = Line::parse_from([
            "demo",
            "--check",
            "--matrix",
            "--packets-only",
            "--patience=3",
            "--api",
            "kubernetes",
            "--proxy",
            "none",
            "--kernel",
            "5.10",
        ]);
        assert_eq!(
            line.options.arguments(),
            [
                "demo",
                "--check",
                "--matrix",
                "--packets-only",
                "--patience",
                "3",
                "--api",
                "kubernetes",
                "--proxy",
                "none"
            ]
        );
        assert_eq!(Line::parse_from(["demo"]).options.arguments(), ["demo"]);
    }
}
