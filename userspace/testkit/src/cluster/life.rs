//! Owns the life of one pod: its namespace and interface, its process, its status in the API, and
//! its end, in the order of a kubelet: process, network, object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::cni::Cni;
use super::netns::Netns;
use super::process::{Keeper, Process, Spec};
use super::registry::Claim;
use super::status::{State, status};
use super::topology::NodePlan;

/// Time for a pod that is told to stop, where its spec says nothing.
const GRACE: Duration = Duration::from_secs(30);
/// Pause before a process that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What all pods of a node share.
#[derive(Debug)]
pub(super) struct NodeParts {
    pub(super) plan: NodePlan,
    pub(super) netns: Netns,
    pub(super) cni: Cni,
    /// The bridge plugin makes the bridge if need be, so one pod at a time.
    pub(super) wiring: Mutex<()>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) claim: Arc<Claim>,
    /// The node's cgroup, if it has one of its own.
    pub(super) cgroup: Option<PathBuf>,
    /// The program that pods run: `sluice-testkit`.
    pub(super) program: PathBuf,
    pub(super) pods: Pods,
}

/// The pods that run, by namespace and name.
pub(super) type Pods = Arc<Mutex<BTreeMap<(String, String), Pod>>>;

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Name of its node.
    pub node: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// What the API wants from a pod; it only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Run,
    /// Deletion was asked for: end with grace.
    Stop,
    /// The object is gone: end at once.
    Gone,
}

/// What a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    /// [`crate::echo`]
    Echo,
    /// Nothing: a place to send traffic from.
    Pause,
}

type Output = Lines<BufReader<pipe::Receiver>>;

pub(super) struct Life {
    parts: Arc<NodeParts>,
    api: Api<PodObject>,
    pod: PodObject,
    key: (String, String),
    /// Name of the namespace, and container id for CNI.
    id: String,
    image: Image,
    restarts: i32,
}

impl Life {
    pub(super) fn new(parts: Arc<NodeParts>, client: Client, pod: PodObject) -> Result<Self> {
        let namespace = pod.namespace().unwrap_or_default();
        let key = (namespace.clone(), pod.name_any());
        let image = image(&pod).with_context(|| format!("pod {}/{}", key.0, key.1))?;
        let id = match key.0.as_str() {
            "default" => format!("pod-{}", key.1),
            namespace => format!("pod-{namespace}-{}", key.1),
        };
        Ok(Self {
            parts,
            api: Api::namespaced(client, &namespace),
            pod,
            key,
            id,
            image,
            restarts: 0,
        })
    }

    pub(super) async fn run(mut self, mut orders: watch::Receiver<Order>) {
        if let Err(e) = self.live(&mut orders).await {
            tracing::error!("pod {}/{} on {}: {e:#}", self.key.0, self.key.1, self.parts.plan.name);
        }
    }

    async fn live(&mut self, orders: &mut watch::Receiver<Order>) -> Result<()> {
        if *orders.borrow() == Order::Run {
            let netns = self.wire().await?;
            let result = self.serve(&netns, orders).await;
            self.parts.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
            self.unwire(netns).await?;
            result?;
        }
        if *orders.borrow() != Order::Gone {
            let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let params =
                params.preconditions(Preconditions { uid: self.pod.uid(), resource_version: None });
            match self.api.delete(&self.key.1, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                result => drop(result.context("delete the pod for good")?),
            }
        }
        Ok(())
    }

    async fn wire(&self) -> Result<Netns> {
        let (parts, id) = (self.parts.clone(), self.id.clone());
        let (netns, addresses) = spawn_blocking(move || {
            let netns = create(&parts.claim.netns(&id))?;
            let _one_at_a_time = parts.wiring.lock().unwrap_or_else(PoisonError::into_inner);
            let addresses = parts.cni.add(&parts.netns, &netns, &id)?;
            anyhow::Ok((netns, addresses))
        })
        .await??;
        let pod = Pod { netns: netns.clone(), node: self.parts.plan.name.clone(), addresses };
        self.parts
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.key.clone(), pod);
        Ok(netns)
    }

    async fn unwire(&self, netns: Netns) -> Result<()> {
        let (parts, id) = (self.parts.clone(), self.id.clone());
        spawn_blocking(move || {
            let _one_at_a_time = parts.wiring.lock().unwrap_or_else(PoisonError::into_inner);
            parts.cni.delete(&parts.netns, &netns, &id)?;
            netns.remove()
        })
        .await?
    }

    /// Runs the process, again and again, until the pod is to go.
    async fn serve(&mut self, netns: &Netns, orders: &mut watch::Receiver<Order>) -> Result<()> {
        loop {
            let ended = match self.image {
                Image::Pause => {
                    self.report(State::Ready).await?;
                    told(orders, Order::Stop).await;
                    true
                }
                Image::Echo => self.serve_once(netns, orders).await?,
            };
            if ended {
                return Ok(());
            }
            self.restarts += 1;
            self.report(State::Waiting).await?;
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = told(orders, Order::Stop) => return Ok(()),
            }
        }
    }

    /// One run of the process; `true` when it ended because the pod is to go.
    async fn serve_once(&self, netns: &Netns, orders: &mut watch::Receiver<Order>) -> Result<bool> {
        let process = self.parts.keeper.spawn(netns, &self.process())?;
        let mut output = lines(process.take_stdout())?;
        let mut deadline = None;
        loop {
            let awaited = if deadline.is_none() { Order::Stop } else { Order::Gone };
            let line = tokio::select! {
                line = output.next_line() => line,
                () = told(orders, awaited) => {
                    if *orders.borrow() == Order::Gone {
                        return Ok(true);
                    }
                    let _ = process.signal(Signal::SIGTERM);
                    deadline = Some(tokio::time::Instant::now() + self.grace());
                    continue;
                }
                () = sleep_until(deadline), if deadline.is_some() => return Ok(true),
            };
            match line?.as_deref() {
                Some("ready") => self.report(State::Ready).await?,
                Some("not-ready") => self.report(State::NotReady).await?,
                Some(other) => tracing::debug!("pod {}: {other}", self.key.1),
                None => {
                    reap(process).await?;
                    return Ok(deadline.is_some());
                }
            }
        }
    }

    fn process(&self) -> Spec {
        let mut args = vec!["echo".to_owned(), "--name".to_owned(), self.key.1.clone()];
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => "--udp",
                Some("SCTP") => "--sctp",
                _ => "--tcp",
            };
            args.extend([protocol.to_owned(), port.container_port.to_string()]);
        }
        let log = self.parts.claim.dir().join(format!("{}.log", self.id));
        let spec = Spec::new(&self.parts.program).args(args).log(log).pipe_stdout();
        spec.cgroup(self.parts.cgroup.as_deref())
    }

    fn grace(&self) -> Duration {
        let seconds = self.pod.metadata.deletion_grace_period_seconds;
        let seconds = seconds.or_else(|| self.pod.spec.as_ref()?.termination_grace_period_seconds);
        seconds.and_then(|s| u64::try_from(s).ok()).map_or(GRACE, Duration::from_secs)
    }

    async fn report(&self, state: State) -> Result<()> {
        let addresses = {
            let pods = self.parts.pods.lock().unwrap_or_else(PoisonError::into_inner);
            pods.get(&self.key).map(|pod| pod.addresses.clone()).unwrap_or_default()
        };
        let status = status(&self.pod, &self.parts.plan, &addresses, state, self.restarts);
        let patch =
            Patch::Merge(json!({ "metadata": { "uid": self.pod.uid() }, "status": status }));
        match self.api.patch_status(&self.key.1, &PatchParams::default(), &patch).await {
            // Deleted meanwhile, or another pod of that name: the watch will say so.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(()),
            result => result.map(drop).context("write the pod's status"),
        }
    }
}

fn image(pod: &PodObject) -> Result<Image> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let image = container.and_then(|container| container.image.as_deref()).unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next();
    match name {
        Some("echo") => Ok(Image::Echo),
        Some("pause") => Ok(Image::Pause),
        _ => bail!("image {image:?}: this cluster has `echo` and `pause`"),
    }
}

/// A pod that was deleted by force may still be on its way out when its successor comes.
fn create(path: &Path) -> Result<Netns> {
    let deadline = Instant::now() + GRACE;
    while path.exists() && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
    }
    Netns::create(path)
}

fn lines(stdout: Option<ChildStdout>) -> Result<Output> {
    let stdout = stdout.ok_or_else(|| anyhow!("standard output is not piped"))?;
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(stdout.into())?).lines())
}

/// Waits for an order of at least this weight.
async fn told(orders: &mut watch::Receiver<Order>, least: Order) {
    // Without a kubelet there is nobody left to serve for.
    let _ = orders.wait_for(|order| *order >= least).await;
}

async fn reap(process: Process) -> Result<()> {
    let status = spawn_blocking(move || process.wait(Duration::from_secs(2))).await??;
    tracing::debug!("process ended: {status:?}");
    Ok(())
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}
