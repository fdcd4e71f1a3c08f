//! A Kubernetes API server in the process: what tests, benches and the demo talk to.
//!
//! [`Server`] serves a [`Store`] over HTTP as kube-apiserver does, with the controllers that a
//! dataplane depends on (EndpointSlices, node ranges, namespaces); [`Faults`] makes it misbehave.
//! Objects are kept as JSON; types serve to check what comes in.
//!
//! ```
//! use sluice_testkit::api::{Options, Server};
//! let server = Server::start(Options::default())?;
//! server.store().apply(serde_json::json!({
//!     "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
//!     "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
//! }))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allocate;
mod apply;
mod bootstrap;
pub mod command;
mod controllers;
mod convert;
mod decode;
mod defaults;
mod delete;
mod discovery;
mod endpointslices;
mod error;
mod faults;
mod fieldset;
mod http;
mod json;
mod list;
mod ownership;
mod patch;
mod query;
pub mod real;
mod render;
mod resource;
mod schema;
mod selector;
mod server;
mod service;
mod store;
mod stream;
mod table;
mod target;
mod time;
mod validate;
mod warnings;
mod watch;
mod write;

pub use allocate::Ranges;
pub use error::ApiError;
pub use faults::{Ending, Fault, Faults, Scope, Verb};
pub use resource::{RESOURCES, Resource};
pub use server::{Options, Seen, Server, StartError};
pub use store::{Key, Snapshot, Store};
