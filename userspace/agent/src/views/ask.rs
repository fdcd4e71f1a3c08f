//! Asks the running agent over its control socket: HTTP/1 with JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use crate::http::socket::SOCKET;

/// An agent that does not answer for so long is in trouble.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens: no agent runs with this state folder.
    #[error("no agent at {socket}: {source}; is it running, and with this --state-dir?")]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The conversation failed.
    #[error("the agent at {socket} does not answer: {reason}")]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The agent cannot say.
    #[error("the agent cannot say: {0}")]
    Refused(String),
}

/// Gets one view, e.g. `/status`, from the agent with this state folder.
///
/// # Errors
/// When no agent runs there, or it has no answer.
pub async fn get<T: DeserializeOwned>(state_dir: &Path, path: &str) -> Result<T, AskError> {
    let socket = state_dir.join(SOCKET);
    let fault = |reason: String| AskError::NoAnswer { socket: socket.clone(), reason };
    let talk = async {
        let stream = tokio::net::UnixStream::connect(&socket)
            .await
            .map_err(|source| AskError::NoAgent { socket: socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| fault(error.to_string()))?;
        // Ends with the answer; its faults show in the answer, too.
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::get(path)
            .header(header::HOST, "agent")
            .body(Body::empty())
            .map_err(|error| fault(error.to_string()))?;
        let answer =
            sender.send_request(request).await.map_err(|error| fault(error.to_string()))?;
        let status = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER_BYTES)
            .await
            .map_err(|error| fault(error.to_string()))?;
        if !status.is_success() {
            return Err(AskError::Refused(String::from_utf8_lossy(&body).trim().to_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| fault(error.to_string()))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, talk)
        .await
        .unwrap_or_else(|_| Err(fault(format!("nothing within {ANSWER_TIMEOUT:?}"))))
}
