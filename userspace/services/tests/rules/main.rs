//! The rules of services, as tests over whole objects: what goes in is what the API server sends,
//! what is looked at is the state. R and K numbers name the rule a test holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

mod bad_objects;
mod endpoints;
mod frontends;
mod health_checks;
mod maglev;
mod objects;
mod order;
mod scale;
mod selection;
mod services;
mod weights;
