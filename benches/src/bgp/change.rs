//! A Service among many comes and goes: from the write to the API server until the site's
//! router has read the UPDATE. The agent and its programs are the real ones, the router is one of octets.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::BytesMut;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::Value;
use sluice_bgp::fsm::Settings;
use sluice_bgp::{Message, Params, Received, decode, next_frame};
use sluice_testkit::cluster::bgp_router::{self, NODES_ASN, ROUTER_ASN};
use sluice_testkit::cluster::topology::ROUTER_V4;
use sluice_testkit::cluster::{self, Cluster, Node, PATIENCE};

use super::Line;
use crate::api::{seconds, status};
use crate::same_node::{beside, rests};

/// Port of all Services.
const PORTS: [(&str, u16, u16); 1] = [("TCP", 80, 8080)];
/// How long one change may take.
const CHANGE: Duration = Duration::from_secs(30);
/// How long the agent's work at rest is counted: some times its own longest period, 30 s.
const AT_REST: Duration = Duration::from_secs(90);
/// A router that says so is sent no KEEPALIVE, and sends none.
const NO_HOLD: u16 = 0;

/// A prefix that came, or went, and when the octets that say so had been read.
struct News {
    prefix: IpNet,
    announced: bool,
    at: Instant,
}

/// Measures so many changes among so many Services.
pub(super) fn run(services: usize, changes: usize) -> Result<Vec<Line>> {
    // An IPv4 and an IPv6 address each.
    let case = format!("{}-addresses", 2 * services);
    eprintln!("{case}: a cluster of one node");
    let cluster = Cluster::start(cluster::Options {
        nodes: 1,
        sluice: Some(beside("sluice")?),
        testkit: Some(beside("sluice-testkit")?),
        ..cluster::Options::default()
    })?;
    let (tell, news) = mpsc::channel();
    let router = cluster.network().router.clone();
    let listener = router.run(|| TcpListener::bind((ROUTER_V4, 179)))??;
    std::thread::spawn(move || {
        if let Err(fault) = hear(&listener, &tell) {
            eprintln!("the router: {fault:#}");
        }
    });
    let node = cluster.nodes().first().context("a cluster has a node")?;
    node.stop_agent(Signal::SIGTERM)?;
    let flags = bgp_router::agent_flags();
    node.start_agent_with(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    node.wait_agent_ready(PATIENCE)?;
    for number in 0..services {
        cluster.apply(service(&format!("other-{number}")))?;
    }
    let mut heard = HashSet::new();
    while heard.len() < services {
        let next = news.recv_timeout(PATIENCE);
        let next = next.with_context(|| format!("{} of {services} announced", heard.len()))?;
        if next.prefix.addr().is_ipv4() && next.prefix.prefix_len() == 32 {
            heard.insert(next.prefix);
        }
    }
    if !rests()? {
        eprintln!("{case}: the machine is busy with other things, which counts too");
    }
    let rest = Line {
        case: format!("{case}, at rest"),
        speaker: "sluice",
        rest_percent: Some(at_rest(node)?),
        ..Line::default()
    };
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for number in 0..changes {
        let name = format!("changes-{number}");
        let started = Instant::now();
        let written = cluster.apply(service(&name))?;
        let prefix = address(&written)?;
        came.push(wait(&news, prefix, true, started)?);
        let started = Instant::now();
        if !cluster.store().delete("services", "default", &name) {
            bail!("{name} can't be deleted");
        }
        went.push(wait(&news, prefix, false, started)?);
    }
    let line = |what: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        Line {
            case: format!("{case}, one {what}"),
            speaker: "sluice",
            median_ms: ms(times.get(times.len() / 2)),
            longest_ms: ms(times.last()),
            ..Line::default()
        }
    };
    Ok(vec![rest, line("comes", came), line("goes", went)])
}

/// Share of a processor in percent that a node's agent uses while nothing changes.
fn at_rest(node: &Node) -> Result<f64> {
    let status = status(node)?;
    let pid = status.get("pid").and_then(Value::as_u64).context("the agent's process id")?;
    let (before, from) = (seconds(pid)?, Instant::now());
    std::thread::sleep(AT_REST);
    Ok(100.0 * (seconds(pid)? - before) / from.elapsed().as_secs_f64())
}

fn service(name: &str) -> Value {
    cluster::service(name, &Value::Null, &PORTS)
}

/// The IPv4 address that a Service was given, as a prefix.
fn address(written: &Value) -> Result<IpNet> {
    let address = written
        .pointer("/spec/clusterIP")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());
    let address: IpAddr = address.with_context(|| format!("no ClusterIP: {written}"))?;
    Ok(IpNet::from(address))
}

/// Waits for a piece of news; how long after `since` it came.
fn wait(
    news: &mpsc::Receiver<News>,
    prefix: IpNet,
    announced: bool,
    since: Instant,
) -> Result<Duration> {
    let deadline = Instant::now() + CHANGE;
    loop {
        let next = news.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let next = next.with_context(|| format!("{prefix}: nothing within {CHANGE:?}"))?;
        if (next.prefix, next.announced) == (prefix, announced) {
            return Ok(next.at - since);
        }
    }
}

/// Listens as the site's router, and tells what it hears.
fn hear(listener: &TcpListener, tell: &mpsc::Sender<News>) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        // An agent that restarts comes again.
        if let Err(fault) = session(&mut stream, tell) {
            eprintln!("the router: {fault:#}");
        }
    }
}

fn session(stream: &mut TcpStream, tell: &mpsc::Sender<News>) -> Result<()> {
    let mut settings = Settings::new(ROUTER_ASN, ROUTER_V4, NODES_ASN);
    settings.hold_s = NO_HOLD;
    settings.extended_messages = false;
    let mut params = Params { four_octet_as: true, ..Params::default() };
    let (mut inbox, mut buffer) = (BytesMut::new(), vec![0; 65536]);
    loop {
        let count = stream.read(&mut buffer)?;
        let at = Instant::now();
        if count == 0 {
            bail!("the agent has closed the connection");
        }
        inbox.extend_from_slice(buffer.get(..count).unwrap_or_default());
        while let Some(frame) = next_frame(&mut inbox, false).map_err(|n| anyhow!("{n}"))? {
            match decode(&frame, &params).map_err(|n| anyhow!("{n}"))? {
                Received::Open(_) => {
                    params.families = settings.families;
                    let mut octets = BytesMut::new();
                    Message::Open(settings.open()).encode(&Params::default(), &mut octets)?;
                    Message::Keepalive.encode(&params, &mut octets)?;
                    stream.write_all(&octets)?;
                }
                Received::Update(update) => {
                    let gone = update.update.withdrawals().map(|prefix| (prefix, false));
                    let here = update.update.announcements().map(|(prefix, _)| (prefix, true));
                    for (prefix, announced) in gone.chain(here) {
                        // Whoever listened may have gone.
                        drop(tell.send(News { prefix, announced, at }));
                    }
                }
                Received::Notification(notification) => bail!("the agent says {notification}"),
                Received::Keepalive | Received::Refresh(_) => {}
            }
        }
    }
}
