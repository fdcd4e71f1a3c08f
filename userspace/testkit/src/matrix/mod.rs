//! Owns the matrix: Services of every kind, asked from everywhere at every address they have, and
//! held against the rules. Used by the demo and by tests.

mod cases;
mod grid;
pub mod probe;
pub mod rules;
mod scene;
mod table;
mod ways;
mod witness;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

pub use self::cases::Part;
use self::cases::Target;
pub use self::grid::From;
pub use self::table::Outcome;

use self::grid::{Cell, SOURCES, Site, Source};
use self::probe::{Finding, Protocol, Question};
use self::rules::{Front, Seen};
use crate::cluster::netns::Netns;
use crate::cluster::process::{Process, Spec};
use crate::cluster::{Cluster, Node, Proxy};
use crate::traffic::Failure;

/// Time for a process to end that has told all.
const END: Duration = Duration::from_secs(5);

/// What of the matrix is run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', requires = "matrix")]
    pub only: Vec<Part>,
    /// Only from these sources
    #[arg(long, value_enum, value_delimiter = ',', requires = "matrix")]
    pub from: Vec<From>,
    /// Only by these protocols
    #[arg(long, value_enum, value_delimiter = ',', requires = "matrix")]
    pub over: Vec<Protocol>,
    /// How many times longer than usual answers are waited for, on a slow machine
    #[arg(long, default_value_t = 1, value_name = "TIMES")]
    pub patience: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { only: Vec::new(), from: Vec::new(), over: Vec::new(), patience: 1 }
    }
}

/// Makes pods and Services in a cluster of at least three nodes, asks, and judges.
///
/// # Errors
/// When something can't be made, or nobody is ever served. That cells differ is none.
pub fn run(cluster: &Cluster, options: &Options, say: impl Fn(&str)) -> Result<Outcome> {
    let from = if options.from.is_empty() { From::value_variants() } else { &options.from };
    let site = scene::site(cluster)?;
    let _world = ways::world(cluster, &site)?;
    let mut cases = cases::cases();
    cases.retain(|case| options.only.is_empty() || options.only.contains(&case.part));
    let (mut labels, mut cells) = (Vec::new(), Vec::new());
    let (mut node_ports, mut world_ports) = (Vec::new(), Vec::new());
    // Everybody and every pod know the way to one another before services are asked.
    let none = cases::no_service();
    let nowhere = scene::nowhere(&site);
    for target in &none.targets {
        cells.extend(grid::cells(labels.len(), &none, *target, &nowhere, &site, from));
        labels.push([none.label.clone(), target.label()]);
    }
    let patience = u64::from(options.patience.max(1));
    let wanted = |cell: &Cell| options.over.is_empty() || options.over.contains(&cell.way.protocol);
    cells.retain(wanted);
    let mut judged = ask(cluster, &site, std::mem::take(&mut cells), patience)?;
    for (number, case) in cases.iter().enumerate() {
        let at = scene::create(cluster, &site, case, number)?;
        if case.kind == Front::NodePort {
            node_ports.push(at.node_ports);
        }
        if case.targets.contains(&Target::NodePortAtLoadBalancer) {
            world_ports.push(at.node_ports);
        }
        for target in &case.targets {
            cells.extend(grid::cells(labels.len(), case, *target, &at, &site, from));
            labels.push([case.label.clone(), target.label()]);
        }
    }
    cells.retain(wanted);
    let _listeners = ways::listeners(cluster, &node_ports)?;
    let _outside =
        if world_ports.is_empty() { None } else { Some(ways::outside(cluster, &world_ports)?) };
    if cluster.proxy() != Proxy::None {
        scene::settle(cluster, &site)?;
    }
    say(&format!("{} Services are served; {} cells are asked", cases.len(), cells.len()));
    judged.extend(ask(cluster, &site, cells, patience)?);
    Ok(table::tell(&labels, &judged, cluster.proxy() == Proxy::KubeProxy))
}

/// Asks from all sources at once.
fn ask(
    cluster: &Cluster,
    site: &Site,
    cells: Vec<Cell>,
    patience: u64,
) -> Result<Vec<(Cell, Seen)>> {
    let mut columns: BTreeMap<usize, Vec<Cell>> = BTreeMap::new();
    for mut cell in cells {
        cell.question.timeout_ms *= patience;
        columns.entry(cell.source).or_default().push(cell);
    }
    let mut probes = Vec::new();
    for (number, cells) in columns {
        let probe = Probe::start(cluster, number, &cells)?;
        probes.push((probe, cells));
    }
    let mut judged = Vec::new();
    for (probe, cells) in probes {
        let found = probe.findings(cells.len())?.into_iter().map(|found| seen(site, found));
        judged.extend(cells.into_iter().zip(found));
    }
    Ok(judged)
}

/// A process that asks from a source's namespace.
struct Probe {
    process: Process,
    source: &'static Source,
    log: PathBuf,
}

impl Probe {
    fn start(cluster: &Cluster, number: usize, cells: &[Cell]) -> Result<Self> {
        let source = SOURCES.get(number).context("a source")?;
        let questions: Vec<Question> = cells.iter().map(|cell| cell.question).collect();
        let path = cluster.dir().join(format!("questions-{number}.json"));
        fs::write(&path, serde_json::to_string(&questions)?)?;
        let log = path.with_extension("log");
        let spec = Spec::new(cluster.program())
            .args([OsStr::new("probe"), OsStr::new("--questions"), path.as_os_str()])
            .log(&log)
            .pipe_stdout();
        // The office belongs to no node.
        let node =
            if source.kind == From::Office { None } else { Some(cluster.node(source.node)?) };
        let spec = spec.cgroup(node.and_then(Node::cgroup));
        let process = cluster.keeper().spawn(&netns(cluster, source)?, &spec)?;
        Ok(Self { process, source, log })
    }

    /// Waits for its end.
    fn findings(self, expected: usize) -> Result<Vec<Finding>> {
        let mut text = String::new();
        self.process.take_stdout().context("standard output")?.read_to_string(&mut text)?;
        self.process.wait(END)?;
        let title = self.source.title;
        let log = || fs::read_to_string(&self.log).unwrap_or_default();
        let findings: Vec<Finding> = serde_json::from_str(&text)
            .with_context(|| format!("answers to {title}: {}", log()))?;
        ensure!(findings.len() == expected, "{title}: some questions are lost");
        Ok(findings)
    }
}

fn netns(cluster: &Cluster, source: &Source) -> Result<Netns> {
    match source.kind {
        From::Office => Ok(cluster.network().office.clone()),
        From::Node => Ok(cluster.node(source.name)?.netns().clone()),
        From::Pod | From::Backend => {
            let pod = cluster.pod(source.name).with_context(|| format!("pod {}", source.name))?;
            Ok(pod.netns)
        }
    }
}

fn seen(site: &Site, finding: Finding) -> Seen {
    let mut seen = Seen { late: finding.late, ..Seen::default() };
    for (backend, clients) in finding.backends {
        let owners = clients.into_iter().map(|client| site.owner(client)).collect();
        seen.backends.insert(backend, owners);
    }
    for (failure, count) in finding.failures {
        *match failure {
            Failure::Refused => &mut seen.refused,
            Failure::TimedOut => &mut seen.silent,
            _ => &mut seen.other,
        } += count;
    }
    seen
}
