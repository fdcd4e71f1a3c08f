//! The table of what is done with a malformed attribute (RFC 7606 7 and the attributes' own RFCs).
//!
//! Everything else is the same for all: one that stands twice is discarded but for the first, except
//! that MP attributes then end the session; one that runs past the end withdraws the routes; a
//! mandatory one that is missing, too.

use super::decode::Action::{self, Discard, TreatAsWithdraw as Withdraw};
use super::{code, flag};

/// Optional and transitive bits: well-known, optional, and optional transitive attributes.
const WELL_KNOWN: u8 = flag::TRANSITIVE;
const OPTIONAL: u8 = flag::OPTIONAL;
const TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// What holds for an attribute that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    code: u8,
    /// Optional and transitive bits that it must have.
    flags: u8,
    /// When they are others.
    pub(super) on_flags: Action,
    /// When its length or value is wrong.
    pub(super) on_value: Action,
    /// Whether external peers may send it; from them it is discarded, whatever it is.
    pub(super) from_external: bool,
}

const fn rule(code: u8, flags: u8, on_flags: Action, on_value: Action) -> Rule {
    Rule { code, flags, on_flags, on_value, from_external: true }
}

/// One that only internal peers may send (RFC 7606 7.5, 7.9, 7.10).
const fn internal(code: u8, flags: u8) -> Rule {
    Rule { code, flags, on_flags: Withdraw, on_value: Withdraw, from_external: false }
}

/// All attributes that we know, by code.
const RULES: [Rule; 21] = [
    rule(code::ORIGIN, WELL_KNOWN, Withdraw, Withdraw),
    rule(code::AS_PATH, WELL_KNOWN, Withdraw, Withdraw),
    rule(code::NEXT_HOP, WELL_KNOWN, Withdraw, Withdraw),
    rule(code::MED, OPTIONAL, Withdraw, Withdraw),
    internal(code::LOCAL_PREF, WELL_KNOWN),
    rule(code::ATOMIC_AGGREGATE, WELL_KNOWN, Withdraw, Discard),
    rule(code::AGGREGATOR, TRANSITIVE, Withdraw, Discard),
    rule(code::COMMUNITIES, TRANSITIVE, Withdraw, Withdraw),
    internal(code::ORIGINATOR_ID, OPTIONAL),
    internal(code::CLUSTER_LIST, OPTIONAL),
    // Values of these two are read by their own decoders, which end the session.
    rule(code::MP_REACH, OPTIONAL, Withdraw, Withdraw),
    rule(code::MP_UNREACH, OPTIONAL, Withdraw, Withdraw),
    rule(code::EXT_COMMUNITIES, TRANSITIVE, Withdraw, Withdraw),
    // RFC 6793 6 discards whatever is wrong with these two; FRR withdraws.
    rule(code::AS4_PATH, TRANSITIVE, Discard, Discard),
    rule(code::AS4_AGGREGATOR, TRANSITIVE, Discard, Discard),
    rule(code::IPV6_EXT_COMMUNITIES, TRANSITIVE, Withdraw, Withdraw),
    rule(code::AIGP, OPTIONAL, Discard, Discard),
    rule(code::LINK_STATE, OPTIONAL, Discard, Discard),
    rule(code::LARGE_COMMUNITIES, TRANSITIVE, Withdraw, Withdraw),
    rule(code::OTC, TRANSITIVE, Withdraw, Withdraw),
    rule(code::PREFIX_SID, TRANSITIVE, Discard, Discard),
];

impl Rule {
    /// The rule for an attribute; `None` if we do not know it.
    pub(super) fn of(code: u8) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.code == code)
    }

    /// Whether an attribute may have these flags. The partial bit must be clear on all but optional
    /// transitive attributes (RFC 4271 4.3).
    pub(super) fn allows(&self, flags: u8) -> bool {
        let kind = flags & (flag::OPTIONAL | flag::TRANSITIVE);
        kind == self.flags && (self.flags == TRANSITIVE || flags & flag::PARTIAL == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 3 of the contract, row by row: attribute, code, what wrong flags and wrong values
    /// do. "internal": discarded from external peers.
    const CONTRACT: &str = "
        ORIGIN            1   withdraw  withdraw
        AS_PATH           2   withdraw  withdraw
        NEXT_HOP          3   withdraw  withdraw
        MED               4   withdraw  withdraw
        LOCAL_PREF        5   withdraw  withdraw  internal
        ATOMIC_AGGREGATE  6   withdraw  discard
        AGGREGATOR        7   withdraw  discard
        COMMUNITIES       8   withdraw  withdraw
        ORIGINATOR_ID     9   withdraw  withdraw  internal
        CLUSTER_LIST      10  withdraw  withdraw  internal
        MP_REACH          14  withdraw  withdraw
        MP_UNREACH        15  withdraw  withdraw
        EXT_COMM          16  withdraw  withdraw
        AS4_PATH          17  discard   discard
        AS4_AGGREGATOR    18  discard   discard
        IPV6_EXT_COMM     25  withdraw  withdraw
        AIGP              26  discard   discard
        LS                29  discard   discard
        LARGE_COMM        32  withdraw  withdraw
        OTC               35  withdraw  withdraw
        PREFIX_SID        40  discard   discard
    ";

    #[test]
    fn rfc7606_the_table_is_that_of_the_contract() {
        let action = |word: &str| if word == "discard" { Discard } else { Withdraw };
        let mut known = Vec::new();
        for row in CONTRACT.lines().filter(|row| !row.trim().is_empty()) {
            let words: Vec<&str> = row.split_whitespace().collect();
            let code: u8 = words[1].parse().unwrap();
            let rule = Rule::of(code).unwrap_or_else(|| panic!("{row}"));
            assert_eq!(
                (rule.on_flags, rule.on_value),
                (action(words[2]), action(words[3])),
                "{row}"
            );
            assert_eq!(rule.from_external, words.get(4) != Some(&"internal"), "{row}");
            known.push(code);
        }
        assert_eq!(known, RULES.map(|rule| rule.code));
        assert_eq!(Rule::of(0xfd), None);
    }

    #[test]
    fn flags_are_those_of_the_kind_and_partial_only_on_optional_transitive_ones() {
        let allows = |code, flags| Rule::of(code).unwrap().allows(flags);
        assert!(allows(code::ORIGIN, 0x40) && allows(code::ORIGIN, 0x50));
        assert!(!allows(code::ORIGIN, 0xc0) && !allows(code::ORIGIN, 0x60));
        assert!(allows(code::COMMUNITIES, 0xe0) && !allows(code::COMMUNITIES, 0x80));
        assert!(allows(code::MED, 0x80) && !allows(code::MED, 0xa0));
    }
}
