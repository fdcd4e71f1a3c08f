//! Owns what goes into the machine and what comes out.

use std::time::Duration;

use super::link::LinkId;
use super::negotiate::Negotiated;
use crate::message::{Message, Notification, Received, ReceivedUpdate, Refresh};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer may be connected to and may connect.
    Start,
    /// Ends everything; the peer is told so if there is a notification. Without one the peer may
    /// keep our routes over a restart (RFC 4724).
    Stop(Option<Notification>),
    /// Ends the session for a reason outside of the protocol (limits, BFD); tried again after
    /// `again`, or only after [`Event::Start`].
    Fail {
        /// What the peer is told.
        notification: Notification,
        /// Pause until the next try.
        again: Option<Duration>,
    },
    /// The connection asked for by [`Action::Connect`] stands.
    Connected(LinkId),
    /// It could not be made.
    ConnectFailed(LinkId),
    /// The peer connected.
    Accepted(LinkId),
    /// The connection is gone: closed, reset, failed.
    Closed(LinkId),
    /// A message arrived.
    Received(LinkId, Box<Received>),
    /// Octets arrived that end the session: with a header that is wrong, or a message of this type.
    Malformed(LinkId, Option<u8>, Notification),
    /// Nothing could be written for the send hold time (RFC 9687).
    SendStuck(LinkId),
    /// Messages are there but could not be read yet: the hold timer starts anew.
    Busy(LinkId),
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a connection to the peer; answered by `Connected` or `ConnectFailed`.
    Connect(LinkId),
    /// Send a message.
    Send(LinkId, Box<Message>),
    /// Close the connection, or stop making it, after what was sent. No event follows.
    Close(LinkId),
    /// This connection is the session now.
    Up(LinkId, Box<Negotiated>),
    /// The session is over.
    Down(Down),
    /// Routes from the peer.
    Update(Box<ReceivedUpdate>),
    /// A route refresh from the peer.
    Refresh(Refresh),
    /// A connection ended before it became the session.
    Refused(Reason),
}

/// Why a connection or session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// We said so.
    #[error("sent {0}")]
    Sent(Notification),
    /// The peer said so.
    #[error("received {0}")]
    Received(Notification),
    /// The peer's NOTIFICATION could not be read.
    #[error("received a malformed NOTIFICATION")]
    MalformedNotification,
    /// The connection was lost.
    #[error("connection lost")]
    Lost,
    /// The peer did not read; it cannot be told (RFC 9687).
    #[error("send hold timer expired (8/0): the peer read nothing")]
    SendStuck,
    /// It came over more hops than TTL security allows (RFC 5082).
    #[error("from further away than TTL security allows")]
    TooFar,
    /// Stopped without a word.
    #[error("stopped")]
    Stopped,
    /// The peer restarted and opened a new connection (RFC 4724 5).
    #[error("replaced by a new connection of the restarted peer")]
    Replaced,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// Why.
    pub reason: Reason,
    /// The peer's routes stay for its restart time (RFC 4724 4.2, RFC 8538).
    pub graceful: bool,
}
