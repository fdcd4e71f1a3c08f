//! The lines of a watch on the wire, and what faults do to them: split, joined, cut, doubled.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::ApiError;
use super::faults::Fault;
use super::json::set;
use super::resource::Resource;
use super::{convert, defaults};

/// Why a stream ends.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Cleanly, or the client went.
    Eof,
    /// With the connection.
    Break,
    /// With an ERROR event.
    Error(ApiError),
}

/// Where a watch writes its events.
#[derive(Debug)]
pub(crate) struct Lines {
    out: mpsc::Sender<io::Result<Bytes>>,
    /// Set when the stream ends as it should; else the connection breaks with it.
    complete: Arc<AtomicBool>,
    sent: usize,
    end_after: Option<usize>,
    cut_after: Option<usize>,
    split: bool,
    join: bool,
    duplicate: bool,
    as_modified: bool,
    unknown: bool,
    undecodable: bool,
    held: Vec<u8>,
}

impl Lines {
    /// A writer, and the body it writes.
    pub(crate) fn new(faults: &[Fault]) -> (Self, Body) {
        let (out, written) = mpsc::channel(64);
        let complete = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&complete);
        // A writer that is gone without a word went down with the server.
        let end = stream::once(future::ready(())).filter_map(move |()| {
            let cut = !ended.load(Ordering::Acquire);
            future::ready(cut.then(|| Err(io::Error::from(io::ErrorKind::ConnectionReset))))
        });
        let body = Body::from_stream(ReceiverStream::new(written).chain(end));
        let number = |pick: fn(&Fault) -> Option<usize>| faults.iter().find_map(pick);
        let lines = Self {
            out,
            complete,
            sent: 0,
            end_after: number(|f| if let Fault::EndAfter(n) = f { Some(*n) } else { None }),
            cut_after: number(|f| if let Fault::CutAfter(n) = f { Some(*n) } else { None }),
            split: faults.contains(&Fault::SplitChunks),
            join: faults.contains(&Fault::JoinChunks),
            duplicate: faults.contains(&Fault::DuplicateAdded),
            as_modified: faults.contains(&Fault::AddedAsModified),
            unknown: faults.contains(&Fault::UnknownEventType),
            undecodable: faults.contains(&Fault::Undecodable),
            held: Vec::new(),
        };
        (lines, body)
    }

    /// Waits until the client has gone.
    pub(crate) async fn closed(&self) {
        self.out.closed().await;
    }

    /// Writes a change.
    ///
    /// # Errors
    /// How the stream ends, when a fault or the client says so.
    pub(crate) async fn event(&mut self, kind: &str, mut object: Value) -> Result<(), Closed> {
        if mem::take(&mut self.unknown) {
            self.line(
                &json!({"type": "PONDERED", "object": {"kind": "Thought", "apiVersion": "v1"}}),
            )
            .await?;
        }
        if mem::take(&mut self.undecodable) {
            spoil(&mut object);
        }
        let kind = if self.as_modified && kind == "ADDED" { "MODIFIED" } else { kind };
        let line = json!({"type": kind, "object": object});
        if self.cut_after == Some(self.sent) {
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.truncate(text.len() / 2);
            self.flush().await?;
            self.write(text).await?;
            return Err(Closed::Break);
        }
        self.line(&line).await?;
        if self.duplicate && kind != "DELETED" {
            let mut again = line;
            set(&mut again, &["type"], "ADDED");
            self.line(&again).await?;
        }
        self.sent += 1;
        self.check_end()
    }

    /// # Errors
    /// The stream ends here, says a fault (K7).
    pub(crate) fn check_end(&self) -> Result<(), Closed> {
        if self.end_after == Some(self.sent) { Err(Closed::Eof) } else { Ok(()) }
    }

    /// Writes a BOOKMARK (K4, K15).
    ///
    /// # Errors
    /// The client went.
    pub(crate) async fn bookmark(
        &mut self,
        resource: &Resource,
        rv: u64,
        initial_end: bool,
    ) -> Result<(), Closed> {
        let object = convert::whole(resource, &defaults::bookmark(resource, rv, initial_end));
        self.line(&json!({"type": "BOOKMARK", "object": object})).await?;
        self.flush().await
    }

    async fn line(&mut self, line: &Value) -> Result<(), Closed> {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        if self.join {
            // Held back until there are a few, or somebody waits.
            self.held.append(&mut text);
            return if self.held.len() > 4096 { self.flush().await } else { Ok(()) };
        }
        self.write(text).await
    }

    /// Sends what was held back.
    ///
    /// # Errors
    /// The client went.
    pub(crate) async fn flush(&mut self) -> Result<(), Closed> {
        let held = mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.write(held).await }
    }

    async fn write(&mut self, text: Vec<u8>) -> Result<(), Closed> {
        let mut rest = Bytes::from(text);
        while !rest.is_empty() {
            let length = if self.split {
                rand::rng().random_range(1..=7).min(rest.len())
            } else {
                rest.len()
            };
            self.out.send(Ok(rest.split_to(length))).await.map_err(|_| Closed::Eof)?;
        }
        Ok(())
    }

    /// Ends the stream.
    pub(crate) async fn finish(mut self, ended: Closed) {
        self.complete.store(!matches!(ended, Closed::Break), Ordering::Release);
        match ended {
            Closed::Eof => {
                let _ = self.flush().await;
            }
            Closed::Break => {
                // What was written goes out before the connection breaks.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                let _ = self.out.send(Err(io::Error::from(io::ErrorKind::ConnectionReset))).await;
            }
            Closed::Error(error) => {
                let line = json!({"type": "ERROR", "object": error.status()});
                if self.line(&line).await.is_ok() {
                    let _ = self.flush().await;
                }
            }
        }
    }
}

/// Makes an object that no typed client can decode, though it is JSON (K11).
pub(crate) fn spoil(object: &mut Value) {
    let (key, wrong) = match object {
        Value::Object(map) if map.contains_key("spec") => ("spec", json!(17)),
        Value::Object(map) if map.contains_key("endpoints") => ("endpoints", json!("none")),
        _ => ("metadata", json!("not metadata")),
    };
    set(object, &[key], wrong);
}
