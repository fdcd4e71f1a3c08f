//! `/healthz`, `/livez`, `/readyz` and `/metrics` at `--http-addr`.

use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Shown;

/// The routes.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

/// Healthy while updates are written in time (R28). `/livez` only tells that the process answers:
/// to restart it does not help a kernel that refuses.
async fn healthz(State(shown): State<Shown>) -> Response {
    let snapshot = shown.snapshot.borrow();
    if snapshot.health.is_proxy_healthy(Instant::now()) {
        return "ok\n".into_response();
    }
    let why = snapshot.plane_error.clone().unwrap_or_else(|| "a sync takes too long".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, format!("updates are not written: {why}\n")).into_response()
}

async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.snapshot.borrow().not_ready_because() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn metrics(State(shown): State<Shown>) -> Response {
    // Before the data plane is open there is nothing to count.
    let counters = shown.plane.counters().await.unwrap_or_default();
    let plane = shown.plane.status().await.ok();
    match shown.metrics.render(counters, plane) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()).into_response(),
    }
}
