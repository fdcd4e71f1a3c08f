//! Owns what a speaker is configured with: itself, and its peers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::bfd;
use crate::fsm::Settings;
use crate::rib::{Identity, Policies};

/// A TCP MD5 key (RFC 2385), 1 to 80 octets. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Longest key that the kernel takes (TCP_MD5SIG_MAXKEYLEN).
    pub const MAX_LEN: usize = 80;

    /// A key; `None` if it is empty or too long.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&key.len());
        fits.then(|| Self(key.as_bytes().to_vec()))
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// How far away the peer may be (B7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Sends with the system's default and takes any: internal peers.
    Any,
    /// Sends with this TTL; 1 for external peers on a link, more for multihop.
    Send(u8),
    /// RFC 5082: sends with 255, drops what came over more hops than this.
    Security(u8),
}

/// A peer. Everything is its own: hold time, graceful restart, `passive` and families are in
/// [`Settings`]; the limit of prefixes, the check of the first AS and policies in [`Policies`], a
/// MED to send being a [`crate::policy::Change::Med`] of the export policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address, which names it.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// For the state machine.
    pub settings: Settings,
    /// For the tables.
    pub policies: Policies,
    /// Our address towards it.
    pub local_address: Option<IpAddr>,
    /// TCP MD5 key.
    pub password: Option<Password>,
    /// BFD beside the session, on one hop (B11).
    pub bfd: Option<bfd::Settings>,
    /// How far away it may be.
    pub ttl: Ttl,
    /// Pause after it passed its limit of prefixes; `None`: down until an operator acts (B22).
    pub limit_pause: Option<Duration>,
}

impl PeerConfig {
    /// A peer at the usual port, with empty policies: nothing is taken and nothing announced.
    #[must_use]
    pub fn new(address: IpAddr, settings: Settings) -> Self {
        let ttl = if settings.is_internal() { Ttl::Any } else { Ttl::Send(1) };
        Self {
            address,
            port: 179,
            settings,
            policies: Policies::default(),
            local_address: None,
            password: None,
            bfd: None,
            ttl,
            limit_pause: None,
        }
    }

    /// Whether the session has to start anew to get from one to the other. Who connects, and when,
    /// is no part of a session.
    pub(super) fn needs_reset(&self, other: &Self) -> bool {
        let Settings { passive, timing, .. } = other.settings;
        let settings = Settings { passive, timing, ..self.settings.clone() };
        (&settings, self.port, self.local_address, self.ttl)
            != (&other.settings, other.port, other.local_address, other.ttl)
    }
}

/// A speaker.
#[derive(Clone, Debug)]
pub struct SpeakerConfig {
    /// For the tables.
    pub identity: Identity,
    /// Where to listen; nowhere if empty.
    pub listen: Vec<SocketAddr>,
    /// How long the peers' End-of-RIBs are waited for, at most, before what a former run left may
    /// be swept; see [`crate::rib::DEFERRAL`].
    pub deferral: Duration,
    /// Decides jitter.
    pub seed: u64,
}
