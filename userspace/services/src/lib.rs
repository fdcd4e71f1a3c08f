//! Services, EndpointSlices and Nodes to the desired state of the data plane.
//!
//! Feed objects into an [`Index`] as they come, in any order; ask it for the [`State`]. No I/O, no
//! clock, no randomness: the same objects give the same state, whatever the order of the events.
//! What is wrong with an object is data ([`Problem`]) and changes nothing for other objects.

#![forbid(unsafe_code)]

mod annotations;
mod categorize;
mod frontends;
mod index;
pub mod maglev;
mod parse;
mod problem;
mod service;
mod slice;
mod state;
mod weights;

pub use frontends::Conflict;
pub use index::{Config, Index, Update};
pub use problem::{Kind, ObjectRef, Problem, Reason};
pub use state::*;
