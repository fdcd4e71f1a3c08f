//! Everything a contributor runs, as `cargo xtask VERB`. One file per verb; each installs what it
//! lacks and says what and why.

mod bench;
mod build;
mod build_ebpf;
mod demo;
mod object;
mod packages;
mod process;
mod repo;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Builds, tests, shows and measures Sluice.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install the eBPF toolchain and the Debian packages that tests, demo and benches use
    Setup(setup::Options),
    /// Build the eBPF object; print its programs with instruction counts and its maps with sizes
    BuildEbpf {
        /// Build the programs with per-packet logging: the next `cargo build` embeds them, and the
        /// agent writes their records to its own log; `build` and `test` lay those without in their place
        #[arg(long)]
        log: bool,
    },
    /// Build target/release/sluice with the eBPF object embedded
    Build,
    /// Show a cluster being served: real agents and real traffic in network namespaces
    Demo(demo::Options),
    /// Run every test this machine can run; the last line says how many passed
    Test(test::Options),
    /// Measure; reports lie under target/bench/
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run a command of this checkout in a virtual machine with one of Debian's kernels
    Vm {
        #[command(flatten)]
        options: vm::Options,
        /// The command and its arguments; it runs in the repository's root
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let repo = Repo::find()?;
    match args.verb {
        Verb::Setup(options) => setup::run(&repo, options)?,
        Verb::BuildEbpf { log } => build_ebpf::run(&repo, log)?,
        Verb::Build => build::run(&repo)?,
        Verb::Demo(options) => return demo::run(&repo, &options),
        Verb::Test(options) => return test::run(&repo, options),
        Verb::Bench(bench) => return bench::run(&repo, &bench),
        Verb::Vm { options, command } => return vm::run(&repo, &options, &command),
    }
    Ok(ExitCode::SUCCESS)
}
