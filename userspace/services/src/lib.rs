//! Services, EndpointSlices and Nodes to the desired state of the data plane.

mod state;
pub use state::*;
