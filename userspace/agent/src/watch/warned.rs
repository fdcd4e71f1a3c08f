//! Tells what the API server warns of (K36): deprecated fields, and those of ours that it did not take.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{Response, header};
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

    /// Tells what is new in an answer.
    pub(super) fn tell<B>(&self, answer: Response<B>) -> Response<B> {
        for value in answer.headers().get_all(header::WARNING) {
            let text = String::from_utf8_lossy(value.as_bytes());
            if self.is_new(&text) {
                warn!(warning = %text, "the API server warns");
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k36_each_warning_is_told_once_by_all_clients_together() {
        let warnings = Warnings::default();
        for client in [warnings.clone(), warnings.clone()] {
            for field in ["a", "b", "a"] {
                let text = format!("299 - \"unknown field {field}\"");
                let answer = Response::builder().header(header::WARNING, text).body(());
                client.tell(answer.expect("an answer"));
            }
        }
        let told = warnings.0.lock().expect("no panic");
        assert_eq!(told.len(), 2, "{told:?}");
        drop(told);
        assert!(!warnings.is_new("299 - \"unknown field a\"") && warnings.is_new("other"));
    }
}
