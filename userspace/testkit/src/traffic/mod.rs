//! Owns traffic to echo servers: what is asked how often, from which namespace, until when.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use sluice_testkit::cluster::netns::Netns;
//! use sluice_testkit::traffic::{Load, Plan, start};
//! let client = Netns::open("/run/netns/client".as_ref())?;
//! let plan = Plan::new("10.96.0.10:80".parse()?, Load::Connections { per_s: 200 });
//! let running = start(&client, plan)?;
//! std::thread::sleep(std::time::Duration::from_secs(5));
//! println!("{}", running.stop()?);
//! # Ok(())
//! # }
//! ```

pub mod command;
pub(crate) mod exchange;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

pub use self::report::{Answer, Failure, Recorder, Report};

use self::exchange::{Association, Connection, Flow};
use crate::cluster::netns::Netns;

/// Attempts that may be under way at once; past it the load waits, and the rate is not held.
const MAX_UNDER_WAY: usize = 64;
/// Pause before a broken stream is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// After this an attempt has failed. Longer than two SYN retransmissions (1 s + 2 s), which show
/// as latency instead, and long enough for an emulated machine.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP: new connections, each asks once and closes.
    Connections {
        /// Connections started per second.
        per_s: u32,
    },
    /// TCP: one connection that asks again and again, and is made anew when it breaks.
    Stream {
        /// Pause between an answer and the next question.
        pause: Duration,
    },
    /// SCTP: new associations, each asks once and shuts down.
    Associations {
        /// Associations started per second.
        per_s: u32,
    },
    /// SCTP: one association that asks again and again, and is made anew when it breaks.
    Association {
        /// Pause between an answer and the next question.
        pause: Duration,
    },
    /// UDP: a socket, so a flow, of its own for each question.
    Datagrams {
        /// Questions per second.
        per_s: u32,
    },
    /// UDP: one socket that asks again and again, and is made anew when the kernel ends it.
    Flow {
        /// Pause between an answer and the next question.
        pause: Duration,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whom to ask.
    pub target: SocketAddr,
    /// How.
    pub load: Load,
    /// Number of attempts; `None`: until stopped.
    pub limit: Option<u64>,
    /// Time for an attempt.
    pub timeout: Duration,
    /// Address to ask from, one of the namespace's; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
}

impl Plan {
    /// Until stopped, with [`TIMEOUT`] for each attempt.
    #[must_use]
    pub fn new(target: SocketAddr, load: Load) -> Self {
        Self { target, load, limit: None, timeout: TIMEOUT, source: None }
    }

    /// Ends after so many attempts.
    #[must_use]
    pub fn limit(mut self, attempts: u64) -> Self {
        self.limit = Some(attempts);
        self
    }
}

/// Traffic that runs, on a thread of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    recorder: Arc<Recorder>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Starts traffic from a namespace.
///
/// # Errors
/// When the namespace can't be entered.
pub fn start(netns: &Netns, plan: Plan) -> Result<Running> {
    let recorder = Arc::new(Recorder::new(Instant::now()));
    let (stop, stopped) = watch::channel(false);
    let (netns, notes) = (netns.clone(), recorder.clone());
    let thread = thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        netns.enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(drive(plan, notes, stopped));
        Ok(())
    })?;
    Ok(Running { recorder, stop, thread: Some(thread) })
}

/// Runs traffic from a namespace to the end of its plan, which must have a limit.
///
/// # Errors
/// When the namespace can't be entered or the plan has no end.
pub fn run(netns: &Netns, plan: Plan) -> Result<Report> {
    plan.limit.context("traffic without a limit never ends")?;
    let mut running = start(netns, plan)?;
    running.join()?;
    Ok(running.report())
}

impl Running {
    /// What is known so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.recorder.report(Instant::now())
    }

    /// Lets what is under way end, and reports.
    ///
    /// # Errors
    /// When the traffic could not run.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.send_replace(true);
        let report = self.report();
        self.join()?;
        // What was under way counts as well, the time it was waited for does not.
        Ok(Report {
            elapsed_ms: report.elapsed_ms,
            longest_gap_us: report.longest_gap_us,
            ..self.report()
        })
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the traffic's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.join();
    }
}

async fn drive(plan: Plan, notes: Arc<Recorder>, stopped: watch::Receiver<bool>) {
    match plan.load {
        Load::Connections { per_s } | Load::Datagrams { per_s } | Load::Associations { per_s } => {
            many(plan, per_s, &notes, stopped).await
        }
        Load::Stream { pause } | Load::Association { pause } => {
            stream(plan, pause, &notes, &stopped).await
        }
        Load::Flow { pause } => flow(plan, pause, &notes, &stopped).await,
    }
}

/// Attempts that are independent of one another, at a rate.
async fn many(plan: Plan, per_s: u32, notes: &Arc<Recorder>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = interval(Duration::from_secs(1) / per_s.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let slots = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    for number in 0..plan.limit.unwrap_or(u64::MAX) {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let notes = notes.clone();
        tokio::spawn(async move {
            let result = match plan.load {
                Load::Datagrams { .. } => one_datagram(plan, number).await,
                Load::Associations { .. } => one_association(plan, number, &notes).await,
                _ => one_connection(plan, number, &notes).await,
            };
            notes.note(result, Instant::now());
            drop(slot);
        });
    }
    // All slots free: nothing is under way any more.
    let _ = slots.acquire_many(u32::try_from(MAX_UNDER_WAY).unwrap_or(u32::MAX)).await;
}

async fn one_connection(plan: Plan, number: u64, notes: &Recorder) -> std::io::Result<Answer> {
    let start = Instant::now();
    let mut connection = Connection::open(plan.target, plan.source, plan.timeout).await?;
    notes.connected();
    connection.ask(number, start, plan.timeout).await
}

async fn one_datagram(plan: Plan, number: u64) -> std::io::Result<Answer> {
    let mut flow = Flow::open(plan.target, plan.source).await?;
    flow.ask(number, Instant::now(), plan.timeout).await
}

async fn one_association(plan: Plan, number: u64, notes: &Recorder) -> std::io::Result<Answer> {
    let start = Instant::now();
    let mut association = Association::open(plan.target, plan.source, plan.timeout).await?;
    notes.connected();
    let answer = association.ask(number, start, plan.timeout).await?;
    association.close(plan.timeout).await;
    Ok(answer)
}

/// What a stream asks by.
enum Line {
    Tcp(Connection),
    Sctp(Association),
}

impl Line {
    async fn open(plan: Plan) -> std::io::Result<Self> {
        let Plan { target, source, timeout, .. } = plan;
        Ok(match plan.load {
            Load::Association { .. } => {
                Self::Sctp(Association::open(target, source, timeout).await?)
            }
            _ => Self::Tcp(Connection::open(target, source, timeout).await?),
        })
    }

    async fn ask(&mut self, number: u64, limit: Duration) -> std::io::Result<Answer> {
        match self {
            Self::Tcp(connection) => connection.ask(number, Instant::now(), limit).await,
            Self::Sctp(association) => association.ask(number, Instant::now(), limit).await,
        }
    }
}

async fn stream(plan: Plan, pause: Duration, notes: &Recorder, stopped: &watch::Receiver<bool>) {
    let mut line = None;
    for number in 0..plan.limit.unwrap_or(u64::MAX) {
        if *stopped.borrow() {
            break;
        }
        let result = match &mut line {
            Some(open) => Line::ask(open, number, plan.timeout).await,
            None => match Line::open(plan).await {
                Ok(open) => {
                    notes.connected();
                    line.insert(open).ask(number, plan.timeout).await
                }
                Err(e) => Err(e),
            },
        };
        let broken = result.is_err();
        notes.note(result, Instant::now());
        if broken {
            line = None;
        }
        rest(if broken { RECONNECT_PAUSE } else { pause }).await;
    }
}

async fn flow(plan: Plan, pause: Duration, notes: &Recorder, stopped: &watch::Receiver<bool>) {
    let mut flow = match Flow::open(plan.target, plan.source).await {
        Ok(flow) => flow,
        Err(e) => return notes.note(Err(e), Instant::now()),
    };
    for number in 0..plan.limit.unwrap_or(u64::MAX) {
        if *stopped.borrow() {
            break;
        }
        let result = flow.ask(number, Instant::now(), plan.timeout).await;
        let ended = result.as_ref().is_err_and(|e| Failure::of(e) == Failure::Reset);
        notes.note(result, Instant::now());
        if ended {
            // The kernel has taken its peer from it (SOCK_DESTROY).
            match Flow::open(plan.target, plan.source).await {
                Ok(new) => flow = new,
                Err(e) => return notes.note(Err(e), Instant::now()),
            }
        }
        rest(pause).await;
    }
}

/// Zero is no pause at all, not even the timer's millisecond.
async fn rest(pause: Duration) {
    if !pause.is_zero() {
        sleep(pause).await;
    }
}
