//! What the agent knows of the cluster: the index of Services and slices, the own Node, and
//! whether all of it has been listed (R37). Owned by the control loop; no I/O.

mod findings;
mod triggers;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use sluice_services::{HealthChecks, Index, Problem, State};

use tracing::warn;

use crate::bgp::announce::{AllOverrides, Overrides};
use crate::health::NodeState;
use crate::plane::OwnNode;
use crate::ranges::{ServiceRanges, Source};
use crate::watch::Update;
use crate::watch::object::Key;

pub use findings::Finding;
use findings::Known;
pub use triggers::Trigger;
use triggers::Triggers;

/// The cluster as seen from this node.
#[derive(Debug)]
pub struct Cluster {
    index: Index,
    services_listed: bool,
    slices_listed: bool,
    node_listed: bool,
    node: NodeState,
    own: OwnNode,
    /// Whether the Node's ranges of pods matter.
    pod_cidrs: bool,
    /// Identities of Services, for Events about them.
    uids: HashMap<Key, String>,
    /// What their annotations say about BGP.
    advertise: AllOverrides,
    /// And what is wrong with those; Services without are not there.
    advertise_problems: BTreeMap<Key, Vec<String>>,
    ranges: ServiceRanges,
    node_ports: Option<RangeInclusive<u16>>,
    triggers: Triggers,
}

/// What is to be written, and what goes with it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// For the data plane.
    pub state: Arc<State>,
    /// For load balancers.
    pub health_checks: Arc<HealthChecks>,
    /// When the changes in it were made.
    pub triggers: Vec<Trigger>,
}

/// What the operator decides about the reading of objects.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// For the index: the node's name, families, external addresses.
    pub index: sluice_services::Config,
    /// `--service-cluster-ip-range`; empty: the ServiceCIDR objects.
    pub service_ranges: Vec<IpNet>,
    /// `--service-node-port-range`
    pub node_ports: Option<RangeInclusive<u16>>,
    /// Whether the Node's `spec.podCIDRs` matter (R12).
    pub pod_cidrs: bool,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    #[must_use]
    pub fn new(rules: Rules, started: SystemTime) -> Self {
        Self {
            index: Index::new(rules.index),
            services_listed: false,
            slices_listed: false,
            node_listed: false,
            node: NodeState::Unknown,
            own: OwnNode::default(),
            pod_cidrs: rules.pod_cidrs,
            uids: HashMap::new(),
            advertise: AllOverrides::new(),
            advertise_problems: BTreeMap::new(),
            ranges: ServiceRanges::new(rules.service_ranges),
            node_ports: rules.node_ports,
            triggers: Triggers::new(started),
        }
    }

    /// Takes in changes of Services; tells whether the state may differ.
    pub fn on_services(&mut self, update: Update<Service>) -> bool {
        let mut changed = update.listed && !self.services_listed;
        self.services_listed |= update.listed;
        for key in &update.gone {
            self.uids.remove(key);
            self.advertise.remove(key);
            self.advertise_problems.remove(key);
            changed |= self.index.delete_service(&key.namespace, &key.name);
        }
        for service in &update.objects {
            let metadata = &service.metadata;
            let key = Key {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
            };
            self.read_advertise(&key, service);
            self.uids.insert(key, metadata.uid.clone().unwrap_or_default());
            changed |= self.index.apply_service(service);
        }
        changed
    }

    fn read_advertise(&mut self, key: &Key, service: &Service) {
        let before = self.advertise.get(key).copied().unwrap_or_default();
        let (overrides, problems) = Overrides::read(service, before);
        if overrides == Overrides::default() {
            self.advertise.remove(key);
        } else {
            self.advertise.insert(key.clone(), overrides);
        }
        if self.advertise_problems.get(key).map_or(&[][..], Vec::as_slice) == problems {
            return;
        }
        for problem in &problems {
            warn!(service = %key, problem, "a setting of a Service is not used");
        }
        if problems.is_empty() {
            self.advertise_problems.remove(key);
        } else {
            self.advertise_problems.insert(key.clone(), problems);
        }
    }

    /// Takes in changes of ServiceCIDR objects; tells whether the ranges differ now.
    pub fn on_ranges(&mut self, update: Update<ServiceCIDR>) -> bool {
        self.ranges.on_update(update)
    }

    /// The ranges of ClusterIPs, and who says so (R41).
    #[must_use]
    pub fn service_ranges(&self) -> (Vec<IpNet>, Source) {
        (self.ranges.all(), self.ranges.source())
    }

    /// What Services' annotations say about their announcement by BGP.
    #[must_use]
    pub fn advertise(&self) -> &AllOverrides {
        &self.advertise
    }

    /// How many of these annotations do not parse.
    #[must_use]
    pub fn advertise_problems(&self) -> usize {
        self.advertise_problems.values().map(Vec::len).sum()
    }

    /// Identity of a Service, "" when there is none of this name.
    #[must_use]
    pub fn uid(&self, service: &Key) -> String {
        self.uids.get(service).cloned().unwrap_or_default()
    }

    /// Takes in changes of slices; tells whether the state may differ.
    pub fn on_slices(&mut self, update: Update<EndpointSlice>) -> bool {
        let mut changed = update.listed && !self.slices_listed;
        self.slices_listed |= update.listed;
        for key in &update.gone {
            changed |= self.index.delete_slice(&key.namespace, &key.name);
        }
        for slice in &update.objects {
            if self.index.apply_slice(slice) {
                changed = true;
                self.triggers.note(slice);
            }
        }
        changed
    }

    /// Takes in changes of the own Node; tells whether the state may differ.
    pub fn on_node(&mut self, update: Update<Node>) -> bool {
        self.node_listed |= update.listed;
        let mut changed = false;
        for key in &update.gone {
            // Its addresses stay: packets still come to them.
            self.node = NodeState::Unknown;
            changed |= self.index.delete_node(&key.name);
        }
        for node in &update.objects {
            self.node = NodeState::of(node);
            changed |= self.index.apply_node(node);
            let addresses = addresses(node);
            if !addresses.is_empty() {
                self.own.addresses = addresses;
            }
            let pod_cidrs = pod_cidrs(node);
            if self.pod_cidrs && !pod_cidrs.is_empty() {
                self.own.pod_cidrs = pod_cidrs;
            }
        }
        changed
    }

    /// Whether both Services and slices are known in full, so that something may be removed (R37).
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// Whether the API server has told whether there is an own Node.
    #[must_use]
    pub fn is_node_listed(&self) -> bool {
        self.node_listed
    }

    /// State of the own Node.
    #[must_use]
    pub fn node(&self) -> NodeState {
        self.node
    }

    /// Addresses of the own Node as last seen: internal ones first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.own.addresses
    }

    /// What the data plane is made for, as last seen.
    #[must_use]
    pub fn own_node(&self) -> &OwnNode {
        &self.own
    }

    /// The state that is to be written.
    pub fn take_state(&mut self) -> Wanted {
        let update = self.index.update();
        let triggers = self.triggers.take();
        Wanted { state: update.state, health_checks: update.health_checks, triggers }
    }

    /// Keeps the times of changes that could not be written.
    pub fn return_triggers(&mut self, triggers: Vec<Trigger>) {
        self.triggers.give_back(triggers);
    }

    /// Problems of objects that changed since the last call, for the log.
    pub fn new_problems(&mut self) -> Vec<Problem> {
        self.index.take_problems()
    }

    /// Everything that is not as it is written, now: fields of objects, addresses that several
    /// Services want, ClusterIPs and node ports outside their ranges, and annotations about BGP.
    #[must_use]
    pub fn findings(&self, state: &State) -> Vec<Finding> {
        let (ranges, source) = self.service_ranges();
        let known = Known { ranges: &ranges, source, node_ports: self.node_ports.as_ref() };
        let mut findings = findings::find(self.index.problems(), state, &known);
        for (key, problems) in &self.advertise_problems {
            findings.extend(problems.iter().map(|problem| Finding::of_service(key, problem)));
        }
        findings
    }
}

/// Internal, then external addresses of a Node.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let all = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &'static str| {
        all.iter()
            .filter(move |entry| entry.type_ == kind)
            .filter_map(|entry| entry.address.parse().ok())
    };
    of("InternalIP").chain(of("ExternalIP")).collect()
}

/// The ranges that a Node's pods have their addresses from; what is none is left out.
fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::object::Key;
    use serde_json::{Value, json};

    fn listed<T: serde::de::DeserializeOwned>(objects: &[Value]) -> Update<T> {
        let decode = |value: &Value| serde_json::from_value(value.clone()).expect("decodes");
        Update {
            listed: true,
            absent: false,
            gone: vec![],
            objects: objects.iter().map(decode).collect(),
        }
    }

    fn cluster(ranges: &[&str]) -> Cluster {
        let ranges = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        Cluster::new(rules(ranges), SystemTime::UNIX_EPOCH)
    }

    fn rules(service_ranges: Vec<IpNet>) -> Rules {
        let index = sluice_services::Config { node_name: "n1".to_owned(), ..Default::default() };
        Rules { index, service_ranges, node_ports: Some(30000..=32767), pod_cidrs: false }
    }

    fn service(ip: &str) -> Value {
        json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"clusterIP": ip,
            "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}})
    }

    #[test]
    fn r37_nothing_is_complete_before_both_lists_even_empty_ones() {
        let mut cluster = cluster(&[]);
        let single = Update { listed: false, ..listed(&[service("10.96.0.1")]) };
        assert!(cluster.on_services(single));
        assert!(!cluster.is_listed());
        assert!(cluster.on_services(listed(&[])), "the first list counts as a change");
        assert!(!cluster.is_listed());
        assert!(cluster.on_slices(listed(&[])));
        assert!(cluster.is_listed());
        assert!(!cluster.on_slices(listed(&[])), "nothing new");
    }

    #[test]
    fn r40_addresses_follow_the_node_and_outlive_it() {
        let mut cluster = cluster(&[]);
        let node = |ip: &str| {
            json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "1.2.3.4"},
            {"type": "InternalIP", "address": ip}]}})
        };
        cluster.on_node(listed(&[node("10.0.0.1")]));
        let text = |cluster: &Cluster| {
            cluster.addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text(&cluster), ["10.0.0.1", "1.2.3.4"]);
        cluster.on_node(listed(&[node("10.0.0.9")]));
        assert_eq!(text(&cluster), ["10.0.0.9", "1.2.3.4"]);
        let gone = Key { namespace: String::new(), name: "n1".to_owned() };
        cluster.on_node(Update { listed: false, absent: false, gone: vec![gone], objects: vec![] });
        assert_eq!(cluster.node(), NodeState::Unknown);
        assert_eq!(text(&cluster), ["10.0.0.9", "1.2.3.4"]);
    }

    #[test]
    fn r12_r40_ranges_of_pods_are_followed_where_they_matter() {
        let node =
            |ranges: Value| json!({"metadata": {"name": "n1"}, "spec": {"podCIDRs": ranges}});
        for matter in [true, false] {
            let rules = Rules { pod_cidrs: matter, ..rules(vec![]) };
            let mut cluster = Cluster::new(rules, SystemTime::UNIX_EPOCH);
            let mut seen = |ranges: Value| {
                cluster.on_node(listed(&[node(ranges)]));
                let ranges = cluster.own_node().pod_cidrs.iter().map(ToString::to_string);
                ranges.collect::<Vec<_>>().join(" ")
            };
            let first = seen(json!(["10.244.1.0/24", "fd00:1::/64", "nonsense"]));
            assert_eq!(first, if matter { "10.244.1.0/24 fd00:1::/64" } else { "" });
            assert_eq!(seen(json!(null)), first, "what is not said any more holds");
            assert_eq!(seen(json!(["10.9.0.0/24"])), if matter { "10.9.0.0/24" } else { "" });
        }
    }

    #[test]
    fn cluster_ips_outside_the_ranges_are_problems() {
        let mut cluster = cluster(&["10.96.0.0/12"]);
        cluster.on_services(listed(&[service("10.96.0.1")]));
        let state = cluster.take_state().state;
        assert_eq!(cluster.findings(&state), []);
        let mut outside = service("10.0.0.1");
        outside["spec"]["ports"][0]["nodePort"] = json!(80);
        cluster.on_services(listed(&[outside]));
        let state = cluster.take_state().state;
        let findings = cluster.findings(&state);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].text.contains("ClusterIP 10.0.0.1"), "{findings:?}");
        assert!(findings[1].text.contains("node port 80"), "{findings:?}");
    }

    #[test]
    fn an_annotation_about_bgp_that_does_not_parse_is_told_and_changes_nothing() {
        let mut cluster = cluster(&[]);
        let mut say = |word: Option<&str>| {
            let mut web = service("10.96.0.1");
            if let Some(word) = word {
                let name = "sluice.io/service.advertise.clusterip";
                web["metadata"]["annotations"] = json!({ name: word });
            }
            cluster.on_services(listed(&[web]));
            let state = cluster.take_state().state;
            let key = Key { namespace: "d".to_owned(), name: "web".to_owned() };
            let findings = cluster.findings(&state);
            assert!(findings.iter().all(|finding| finding.service.as_ref() == Some(&key)));
            assert_eq!(findings.len(), cluster.advertise_problems());
            let advertised = cluster.advertise().get(&key).and_then(|of| of.cluster_ip);
            (advertised, findings.into_iter().map(|finding| finding.text).collect::<Vec<_>>())
        };
        assert_eq!(say(Some("true")), (Some(true), vec![]));
        for _ in 0..2 {
            let (advertised, told) = say(Some("yes"));
            assert_eq!((advertised, told.len()), (Some(true), 1), "{told:?}");
            assert!(told[0].contains("d/web") && told[0].contains("accepted: true, false"));
        }
        assert_eq!(say(None), (None, vec![]));
    }

    #[test]
    fn r42_who_does_not_get_an_address_is_told_so() {
        let mut cluster = cluster(&[]);
        let mut rival = service("10.96.0.2");
        rival["metadata"]["name"] = json!("rival");
        rival["spec"]["externalIPs"] = json!(["10.96.0.1"]);
        cluster.on_services(listed(&[service("10.96.0.1"), rival]));
        let state = cluster.take_state().state;
        let findings = cluster.findings(&state);
        let rival = Key { namespace: "d".to_owned(), name: "rival".to_owned() };
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].service, Some(rival));
        assert_eq!(findings[0].text, "Service d/rival:/TCP: 10.96.0.1:80 is served for d/web:/TCP");
    }
}
