//! Owns `sluice-testkit traffic`: traffic from a namespace, the result as one JSON object.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::{Load, Plan, run, start};
use crate::cluster::netns::Netns;

/// Kinds of load, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// New TCP connections at a rate, each asks once
    Connections,
    /// One TCP connection that asks again and again
    Stream,
    /// New SCTP associations at a rate, each asks once
    Associations,
    /// One SCTP association that asks again and again
    Association,
    /// UDP questions at a rate, each from a socket of its own
    Datagrams,
    /// One UDP socket that asks again and again
    Flow,
}

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address and port of an echo server, or of a Service in front of some
    pub target: SocketAddr,
    /// Kind of load
    #[arg(long, value_enum, default_value_t = Kind::Connections)]
    pub kind: Kind,
    /// Network namespace to start from: its file
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    /// Connections, associations or datagrams a second
    #[arg(long, default_value_t = 200)]
    pub per_s: u32,
    /// Milliseconds between an answer and the next question of a stream or flow
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
    /// Number of attempts; without it the time decides
    #[arg(long)]
    pub count: Option<u64>,
    /// Seconds to run
    #[arg(long, default_value_t = 5.0, conflicts_with = "count")]
    pub seconds: f64,
    /// Milliseconds after which an attempt without an answer has timed out
    #[arg(long, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// Address to ask from, one of the namespace's
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
}

/// Runs the traffic and prints its report.
///
/// # Errors
/// When it can't run, or an attempt failed.
pub fn execute(config: &Config) -> Result<()> {
    let netns = Netns::open(&config.netns)?;
    let pause = Duration::from_millis(config.pause_ms);
    let load = match config.kind {
        Kind::Connections => Load::Connections { per_s: config.per_s },
        Kind::Stream => Load::Stream { pause },
        Kind::Associations => Load::Associations { per_s: config.per_s },
        Kind::Association => Load::Association { pause },
        Kind::Datagrams => Load::Datagrams { per_s: config.per_s },
        Kind::Flow => Load::Flow { pause },
    };
    let plan = Plan {
        limit: config.count,
        timeout: Duration::from_millis(config.timeout_ms),
        source: config.source,
        ..Plan::new(config.target, load)
    };
    let report = if config.count.is_some() {
        run(&netns, plan)?
    } else {
        let time = Duration::try_from_secs_f64(config.seconds).context("--seconds")?;
        let running = start(&netns, plan)?;
        sleep(time);
        running.stop()?
    };
    println!("{}", serde_json::to_string(&report)?);
    if report.failed() > 0 {
        bail!("{} of {} attempts failed", report.failed(), report.attempts);
    }
    Ok(())
}
