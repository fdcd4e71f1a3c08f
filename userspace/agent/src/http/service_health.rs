//! Tells load balancers which nodes hold ready endpoints of a Service: one server per Service with
//! a `healthCheckNodePort` and family (R24 to R27, R50).
//!
//! What is listened on follows the state that was written last. A port that cannot be bound is told
//! to the control loop, which makes an Event of it, and tried again; no other Service notices.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_services::{Family, HealthCheckKey, HealthChecks};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::nodeports::{NodePortAddresses, Opening};
use crate::snapshot::Snapshot;
use crate::watch::object::Key;

/// A port that is taken is tried again after this time (R27: after seconds).
const AGAIN: Duration = Duration::from_secs(5);
/// Connections served at a time per address; more wait in the backlog.
const MAX_CONNECTIONS: usize = 128;
/// A client that has not sent its request by then is sent away, so that idle ones hold no place.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Connections that the kernel keeps waiting.
const BACKLOG: i32 = 128;

/// A health port that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose it is.
    pub key: HealthCheckKey,
    /// The port.
    pub port: u16,
    /// What the system said.
    pub reason: String,
}

impl Refused {
    /// The Service.
    #[must_use]
    pub fn service(&self) -> Key {
        Key { namespace: self.key.namespace.clone(), name: self.key.name.clone() }
    }
}

/// All servers.
#[derive(Debug)]
pub struct ServiceHealth {
    snapshot: watch::Receiver<Snapshot>,
    nodeports: NodePortAddresses,
    refused: mpsc::Sender<Refused>,
    servers: BTreeMap<HealthCheckKey, Server>,
}

/// What one server listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    port: u16,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Server {
    place: Place,
    state: Running,
}

#[derive(Debug)]
enum Running {
    /// One task per address; they end with this.
    Yes(JoinSet<()>),
    /// Tried again at this time.
    No(Instant),
}

impl ServiceHealth {
    /// Servers that follow the snapshots; nothing is open yet.
    #[must_use]
    pub fn new(
        snapshot: watch::Receiver<Snapshot>,
        nodeports: NodePortAddresses,
        refused: mpsc::Sender<Refused>,
    ) -> Self {
        Self { snapshot, nodeports, refused, servers: BTreeMap::new() }
    }

    /// Runs until the control loop has ended.
    pub async fn run(mut self) {
        loop {
            let (checks, node) = {
                let snapshot = self.snapshot.borrow_and_update();
                (Arc::clone(&snapshot.health_checks), Arc::clone(&snapshot.node_addresses))
            };
            let places = self.places(&checks, &node);
            self.reconcile(&places).await;
            tokio::select! {
                changed = self.snapshot.changed() => if changed.is_err() { return },
                // Also follows the addresses of the interfaces.
                () = tokio::time::sleep(AGAIN), if !self.servers.is_empty() => {}
            }
        }
    }

    fn places(&self, checks: &HealthChecks, node: &[IpAddr]) -> BTreeMap<HealthCheckKey, Place> {
        let restricted = self.nodeports.is_given() && !checks.is_empty();
        let local = if restricted { local_addresses() } else { Vec::new() };
        let place = |(key, check): (&HealthCheckKey, &sluice_services::HealthCheck)| {
            let opening = if restricted {
                self.nodeports.opening(key.family, node, &local)
            } else {
                Opening::Everywhere
            };
            let addresses = match opening {
                Opening::Everywhere => vec![any_address(key.family)],
                Opening::On(addresses) => addresses,
            };
            (key.clone(), Place { port: check.port, addresses })
        };
        checks.iter().map(place).collect()
    }

    /// Closes before it opens: a port may go from one Service to another.
    async fn reconcile(&mut self, wanted: &BTreeMap<HealthCheckKey, Place>) {
        let now = Instant::now();
        let stays = |key: &HealthCheckKey, server: &Server| wanted.get(key) == Some(&server.place);
        let gone: Vec<HealthCheckKey> = self
            .servers
            .iter()
            .filter(|(key, server)| !stays(key, server))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(server) = self.servers.remove(&key) {
                info!(service = %name(&key), port = server.place.port, "health check port closed");
                server.close().await;
            }
        }
        for (key, place) in wanted {
            let failed_before = match self.servers.get(key).map(|server| &server.state) {
                Some(Running::Yes(_)) => continue,
                Some(Running::No(again)) if *again > now => continue,
                Some(Running::No(_)) => true,
                None => false,
            };
            let state = match self.open(key, place) {
                Ok(tasks) => {
                    info!(service = %name(key), port = place.port, "health check port open");
                    Running::Yes(tasks)
                }
                Err(fault) => {
                    let reason = fault.to_string();
                    if !failed_before {
                        warn!(service = %name(key), port = place.port, reason, again_every = ?AGAIN,
                            "cannot open a health check port");
                    }
                    let refused = Refused { key: key.clone(), port: place.port, reason };
                    // When many fail, the next try tells.
                    drop(self.refused.try_send(refused));
                    Running::No(now + AGAIN)
                }
            };
            self.servers.insert(key.clone(), Server { place: place.clone(), state });
        }
    }

    /// R27: all addresses or none.
    fn open(&self, key: &HealthCheckKey, place: &Place) -> io::Result<JoinSet<()>> {
        let listeners: Vec<TcpListener> = place
            .addresses
            .iter()
            .map(|address| listen(SocketAddr::new(*address, place.port)))
            .collect::<io::Result<_>>()?;
        let serve = |listener| serve(listener, key.clone(), self.snapshot.clone());
        Ok(listeners.into_iter().map(serve).collect())
    }
}

impl Server {
    /// Returns when the port is free again.
    async fn close(self) {
        if let Running::Yes(mut tasks) = self.state {
            tasks.shutdown().await;
        }
    }
}

fn name(key: &HealthCheckKey) -> String {
    format!("{}/{} {:?}", key.namespace, key.name, key.family)
}

fn any_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Addresses of all interfaces; none when the system does not tell.
fn local_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(fault) => {
            warn!(%fault, "the addresses of the interfaces cannot be read");
            return Vec::new();
        }
    };
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    };
    // Whoever wants a link-local address has to name its link, too.
    let link_local =
        |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    interfaces.filter_map(address).filter(|address| !link_local(address)).collect()
}

/// A listener of one family only: the other may have a port of the same number (R50).
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until it is aborted; its connections end with it.
async fn serve(listener: TcpListener, key: HealthCheckKey, snapshot: watch::Receiver<Snapshot>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else {
                    // Out of file descriptors, or a client that has gone.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (key, snapshot) = (key.clone(), snapshot.clone());
                connections.spawn(async move {
                    let service = service_fn(|_| {
                        let answer = answer(&key, &snapshot.borrow(), Instant::now());
                        async { Ok::<_, Infallible>(answer) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(REQUEST_TIME)
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that breaks off is no fault of ours.
                    drop(connection.await);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The answer to any request, whatever its path and method (R25).
fn answer(key: &HealthCheckKey, snapshot: &Snapshot, now: Instant) -> Response<Body> {
    let count = snapshot.health_checks.get(key).map_or(0, |check| check.local_ready);
    let healthy = snapshot.health.is_proxy_healthy(now);
    let mut response = Response::new(Body::from(body(key, count, healthy)));
    if count == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    response
}

/// The body as kube-proxy writes it, to the tab.
fn body(key: &HealthCheckKey, count: usize, healthy: bool) -> String {
    let HealthCheckKey { namespace, name, .. } = key;
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HEALTH_TIMEOUT;
    use sluice_services::HealthCheck;

    #[test]
    fn r25_two_hundred_only_with_endpoints_here_and_a_healthy_proxy() {
        let now = Instant::now();
        let key = HealthCheckKey {
            namespace: "d".to_owned(),
            name: "web".to_owned(),
            family: Family::V4,
        };
        // Ready endpoints, seconds since an unwritten change, code.
        for (count, waits, code) in [
            (0, None, 503),
            (1, None, 200),
            (2, Some(Duration::ZERO), 200),
            (2, Some(HEALTH_TIMEOUT), 503),
        ] {
            let check = HealthCheck { port: 30000, local_ready: count };
            let mut snapshot = Snapshot {
                health_checks: Arc::new([(key.clone(), check)].into()),
                ..Snapshot::default()
            };
            // R26: the Node's state does not enter; here it is unknown.
            snapshot.health.pending_since = waits.map(|_| now);
            let answer = answer(&key, &snapshot, now + waits.unwrap_or_default());
            assert_eq!(answer.status(), code, "{count} {waits:?}");
            assert_eq!(answer.headers()["x-load-balancing-endpoint-weight"], count.to_string());
        }
    }

    #[test]
    fn r25_the_body_tells_an_unhealthy_proxy() {
        let key = HealthCheckKey {
            namespace: "d".to_owned(),
            name: "web".to_owned(),
            family: Family::V4,
        };
        let text = body(&key, 3, false);
        assert!(text.ends_with("\t\"localEndpoints\": 3,\n\t\"serviceProxyHealthy\": false\n}"));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["service"]["namespace"], "d");
    }
}
