//! What is wrong with an object: collected while parsing, reported as data for logs and Events.
//!
//! A problem never stops anything: the part it names is left out, the rest of the object counts.

use std::fmt;

/// At most this many problems are kept per object; a slice may have 1000 bad endpoints (K23).
pub(crate) const MOST_PER_OBJECT: usize = 16;

/// Longest excerpt of an object's text that a reason repeats, in characters.
const EXCERPT: usize = 64;

/// The kinds of objects the index reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service
    Service,
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice,
    /// v1 Node
    Node,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, "" for a Node and for an object without one.
    pub namespace: String,
    /// Its name, "" for an object without one.
    pub name: String,
}

/// Something in an object that cannot be served as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object it is in.
    pub object: ObjectRef,
    /// Path of the field, such as `spec.ports[1].nodePort`.
    pub field: String,
    /// What is wrong, and what was done about it.
    pub reason: Reason,
}

/// What is wrong with a field. Texts quoted from an object are cut to 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// Not an IP address, however sloppily read (R6).
    #[error("\"{0}\" is not an IP address; skipped")]
    NotAnAddress(String),
    /// An address that no service or endpoint can have: unspecified, loopback, multicast, and for
    /// endpoints and external addresses link-local (the API refuses these today).
    #[error("{0} cannot be served (unspecified, loopback, link-local or multicast); skipped")]
    SpecialAddress(String),
    /// An address of the other family than the slice's or the list's (R43, R3).
    #[error("{address} is not {wanted}; skipped")]
    OtherFamily {
        /// The address.
        address: String,
        /// The family that was to be expected, `IPv4` or `IPv6`.
        wanted: &'static str,
    },
    /// An external or LB address that the operator's ranges do not have.
    #[error("{address} is outside of {flag}; it is not served and not announced")]
    OutsideRanges {
        /// The address.
        address: String,
        /// Who says what the ranges are: a flag of the agent.
        flag: &'static str,
    },
    /// Not a range in CIDR notation (R4).
    #[error("\"{0}\" is not an address range; skipped")]
    NotARange(String),
    /// No source range of a family that has LB addresses is left: they are open to all (R17).
    #[error("no usable range of {0}: its load-balancer addresses are open to all sources")]
    OpenToAll(&'static str),
    /// A port number outside 1 to 65535.
    #[error("{0} is not a port number; skipped")]
    NotAPort(i64),
    /// A slice port without number or name (R5).
    #[error("missing; the port is ignored")]
    Missing,
    /// A protocol other than TCP, UDP and SCTP.
    #[error("\"{0}\" is not one of TCP, UDP, SCTP; skipped")]
    UnknownProtocol(String),
    /// An IP family other than IPv4 and IPv6.
    #[error("\"{0}\" is not one of IPv4, IPv6; skipped")]
    UnknownFamily(String),
    /// Two ports of one object with the same name and protocol: the first counts.
    #[error("a second port named \"{0}\" of one protocol; skipped")]
    DuplicatePort(String),
    /// A number outside the range the API allows.
    #[error("{value} is not within {least} to {most}; {instead} is used")]
    OutOfRange {
        /// The number.
        value: i64,
        /// Least value allowed.
        least: i64,
        /// Greatest value allowed.
        most: i64,
        /// What is used in its place.
        instead: i64,
    },
    /// A word that is not among the accepted ones.
    #[error("\"{value}\" is not one of {accepted}; {instead} is used")]
    UnknownValue {
        /// The word.
        value: String,
        /// Accepted words, separated by commas.
        accepted: &'static str,
        /// What is used in its place.
        instead: &'static str,
    },
    /// kube-router's annotation for direct server return.
    #[error("direct server return is not in this version; served with NAT")]
    NoDirectReturn,
    /// An entry of the endpoints' weights that says nothing.
    #[error("\"{0}\" is not KEY=WEIGHT, with an address, pod or node and 0 to 100; ignored")]
    NotAWeight(String),
    /// Two entries give one endpoint, pod or node different weights.
    #[error("a second weight of \"{0}\"; it counts, the earlier one is ignored")]
    SecondWeight(String),
    /// A Service with addresses but no port to serve.
    #[error("no port; nothing is served")]
    NoPorts,
    /// An object without namespace or name, or a slice without its service's name.
    #[error("missing; the object is ignored")]
    Unnamed,
    /// More problems in this object than are worth listing.
    #[error("and {0} more")]
    More(usize),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() {
            write!(f, "{kind:?} {name}")
        } else {
            write!(f, "{kind:?} {namespace}/{name}")
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

/// Text of an object as a reason may repeat it: short, without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut kept: String =
        text.chars().take(EXCERPT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(EXCERPT).is_some() {
        kept.push('…');
    }
    kept
}

/// Collects the problems of one object.
#[derive(Debug)]
pub(crate) struct Problems {
    object: ObjectRef,
    kept: Vec<Problem>,
    beyond: usize,
}

impl Problems {
    pub(crate) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let object = ObjectRef { kind, namespace: namespace.into(), name: name.into() };
        Self { object, kept: Vec::new(), beyond: 0 }
    }

    /// Notes a problem; the path of the field is only written out if the problem is kept.
    pub(crate) fn add(&mut self, field: impl FnOnce() -> String, reason: Reason) {
        if self.kept.len() < MOST_PER_OBJECT {
            self.kept.push(Problem { object: self.object.clone(), field: field(), reason });
        } else {
            self.beyond += 1;
        }
    }

    /// The value, or its problem noted and nothing.
    pub(crate) fn ok<T>(
        &mut self,
        result: Result<T, Reason>,
        field: impl FnOnce() -> String,
    ) -> Option<T> {
        result.map_err(|reason| self.add(field, reason)).ok()
    }

    /// The object and what was found; the last one tells how many were left out.
    pub(crate) fn finish(mut self) -> (ObjectRef, Vec<Problem>) {
        if self.beyond > 0 {
            let reason = Reason::More(self.beyond);
            self.kept.push(Problem { object: self.object.clone(), field: String::new(), reason });
        }
        (self.object, self.kept)
    }
}
