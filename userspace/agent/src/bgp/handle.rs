//! The way to ask the router from other tasks: what the control socket and the views use.

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::view::{NeighborRow, RouteRow};

/// A question of the control socket.
pub(super) enum Question {
    Neighbors(oneshot::Sender<Vec<NeighborRow>>),
    Routes(Option<IpNet>, oneshot::Sender<Vec<RouteRow>>),
}

/// Asks the router.
#[derive(Clone, Debug)]
pub struct BgpHandle {
    questions: mpsc::Sender<Question>,
}

impl BgpHandle {
    /// A way to ask, and where the questions come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (ask, questions) = mpsc::channel(16);
        (Self { questions: ask }, questions)
    }

    /// All peers; `None` if the router has ended.
    pub async fn neighbors(&self) -> Option<Vec<NeighborRow>> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Neighbors(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Routes within a prefix, all if not given; `None` if the router has ended.
    pub async fn routes(&self, within: Option<IpNet>) -> Option<Vec<RouteRow>> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Routes(within, answer)).await.ok()?;
        answered.await.ok()
    }
}

impl Question {
    /// Answers for a router that does not speak yet.
    pub(super) fn refuse(self) {
        // Whoever asked may have gone.
        match self {
            Self::Neighbors(answer) => drop(answer.send(Vec::new())),
            Self::Routes(_, answer) => drop(answer.send(Vec::new())),
        }
    }
}
