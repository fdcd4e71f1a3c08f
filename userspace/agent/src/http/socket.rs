//! The control socket `agent.sock`: what the commands show, as JSON over HTTP/1. One agent per
//! state folder, kept by a lock that dies with the process.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipnet::IpNet;
use serde::Deserialize;
use tokio::net::UnixListener;
use tracing::warn;

use super::Shown;
use crate::plane::Gone;
use crate::views::build;

/// Name of the socket in the state folder.
pub const SOCKET: &str = "agent.sock";
/// Name of the lock file in the state folder.
const LOCK: &str = "agent.lock";
/// Most flows that one answer holds.
const MAX_FLOWS: usize = 1_000_000;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent uses it.
    #[error("another agent runs with --state-dir {0}")]
    Taken(PathBuf),
    /// The system refused.
    #[error("{operation} {path}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The state folder of a running agent; others are kept out until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    socket: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder and takes its lock.
    ///
    /// # Errors
    /// When another agent holds it, or the system refuses.
    pub fn take(folder: &Path) -> Result<Self, StateDirError> {
        let fault = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::System { operation, path, source }
        };
        std::fs::create_dir_all(folder).map_err(fault("create", folder))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(fault("create", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { socket: folder.join(SOCKET), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::Taken(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(fault("lock", &path)(source)),
        }
    }

    /// Listens on the control socket, for root only. A socket that a killed agent left is removed:
    /// whoever holds the lock owns it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(&self) -> Result<UnixListener, StateDirError> {
        let path = &self.socket;
        let fault = |operation| {
            move |source| StateDirError::System { operation, path: path.clone(), source }
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(fault("remove")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(fault("bind"))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault("chmod"))?;
        Ok(listener)
    }

    /// Removes the folder with what agents keep there; it stays if there is something else in it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(self) -> Result<(), StateDirError> {
        let Some(folder) = self.socket.parent().map(Path::to_owned) else { return Ok(()) };
        let lock = folder.join(LOCK);
        let fault = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::System { operation, path, source }
        };
        std::fs::remove_file(&lock).map_err(fault("remove", &lock))?;
        drop(self);
        match std::fs::remove_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
                Err(fault("remove", &folder)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(fault) = std::fs::remove_file(&self.socket)
            && fault.kind() != std::io::ErrorKind::NotFound
        {
            warn!(%fault, socket = %self.socket.display(), "cannot remove the control socket");
        }
    }
}

/// The routes.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/services", get(services))
        .route("/flows", get(flows))
        .route("/drops", get(drops))
        .route("/bgp/neighbors", get(bgp_neighbors))
        .route("/bgp/routes", get(bgp_routes))
        .with_state(shown)
}

async fn status(State(shown): State<Shown>) -> Response {
    let plane = shown.plane.status().await.ok();
    let snapshot = shown.snapshot.borrow().clone();
    let (now, clock) = (Instant::now(), SystemTime::now());
    Json(build::status(&shown.identity, &snapshot, plane, now, clock)).into_response()
}

#[derive(Deserialize)]
struct ServicesQuery {
    name: Option<String>,
}

async fn services(State(shown): State<Shown>, Query(query): Query<ServicesQuery>) -> Response {
    let state = shown.snapshot.borrow().state.clone();
    Json(build::services(&state, query.name.as_deref())).into_response()
}

#[derive(Deserialize)]
struct FlowsQuery {
    limit: Option<usize>,
}

async fn flows(State(shown): State<Shown>, Query(query): Query<FlowsQuery>) -> Response {
    let limit = query.limit.unwrap_or(MAX_FLOWS).min(MAX_FLOWS);
    answer(shown.plane.flows(limit).await)
}

async fn drops(State(shown): State<Shown>) -> Response {
    answer(shown.plane.counters().await.map(build::drops))
}

async fn bgp_neighbors(State(shown): State<Shown>) -> Response {
    match &shown.bgp {
        Some(bgp) => bgp_answer(bgp.neighbors().await),
        None => no_router(),
    }
}

#[derive(Deserialize)]
struct RoutesQuery {
    within: Option<String>,
}

async fn bgp_routes(State(shown): State<Shown>, Query(query): Query<RoutesQuery>) -> Response {
    let within: Option<IpNet> = match query.within.as_deref().map(str::parse).transpose() {
        Ok(within) => within,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}")).into_response(),
    };
    match &shown.bgp {
        Some(bgp) => bgp_answer(bgp.routes(within).await),
        None => no_router(),
    }
}

fn no_router() -> Response {
    (StatusCode::NOT_FOUND, "the agent runs with --run-router=false").into_response()
}

fn bgp_answer<T: serde::Serialize>(result: Option<T>) -> Response {
    match result {
        Some(value) => Json(value).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the router has ended").into_response(),
    }
}

fn answer<T: serde::Serialize>(result: Result<T, Gone>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, fault.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_per_folder_and_stale_sockets_are_taken_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = StateDir::take(folder.path()).expect("free");
        assert!(matches!(StateDir::take(folder.path()), Err(StateDirError::Taken(_))));
        let listener = first.listen().expect("binds");
        drop(listener);
        // As after SIGKILL: the file is there, nobody listens, the lock is free.
        let socket = folder.path().join(SOCKET);
        assert!(socket.exists());
        let listener = first.listen().expect("binds again");
        let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop((listener, first));
        assert!(!socket.exists(), "removed with the agent");
        // A process that another test has just started holds the lock until it becomes its program.
        let mut tries = 0;
        while let Err(taken) = StateDir::take(folder.path()) {
            assert!(tries < 100, "free again: {taken}");
            tries += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
