//! The server's life: start on an address or a listener, run on a runtime of its own, stop at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use ipnet::IpNet;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::allocate::Ranges;
use super::controllers;
use super::error::ApiError;
use super::faults::{Faults, Verb};
use super::http;
use super::resource::RESOURCES;
use super::store::Store;
use super::target::Asked;

/// How a server behaves. Start from `Options::default()`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 for any free one.
    pub listen: SocketAddr,
    /// The store to serve; none makes a new one.
    pub store: Option<Store>,
    /// Service addresses and node ports, for a new store.
    pub ranges: Ranges,
    /// The range of pod addresses of each family and the prefix length each node gets of it.
    pub pod_cidrs: Vec<(IpNet, u8)>,
    /// Run the EndpointSlice, node-ipam, namespace and garbage controllers.
    pub controllers: bool,
    /// Time between bookmarks (K4); the real server takes a minute.
    pub bookmark_interval: Duration,
    /// How often quiet types' watch caches move on; 5 s with kubeadm's etcd.
    pub progress_interval: Duration,
    /// How long a request waits for a version of the future (K6).
    pub future_wait: Duration,
    /// How long slices outlive their Service.
    pub garbage_delay: Duration,
    /// Keep the log of a store that was served before. The real server begins anew, so that every
    /// watch from before gets 410 (K31).
    pub keep_history: bool,
}

impl Default for Options {
    fn default() -> Self {
        let v4 = IpNet::new_assert([10, 244, 0, 0].into(), 16);
        let v6 = IpNet::new_assert([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0].into(), 56);
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            store: None,
            ranges: Ranges::default(),
            pod_cidrs: vec![(v4, 24), (v6, 64)],
            controllers: true,
            bookmark_interval: Duration::from_secs(60),
            progress_interval: Duration::from_secs(5),
            future_wait: Duration::from_secs(3),
            garbage_delay: Duration::from_secs(1),
            keep_history: false,
        }
    }
}

/// A request the server has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it wanted.
    pub verb: Verb,
    /// HTTP method.
    pub method: String,
    /// Plural name of the type, "" for discovery.
    pub resource: String,
    /// The path.
    pub path: String,
    /// The query, as sent.
    pub query: String,
    /// User-Agent header.
    pub user_agent: String,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("API server: listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// No threads to run on.
    #[error("API server: start its runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) options: Options,
    token: RwLock<Option<String>>,
    seen: Mutex<Vec<Seen>>,
}

impl Shared {
    pub(crate) fn note(&self, seen: Seen) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Enough for a test, bounded for a demo that runs for days.
        if all.len() < 100_000 {
            all.push(seen);
        }
    }

    /// # Errors
    /// 403 without credentials, 401 with wrong ones (K10); nothing is asked when no token is set.
    pub(crate) fn check_credentials(
        &self,
        headers: &HeaderMap,
        asked: Asked<'_>,
    ) -> Result<(), ApiError> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = token.as_deref() else { return Ok(()) };
        match headers.get("authorization").map(|v| v.to_str().unwrap_or_default()) {
            None if asked.is_public() => Ok(()),
            None => Err(asked.forbidden("system:anonymous")),
            Some(sent) if sent.strip_prefix("Bearer ") == Some(token) => Ok(()),
            Some(_) => Err(ApiError::new(401, "Unauthorized", "Unauthorized")),
        }
    }
}

/// A running server. Dropping it stops it; its store can be served again.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    stopped: std::sync::mpsc::Receiver<()>,
}

impl Server {
    /// Starts a server on `options.listen`.
    ///
    /// # Errors
    /// When the address cannot be had or no threads can be started.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        let listener =
            TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
        Self::start_on(listener, options)
    }

    /// Starts a server on a listener, which may come from another network namespace.
    ///
    /// # Errors
    /// When the listener is of no use or no threads can be started.
    pub fn start_on(listener: TcpListener, mut options: Options) -> Result<Self, StartError> {
        let at = options.listen;
        let failed = |source| StartError::Listen { address: at, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let store = match options.store.take() {
            Some(store) => {
                if !options.keep_history {
                    store.forget_history();
                }
                store
            }
            None => Store::new(options.ranges.clone()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("api-server")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let shared = Arc::new(Shared {
            store,
            faults: Faults::default(),
            options,
            token: RwLock::new(None),
            seen: Mutex::default(),
        });
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        let (stop, stopping) = oneshot::channel::<()>();
        let (stopped_sender, stopped) = std::sync::mpsc::channel();
        let for_requests = Arc::clone(&shared);
        let router =
            Router::new().fallback(move |request| http::answer(Arc::clone(&for_requests), request));
        runtime.spawn(async move {
            tokio::select! {
                served = std::future::IntoFuture::into_future(axum::serve(listener, router)) => {
                    if let Err(error) = served {
                        tracing::error!(%error, "API server ended");
                    }
                }
                _ = stopping => {}
            }
            // The listener is closed here: the address is free again.
            let _ = stopped_sender.send(());
        });
        runtime.spawn(progress(Arc::clone(&shared)));
        if shared.options.controllers {
            controllers::spawn(&runtime, &shared, address);
        }
        Ok(Self { shared, address, runtime: Some(runtime), stop: Some(stop), stopped })
    }

    /// `http://ADDRESS:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig (JSON, which is YAML) for this server, with the token if one is set.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let token = self.shared.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        let user = token.map_or(json!({}), |token| json!({"token": token}));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "sluice",
            "clusters": [{"name": "sluice", "cluster": {"server": self.url()}}],
            "users": [{"name": "sluice", "user": user}],
            "contexts": [{"name": "sluice", "context": {"cluster": "sluice", "user": "sluice"}}],
        });
        format!("{config:#}\n")
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The switches for misbehaviour.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Demands this bearer token from now on; none lets everybody in (K10).
    pub fn set_token(&self, token: Option<&str>) {
        *self.shared.token.write().unwrap_or_else(PoisonError::into_inner) =
            token.map(str::to_owned);
    }

    /// The requests seen so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests of a verb were made for a type.
    #[must_use]
    pub fn count(&self, resource: &str, verb: Verb) -> usize {
        self.seen().iter().filter(|s| s.resource == resource && s.verb == verb).count()
    }

    /// Stops at once: the listener closes, connections break. Gives back the store.
    pub fn stop(mut self) -> Store {
        self.end();
        self.shared.store.clone()
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
            // So that the same address can be had again at once.
            let _ = self.stopped.recv_timeout(Duration::from_secs(2));
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// etcd's progress notifications: quiet types' watch caches learn how far the store is.
async fn progress(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.options.progress_interval);
    loop {
        ticks.tick().await;
        shared.store.with(|state| {
            for resource in RESOURCES {
                state.catch_up(resource.table);
            }
        });
    }
}
