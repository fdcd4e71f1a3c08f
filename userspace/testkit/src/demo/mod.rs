//! Owns the demo: a cluster being served, in acts, each of which says what it expects and what it
//! saw. `cargo xtask demo` builds the programs and runs this.

mod balance;
mod console;
mod office;
mod scene;
mod upheaval;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::Signal;

use self::console::Console;
use self::scene::Scene;
use crate::cluster::{self, ApiServer, Cluster, Options, Proxy, STATE_ROOT, bgp_router};
use crate::{kubernetes, matrix};

/// What to show.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Run unattended: no questions, no waiting
    #[arg(long, conflicts_with = "keep")]
    pub check: bool,
    /// Leave the cluster up afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Only the matrix: services of every kind, asked from everywhere
    #[arg(long)]
    pub matrix: bool,
    /// What of the matrix.
    #[command(flatten)]
    pub slice: matrix::Options,
    /// The agent's binary [default: `sluice` beside this program]
    #[arg(long, value_name = "PATH")]
    pub sluice: Option<PathBuf>,
    /// API server of the cluster
    #[arg(long, value_enum, default_value_t = ApiServer::Embedded)]
    pub api: ApiServer,
    /// Who balances services
    #[arg(long, value_enum, default_value_t = Proxy::Sluice)]
    pub proxy: Proxy,
    /// Number of nodes, at least 2
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    pub nodes: u8,
    /// Without balancing at the socket, for which each node has a cgroup if cgroup v2 is mounted
    #[arg(long)]
    pub packets_only: bool,
    /// Where the cluster keeps its state
    #[arg(long, default_value = STATE_ROOT)]
    pub state_root: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// When the cluster can't be brought up, or an expectation is not met.
pub fn run(config: &Config) -> Result<()> {
    if config.proxy != Proxy::Sluice && !config.matrix {
        bail!("--proxy: only --matrix shows others than sluice");
    }
    let console = Console::new();
    console.heading("A cluster on this machine, in network namespaces");
    let (mut sluice, mut kube_proxy) = (None, None);
    match config.proxy {
        Proxy::Sluice => sluice = Some(agent(config)?),
        Proxy::KubeProxy => kube_proxy = Some(kubernetes::find(kubernetes::PROXY)?),
        Proxy::None => {}
    }
    let options = Options {
        nodes: usize::from(config.nodes),
        api: config.api,
        sluice,
        kube_proxy,
        state_root: config.state_root.clone(),
        bgp: config.proxy == Proxy::Sluice && !config.matrix && bgp_router::is_installed(),
        cgroups: !config.packets_only && cluster::has_cgroups(),
        progress: |step| println!("  {step}"),
        ..Options::default()
    };
    let cluster = Cluster::start(options)?;
    console.step("cluster is up, agents are ready");
    let shown = if config.matrix {
        judge(&cluster, &console, &config.slice)
    } else {
        show(&cluster, &console)
    };
    if let Err(e) = &shown {
        console.expect("the demo runs to its end", false, format!("{e:#}"));
    }
    let failed = console.verdict();
    if config.keep {
        keep(&cluster, &console)?;
    }
    console.step("removing the cluster");
    let id = cluster.id().to_owned();
    drop(cluster);
    if !failed.is_empty() {
        bail!("{} expectations failed (cluster {id})", failed.len());
    }
    Ok(())
}

fn agent(config: &Config) -> Result<PathBuf> {
    let sluice = match &config.sluice {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("own program")?.with_file_name("sluice"),
    };
    let missing = || format!("no agent at {}: cargo xtask build", sluice.display());
    sluice.canonicalize().with_context(missing)
}

/// The matrix as one table, then what is not as it must be.
fn judge(cluster: &Cluster, console: &Console, slice: &matrix::Options) -> Result<()> {
    console.heading("Who answers whom");
    let outcome = matrix::run(cluster, slice, |step| console.step(step))?;
    console.step("all have answered, or not");
    let header: Vec<&str> = outcome.header.iter().map(String::as_str).collect();
    console.table(&header, &outcome.rows);
    console.line("");
    console.line("1 2 3: the backends that answer (1 and 2 on n1, 3 on n2); kept: they see the client's address,");
    console.line("by n1: one of node n1; passed on: no node touched it; listener: a server of the node; !!: differs");
    console.line("");
    for line in &outcome.differing {
        console.line(line);
    }
    for (difference, cells) in &outcome.known {
        console.line(format!("~~ {cells} cells: {difference}"));
    }
    let (met, total) = (outcome.met, outcome.total);
    let known: usize = outcome.known.iter().map(|(_, cells)| cells).sum();
    let (differ, late) = (total - met - known, outcome.late);
    let known =
        if known == 0 { String::new() } else { format!("{known} as kube-proxy is known, ") };
    let detail =
        format!("{met} of {total} as expected, {known}{differ} differ; {late} answers came late");
    // Without a proxy there is nobody to judge.
    let expected = cluster.proxy() == Proxy::None || differ == 0;
    console.expect("cells of the matrix", expected, detail);
    Ok(())
}

fn show(cluster: &Cluster, console: &Console) -> Result<()> {
    console.heading("Services and pods");
    let mut scene = Scene::create(cluster, console)?;
    scene.show()?;
    console.heading("Who answers");
    balance::spread(&scene)?;
    console.heading("From every node, and from a backend to its own service");
    balance::everyone(&scene)?;
    console.heading("From the office, by routes that were learned");
    office::office(&scene)?;
    console.heading("How long it takes");
    balance::latency(&scene)?;
    console.heading("A rollout: all backends of web are replaced under traffic");
    upheaval::rollout(&mut scene)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        console.heading(&format!("Agents end by {signal} and come again under traffic"));
        upheaval::agents(&scene, signal)?;
    }
    console.heading("Endpoints change a thousand times beside a backend that stays");
    upheaval::churn(&scene)
}

fn keep(cluster: &Cluster, console: &Console) -> Result<()> {
    console.heading("The cluster stays up until Ctrl-C");
    console.line(format!("export KUBECONFIG={}", cluster.kubeconfig().display()));
    console.line("kubectl get nodes,services,endpointslices,pods -o wide");
    // What the matrix leaves is not what the demo shows.
    if cluster.pod("near").is_some() {
        console.line("kubectl delete pod near");
    }
    for node in cluster.nodes().iter().take(1) {
        if let Some(config) = node.agent_config() {
            let (sluice, state) = (config.sluice.display(), config.state_dir.display());
            console.line(format!("{sluice} status --state-dir {state}"));
            console.line(format!("{sluice} flows --state-dir {state}"));
            console.line(format!("{sluice} bgp neighbors --state-dir {state}"));
        }
    }
    let web = cluster.api().cluster_ips("web").ok();
    if let Some((client, web)) = cluster.pod("client-n1").zip(web)
        && let Some(web) = web.first()
    {
        let path = client.netns.path().display();
        console.line(format!("echo hello | nsenter --net={path} bash -c 'exec 3<>/dev/tcp/{web}/80; cat >&3; head -1 <&3'"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    })?;
    Ok(())
}
