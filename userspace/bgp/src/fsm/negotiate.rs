//! Owns what two OPENs make of a session: the checks that need the configuration (RFC 4271 6.2),
//! and what both sides can do.

use std::net::Ipv4Addr;

use super::settings::Settings;
use crate::family::{AfiSafi, Families, Family};
use crate::message::{
    Capability, Code, GracefulRestart, Notification, Open, Params, Refresh, RefreshKind,
};

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// For the codec.
    pub params: Params,
    /// Hold time in seconds, 0 for none.
    pub hold_s: u16,
    /// The peer's identifier.
    pub peer_id: Ipv4Addr,
    /// The peer's AS.
    pub peer_asn: u32,
    /// The peer can be asked for its routes again (RFC 2918).
    pub refresh: bool,
    /// The peer's graceful restart, as it told.
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's routes are kept when it restarts.
    pub graceful_helper: bool,
    /// Both sides have the N bit (RFC 8538): the peer keeps our routes over any NOTIFICATION but a
    /// hard reset.
    pub notification_bit: bool,
    /// So the peer's routes are kept over a NOTIFICATION, too.
    pub graceful_notification: bool,
    /// The peer's host name, if it told.
    pub hostname: String,
}

impl Negotiated {
    /// Seconds between KEEPALIVEs: a third of the hold time, at least 1; 0 for none (B2).
    #[must_use]
    pub fn keepalive_s(&self) -> u16 {
        if self.hold_s == 0 { 0 } else { (self.hold_s / 3).max(1) }
    }

    /// The peer says it has just restarted.
    #[must_use]
    pub fn peer_restarted(&self) -> bool {
        self.graceful_restart.as_ref().is_some_and(|restart| restart.restarted)
    }

    /// Whether a ROUTE-REFRESH of the peer means something in this session.
    ///
    /// # Errors
    /// Why it is to be ignored (RFC 2918 4, RFC 7313 5), for people.
    pub fn takes(&self, refresh: &Refresh) -> Result<(), &'static str> {
        let marks = refresh.kind != RefreshKind::Request;
        match Family::try_from(refresh.afi_safi) {
            _ if marks && !self.params.enhanced_refresh => {
                Err("the peer has not announced enhanced route refresh")
            }
            _ if !self.refresh => Err("the peer has not announced route refresh"),
            Ok(family) if self.params.families.contains(family) => Ok(()),
            _ => Err("its family was not negotiated"),
        }
    }

    /// Families whose stale routes may stay for now: the peer kept forwarding (RFC 4724 4.2).
    #[must_use]
    pub fn kept_families(&self) -> Families {
        let families = self.graceful_restart.iter().flat_map(|restart| &restart.families);
        let kept = families.filter(|family| family.forwarding);
        kept.filter_map(|family| Family::try_from(family.afi_safi).ok()).collect()
    }

    /// Families whose routes stay when the session is lost.
    #[must_use]
    pub fn restart_families(&self) -> Families {
        let families = self.graceful_restart.iter().flat_map(|restart| &restart.families);
        families.filter_map(|family| Family::try_from(family.afi_safi).ok()).collect()
    }
}

/// # Errors
/// The NOTIFICATION that refuses the peer.
pub(super) fn check(mine: &Settings, open: &Open) -> Result<Negotiated, Notification> {
    let has = |wanted: &dyn Fn(&Capability) -> bool| open.capabilities.iter().any(wanted);
    if open.asn() != mine.peer_asn {
        return Err(Notification::new(Code::BAD_PEER_AS));
    }
    // RFC 6286 2.3: identifiers are unique within an AS only.
    if open.bgp_id == mine.bgp_id && mine.is_internal() {
        return Err(Notification::new(Code::BAD_BGP_ID));
    }
    check_role(mine, open)?;
    let announced: Vec<AfiSafi> = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
        .collect();
    // B12: without any such capability a speaker exchanges IPv4.
    let theirs: Families = if announced.is_empty() {
        [Family::Ipv4Unicast].into_iter().collect()
    } else {
        announced.iter().filter_map(|family| Family::try_from(*family).ok()).collect()
    };
    let families = mine.families.intersection(theirs);
    if mine.strict && families != mine.families {
        let missing = mine.families.iter().find(|family| !families.contains(*family));
        return Err(missing.map_or_else(
            || Notification::new(Code::UNSUPPORTED_CAPABILITY),
            |family| {
                let wire = AfiSafi::from(family);
                let [high, low] = wire.afi.to_be_bytes();
                let data = [1, 4, high, low, 0, wire.safi];
                Notification::with_data(Code::UNSUPPORTED_CAPABILITY, &data)
            },
        ));
    }
    let extended_next_hop = mine.extended_next_hop
        && has(&|capability| match capability {
            Capability::ExtendedNextHop(list) => {
                list.iter().any(|(family, afi)| (family.afi, family.safi, *afi) == (1, 1, 2))
            }
            _ => false,
        });
    // The last one counts (RFC 4724 3: more than one is ignored but the last).
    let graceful_restart = open.capabilities.iter().rev().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart.clone()),
        _ => None,
    });
    let helper = mine.graceful_restart_s.is_some()
        && graceful_restart.as_ref().is_some_and(|restart| !restart.families.is_empty());
    // Ours is in every OPEN with graceful restart.
    let notification_bit = mine.graceful_restart_s.is_some()
        && graceful_restart.as_ref().is_some_and(|restart| restart.notification);
    let hostname = open.capabilities.iter().find_map(|capability| match capability {
        Capability::Fqdn { host, .. } => Some(host.clone()),
        _ => None,
    });
    Ok(Negotiated {
        params: Params {
            four_octet_as: open.four_octet_as().is_some(),
            extended_messages: mine.extended_messages
                && has(&|c| *c == Capability::ExtendedMessages),
            enhanced_refresh: has(&|c| *c == Capability::EnhancedRefresh),
            extended_next_hop,
            ibgp: mine.is_internal(),
            families,
        },
        hold_s: mine.hold_s.min(open.hold_time_s),
        peer_id: open.bgp_id,
        peer_asn: open.asn(),
        // RFC 7313 implies it, and 128 is the code of old speakers (B27).
        refresh: has(&|c| {
            matches!(c, Capability::RouteRefresh | Capability::EnhancedRefresh)
                || matches!(c, Capability::Unknown { code: 128, .. })
        }),
        graceful_restart,
        graceful_helper: helper,
        notification_bit,
        graceful_notification: helper && notification_bit,
        hostname: hostname.unwrap_or_default(),
    })
}

/// RFC 9234 4.2: several roles that differ, or one that does not fit ours.
fn check_role(mine: &Settings, open: &Open) -> Result<(), Notification> {
    let mut roles: Vec<u8> = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Role(role) => Some(*role),
            _ => None,
        })
        .collect();
    roles.dedup();
    let Some(role) = mine.role else { return Ok(()) };
    match roles.as_slice() {
        [] if !mine.strict => Ok(()),
        [theirs] if *theirs == role.counterpart() => Ok(()),
        _ => Err(Notification::new(Code::ROLE_MISMATCH)),
    }
}

/// Whether a peer that sends this is well, and is tried again without a longer pause: it closes
/// one of two connections, is told to, or goes down for a while.
pub(super) fn is_harmless(notification: &Notification) -> bool {
    let code = notification.inner().map_or(notification.code, |inner| inner.code);
    code.code == 6 && !matches!(code, Code::MAX_PREFIXES | Code::OUT_OF_RESOURCES)
}
