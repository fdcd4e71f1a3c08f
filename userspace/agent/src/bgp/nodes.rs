//! What Node objects say about BGP: addresses, pod ranges, annotations.
//!
//! `sluice.io/NAME` is read first, then `kube-router.io/NAME`. An annotation that does not parse is
//! a problem and changes nothing: what the Node said before stays.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use sluice_bgp::{Community, LargeCommunity};

use super::peer_list;
use super::settings::RouterPeer;

/// Prefixes of annotations, the first that is there counts.
const PREFIXES: [&str; 2] = ["sluice.io/", "kube-router.io/"];

/// Part in route reflection (RFC 4456).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflection {
    /// `rr.server`: reflects, with this cluster.
    Server(Ipv4Addr),
    /// `rr.client`: talks to servers only.
    Client(Ipv4Addr),
}

/// What a Node's annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotated {
    /// `node.asn`
    pub asn: Option<u32>,
    /// `enable-ibgp`, in place of the flag
    pub ibgp: Option<bool>,
    /// `rr.server` or `rr.client`
    pub reflection: Option<Reflection>,
    /// `peers`
    pub peers: Vec<RouterPeer>,
    /// `node.bgp.communities`, standard ones
    pub communities: Vec<Community>,
    /// `node.bgp.communities`, large ones
    pub large_communities: Vec<LargeCommunity>,
    /// `path-prepend.as` and `path-prepend.repeat-n`
    pub prepend: Option<(u32, u8)>,
    /// `pod-cidrs`, in place of the Node's
    pub pod_cidrs: Option<Vec<IpNet>>,
    /// `bgp-local-addresses`: where to listen
    pub local_addresses: Vec<IpAddr>,
}

impl Annotated {
    /// The cluster that this node reflects for; `None` where it does not.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Ipv4Addr> {
        match self.reflection {
            Some(Reflection::Server(id)) => Some(id),
            Some(Reflection::Client(_)) | None => None,
        }
    }
}

/// A Node as BGP sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its internal addresses, the first of each family counts.
    pub addresses: Vec<IpAddr>,
    /// Pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Cordoned, as before a drain: what it announces is about to go away (B10).
    pub draining: bool,
    /// What its annotations say.
    pub annotated: Annotated,
}

impl NodeFacts {
    /// Reads a Node. `before`: what it said last, kept for annotations that do not parse; those
    /// are named in the second part.
    #[must_use]
    pub fn read(node: &Node, before: Option<&Self>) -> (Self, Vec<String>) {
        let empty = BTreeMap::new();
        let annotations = node.metadata.annotations.as_ref().unwrap_or(&empty);
        let mut problems = Vec::new();
        let old = before.map(|facts| facts.annotated.clone()).unwrap_or_default();
        let mut reader = Reader { annotations, problems: &mut problems };
        let communities = reader.read(
            "node.bgp.communities",
            communities,
            (old.communities, old.large_communities),
        );
        let annotated = Annotated {
            asn: reader.read("node.asn", |text| asn(text).map(Some), old.asn),
            ibgp: reader.read("enable-ibgp", |text| bool(text).map(Some), old.ibgp),
            reflection: reader.reflection(old.reflection),
            peers: reader.read("peers", peer_list::read, old.peers),
            communities: communities.0,
            large_communities: communities.1,
            prepend: reader.prepend(old.prepend),
            pod_cidrs: reader.read("pod-cidrs", |text| list(text).map(Some), old.pod_cidrs),
            local_addresses: reader.read("bgp-local-addresses", list, old.local_addresses),
        };
        let status = node.status.as_ref();
        let all = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let internal = all.iter().filter(|address| address.type_ == "InternalIP");
        let addresses = internal.filter_map(|address| address.address.parse().ok()).collect();
        let spec = node.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        let cidr = spec.and_then(|spec| spec.pod_cidr.clone());
        let mut pod_cidrs: Vec<IpNet> =
            cidrs.iter().chain(&cidr).filter_map(|text| text.parse().ok()).collect();
        if let Some(instead) = &annotated.pod_cidrs {
            pod_cidrs.clone_from(instead);
        }
        pod_cidrs.iter_mut().for_each(|cidr| *cidr = cidr.trunc());
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        let name = node.metadata.name.clone().unwrap_or_default();
        let draining = spec.and_then(|spec| spec.unschedulable).unwrap_or_default();
        (Self { name, addresses, pod_cidrs, draining, annotated }, problems)
    }

    /// The address that other nodes talk to: the first.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// The first of its addresses in the family of `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn find(&self, name: &str) -> Option<(String, &str)> {
        PREFIXES.iter().find_map(|prefix| {
            let full = format!("{prefix}{name}");
            let text = self.annotations.get(&full)?;
            Some((full, text.trim()))
        })
    }

    /// The value; the default without the annotation, what it was before if it does not parse.
    fn read<T: Default>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        before: T,
    ) -> T {
        let Some((full, text)) = self.find(name) else { return T::default() };
        match parse(text) {
            Ok(value) => value,
            Err(why) => {
                self.problems.push(format!("annotation {full}: {why}"));
                before
            }
        }
    }

    fn reflection(&mut self, before: Option<Reflection>) -> Option<Reflection> {
        let cluster = |text: &str| {
            let number = text.parse().map(Ipv4Addr::from_bits).ok();
            let id = number.or_else(|| text.parse().ok());
            id.map(Some).ok_or_else(|| "expected a number or an IPv4 address".to_owned())
        };
        let (server, client) = match before {
            Some(Reflection::Server(id)) => (Some(id), None),
            Some(Reflection::Client(id)) => (None, Some(id)),
            None => (None, None),
        };
        let server = self.read("rr.server", cluster, server);
        let client = self.read("rr.client", cluster, client);
        if server.is_some() && client.is_some() {
            self.problems.push("annotations rr.server and rr.client: only one of them".to_owned());
            return before;
        }
        server.map(Reflection::Server).or(client.map(Reflection::Client))
    }

    fn prepend(&mut self, before: Option<(u32, u8)>) -> Option<(u32, u8)> {
        let asn = self.read("path-prepend.as", |text| asn(text).map(Some), before.map(|p| p.0));
        let times = |text: &str| match text.parse() {
            Ok(times @ 1..=10) => Ok(Some(times)),
            _ => Err("expected 1 to 10".to_owned()),
        };
        let times = self.read("path-prepend.repeat-n", times, before.map(|p| p.1));
        if asn.is_some() != times.is_some() {
            let text = "annotations path-prepend.as and path-prepend.repeat-n: both or none";
            self.problems.push(text.to_owned());
            return before;
        }
        asn.zip(times)
    }
}

pub(super) fn asn(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(asn) if asn > 0 => Ok(asn),
        _ => Err(format!("{text:?} is no AS, 1 to 4294967295")),
    }
}

pub(super) fn bool(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?}; accepted: true, false")),
    }
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| format!("cannot read {word:?}"))).collect()
}

pub(super) type Communities = (Vec<Community>, Vec<LargeCommunity>);

/// `64512:1, 64512:1:2, no-export` and numbers.
pub(super) fn communities(text: &str) -> Result<Communities, String> {
    let (mut standard, mut large) = (Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let bad = || {
            format!(
                "{word:?} is no community; accepted: 64512:1, 64512:1:2, no-export, no-advertise"
            )
        };
        let parts: Result<Vec<u32>, _> = word.split(':').map(str::parse).collect();
        match (word, parts.as_deref()) {
            ("no-export", _) => standard.push(Community::NO_EXPORT),
            ("no-advertise", _) => standard.push(Community::NO_ADVERTISE),
            (_, Ok([one])) => standard.push(Community(*one)),
            (_, Ok([high @ 0..=0xffff, low @ 0..=0xffff])) => {
                standard.push(Community(high << 16 | low));
            }
            (_, Ok([global, local1, local2])) => {
                large.push(LargeCommunity { global: *global, local1: *local1, local2: *local2 });
            }
            _ => return Err(bad()),
        }
    }
    Ok((standard, large))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(annotations: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "annotations": annotations},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "fd00::1"}]}
        }))
        .expect("a Node")
    }

    #[test]
    fn addresses_ranges_and_annotations_of_both_prefixes() {
        let (facts, problems) = NodeFacts::read(
            &node(json!({
                "kube-router.io/node.asn": "64601",
                "sluice.io/node.asn": "64600",
                "kube-router.io/rr.server": "42",
                "kube-router.io/node.bgp.communities": "64512:1,64512:2:3, no-export",
                "kube-router.io/path-prepend.as": "64600",
                "kube-router.io/path-prepend.repeat-n": "3",
                "kube-router.io/bgp-local-addresses": "192.0.2.1",
                "sluice.io/enable-ibgp": "false",
            })),
            None,
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(facts.addresses.len(), 2);
        assert_eq!(facts.pod_cidrs.len(), 2);
        assert_eq!(facts.annotated.asn, Some(64600), "sluice.io goes first");
        assert_eq!(
            facts.annotated.reflection,
            Some(Reflection::Server(Ipv4Addr::new(0, 0, 0, 42)))
        );
        assert_eq!(facts.annotated.communities.len(), 2);
        assert_eq!(facts.annotated.large_communities.len(), 1);
        assert_eq!(facts.annotated.prepend, Some((64600, 3)));
        assert_eq!(facts.annotated.local_addresses.len(), 1);
        assert_eq!(facts.annotated.ibgp, Some(false));
    }

    #[test]
    fn b10_a_cordoned_node_is_about_to_go_away() {
        let mut cordoned = node(json!({}));
        assert!(!NodeFacts::read(&cordoned, None).0.draining);
        cordoned.spec.get_or_insert_default().unschedulable = Some(true);
        assert!(NodeFacts::read(&cordoned, None).0.draining);
    }

    #[test]
    fn what_does_not_parse_is_told_and_the_last_good_setting_stays() {
        let (good, _) = NodeFacts::read(
            &node(json!({"sluice.io/node.asn": "64600", "sluice.io/rr.client": "1.2.3.4",
                "sluice.io/enable-ibgp": "false",
                "sluice.io/peers": "[{\"remoteip\": \"192.0.2.9\", \"remoteasn\": 65000}]"})),
            None,
        );
        let bad = node(json!({"sluice.io/node.asn": "0", "sluice.io/rr.client": "x",
            "sluice.io/enable-ibgp": "no",
            "sluice.io/peers": "- remoteip: 192.0.2", "sluice.io/path-prepend.as": "1",
            "sluice.io/node.bgp.communities": "70000:1"}));
        let (facts, problems) = NodeFacts::read(&bad, Some(&good));
        assert_eq!(facts, good);
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.starts_with("annotation")), "{problems:?}");
        let (facts, problems) = NodeFacts::read(&node(json!({})), Some(&good));
        assert_eq!((facts.annotated, problems.len()), (Annotated::default(), 0), "taken away");
    }
}
