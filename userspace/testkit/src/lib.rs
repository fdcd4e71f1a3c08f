//! A Kubernetes API server and a cluster in network namespaces, for tests, benches and the demo.

pub mod cluster;
pub mod echo;
pub mod traffic;
