//! `cargo xtask bench bgp`: Sluice's speaker beside BIRD and GoBGP, and a Service's way to a router.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;

use super::{here, keep, rows};
use crate::build;
use crate::packages::{self, CLUSTER, ROUTERS};
use crate::repo::Repo;

/// Flags of `bench bgp`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bgp {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// What to measure: table (many routes of one peer), peers (some routes of each of many), change
    /// (a Service among many comes and goes)
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Who is measured: sluice, bird, gobgp
    #[arg(long, value_delimiter = ',')]
    speakers: Vec<String>,
    /// Prefixes of the one peer
    #[arg(long, default_value_t = 100_000)]
    prefixes: u32,
    /// Peers of the other case, with 20 prefixes each
    #[arg(long, default_value_t = 300)]
    peers: u16,
    /// Services among which one changes, with an IPv4 and an IPv6 address each
    #[arg(long, default_value_t = 5000)]
    services: usize,
}

/// One result of the harness.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    case: String,
    speaker: String,
    loc_rib_ms: Option<f64>,
    kernel_ms: Option<f64>,
    idle_kib: Option<u64>,
    full_kib: Option<u64>,
    peak_kib: Option<u64>,
    median_ms: Option<f64>,
    longest_ms: Option<f64>,
    rest_percent: Option<f64>,
}

/// Builds what is needed and runs the harness on this machine.
pub(super) fn run(repo: &Repo, options: &Bgp) -> Result<ExitCode> {
    packages::ensure(CLUSTER)?;
    packages::ensure(ROUTERS)?;
    build::release(repo, &["sluice-agent", "sluice-testkit", "sluice-bench"])?;
    let harness = repo.release("sluice-bench").to_string_lossy().into_owned();
    let mut command = vec![harness, "bgp".to_owned()];
    for (flag, number) in [
        ("--prefixes", u64::from(options.prefixes)),
        ("--peers", u64::from(options.peers)),
        ("--services", u64::try_from(options.services)?),
    ] {
        command.extend([flag.to_owned(), number.to_string()]);
    }
    for (flag, words) in [("--cases", &options.cases), ("--speakers", &options.speakers)] {
        if !words.is_empty() {
            command.extend([flag.to_owned(), words.join(",")]);
        }
    }
    let (lines, ok) = here(&command, options.json)?;
    let table = table(&rows(&lines)?);
    if !options.json {
        print!("{table}");
    }
    keep(repo, "bgp", &lines, &table)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Times in milliseconds, memory in MiB, work at rest in percent of a processor.
fn table(rows: &[Row]) -> String {
    let head =
        ["loc-rib", "kernel", "median", "longest", "idle MiB", "full MiB", "peak MiB", "rest %"];
    let mut text = format!("{:<36} {:<8}", "case (times in ms)", "speaker");
    // Writing to a String can't fail.
    for name in head {
        let _ = write!(text, " {name:>9}");
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{:<36} {:<8}", row.case, row.speaker);
        let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
        let fields = [row.loc_rib_ms, row.kernel_ms, row.median_ms, row.longest_ms];
        let memory = [row.idle_kib, row.full_kib, row.peak_kib].map(mib);
        for field in fields.into_iter().chain(memory).chain([row.rest_percent]) {
            let field = field.map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"));
            let _ = write!(text, " {field:>9}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_harness_become_a_table() {
        let lines = r#"{"case":"c","speaker":"sluice","loc_rib_ms":412.34,"idle_kib":1024,"full_kib":2048}
{"case":"one comes","speaker":"sluice","median_ms":7.0}
"#;
        let table = table(&rows(lines).unwrap());
        assert!(
            table.contains("    412.3         -         -         -       1.0       2.0"),
            "{table}"
        );
        assert!(table.contains("sluice           -         -       7.0         -"), "{table}");
    }
}
