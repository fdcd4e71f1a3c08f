//! `cargo xtask bench`: builds the harness, runs it here or in a machine, and reports: a table or
//! JSON lines on stdout, both under `target/bench/`.

mod bgp;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::build;
use crate::packages::{self, CLUSTER, KUBERNETES};
use crate::process::line;
use crate::repo::Repo;
use crate::setup::kubernetes::{self, Part};
use crate::vm::{self, Kernel};

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Bench {
    /// TCP transactions to a pod on the same node: directly and through a ClusterIP
    SameNode(SameNode),
    /// An agent at the real API server with 10,000 Services and 100,000 endpoints: time, memory, rest
    Api(Api),
    /// BGP: many routes and many peers, for Sluice, BIRD and GoBGP; a Service's way to a router
    Bgp(bgp::Bgp),
}

/// Flags of `bench same-node`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SameNode {
    /// In a machine where time counts instructions: no noise; kernel 6.1 if none is named
    #[arg(long)]
    icount: bool,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// In a machine with this kernel
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Ways to measure: from a pod direct, tc, iptables, ipvs; from the node direct, socket, bare
    /// (direct, without an agent)
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
    /// Other Services there are meanwhile
    #[arg(long, default_value_t = 0)]
    services: usize,
    /// Milliseconds of counting, for each kind of transaction
    #[arg(long, default_value_t = 1000)]
    measure_ms: u64,
}

/// Flags of `bench api`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Api {
    /// Services, of one port each
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of all of them together
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
}

/// One result of the harness.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    case: String,
    mode: String,
    rr_per_s: f64,
    crr_per_s: f64,
    rr_ratio: Option<f64>,
    crr_ratio: Option<f64>,
}

/// Runs a benchmark.
pub(crate) fn run(repo: &Repo, bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::SameNode(options) => same_node(repo, options),
        Bench::Api(options) => api(repo, *options),
        Bench::Bgp(options) => bgp::run(repo, options),
    }
}

/// Prints the harness's JSON lines. Writing so many objects takes minutes: they are kept for the next
/// time.
fn api(repo: &Repo, options: Api) -> Result<ExitCode> {
    for need in [CLUSTER, KUBERNETES] {
        packages::ensure(need)?;
    }
    kubernetes::ensure(repo, Part::Api, "measure an agent at the real API server")?;
    build::release(repo, &["sluice-agent", "sluice-testkit", "sluice-bench"])?;
    let folder = repo.target().join("bench");
    fs::create_dir_all(&folder)?;
    let Api { services, endpoints } = options;
    let saved = folder.join(format!("api-{services}-{endpoints}.etcd"));
    let command = [
        repo.release("sluice-bench").to_string_lossy().into_owned(),
        "api".to_owned(),
        format!("--services={services}"),
        format!("--endpoints={endpoints}"),
        format!("--saved={}", saved.display()),
    ];
    let (lines, ok) = here(&command, true)?;
    fs::write(folder.join("api.json"), lines)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn same_node(repo: &Repo, options: &SameNode) -> Result<ExitCode> {
    packages::ensure(CLUSTER)?;
    build::release(repo, &["sluice-agent", "sluice-testkit", "sluice-bench"])?;
    let harness = repo.release("sluice-bench").to_string_lossy().into_owned();
    let mut command = vec![harness, "same-node".to_owned()];
    command.extend(["--measure-ms".to_owned(), options.measure_ms.to_string()]);
    command.extend(["--services".to_owned(), options.services.to_string()]);
    if !options.modes.is_empty() {
        command.extend(["--modes".to_owned(), options.modes.join(",")]);
    }
    let kernel = options.kernel.or(options.icount.then_some(Kernel::V6_1));
    let (lines, ok) = match kernel {
        Some(kernel) => in_machine(repo, kernel, options, &command)?,
        None => here(&command, options.json)?,
    };
    let rows: Vec<Row> = rows(&lines)?;
    let place =
        kernel.map_or_else(|| "this machine".to_owned(), |k| format!("kernel {}", k.name()));
    let unit = if options.icount { "guest second of 10^9 instructions" } else { "second" };
    let title = format!("to a pod on the same node, {place}, transactions per {unit}");
    let table = table(&title, &rows);
    if !options.json {
        print!("{table}");
    }
    keep(repo, "same-node", &lines, &table)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lays both forms of a report under `target/bench/`.
fn keep(repo: &Repo, name: &str, lines: &str, table: &str) -> Result<()> {
    let folder = repo.target().join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{name}.json")), lines)?;
    fs::write(folder.join(format!("{name}.txt")), table)?;
    Ok(())
}

fn in_machine(
    repo: &Repo,
    kernel: Kernel,
    options: &SameNode,
    command: &[String],
) -> Result<(String, bool)> {
    let mut machine = vm::Options::new(kernel);
    machine.icount = options.icount;
    let mut running = vm::start(repo, &machine, command)?;
    let lines = collect(running.stdout()?, options.json)?;
    Ok((lines, running.wait()? == 0))
}

fn here(command: &[String], show: bool) -> Result<(String, bool)> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root; or use --kernel 6.1 for a virtual machine");
    }
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", line(&command)))?;
    let lines = collect(child.stdout.take().context("its stdout is a pipe")?, show)?;
    Ok((lines, child.wait()?.success()))
}

/// Reads the harness to its end; shows its lines as they come if asked to.
fn collect(output: impl Read, show: bool) -> Result<String> {
    let mut all = String::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if show {
            println!("{line}");
        }
        all += &line;
        all.push('\n');
    }
    Ok(all)
}

fn rows<T: DeserializeOwned>(lines: &str) -> Result<Vec<T>> {
    lines
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("the harness said {line:?}"))
        })
        .collect()
}

fn table(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}\n");
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "{:<32} {:<10} {:>12} {:>10} {:>12} {:>10}",
        "case", "mode", "TCP_RR", "to direct", "TCP_CRR", "to direct"
    );
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.3}x"));
    for row in rows {
        let _ = writeln!(
            text,
            "{:<32} {:<10} {:>12.0} {:>10} {:>12.0} {:>10}",
            row.case,
            row.mode,
            row.rr_per_s,
            ratio(row.rr_ratio),
            row.crr_per_s,
            ratio(row.crr_ratio)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_harness_become_a_table() {
        let lines = r#"{"case":"c","mode":"direct","rr_per_s":26320.0,"crr_per_s":4060.0,"rr_ratio":1.0,"crr_ratio":1.0}
{"case":"c","mode":"tc","rr_per_s":27811.0,"crr_per_s":4199.0,"rr_ratio":1.0566,"crr_ratio":1.0342}
"#;
        let table = table("title", &rows::<Row>(lines).unwrap());
        assert!(table.contains("27811     1.057x         4199     1.034x"), "{table}");
        assert!(rows::<Row>("no JSON\n").is_err());
    }
}
