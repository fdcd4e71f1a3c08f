//! `sluice-testkit`: the parts of the test cluster as commands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use sluice_testkit::matrix::probe;
use sluice_testkit::{api, cluster, demo, echo, traffic};

#[derive(Parser)]
#[command(
    name = "sluice-testkit",
    version,
    about = "A Kubernetes API server and a cluster in network namespaces"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the Kubernetes API
    Api(api::command::Config),
    /// Shows a cluster being served
    Demo(demo::Config),
    /// Sends traffic from a namespace and reports on it
    Traffic(traffic::command::Config),
    /// Asks many addresses from this namespace, and tells who answered
    Probe(probe::Config),
    /// The server that pods of a test cluster run
    Echo(echo::Config),
    /// Removes what clusters of dead owners left
    Sweep {
        /// Where clusters keep their state
        #[arg(long, default_value = cluster::STATE_ROOT)]
        state_root: PathBuf,
        /// Wait for the end of this cluster's owner first
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
}

fn main() -> ExitCode {
    // kube's client reports what its callers handle: a server that has yet to come, for one.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,kube_client::client::builder=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sluice-testkit: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Api(config) => runtime()?.block_on(api::command::serve(config)),
        Command::Demo(config) => demo::run(&config),
        Command::Traffic(config) => traffic::command::execute(&config),
        Command::Probe(config) => runtime()?.block_on(probe::execute(config)),
        Command::Echo(config) => runtime()?.block_on(echo::serve(config)),
        Command::Sweep { state_root, after: Some(id) } => {
            cluster::registry::sweep_after(&state_root, &id)
        }
        Command::Sweep { state_root, after: None } => {
            for id in cluster::registry::sweep(&state_root)? {
                println!("removed {id}");
            }
            Ok(())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}
