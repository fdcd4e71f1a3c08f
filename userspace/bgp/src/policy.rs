//! Owns policies as data: ordered rules that accept routes, changed or as they are, or refuse
//! them. What no rule takes is refused (RFC 8212), so an empty policy lets nothing through.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attribute::{Attributes, Community, LargeCommunity, NextHop};

/// Mark of a route of our own; the meaning is the caller's. Learned routes have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

/// A prefix and how much longer a match may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixRange {
    /// Matches lie within.
    pub net: IpNet,
    /// Shortest length that matches, in bits.
    pub min_len: u8,
    /// Longest length that matches, in bits.
    pub max_len: u8,
}

impl PrefixRange {
    /// The prefix and nothing else.
    #[must_use]
    pub fn exact(net: IpNet) -> Self {
        Self { net, min_len: net.prefix_len(), max_len: net.prefix_len() }
    }

    /// The prefix and all that lie within.
    #[must_use]
    pub fn within(net: IpNet) -> Self {
        Self { net, min_len: net.prefix_len(), max_len: net.max_prefix_len() }
    }

    /// Whether the prefix matches.
    #[must_use]
    pub fn contains(&self, prefix: &IpNet) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.prefix_len()) && self.net.contains(prefix)
    }
}

/// What a rule is about; every part that is given has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// One of these ranges.
    pub prefixes: Option<Vec<PrefixRange>>,
    /// One of these marks.
    pub tags: Option<Vec<Tag>>,
    /// Has this community.
    pub community: Option<Community>,
}

/// A change to an accepted route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// LOCAL_PREF; without effect towards external peers.
    LocalPref(u32),
    /// MULTI_EXIT_DISC
    Med(u32),
    /// The AS put before the path so many times more.
    Prepend(u32, u8),
    /// More communities.
    AddCommunities(Vec<Community>),
    /// More large communities.
    AddLargeCommunities(Vec<LargeCommunity>),
    /// Another next hop, where it is of the route's family.
    NextHop(IpAddr),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Lets the route through with these changes.
    Accept(Vec<Change>),
    /// Refuses the route.
    Reject,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For the operator: why a route was refused.
    pub name: String,
    /// Which routes.
    pub when: Condition,
    /// What happens to them.
    pub verdict: Verdict,
}

/// Rules, the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules in order.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Lets everything through, unchanged.
    #[must_use]
    pub fn accept_all() -> Self {
        let verdict = Verdict::Accept(Vec::new());
        let rule = Rule { name: "all".to_owned(), when: Condition::default(), verdict };
        Self { rules: vec![rule] }
    }

    /// The changes for a route.
    ///
    /// # Errors
    /// The name of the rule that refuses it, or that there is none for it.
    pub fn decide(
        &self,
        prefix: &IpNet,
        tag: Option<Tag>,
        attributes: &Attributes,
    ) -> Result<&[Change], &str> {
        match self.rules.iter().find(|rule| rule.when.fits(prefix, tag, attributes)) {
            Some(Rule { verdict: Verdict::Accept(changes), .. }) => Ok(changes),
            Some(Rule { name, .. }) => Err(name),
            None => Err("no rule accepts it"),
        }
    }
}

impl Condition {
    fn fits(&self, prefix: &IpNet, tag: Option<Tag>, attributes: &Attributes) -> bool {
        let in_ranges =
            self.prefixes.as_ref().is_none_or(|ranges| ranges.iter().any(|r| r.contains(prefix)));
        let tagged =
            self.tags.as_ref().is_none_or(|tags| tag.is_some_and(|tag| tags.contains(&tag)));
        let has =
            self.community.is_none_or(|community| attributes.communities.contains(&community));
        in_ranges && tagged && has
    }
}

/// Applies changes to a route.
pub(crate) fn apply(
    changes: &[Change],
    internal: bool,
    attributes: &mut Attributes,
    next_hop: &mut NextHop,
) {
    for change in changes {
        match change {
            Change::LocalPref(value) if internal => attributes.local_pref = Some(*value),
            Change::LocalPref(_) => {}
            Change::Med(value) => attributes.med = Some(*value),
            Change::Prepend(asn, times) => {
                let path = attributes.as_path.take().unwrap_or_default();
                attributes.as_path = Some(path.prepend(*asn, usize::from(*times)));
            }
            Change::AddCommunities(more) => add(&mut attributes.communities, more),
            Change::AddLargeCommunities(more) => add(&mut attributes.large_communities, more),
            Change::NextHop(address) => {
                if address.is_ipv4() == next_hop.address().is_ipv4() {
                    *next_hop = NextHop::from(*address);
                }
            }
        }
    }
}

fn add<T: Copy + PartialEq>(list: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !list.contains(item) {
            list.push(*item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b16_what_no_rule_takes_is_refused_and_the_first_rule_that_fits_decides() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let rule = |name: &str, range, verdict| Rule {
            name: name.to_owned(),
            when: Condition { prefixes: Some(vec![range]), ..Condition::default() },
            verdict,
        };
        let policy = Policy {
            rules: vec![
                rule("own", PrefixRange::within(net("10.1.0.0/16")), Verdict::Reject),
                rule("pods", PrefixRange::within(net("10.0.0.0/8")), Verdict::Accept(vec![])),
                rule("one", PrefixRange::exact(net("192.0.2.0/24")), Verdict::Accept(vec![])),
            ],
        };
        let decide = |text| policy.decide(&net(text), None, &Attributes::default()).map(<[_]>::len);
        assert_eq!(decide("10.1.2.0/24"), Err("own"));
        assert_eq!(decide("10.2.0.0/16"), Ok(0));
        assert_eq!(decide("192.0.2.0/25"), Err("no rule accepts it"));
        assert_eq!(decide("0.0.0.0/0"), Err("no rule accepts it"));
        assert_eq!(decide("fd00::/8"), Err("no rule accepts it"));
        let none = Policy::default();
        assert!(none.decide(&net("10.0.0.0/8"), None, &Attributes::default()).is_err());
    }
}
