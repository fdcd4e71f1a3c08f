//! Tells what the API server warns of (K36): deprecated fields, and those of ours that it did not take.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::http::{Request, Response, header};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tower::{Layer, Service};
use tracing::warn;

/// Texts that are kept, so that each is told once; further ones are not told.
const MOST: usize = 256;

/// Warnings that were told; clones tell each once together.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<HashSet<String>>>);

impl Warnings {
    /// Whether a text is new, and so to be told.
    fn is_new(&self, text: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST && told.insert(text.to_owned())
    }
}

/// Puts the telling around a client.
#[derive(Clone, Debug)]
pub(super) struct Warn {
    pub(super) warnings: Warnings,
}

impl<S> Layer<S> for Warn {
    type Service = Warned<S>;

    fn layer(&self, inner: S) -> Warned<S> {
        Warned { inner, warnings: self.warnings.clone() }
    }
}

/// A client that tells.
#[derive(Clone, Debug)]
pub(super) struct Warned<S> {
    inner: S,
    warnings: Warnings,
}

impl<S, B, R> Service<Request<B>> for Warned<S>
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
        let warnings = self.warnings.clone();
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            for value in answer.headers().get_all(header::WARNING) {
                let text = String::from_utf8_lossy(value.as_bytes());
                if warnings.is_new(&text) {
                    warn!(path, warning = %text, "the API server warns");
                }
            }
            Ok(answer)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn k36_each_warning_is_told_once_by_all_clients_together() {
        let warnings = Warnings::default();
        for _ in 0..2 {
            let server = tower::service_fn(|request: Request<()>| async move {
                let text = format!("299 - \"unknown field {}\"", request.uri().path());
                Response::builder().header(header::WARNING, text).body(())
            });
            let mut client = Warn { warnings: warnings.clone() }.layer(server);
            for path in ["/a", "/b", "/a"] {
                let request = Request::get(path).body(()).expect("a request");
                client.ready().await.expect("ready").call(request).await.expect("answered");
            }
        }
        let told = warnings.0.lock().expect("no panic");
        assert_eq!(told.len(), 2, "{told:?}");
        drop(told);
        assert!(!warnings.is_new("299 - \"unknown field /a\"") && warnings.is_new("other"));
    }
}
