//! Weights of a Service's endpoints: how large a share of the new connections each gets.
//!
//! Written by the operator as the annotation `sluice.io/service.weights`: KEY=WEIGHT, separated by
//! commas. Read once, when the Service arrives; asked by the index for each endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::parse;
use crate::problem::{Problems, Reason, excerpt};
use crate::slice::Endpoint;

/// The annotation.
pub(crate) const ANNOTATION: &str = "sluice.io/service.weights";

/// Weight of an endpoint that nothing is said about.
pub(crate) const DEFAULT: u8 = 1;

/// Greatest weight: a table has one slot per unit.
const MOST: u8 = 100;

/// What is said about a Service's endpoints; empty: all weigh the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    addresses: BTreeMap<IpAddr, u8>,
    /// Of pods and of nodes.
    names: BTreeMap<String, u8>,
}

impl Weights {
    /// Reads the annotation's text; an entry that cannot be used is told and left out, the others
    /// count.
    pub(crate) fn parse(text: &str, problems: &mut Problems) -> Self {
        let mut weights = Self::default();
        for (i, entry) in text.split(',').enumerate() {
            let read = entry_of(entry).and_then(|(key, weight)| weights.add(key, weight));
            problems.ok(read, || format!("metadata.annotations[{ANNOTATION}][{i}]"));
        }
        weights
    }

    fn add(&mut self, key: &str, weight: u8) -> Result<(), Reason> {
        let known = match parse::address(key) {
            Ok(address) => self.addresses.insert(address, weight),
            Err(_) => self.names.insert(key.to_owned(), weight),
        };
        match known {
            // The later entry has taken the place of the earlier one.
            Some(earlier) if earlier != weight => Err(Reason::SecondWeight(excerpt(key))),
            _ => Ok(()),
        }
    }

    /// The weight of an endpoint: what is said of its address, else of its pod, else of its node.
    pub(crate) fn of(&self, endpoint: &Endpoint) -> u8 {
        let named = |name: &Option<Box<str>>| self.names.get(&**name.as_ref()?);
        let said = self.addresses.get(&endpoint.address);
        let said = said.or_else(|| named(&endpoint.pod)).or_else(|| named(&endpoint.node));
        said.copied().unwrap_or(DEFAULT)
    }
}

/// Key and weight of one entry.
fn entry_of(entry: &str) -> Result<(&str, u8), Reason> {
    let bad = || Reason::NotAWeight(excerpt(entry));
    let (key, weight) = entry.split_once('=').ok_or_else(bad)?;
    let (key, weight) = (key.trim(), weight.trim());
    // Addresses, and names of pods and nodes (RFC 1123).
    let possible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    let weight = weight.parse().ok().filter(|weight| *weight <= MOST).ok_or_else(bad)?;
    if key.is_empty() || !key.chars().all(possible) {
        return Err(bad());
    }
    Ok((key, weight))
}
