//! Owns where the real kube-proxy (1.37, nftables mode) is known to show something else than the
//! rules say, and which of the two is right. Pure. What is not listed here and differs is news.

use super::cases::{Case, Target};
use super::grid::{From, Source, Way};
use super::probe::Protocol;
use super::rules::{Expected, Policy, Seen};

/// A difference of kube-proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    /// What a node's own process sends by UDP is thrown away on its way out, and `send` fails with
    /// EPERM, whether it was to be refused or dropped.
    OwnDatagrams,
    /// A pod of another node counts as one of this node's, and is given any backend for policy
    /// Local; the answer of one on a third node does not come back this way.
    PodsOfOtherNodes,
}

impl Difference {
    /// What is different, and why the rule is kept.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::OwnDatagrams => {
                "a node's own UDP: kube-proxy's rules fail the sending (EPERM), which tells a refusal \
                 from a drop to nobody; better: ECONNREFUSED where it is refused, silence where it is \
                 dropped, as for everybody else"
            }
            Self::PodsOfOtherNodes => {
                "a pod at another node's node port, policy Local: kube-proxy takes each pod of the \
                 cluster for its own and hands it any backend, whose answer misses the way back; \
                 better: the local backends, as for all who come from outside"
            }
        }
    }

    /// Whether this is what was seen.
    pub(super) fn explains(self, expected: &Expected, seen: &Seen) -> bool {
        match self {
            Self::OwnDatagrams => {
                seen.backends.is_empty() && seen.refused + seen.silent == 0 && seen.other > 0
            }
            Self::PodsOfOtherNodes => {
                let Expected::Answers { backends, .. } = expected else { return false };
                let local = seen.backends.iter().all(|(name, clients)| {
                    backends.get(name).is_some_and(|owner| clients.iter().eq([owner]))
                });
                local && seen.silent > 0 && seen.refused + seen.other == 0
            }
        }
    }
}

/// The difference that kube-proxy may show in a cell.
pub(super) fn difference(
    case: &Case,
    target: Target,
    source: &Source,
    way: Way,
    expected: &Expected,
) -> Option<Difference> {
    let answered = matches!(expected, Expected::Answers { .. });
    match target {
        // No rule of kube-proxy's is met on the way to the world.
        Target::NodePortAtLoadBalancer => None,
        _ if source.kind == From::Node && way.protocol == Protocol::Udp && !answered => {
            Some(Difference::OwnDatagrams)
        }
        Target::NodePort(node)
            if answered
                && source.node != node
                && matches!(source.kind, From::Pod | From::Backend)
                && case.rules.external == Policy::Local =>
        {
            Some(Difference::PodsOfOtherNodes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(backends: &[(&str, &str)], silent: u64, other: u64) -> Seen {
        let backends = backends.iter().map(|(b, c)| ((*b).to_owned(), [(*c).to_owned()].into()));
        Seen { backends: backends.collect(), silent, other, ..Seen::default() }
    }

    #[test]
    fn a_failure_to_send_explains_neither_an_answer_nor_a_refusal() {
        let own = Difference::OwnDatagrams;
        assert!(own.explains(&Expected::Refused, &seen(&[], 0, 2)));
        assert!(!own.explains(&Expected::Silence, &seen(&[("web-1", "n1")], 0, 2)));
        assert!(!own.explains(&Expected::Refused, &seen(&[], 2, 0)), "a drop is news");
    }

    #[test]
    fn silence_beside_local_backends_is_known_and_a_backend_of_another_node_is_not() {
        let backends = [("web-1".to_owned(), "client-n3".to_owned())].into();
        let expected = Expected::Answers { backends, sticky: false };
        let pods = Difference::PodsOfOtherNodes;
        assert!(pods.explains(&expected, &seen(&[("web-1", "client-n3")], 1, 0)));
        assert!(pods.explains(&expected, &seen(&[], 2, 0)));
        assert!(!pods.explains(&expected, &seen(&[("web-1", "n1")], 1, 0)), "masqueraded");
        assert!(!pods.explains(&expected, &seen(&[("web-3", "client-n3")], 1, 0)));
    }
}
