//! What `sluice bgp neighbors` and `sluice bgp routes` show, as JSON on the control socket.

use serde::{Deserialize, Serialize};
use sluice_bgp::Attributes;
use sluice_bgp::driver::PeerReport;
use sluice_bgp::fsm::State;
use sluice_bgp::rib::{RouteView, Source, Standing};

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborRow {
    /// Its address.
    pub address: String,
    /// Its AS.
    pub asn: u32,
    /// `node` or `router`.
    pub kind: String,
    /// The Node's name, or what the peer calls itself.
    pub name: String,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established`.
    pub state: String,
    /// Seconds since it changed.
    pub since_s: u64,
    /// Negotiated hold time in seconds.
    pub hold_s: Option<u16>,
    /// Families that are exchanged.
    pub families: Vec<String>,
    /// Whether a TCP MD5 key is used.
    pub password: bool,
    /// State of BFD, where it is used.
    pub bfd: Option<String>,
    /// Whether routes stay while it restarts.
    pub graceful_restart: bool,
    /// Prefixes received, IPv4 and IPv6.
    pub received: [usize; 2],
    /// How many of each family there may be, before the policy.
    pub max_prefixes: Option<u32>,
    /// Whether three quarters of that are reached.
    pub near_limit: bool,
    /// Of those: used or usable.
    pub accepted: usize,
    /// Of those: kept over its restart, not confirmed yet.
    pub stale: usize,
    /// Prefixes announced to it.
    pub announced: usize,
    /// Sessions that came up.
    pub established: u64,
    /// Malformed attributes that were survived.
    pub faults: u64,
    /// Why the last connection or session ended.
    pub last_end: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: String,
    /// The peer it came from; "own" for our own.
    pub from: String,
    /// Its next hop; "" for our own.
    pub next_hop: String,
    /// AS_PATH.
    pub as_path: String,
    /// LOCAL_PREF, if it has one.
    pub local_pref: Option<u32>,
    /// MED, if it has one.
    pub med: Option<u32>,
    /// Communities, standard and large.
    pub communities: Vec<String>,
    /// `best`, `multipath`, or why it is not used.
    pub standing: String,
    /// Kept over its peer's restart, not confirmed yet.
    pub stale: bool,
    /// Why the kernel does not have it, if it should.
    pub refused: Option<String>,
    /// Peers that are told.
    pub announced_to: Vec<String>,
    /// Peers that are not, and why.
    pub withheld_from: Vec<(String, String)>,
}

/// A peer as shown; `node` is the Node's name, if it is one.
#[must_use]
pub fn neighbor(report: &PeerReport, node: Option<&str>) -> NeighborRow {
    let status = &report.status;
    let negotiated = status.negotiated.as_ref();
    let families = negotiated.into_iter().flat_map(|n| n.params.families.iter());
    let hostname = negotiated.map(|n| n.hostname.clone()).unwrap_or_default();
    NeighborRow {
        address: report.config.address.to_string(),
        asn: report.config.settings.peer_asn,
        kind: if node.is_some() { "node" } else { "router" }.to_owned(),
        name: node.map_or(hostname, str::to_owned),
        state: state(status.state).to_owned(),
        since_s: status.since.elapsed().as_secs(),
        hold_s: negotiated.map(|n| n.hold_s),
        families: families.map(|family| family.to_string()).collect(),
        password: report.config.password.is_some(),
        bfd: report.bfd.map(|state| format!("{state:?}")),
        graceful_restart: negotiated.is_some_and(|n| n.graceful_helper),
        received: report.routes.received,
        max_prefixes: report.config.policies.max_prefixes,
        near_limit: report.routes.near_limit,
        accepted: report.routes.accepted,
        stale: report.routes.stale,
        announced: report.routes.announced,
        established: status.counters.established,
        faults: status.counters.faults,
        last_end: status.last_end.clone(),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Idle => "Idle",
        State::Active => "Active",
        State::Connect => "Connect",
        State::OpenSent => "OpenSent",
        State::OpenConfirm => "OpenConfirm",
        State::Established => "Established",
    }
}

/// A route as shown.
#[must_use]
pub fn route(view: &RouteView, refused: Option<String>) -> RouteRow {
    let route = &view.route;
    let own = matches!(route.source, Source::Local(_));
    let attributes = &route.path.attributes;
    let standing = match (view.standing, &route.unfit) {
        (Standing::Best, _) => "best".to_owned(),
        (Standing::Multipath, _) => "multipath".to_owned(),
        (Standing::Unfit, Some(why)) => why.to_string(),
        (Standing::Unfit, None) => "not usable".to_owned(),
        (Standing::Lost(step), _) => format!("lost by {step:?}"),
    };
    let told = view.announced.iter().filter(|told| told.path.is_ok());
    let not = view.announced.iter().filter_map(|told| {
        let why = told.path.as_ref().err()?;
        Some((told.peer.to_string(), why.clone()))
    });
    RouteRow {
        prefix: view.prefix.to_string(),
        from: route.source.peer().map_or("own".to_owned(), |peer| peer.to_string()),
        next_hop: if own { String::new() } else { route.path.next_hop.address().to_string() },
        as_path: path(attributes),
        local_pref: attributes.local_pref,
        med: attributes.med,
        communities: communities(attributes),
        standing,
        stale: route.stale,
        refused,
        announced_to: told.map(|told| told.peer.to_string()).collect(),
        withheld_from: not.collect(),
    }
}

fn path(attributes: &Attributes) -> String {
    let ases = attributes.as_path.iter().flat_map(|path| path.ases());
    ases.map(|asn| asn.to_string()).collect::<Vec<_>>().join(" ")
}

fn communities(attributes: &Attributes) -> Vec<String> {
    let standard = attributes.communities.iter().map(|c| format!("{}:{}", c.0 >> 16, c.0 & 0xffff));
    let large = attributes.large_communities.iter();
    let large = large.map(|c| format!("{}:{}:{}", c.global, c.local1, c.local2));
    standard.chain(large).collect()
}
