//! BGP speakers at work: Sluice's own, BIRD and GoBGP take in the same routes from the same peers, each
//! in turn and on the same machine; and how long a Service's address takes from the API server to a
//! router. Every case has namespaces of its own.

mod change;
mod feeder;
mod judged;
mod memory;
mod site;
mod speaker;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use judged::Judged;
use site::{FirstRoutes, Site};

pub(crate) use speaker::{Speaker, run as run_speaker};

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Pause between two looks at a speaker; what is told is no finer.
const LOOK: Duration = Duration::from_millis(10);

/// Who takes the routes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    /// The speaker of the agent, and its way into the kernel
    Sluice,
    /// BIRD 2
    Bird,
    /// GoBGP, which has no way into the kernel of its own
    Gobgp,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Many routes from one peer
    Table,
    /// Some routes from each of many peers
    Peers,
    /// A Service comes, and goes, among many
    Change,
}

/// Flags of `sluice-bench bgp`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Config {
    /// What to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "table,peers,change")]
    cases: Vec<Case>,
    /// Speakers to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sluice,bird,gobgp")]
    speakers: Vec<Who>,
    /// Prefixes of the one peer
    #[arg(long, default_value_t = 100_000)]
    prefixes: u32,
    /// Peers of the other case
    #[arg(long, default_value_t = 300)]
    peers: u16,
    /// Prefixes of each of those
    #[arg(long, default_value_t = 20)]
    prefixes_each: u32,
    /// Services among which one changes, with an IPv4 and an IPv6 address each
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// How often one changes
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

/// One line of the result.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Line {
    case: String,
    speaker: &'static str,
    /// Milliseconds until all routes are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    loc_rib_ms: Option<f64>,
    /// Milliseconds until all stand in the kernel; absent where the speaker has no way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_ms: Option<f64>,
    /// Memory in KiB before the first route, and after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_kib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_kib: Option<u64>,
    /// The most it ever had.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_kib: Option<u64>,
    /// Of what happened several times: the median in milliseconds, and the longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    median_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_ms: Option<f64>,
    /// Share of a processor that the agent uses while nothing changes, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest_percent: Option<f64>,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
        }
    }
}

/// Measures each case and prints a line for each result as soon as it is known.
pub(crate) fn run(config: &Config) -> Result<()> {
    for case in &config.cases {
        match case {
            Case::Table => speakers(config, 1, config.prefixes, FirstRoutes::AfterSession)?,
            Case::Peers => {
                speakers(config, config.peers, config.prefixes_each, FirstRoutes::WithSession)?;
            }
            Case::Change => {
                for line in change::run(config.services, config.changes)? {
                    println!("{}", serde_json::to_string(&line)?);
                }
            }
        }
    }
    Ok(())
}

fn speakers(config: &Config, peers: u16, prefixes_each: u32, first: FirstRoutes) -> Result<()> {
    for &who in &config.speakers {
        let line = measure(who, peers, prefixes_each, first)
            .with_context(|| format!("{}, {peers} peers", who.name()))?;
        println!("{}", serde_json::to_string(&line)?);
    }
    Ok(())
}

/// One speaker, from its first route to its last in the kernel.
fn measure(who: Who, peers: u16, prefixes_each: u32, first: FirstRoutes) -> Result<Line> {
    let all = usize::from(peers) * usize::try_from(prefixes_each)?;
    let case = match first {
        FirstRoutes::AfterSession => format!("{prefixes_each}-prefixes"),
        FirstRoutes::WithSession => format!("{peers}-peers-{prefixes_each}-prefixes-each"),
    };
    eprintln!("{case}: {}", who.name());
    let site = Site::build(peers)?;
    let speaker = Judged::start(who, &site)?;
    let before = site.kernel_prefixes()?;
    let idle_kib = speaker.memory()?.now_kib;
    let feeders = feeder::start(&site, prefixes_each, first)?;
    let go = Instant::now();
    let (mut loc_rib, mut kernel) = (None, None);
    while loc_rib.is_none() || (kernel.is_none() && speaker.reaches_kernel()) {
        if loc_rib.is_none() && speaker.chosen()? >= all {
            loc_rib = Some(go.elapsed());
        }
        if kernel.is_none() && site.kernel_prefixes()? >= before + all {
            kernel = Some(go.elapsed());
        }
        if go.elapsed() > PATIENCE {
            bail!(
                "{} of {all} chosen, {} in the kernel after {PATIENCE:?}; {}",
                speaker.chosen()?,
                site.kernel_prefixes()?.saturating_sub(before),
                speaker.log()
            );
        }
        std::thread::sleep(LOOK);
    }
    let memory = speaker.memory()?;
    feeders.end()?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Line {
        case,
        speaker: who.name(),
        // Chosen before it can be installed, even if asked for later.
        loc_rib_ms: loc_rib.map(|loc_rib| ms(kernel.map_or(loc_rib, |k: Duration| k.min(loc_rib)))),
        kernel_ms: kernel.map(ms),
        idle_kib: Some(idle_kib),
        full_kib: Some(memory.now_kib),
        peak_kib: Some(memory.peak_kib),
        ..Line::default()
    })
}
