//! kube-proxy's health endpoint at `--healthz-bind-address`, for load balancers and tests that
//! know kube-proxy (R28 to R30).

use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::Value;

use super::Shown;

/// The routes.
pub fn router(shown: Shown) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(shown)
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
