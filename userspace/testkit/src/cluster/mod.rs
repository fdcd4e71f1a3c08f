//! A cluster in network namespaces of this machine: router, office client, nodes, pods.

pub mod cni;
pub mod netns;
pub mod network;
pub mod process;
pub mod registry;
pub mod site;
pub mod topology;

/// Where clusters keep their state, each in a folder of its own.
pub const STATE_ROOT: &str = "/run/sluice-testkit";
