//! Owns what a state machine is told about the two speakers, and the OPEN that follows from it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::family::{AfiSafi, Families};
use crate::message::{AS_TRANS, Capability, GracefulRestart, Open, RestartFamily};

/// Role of this speaker towards the peer (RFC 9234 4.1); the number is the capability's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The peer is a customer.
    Provider = 0,
    /// The peer is a client of this route server.
    RouteServer = 1,
    /// The peer is a route server.
    RouteServerClient = 2,
    /// The peer is a provider.
    Customer = 3,
    /// The peer is a lateral peer.
    Peer = 4,
}

impl Role {
    /// The capability's value that fits this role on the other side.
    #[must_use]
    pub fn counterpart(self) -> u8 {
        match self {
            Self::Provider => Self::Customer as u8,
            Self::RouteServer => Self::RouteServerClient as u8,
            Self::RouteServerClient => Self::RouteServer as u8,
            Self::Customer => Self::Provider as u8,
            Self::Peer => Self::Peer as u8,
        }
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Pause before the next connection is tried, less up to a quarter (B4).
    pub connect_retry: Duration,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long the peer's OPEN may take (RFC 4271 8.2.2: large, 4 minutes).
    pub open_hold: Duration,
    /// How long a peer may read nothing, or twice the hold time if that is longer (B3, RFC 9687 3).
    pub send_hold: Duration,
    /// First pause after an error; doubles with each in a row.
    pub idle: Duration,
    /// Longest pause after errors.
    pub idle_max: Duration,
    /// A session that lasted this long ends the row of failures.
    pub steady_after: Duration,
    /// A session this old gives way to a restarted peer's new connection.
    pub replace_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect_retry: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            open_hold: Duration::from_secs(240),
            send_hold: Duration::from_secs(480),
            idle: Duration::from_secs(1),
            idle_max: Duration::from_secs(60),
            steady_after: Duration::from_secs(30),
            replace_after: Duration::from_secs(2),
        }
    }
}

/// What the machine has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Our AS, as this peer sees it.
    pub asn: u32,
    /// Our BGP identifier.
    pub bgp_id: Ipv4Addr,
    /// The AS that the peer must have.
    pub peer_asn: u32,
    /// Proposed hold time in seconds: 0, or 3 and more.
    pub hold_s: u16,
    /// Never connect, only accept.
    pub passive: bool,
    /// Families to exchange.
    pub families: Families,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Longer messages (RFC 8654).
    pub extended_messages: bool,
    /// Our graceful restart (RFC 4724): our restart time in seconds. `None` is not announced.
    pub graceful_restart_s: Option<u16>,
    /// R bit: this process is a restart that kept forwarding.
    pub restarted: bool,
    /// F bits: what the peer may still have of us is still forwarded. So after a restart that kept
    /// forwarding, and after a session that was lost; not after the node itself started.
    pub forwarding: bool,
    /// Our role, if one is to be told and checked (RFC 9234).
    pub role: Option<Role>,
    /// Host name for the peer's operator; none is told if empty.
    pub hostname: String,
    /// Refuse peers that lack one of our families (2/7).
    pub strict: bool,
    /// How long things take.
    pub timing: Timing,
}

impl Settings {
    /// Both families, hold time 90 s, graceful restart off.
    #[must_use]
    pub fn new(asn: u32, bgp_id: Ipv4Addr, peer_asn: u32) -> Self {
        Self {
            asn,
            bgp_id,
            peer_asn,
            hold_s: 90,
            passive: false,
            families: Families::ALL,
            extended_next_hop: false,
            extended_messages: true,
            graceful_restart_s: None,
            restarted: false,
            forwarding: false,
            role: None,
            hostname: String::new(),
            strict: false,
            timing: Timing::default(),
        }
    }

    /// Whether the peer is in our AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.asn == self.peer_asn
    }

    /// The OPEN that says all this (B1).
    #[must_use]
    pub fn open(&self) -> Open {
        let families: Vec<AfiSafi> = self.families.iter().map(AfiSafi::from).collect();
        let mut capabilities: Vec<Capability> =
            families.iter().copied().map(Capability::Multiprotocol).collect();
        capabilities.push(Capability::RouteRefresh);
        if self.extended_next_hop {
            let v4 = AfiSafi { afi: 1, safi: 1 };
            capabilities.push(Capability::ExtendedNextHop(vec![(v4, 2)]));
        }
        if self.extended_messages {
            capabilities.push(Capability::ExtendedMessages);
        }
        capabilities.extend(self.role.map(|role| Capability::Role(role as u8)));
        if let Some(time_s) = self.graceful_restart_s {
            let forwarding = self.restarted || self.forwarding;
            let kept = |afi_safi| RestartFamily { afi_safi, forwarding };
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarted: self.restarted,
                notification: true,
                time_s,
                families: families.into_iter().map(kept).collect(),
            }));
        }
        capabilities.push(Capability::FourOctetAs(self.asn));
        capabilities.push(Capability::EnhancedRefresh);
        if !self.hostname.is_empty() {
            let (host, domain) = (self.hostname.clone(), String::new());
            capabilities.push(Capability::Fqdn { host, domain });
        }
        Open {
            my_as: u16::try_from(self.asn).unwrap_or(AS_TRANS),
            hold_time_s: self.hold_s,
            bgp_id: self.bgp_id,
            capabilities,
        }
    }
}
