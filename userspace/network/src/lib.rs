//! What Sluice sets in the node's own network. Plans are pure, applying them is thin.
//!
//! - [`routes`]: the routes that BGP chose, with protocol 92.

#![forbid(unsafe_code)]

pub mod routes;
