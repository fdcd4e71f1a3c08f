//! Counts requests to the API server, as client-go's `rest_client_requests_total` does.

use std::task::{Context, Poll};

use axum::http::{Request, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::{Layer, Service};

/// Requests by `code`, `host` and `method`; clones count together.
pub type Requests = Family<Vec<(&'static str, String)>, Counter>;

/// Puts the counting around a client.
#[derive(Clone, Debug)]
pub(super) struct Count {
    pub(super) requests: Requests,
    pub(super) host: String,
}

impl<S> Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, count: self.clone() }
    }
}

/// A client that counts.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    count: Count,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Count { requests, host } = self.count.clone();
        let method = request.method().to_string();
        let note = move |code: &str| {
            let labels = vec![("code", code.to_owned()), ("host", host), ("method", method)];
            requests.get_or_create(&labels).inc();
        };
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            // client-go's word for no answer at all.
            let status = answer.as_ref().map(Response::status);
            note(status.as_ref().map_or("<error>", |status| status.as_str()));
            answer
        }
        .boxed()
    }
}
