//! The ranges that ClusterIPs come from (R41): the ServiceCIDR objects, unless the operator names
//! them. Owned by the control loop; no I/O.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tracing::warn;

use crate::watch::Update;

/// kube-apiserver's range where nobody says otherwise, for servers without ServiceCIDR objects.
const DEFAULT_RANGE: &str = "10.96.0.0/12";

/// Who says what the ranges are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody yet.
    #[default]
    Unknown,
    /// `--service-cluster-ip-range`
    Flag,
    /// The ServiceCIDR objects.
    Objects,
    /// The API server has no such objects: its own default is taken.
    Default,
}

impl Source {
    /// In a word, for views.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "not known yet",
            Self::Flag => "--service-cluster-ip-range",
            Self::Objects => "ServiceCIDR objects",
            Self::Default => "default: the API server has no ServiceCIDR objects",
        }
    }
}

/// The ranges as they are known.
#[derive(Debug, Default)]
pub struct ServiceRanges {
    source: Source,
    fixed: Vec<IpNet>,
    objects: BTreeMap<String, Vec<IpNet>>,
}

impl ServiceRanges {
    /// Ranges that the operator names; with none, what the objects will say.
    #[must_use]
    pub fn new(fixed: Vec<IpNet>) -> Self {
        let source = if fixed.is_empty() { Source::Unknown } else { Source::Flag };
        Self { source, fixed, objects: BTreeMap::new() }
    }

    /// Takes in changes of ServiceCIDR objects; tells whether the ranges differ now.
    pub fn on_update(&mut self, update: Update<ServiceCIDR>) -> bool {
        let before = self.all();
        for key in &update.gone {
            self.objects.remove(&key.name);
        }
        for object in update.objects {
            let name = object.metadata.name.unwrap_or_default();
            let texts = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
            let range = |text: &String| match text.parse::<IpNet>() {
                Ok(range) => Some(range.trunc()),
                Err(_) => {
                    warn!(object = name, text, "ServiceCIDR: not an address range; skipped");
                    None
                }
            };
            let ranges = texts.iter().filter_map(range).collect();
            self.objects.insert(name, ranges);
        }
        if self.source != Source::Flag && update.listed {
            self.source = if update.absent { Source::Default } else { Source::Objects };
        }
        self.all() != before
    }

    /// Who says so.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// All ranges of both families, sorted and without duplicates.
    #[must_use]
    pub fn all(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = match self.source {
            Source::Unknown => Vec::new(),
            Source::Flag => self.fixed.iter().map(IpNet::trunc).collect(),
            Source::Objects => self.objects.values().flatten().copied().collect(),
            Source::Default => DEFAULT_RANGE.parse().into_iter().collect(),
        };
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::object::Key;
    use serde_json::json;

    fn object(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}}))
            .expect("a ServiceCIDR")
    }

    fn listed(objects: Vec<ServiceCIDR>) -> Update<ServiceCIDR> {
        Update { listed: true, absent: false, gone: vec![], objects }
    }

    fn all(ranges: &ServiceRanges) -> Vec<String> {
        ranges.all().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn r41_all_ranges_of_all_objects_as_they_come_and_go() {
        let mut ranges = ServiceRanges::new(vec![]);
        assert_eq!((all(&ranges).len(), ranges.source()), (0, Source::Unknown));
        let objects = vec![
            object("kubernetes", &["10.96.0.0/16", "fd00::/108"]),
            object("more", &["10.97.0.0/24", "nonsense", "10.96.0.0/16"]),
        ];
        assert!(ranges.on_update(listed(objects.clone())));
        assert!(!ranges.on_update(listed(objects)), "the same");
        assert_eq!(all(&ranges), ["10.96.0.0/16", "10.97.0.0/24", "fd00::/108"]);
        let gone = vec![Key { namespace: String::new(), name: "more".to_owned() }];
        ranges.on_update(Update { listed: false, absent: false, gone, objects: vec![] });
        assert_eq!(all(&ranges), ["10.96.0.0/16", "fd00::/108"]);
        assert_eq!(ranges.source(), Source::Objects);
    }

    #[test]
    fn r41_without_the_type_the_default_and_no_guess_where_it_is_only_empty() {
        let mut ranges = ServiceRanges::new(vec![]);
        ranges.on_update(Update { absent: true, ..listed(vec![]) });
        assert_eq!(
            (all(&ranges), ranges.source()),
            (vec![DEFAULT_RANGE.to_owned()], Source::Default)
        );
        ranges.on_update(listed(vec![]));
        assert_eq!((all(&ranges).len(), ranges.source()), (0, Source::Objects));
    }

    #[test]
    fn r41_the_flag_overrides_the_objects() {
        let mut ranges = ServiceRanges::new(vec!["10.0.0.1/24".parse().expect("a range")]);
        ranges.on_update(listed(vec![object("kubernetes", &["10.96.0.0/16"])]));
        assert_eq!((all(&ranges), ranges.source()), (vec!["10.0.0.0/24".to_owned()], Source::Flag));
    }
}
