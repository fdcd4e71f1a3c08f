//! kube-proxy's health endpoint at `--healthz-bind-address` (R28 to R30) and its metrics at
//! `--metrics-bind-address` (R51), for load balancers, scrapers and tests that know kube-proxy.

use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::Value;

use super::{Shown, own};

/// The one mode there is.
const PROXY_MODE: &str = "ebpf";

/// The routes of the health address.
pub fn router(shown: Shown) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(shown)
}

/// The routes of the metrics address.
pub fn metrics_router(shown: Shown) -> Router {
    Router::new()
        .route("/healthz", any(|| async { "ok" }))
        .route("/proxyMode", any(|| async { PROXY_MODE }))
        .route("/metrics", get(own::metrics))
        .with_state(shown)
}

async fn healthz(State(shown): State<Shown>) -> Response {
    let answer = shown.snapshot.borrow().health.healthz(Instant::now(), SystemTime::now());
    respond(&shown, false, answer)
}

async fn livez(State(shown): State<Shown>) -> Response {
    let answer = shown.snapshot.borrow().health.livez(Instant::now(), SystemTime::now());
    respond(&shown, true, answer)
}

fn respond(shown: &Shown, live: bool, (code, body): (u16, Value)) -> Response {
    shown.metrics.health_answered(live, code);
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body.to_string()).into_response()
}
