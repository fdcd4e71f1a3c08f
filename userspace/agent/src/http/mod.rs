//! The agent's HTTP servers: its own (health, metrics), kube-proxy's health endpoint, and the
//! control socket.

pub mod kube_proxy;
pub mod own;
pub mod service_health;
pub mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::bgp::BgpHandle;
use crate::metrics::Metrics;
use crate::plane::PlaneHandle;
use crate::snapshot::Snapshot;
use crate::views::build::Identity;

/// An address that cannot be bound is tried again after this time (R51).
const BIND_AGAIN: Duration = Duration::from_secs(5);

/// What the handlers read.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What the control loop publishes.
    pub snapshot: watch::Receiver<Snapshot>,
    /// The router; `None` without it.
    pub bgp: Option<BgpHandle>,
    /// The data plane.
    pub plane: PlaneHandle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What does not change.
    pub identity: Arc<Identity>,
}

/// Serves `router` at a TCP address until it is aborted; an address that is taken is tried again.
pub async fn serve(name: &'static str, address: SocketAddr, router: Router) {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let at = listener.local_addr().unwrap_or(address);
                info!(name, %at, "listening");
                told = false;
                if let Err(fault) = axum::serve(listener, router.clone()).await {
                    warn!(name, %fault, "server ended");
                }
            }
            Err(fault) if !told => {
                told = true;
                error!(name, %address, %fault, again_every = ?BIND_AGAIN, "cannot listen");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}
