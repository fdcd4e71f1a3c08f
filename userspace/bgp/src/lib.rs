//! A BGP-4 speaker without I/O: messages, state machine, routing tables, policies.
//!
//! Octets, events and the time come in as arguments, octets and actions go out as values; sockets
//! and clocks belong to the driver.

#![forbid(unsafe_code)]

mod attribute;
mod family;
mod message;
mod prefix;
mod reader;

pub use attribute::{
    Action as AttributeAction, Aggregator, AsPath, Attributes, Community, Fault, LargeCommunity,
    NextHop, Opaque, Origin, Reason, Segment, SegmentKind,
};
pub use family::{AfiSafi, Families, Family};
pub use message::*;
