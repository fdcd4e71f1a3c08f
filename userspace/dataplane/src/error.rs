//! What can go wrong, each with the operation and its object.

use std::io;
use std::path::PathBuf;

/// An error of the data plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, folder or mount of the bpf file system.
    #[error("{operation} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The object or one of its programs was refused.
    #[error("load {object}: {source}")]
    Load {
        /// The object or program.
        object: &'static str,
        /// aya's or the verifier's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be attached.
    #[error("attach {program} to {interface}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// aya's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be opened, read or written.
    #[error("map {map}: {operation}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel's interfaces or addresses could not be read.
    #[error("netlink: {operation}: {source}")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn map(
        map: &'static str,
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Map { map, operation, source: source.into() }
    }

    pub(crate) fn netlink(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Netlink { operation, source: source.into() }
    }
}
