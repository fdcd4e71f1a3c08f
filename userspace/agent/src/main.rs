//! The `sluice` command: the agent, and views of it. Exit status 0 done, 1 a check failed or there
//! is something to report, 2 wrong usage.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use futures::StreamExt as _;
use serde::Serialize;
use sluice_agent::bgp::view::{NeighborRow, RouteRow};
use sluice_agent::cli::{self, AgentArgs, BgpView, Command, ViewArgs};
use sluice_agent::config::Config;
use sluice_agent::http::socket::StateDir;
use sluice_agent::plane::{FlowRow, ebpf};
use sluice_agent::views::{DropsView, ServiceRow, StatusView, ask, show};
use sluice_agent::{Ground, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Prints help to stdout and errors to stderr, with status 0 and 2.
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluice: no event loop: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(perform(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(1)
        }
    }
}

async fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => agent(&args).await,
        Command::Status(view) => {
            let status: StatusView = ask::get(&view.state_dir, "/status").await?;
            print(&view, &status, show::status)?;
            Ok(ExitCode::from(u8::from(!status.ready || !status.healthy)))
        }
        Command::Services { name, view } => {
            let path = match &name {
                Some(name) => format!("/services?name={}", encode(name)),
                None => "/services".to_owned(),
            };
            let rows: Vec<ServiceRow> = ask::get(&view.state_dir, &path).await?;
            print(&view, &rows, |rows| show::services(rows, name.is_some()))?;
            Ok(ExitCode::from(u8::from(name.is_some() && rows.is_empty())))
        }
        Command::Flows { limit, view } => {
            let rows: Vec<FlowRow> =
                ask::get(&view.state_dir, &format!("/flows?limit={limit}")).await?;
            print(&view, &rows, |rows| show::flows(rows))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Drops(view) => {
            let drops: DropsView = ask::get(&view.state_dir, "/drops").await?;
            print(&view, &drops, show::drops)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bgp { what: BgpView::Neighbors(view) } => {
            let rows: Vec<NeighborRow> = ask::get(&view.state_dir, "/bgp/neighbors").await?;
            print(&view, &rows, |rows| sluice_agent::bgp::show::neighbors(rows))?;
            let up = rows.iter().all(|row| row.state == "Established");
            Ok(ExitCode::from(u8::from(!up)))
        }
        Command::Bgp { what: BgpView::Routes { prefix, view } } => {
            let path = match prefix {
                Some(prefix) => format!("/bgp/routes?within={}", encode(&prefix.to_string())),
                None => "/bgp/routes".to_owned(),
            };
            let rows: Vec<RouteRow> = ask::get(&view.state_dir, &path).await?;
            print(&view, &rows, |rows| sluice_agent::bgp::show::routes(rows))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cleanup { bpf_dir, view } => cleanup(&bpf_dir, &view).await,
        Command::Check { json } => check(json),
    }
}

async fn agent(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("--log-level {}", args.log_level))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let config = Config { flags: cli::flags(std::env::args_os()), ..Config::from_args(args)? };
    sluice_agent::conntrack::settle();
    sluice_agent::foreign::report();
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
    };
    let links = match sluice_dataplane::link_events() {
        Ok(events) => events.boxed(),
        Err(fault) => {
            warn!(%fault, "no link events; links are looked at every 30 s only");
            futures::stream::pending().boxed()
        }
    };
    run(config, Ground { open: ebpf::opener(args), links }, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Takes away what an agent has left; refuses while one runs, which would make it again.
async fn cleanup(bpf_dir: &Path, view: &ViewArgs) -> anyhow::Result<ExitCode> {
    let state_dir = view.state_dir.exists().then(|| StateDir::take(&view.state_dir)).transpose()?;
    // It has an event loop of its own, for which this one has to make room.
    let mut removed = tokio::task::block_in_place(|| sluice_dataplane::cleanup(bpf_dir))?;
    for (prefix, result) in sluice_network::routes::Kernel::open()?.remove_all().await? {
        result.map_err(|why| anyhow!("remove the route to {prefix}: {why}"))?;
        removed.push(format!("the route to {prefix}"));
    }
    if let Some(state_dir) = state_dir {
        state_dir.remove().context("remove the state folder")?;
        removed.push(view.state_dir.display().to_string());
    }
    print(view, &removed, |removed| {
        if removed.is_empty() {
            return "nothing to remove\n".to_owned();
        }
        removed.iter().map(|what| format!("removed {what}\n")).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One probe of the kernel, as `sluice check --json` prints it.
#[derive(Serialize)]
struct ProbeRow {
    name: &'static str,
    needed: bool,
    ok: bool,
    detail: String,
    since: &'static str,
}

fn check(json: bool) -> anyhow::Result<ExitCode> {
    let probes: Vec<ProbeRow> = sluice_dataplane::check::run()
        .into_iter()
        .map(|probe| ProbeRow {
            name: probe.name,
            needed: probe.needed,
            ok: probe.ok,
            detail: probe.detail,
            since: probe.since,
        })
        .collect();
    let failed = probes.iter().any(|probe| probe.needed && !probe.ok);
    if json {
        out(&(serde_json::to_string_pretty(&probes)? + "\n"))?;
    } else {
        let rows: Vec<Vec<String>> = probes
            .into_iter()
            .map(|probe| {
                let verdict = match (probe.ok, probe.needed) {
                    (true, _) => "ok",
                    (false, true) => "FAILED",
                    (false, false) => "missing",
                };
                vec![
                    verdict.to_owned(),
                    probe.name.to_owned(),
                    probe.since.to_owned(),
                    probe.detail,
                ]
            })
            .collect();
        out(&show::table(&["RESULT", "FEATURE", "SINCE", "DETAIL"], &rows))?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn print<T: Serialize>(
    args: &ViewArgs,
    view: &T,
    text: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    if args.json { out(&(serde_json::to_string_pretty(view)? + "\n")) } else { out(&text(view)) }
}

/// Writes to stdout; a reader that has gone away, such as `head`, is no error.
fn out(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to stdout"),
    }
}

/// Percent-encodes a value for a query (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
