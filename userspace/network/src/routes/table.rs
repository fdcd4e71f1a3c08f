//! Owns the plan: wanted routes against those that stand. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Installed, Target};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The prefix gets this target, in one step whatever it had.
    Replace(IpNet, Target),
    /// The prefix loses its route.
    Delete(IpNet),
}

impl Op {
    /// The prefix it is about.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        match self {
            Self::Replace(prefix, _) | Self::Delete(prefix) => *prefix,
        }
    }
}

/// What is wanted and what stands.
#[derive(Clone, Debug, Default)]
pub struct Table {
    wanted: BTreeMap<IpNet, Target>,
    /// What goes before that, at the same prefixes.
    fixed: BTreeMap<IpNet, Target>,
    /// Source addresses, the first of each family counts.
    sources: Vec<IpAddr>,
    stands: BTreeMap<IpNet, Target>,
    /// Standing routes that nobody in this run has wanted: they are adopted until `complete`.
    adopted: BTreeSet<IpNet>,
    /// Prefixes at which wanted and standing may differ.
    dirty: BTreeSet<IpNet>,
    /// Prefixes that the kernel refused, and why.
    refused: BTreeMap<IpNet, String>,
    /// All that will be wanted is known: adopted routes that are not are leftovers.
    complete: bool,
}

impl Table {
    /// Takes in all routes of ours that the kernel shows: those of a former run, or what is left
    /// after an interface went down. What was refused is tried again.
    pub fn observe(&mut self, routes: impl IntoIterator<Item = Installed>) {
        let shown: BTreeMap<IpNet, Target> =
            routes.into_iter().map(|route| (route.prefix, route.target)).collect();
        let strange =
            |prefix: &&IpNet| self.goal(prefix).is_none() && !self.stands.contains_key(*prefix);
        let strangers: Vec<IpNet> = shown.keys().filter(strange).copied().collect();
        self.adopted.extend(strangers);
        self.adopted.retain(|prefix| shown.contains_key(prefix));
        self.dirty.extend(self.stands.keys());
        self.dirty.extend(shown.keys());
        self.dirty.extend(self.wanted.keys());
        self.dirty.extend(self.fixed.keys());
        self.stands = shown;
        self.refused.clear();
    }

    /// Sets what is wanted for a prefix; `None` for nothing. A route that was wanted in this run
    /// goes at once when it no longer is.
    pub fn want(&mut self, prefix: IpNet, target: Option<Target>) {
        let was_wanted = match target {
            Some(target) => {
                self.adopted.remove(&prefix);
                self.wanted.insert(prefix, target).is_some()
            }
            None => self.wanted.remove(&prefix).is_some(),
        };
        if was_wanted {
            self.adopted.remove(&prefix);
        }
        self.dirty.insert(prefix);
        self.refused.remove(&prefix);
    }

    /// Sets the node's own routes, which go before what is wanted for their prefixes; that comes
    /// back at once where one of them goes.
    pub fn set_fixed(&mut self, fixed: BTreeMap<IpNet, Target>) {
        let before = std::mem::replace(&mut self.fixed, fixed);
        for prefix in before.keys().chain(self.fixed.keys()) {
            if before.get(prefix) != self.fixed.get(prefix) {
                self.adopted.remove(prefix);
                self.refused.remove(prefix);
                self.dirty.insert(*prefix);
            }
        }
    }

    /// Sets the addresses that the node's own packets are to come from, the first of each family
    /// counts; without one of a family the kernel chooses.
    pub fn set_sources(&mut self, sources: Vec<IpAddr>) {
        if self.sources != sources {
            self.sources = sources;
            self.dirty.extend(self.wanted.keys().chain(self.fixed.keys()));
        }
    }

    fn goal(&self, prefix: &IpNet) -> Option<Target> {
        let target = self.fixed.get(prefix).or_else(|| self.wanted.get(prefix))?;
        let mut sources = self.sources.iter().copied();
        let source = sources.find(|source| source.is_ipv4() == prefix.addr().is_ipv4());
        Some(target.clone().with_source(source))
    }

    /// All that will be wanted is known now: what else stands may go.
    pub fn complete(&mut self) {
        self.complete = true;
        self.dirty.extend(std::mem::take(&mut self.adopted));
    }

    /// Steps from what stands to what is wanted, at the prefixes that changed. Each has to be
    /// answered by [`Table::applied`].
    pub fn plan(&mut self) -> Vec<Op> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|prefix| self.step(prefix)).collect()
    }

    fn step(&self, prefix: IpNet) -> Option<Op> {
        match (self.goal(&prefix), self.stands.get(&prefix)) {
            (Some(goal), stands) if stands != Some(&goal) => Some(Op::Replace(prefix, goal)),
            (None, Some(_)) if self.complete || !self.adopted.contains(&prefix) => {
                Some(Op::Delete(prefix))
            }
            _ => None,
        }
    }

    /// What became of a step.
    pub fn applied(&mut self, op: &Op, result: Result<(), String>) {
        let prefix = op.prefix();
        match (op, result) {
            (Op::Replace(_, target), Ok(())) => {
                self.stands.insert(prefix, target.clone());
                self.refused.remove(&prefix);
            }
            (Op::Delete(_), Ok(())) => {
                self.stands.remove(&prefix);
                self.refused.remove(&prefix);
            }
            (_, Err(why)) => {
                self.refused.insert(prefix, why);
            }
        }
    }

    /// Prefixes that the kernel refused, and why; tried again at the next [`Table::observe`].
    pub fn refused(&self) -> impl Iterator<Item = (&IpNet, &str)> {
        self.refused.iter().map(|(prefix, why)| (prefix, why.as_str()))
    }

    /// Routes that stand.
    pub fn standing(&self) -> impl Iterator<Item = (&IpNet, &Target)> {
        self.stands.iter()
    }

    /// Standing routes of a former run that nobody has wanted yet.
    #[must_use]
    pub fn adopted(&self) -> usize {
        self.adopted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn via(last: u8) -> Target {
        Target::via(vec![[10, 0, 0, last].into()]).unwrap()
    }

    fn installed(prefix: &str, last: u8) -> Installed {
        Installed { prefix: net(prefix), target: via(last) }
    }

    /// Plans and applies, all of it well.
    fn settle(table: &mut Table) -> Vec<Op> {
        let ops = table.plan();
        for op in &ops {
            table.applied(op, Ok(()));
        }
        ops
    }

    #[test]
    fn b26_routes_of_a_former_run_stay_until_all_is_known() {
        let mut table = Table::default();
        table.observe([installed("10.1.0.0/24", 1), installed("10.2.0.0/24", 2)]);
        assert_eq!(settle(&mut table), []);
        table.want(net("10.1.0.0/24"), Some(via(1)));
        assert_eq!(settle(&mut table), [], "adopted as it is");
        table.want(net("10.3.0.0/24"), None);
        table.want(net("10.2.0.0/24"), None);
        assert_eq!(settle(&mut table), [], "never wanted in this run: may still come");
        table.complete();
        assert_eq!(settle(&mut table), [Op::Delete(net("10.2.0.0/24"))]);
        table.want(net("10.1.0.0/24"), None);
        assert_eq!(settle(&mut table), [Op::Delete(net("10.1.0.0/24"))]);
    }

    #[test]
    fn b26_what_was_wanted_in_this_run_goes_at_once() {
        let mut table = Table::default();
        table.want(net("10.1.0.0/24"), Some(via(1)));
        assert_eq!(settle(&mut table), [Op::Replace(net("10.1.0.0/24"), via(1))]);
        table.want(net("10.1.0.0/24"), Some(via(2)));
        assert_eq!(settle(&mut table), [Op::Replace(net("10.1.0.0/24"), via(2))], "in one step");
        table.want(net("10.1.0.0/24"), None);
        assert_eq!(settle(&mut table), [Op::Delete(net("10.1.0.0/24"))]);
    }

    #[test]
    fn b26_what_bgp_wants_comes_back_at_once_where_a_route_of_the_node_itself_goes() {
        let (prefix, mut table) = (net("10.1.0.0/24"), Table::default());
        let own = BTreeMap::from([(prefix, Target::Unreachable)]);
        table.set_fixed(own.clone());
        assert_eq!(settle(&mut table), [Op::Replace(prefix, Target::Unreachable)]);
        table.want(prefix, Some(via(1)));
        table.set_fixed(own);
        assert_eq!(settle(&mut table), [], "the own range goes before");
        table.set_fixed(BTreeMap::new());
        assert_eq!(settle(&mut table), [Op::Replace(prefix, via(1))]);
        table.want(prefix, None);
        assert_eq!(settle(&mut table), [Op::Delete(prefix)]);
        // Of a former run: adopted while it may still come, gone when it is somebody's no more.
        table.observe([installed("10.2.0.0/24", 2)]);
        table.set_fixed(BTreeMap::from([(net("10.2.0.0/24"), via(2))]));
        assert_eq!(settle(&mut table), []);
        table.set_fixed(BTreeMap::new());
        assert_eq!(settle(&mut table), [Op::Delete(net("10.2.0.0/24"))]);
    }

    #[test]
    fn b26_a_source_is_given_to_all_routes_of_its_family_and_found_again() {
        let (prefix, mut table) = (net("10.1.0.0/24"), Table::default());
        table.want(prefix, Some(via(1)));
        table.want(net("10.2.0.0/24"), Some(Target::Unreachable));
        settle(&mut table);
        let sources: Vec<IpAddr> =
            ["fd00::1", "10.0.0.9", "10.0.0.8"].map(|ip| ip.parse().unwrap()).into();
        table.set_sources(sources.clone());
        let with = via(1).with_source(Some(sources[1]));
        assert_eq!(settle(&mut table), [Op::Replace(prefix, with.clone())]);
        let mut again = Table::default();
        again.observe([Installed { prefix, target: with }]);
        again.set_sources(sources);
        again.want(prefix, Some(via(1)));
        assert_eq!(settle(&mut again), [], "adopted as it is");
        again.set_sources(vec![]);
        assert_eq!(settle(&mut again), [Op::Replace(prefix, via(1))]);
    }

    #[test]
    fn b26_what_the_kernel_lost_or_refused_comes_back_when_looked_at() {
        let mut table = Table::default();
        table.want(net("10.1.0.0/24"), Some(via(1)));
        table.want(net("10.2.0.0/24"), Some(via(2)));
        let ops = table.plan();
        table.applied(&ops[0], Ok(()));
        table.applied(&ops[1], Err("network is unreachable".to_owned()));
        assert_eq!(table.refused().count(), 1);
        assert_eq!(settle(&mut table), [], "not at once again");
        table.observe([]);
        assert_eq!(settle(&mut table).len(), 2);
    }

    proptest! {
        /// Whatever happens, once all is known and the kernel has been looked at, exactly the
        /// wanted routes stand; and no step is planned where nothing changed.
        #[test]
        fn ends_at_what_is_wanted(
            found in proptest::collection::btree_map(0u8..12, 0u8..4, 0..8),
            wants in proptest::collection::vec((0u8..12, proptest::option::of(0u8..4)), 0..30),
            failing in proptest::collection::vec(any::<bool>(), 30),
        ) {
            let prefix = |n: u8| net(&format!("10.{n}.0.0/24"));
            let mut kernel: BTreeMap<IpNet, Target> =
                found.iter().map(|(n, hop)| (prefix(*n), via(*hop))).collect();
            let show = |kernel: &BTreeMap<IpNet, Target>| -> Vec<Installed> {
                let all = kernel.iter();
                all.map(|(p, t)| Installed { prefix: *p, target: t.clone() }).collect()
            };
            let mut table = Table::default();
            table.observe(show(&kernel));
            let mut expected: BTreeMap<IpNet, Target> = BTreeMap::new();
            let run = |table: &mut Table, kernel: &mut BTreeMap<IpNet, Target>, fails: bool| {
                for op in table.plan() {
                    if fails {
                        table.applied(&op, Err("refused".to_owned()));
                        continue;
                    }
                    match &op {
                        Op::Replace(prefix, target) => kernel.insert(*prefix, target.clone()),
                        Op::Delete(prefix) => kernel.remove(prefix),
                    };
                    table.applied(&op, Ok(()));
                }
            };
            for ((n, hop), fails) in wants.into_iter().zip(failing) {
                match hop {
                    Some(hop) => expected.insert(prefix(n), via(hop)),
                    None => expected.remove(&prefix(n)),
                };
                table.want(prefix(n), hop.map(via));
                run(&mut table, &mut kernel, fails);
            }
            table.complete();
            table.observe(show(&kernel));
            run(&mut table, &mut kernel, false);
            prop_assert_eq!(&kernel, &expected);
            prop_assert_eq!(table.plan(), vec![]);
        }
    }
}
