//! A Kubernetes API server and a cluster in network namespaces, for tests, benches and the demo.

pub mod api;
pub mod cluster;
pub mod demo;
pub mod echo;
pub mod kubernetes;
pub mod matrix;
pub mod sctp;
pub mod traffic;
