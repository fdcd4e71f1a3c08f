//! The thread that owns the data plane, and the handle that others speak to it through.

use std::sync::Arc;

use ipnet::IpNet;
use sluice_services::State;
use tokio::sync::{mpsc, oneshot};

use super::{
    FlowRow, LinkReport, OpenPlane, OwnNode, Plane, PlaneError, PlaneStatus, ReasonCount,
    SyncReport, Walked,
};

/// Commands that may wait for the thread.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// Why the data plane gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Gone {
    /// It is not open yet: the node's addresses are not known, or opening failed.
    #[error("the data plane is not open yet")]
    NotOpen,
    /// Its thread has ended.
    #[error("the data plane's thread has ended")]
    Ended,
    /// The operation failed.
    #[error(transparent)]
    Failed(#[from] PlaneError),
}

struct Owner {
    open: OpenPlane,
    plane: Option<Box<dyn Plane>>,
}

/// A handle to the data plane; the thread ends when the last one is dropped.
#[derive(Clone)]
pub struct PlaneHandle {
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for PlaneHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlaneHandle").finish_non_exhaustive()
    }
}

/// Starts the thread; nothing is opened before [`PlaneHandle::open`].
///
/// # Errors
/// When the system gives no thread.
pub fn start(open: OpenPlane) -> std::io::Result<(PlaneHandle, std::thread::JoinHandle<()>)> {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    let thread = std::thread::Builder::new().name("dataplane".to_owned()).spawn(move || {
        let mut owner = Owner { open, plane: None };
        while let Some(job) = queue.blocking_recv() {
            job(&mut owner);
        }
    })?;
    Ok((PlaneHandle { jobs }, thread))
}

impl PlaneHandle {
    /// Opens the data plane, or opens it anew for a Node that says something else. What it forwards stays.
    ///
    /// # Errors
    /// When it could not be opened; an earlier one is closed then, its pins go on forwarding.
    pub async fn open(&self, node: OwnNode) -> Result<(), Gone> {
        self.run(move |owner| {
            // Two at once would both believe that the pins are theirs.
            owner.plane = None;
            owner.plane = Some((owner.open)(&node)?);
            Ok(())
        })
        .await
    }

    /// See [`Plane::set_service_cidrs`] and [`Plane::sync`]; `None`: the ranges are not known.
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn sync(
        &self,
        state: Arc<State>,
        cidrs: Option<Vec<IpNet>>,
    ) -> Result<SyncReport, Gone> {
        self.with(move |plane| {
            if let Some(cidrs) = cidrs {
                plane.set_service_cidrs(&cidrs);
            }
            plane.sync(&state)
        })
        .await
    }

    /// See [`Plane::reconcile_links`].
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn reconcile_links(&self) -> Result<LinkReport, Gone> {
        self.with(|plane| plane.reconcile_links()).await
    }

    /// See [`Plane::maintain`].
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn maintain(&self, budget: usize) -> Result<Vec<Walked>, Gone> {
        self.with(move |plane| plane.maintain(budget)).await
    }

    /// See [`Plane::flows`].
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn flows(&self, limit: usize) -> Result<Vec<FlowRow>, Gone> {
        self.with(move |plane| plane.flows(limit)).await
    }

    /// See [`Plane::counters`].
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn counters(&self) -> Result<Vec<ReasonCount>, Gone> {
        self.with(|plane| plane.counters()).await
    }

    /// See [`Plane::status`].
    ///
    /// # Errors
    /// See [`Gone`].
    pub async fn status(&self) -> Result<PlaneStatus, Gone> {
        self.with(|plane| Ok(plane.status())).await
    }

    async fn with<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut dyn Plane) -> Result<R, PlaneError> + Send + 'static,
    ) -> Result<R, Gone> {
        self.run(move |owner| match owner.plane.as_deref_mut() {
            Some(plane) => Ok(call(plane)?),
            None => Err(Gone::NotOpen),
        })
        .await
    }

    async fn run<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Owner) -> Result<R, Gone> + Send + 'static,
    ) -> Result<R, Gone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |owner| {
            // Nobody waiting any more is no fault of the data plane.
            drop(answer.send(call(owner)));
        });
        self.jobs.send(job).await.map_err(|_| Gone::Ended)?;
        answered.await.map_err(|_| Gone::Ended)?
    }
}
