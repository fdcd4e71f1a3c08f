//! kube-proxy's health endpoint at `--healthz-bind-address` (R28 to R30) and its metrics at
//! `--metrics-bind-address` (R51), for load balancers, scrapers and tests that know kube-proxy.

use std::time::{Instant, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Shown, own};
use crate::health;

/// What stands above the pages for people.
const NOT_FOR_MACHINES: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
     guarantees and is for debugging purposes only.\n";
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
        .route("/configz", get(configz))
        .route("/flagz", get(flagz))
        .route("/statusz", get(statusz))
        .with_state(shown)
}

/// The configuration as JSON: here it is the flags.
async fn configz(State(shown): State<Shown>) -> Response {
    Json(json!({ "sluice": shown.identity.flags })).into_response()
}

/// The flags as lines of text, in the form of Kubernetes' components (KEP-4828).
async fn flagz(State(shown): State<Shown>) -> String {
    let lines = shown.identity.flags.iter().map(|(name, value)| format!("{name}={value}\n"));
    format!("\nsluice flagz\n{NOT_FOR_MACHINES}\n{}", lines.collect::<String>())
}

/// What runs, since when, and what there is to ask (KEP-4827).
async fn statusz(State(shown): State<Shown>) -> String {
    let up = shown.identity.started.elapsed();
    let started = SystemTime::now().checked_sub(up).unwrap_or(SystemTime::UNIX_EPOCH);
    format!(
        "\nsluice statusz\n{NOT_FOR_MACHINES}\nStarted: {}\nUp: {} s\nBinary version: {}\n\
         Paths: /configz /flagz /healthz /metrics /proxyMode /statusz\n",
        health::go_time(Some(started)),
        up.as_secs(),
        env!("CARGO_PKG_VERSION"),
    )
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
