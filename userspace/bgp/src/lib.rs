//! A BGP-4 speaker: messages, state machine, routing tables and policies without I/O, and a driver.
//!
//! Octets, events and the time come in as arguments, octets and actions go out as values; sockets
//! and clocks belong to [`driver`].

mod attribute;
pub mod bfd;
pub mod driver;
mod family;
pub mod fsm;
mod message;
pub mod policy;
mod prefix;
mod reader;
pub mod rib;

pub use attribute::{
    Action as AttributeAction, Aggregator, AsPath, Attributes, Community, Fault, LargeCommunity,
    NextHop, Opaque, Origin, Reason, Segment, SegmentKind,
};
pub use family::{AfiSafi, Families, Family};
pub use message::*;
