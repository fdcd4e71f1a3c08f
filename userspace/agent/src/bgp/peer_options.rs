//! What the annotation `peers` may say about one router beyond who it is, over the flags and over the
//! Node's other annotations.

use sluice_bgp::{Community, LargeCommunity};

use super::nodes;
use crate::cli::parse_duration;

/// Names of these settings in the annotation.
pub(super) const NAMES: [&str; 10] = [
    "multihop",
    "holdtime",
    "gracefulrestart",
    "med",
    "communities",
    "prepend",
    "nexthopself",
    "passive",
    "firstas",
    "maxprefixes",
];

/// Settings of one router; what is not given is as for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOptions {
    /// Hops to it, in place of `--peer-router-multihop-ttl`; 0 and 1: on a link.
    pub multihop: Option<u8>,
    /// Hold time in seconds, 3 and more, in place of `--bgp-holdtime`.
    pub hold_s: Option<u16>,
    /// In place of `--bgp-graceful-restart`.
    pub graceful_restart: Option<bool>,
    /// MULTI_EXIT_DISC of what is announced to it; without one by default.
    pub med: Option<u32>,
    /// In place of the Node's `node.bgp.communities`.
    pub communities: Option<(Vec<Community>, Vec<LargeCommunity>)>,
    /// The AS that is put before the path and how often, in place of the Node's `path-prepend.*`.
    pub prepend: Option<(u32, u8)>,
    /// Name the session's address as next hop, in place of `--override-nexthop`.
    pub next_hop_self: Option<bool>,
    /// Wait for it to connect.
    pub passive: bool,
    /// Whether its routes have to begin with its AS (B14); they have to by default.
    pub first_as: Option<bool>,
    /// Most prefixes of each family, in place of `--max-prefixes`.
    pub max_prefixes: Option<u32>,
}

impl PeerOptions {
    /// Reads them; `get` finds a setting's text by its name.
    ///
    /// # Errors
    /// What is wrong, and what is accepted.
    pub(super) fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let number = |name: &str, least: u32, most: u32| {
            get(name).map(|text| {
                let fits = text.parse().ok().filter(|number| (least..=most).contains(number));
                fits.ok_or_else(|| format!("{name}: {text:?}; accepted: {least} to {most}"))
            })
        };
        let flag = |name: &str| {
            get(name).map(|text| nodes::bool(text).map_err(|why| format!("{name}: {why}")))
        };
        let hops = number("multihop", 0, u8::MAX.into()).transpose()?;
        let communities = get("communities").map(nodes::communities).transpose();
        Ok(Self {
            multihop: hops.and_then(|hops| u8::try_from(hops).ok()),
            hold_s: get("holdtime").map(hold_time).transpose()?,
            graceful_restart: flag("gracefulrestart").transpose()?,
            med: number("med", 0, u32::MAX).transpose()?,
            communities: communities.map_err(|why| format!("communities: {why}"))?,
            prepend: get("prepend").map(prepend).transpose()?,
            next_hop_self: flag("nexthopself").transpose()?,
            passive: flag("passive").transpose()?.unwrap_or_default(),
            first_as: flag("firstas").transpose()?,
            max_prefixes: number("maxprefixes", 1, u32::MAX).transpose()?,
        })
    }
}

/// Seconds, alone or as `--bgp-holdtime` has them.
fn hold_time(text: &str) -> Result<u16, String> {
    let seconds = text.parse().ok().or_else(|| Some(parse_duration(text).ok()?.as_secs()));
    let fits = seconds.and_then(|seconds| u16::try_from(seconds).ok()).filter(|time| *time >= 3);
    fits.ok_or_else(|| format!("holdtime: {text:?}; accepted: 3 to 65535 seconds"))
}

/// `64512 3`: the AS and how often.
fn prepend(text: &str) -> Result<(u32, u8), String> {
    let read = || {
        let (asn, times) = text.split_once(' ')?;
        let times = times.trim().parse().ok().filter(|times| (1..=10).contains(times))?;
        Some((nodes::asn(asn).ok()?, times))
    };
    read().ok_or_else(|| {
        format!("prepend: {text:?}; accepted: an AS and how often, 1 to 10, as \"64512 3\"")
    })
}
