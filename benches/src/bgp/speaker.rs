//! Sluice's speaker as a process of its own, with its way into the kernel and nothing else of the
//! agent: what BIRD and GoBGP are compared to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use sluice_bgp::driver::{Output, PeerConfig, Speaker as Driver, SpeakerConfig};
use sluice_bgp::fsm::Settings;
use sluice_bgp::policy::Policy;
use sluice_bgp::rib::{Identity, Policies, RouteChange};
use sluice_network::routes::{Kernel, Table, Target};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::site::{HOLD_S, PEERS_ASN, SPEAKER, SPEAKER_ASN, peer};

/// Most equal paths that share a prefix's traffic, as in the agent.
const MAX_PATHS: usize = 16;

/// Flags of `sluice-bench bgp-speaker`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Speaker {
    /// How many peers it has
    #[arg(long)]
    peers: u16,
    /// Whoever connects to this Unix socket is told how many prefixes are chosen
    #[arg(long)]
    socket: PathBuf,
}

/// Speaks until the process is ended.
pub(crate) fn run(config: &Speaker) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
    runtime.block_on(speak(config))
}

async fn speak(config: &Speaker) -> Result<()> {
    let address = IpAddr::V4(SPEAKER);
    let (mut speaker, outputs, mut events) = Driver::start(SpeakerConfig {
        identity: Identity {
            asn: SPEAKER_ASN,
            bgp_id: SPEAKER,
            cluster_id: None,
            addresses: vec![address],
            max_paths: MAX_PATHS,
        },
        listen: vec![SocketAddr::new(address, 179)],
        deferral: Duration::from_secs(360),
        seed: 1,
    })?;
    let mut accepted = speaker.take_accepted().context("the listener was taken")?;
    let kernel = Kernel::open()?;
    speaker.set_links(Some(kernel.links().await?.networks)).await;
    speaker.set_locals(Vec::new(), true).await;
    speaker.set_peers((0..config.peers).map(accepts).collect()).await?;
    let questions = UnixListener::bind(&config.socket).context("listen for questions")?;
    let installing = tokio::spawn(install(kernel, outputs));
    loop {
        tokio::select! {
            Some((stream, from)) = accepted.recv() => speaker.accept(stream, from).await,
            Some(_) = events.recv() => {}
            question = questions.accept() => {
                let (mut stream, _) = question?;
                let chosen: usize =
                    speaker.peers().await.iter().map(|peer| peer.routes.accepted).sum();
                // Whoever asked may have gone.
                drop(stream.write_all(chosen.to_string().as_bytes()).await);
            }
            else => break,
        }
    }
    installing.await?;
    Ok(())
}

/// A peer of which everything is taken, and that is told nothing.
fn accepts(n: u16) -> PeerConfig {
    let mut settings = Settings::new(SPEAKER_ASN, SPEAKER, PEERS_ASN);
    settings.hold_s = HOLD_S;
    settings.passive = true;
    let policies =
        Policies { import: Policy::accept_all(), enforce_first_as: true, ..Policies::default() };
    PeerConfig { policies, ..PeerConfig::new(IpAddr::V4(peer(n)), settings) }
}

/// Carries what is chosen into the kernel, as the agent does.
async fn install(kernel: Kernel, mut outputs: mpsc::Receiver<Output>) {
    let mut table = Table::default();
    while let Some(output) = outputs.recv().await {
        if let Output::Changes(changes) = output {
            change(&kernel, &mut table, changes).await;
        }
    }
}

async fn change(kernel: &Kernel, table: &mut Table, changes: Vec<RouteChange>) {
    for (prefix, chosen) in changes {
        table.want(prefix, chosen.and_then(|chosen| Target::via(chosen.next_hops)));
    }
    for (op, result) in kernel.apply(table.plan()).await {
        table.applied(&op, result);
    }
}
