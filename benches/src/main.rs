//! `sluice-bench`: measures on the test cluster. Started by `cargo xtask bench`, which builds it and
//! puts it into a machine where asked to; it works on its own too.

mod api;
mod bgp;
mod modes;
mod same_node;
mod transactions;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "sluice-bench",
    version,
    about = "Measures service traffic in the test cluster, and BGP"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers each byte with a byte
    Serve(transactions::Serve),
    /// Does transactions with a server and prints their rates as JSON
    Drive(transactions::Drive),
    /// Pod to pod on one node, directly and through a ClusterIP; one JSON object a line
    SameNode(same_node::Config),
    /// An agent at the real API server with many objects; one JSON object a line
    Api(api::Config),
    /// BGP speakers with many routes and many peers, and a Service's way to a router; likewise
    Bgp(bgp::Config),
    /// Sluice's BGP speaker by itself
    BgpSpeaker(bgp::Speaker),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve(config) => transactions::serve(&config),
        Command::Drive(config) => drive(&config),
        Command::SameNode(config) => same_node::run(&config),
        Command::Api(config) => api::run(&config),
        Command::Bgp(config) => bgp::run(&config),
        Command::BgpSpeaker(config) => bgp::run_speaker(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn drive(config: &transactions::Drive) -> Result<()> {
    println!("{}", serde_json::to_string(&transactions::drive(config)?)?);
    Ok(())
}
