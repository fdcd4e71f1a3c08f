//! The resource types this server knows: names, paths, what is namespaced, what has a status.

/// One resource type, as discovery shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, "" for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name of one, for command lines.
    pub singular: &'static str,
    /// Abbreviations kubectl takes.
    pub short: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `/status` subresource.
    pub status: bool,
    /// Where objects are kept: the two Event groups share one place.
    pub(crate) table: &'static str,
}

macro_rules! resource {
    ($group:literal, $version:literal, $kind:literal, $plural:literal, $singular:literal, $short:expr, $namespaced:literal, $status:literal) => {
        Resource {
            group: $group,
            version: $version,
            kind: $kind,
            plural: $plural,
            singular: $singular,
            short: &$short,
            namespaced: $namespaced,
            status: $status,
            table: $plural,
        }
    };
}

/// Every resource type, core group first, as discovery lists them.
pub static RESOURCES: &[Resource] = &[
    resource!("", "v1", "Endpoints", "endpoints", "endpoints", ["ep"], true, false),
    resource!("", "v1", "Event", "events", "event", ["ev"], true, false),
    resource!("", "v1", "Namespace", "namespaces", "namespace", ["ns"], false, true),
    resource!("", "v1", "Node", "nodes", "node", ["no"], false, true),
    resource!("", "v1", "Pod", "pods", "pod", ["po"], true, true),
    resource!("", "v1", "Service", "services", "service", ["svc"], true, true),
    resource!("coordination.k8s.io", "v1", "Lease", "leases", "lease", [], true, false),
    resource!(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "endpointslice",
        [],
        true,
        false
    ),
    resource!("events.k8s.io", "v1", "Event", "events", "event", ["ev"], true, false),
    resource!(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "networkpolicy",
        ["netpol"],
        true,
        false
    ),
    resource!(
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
        "servicecidrs",
        "servicecidr",
        [],
        false,
        true
    ),
];

impl Resource {
    /// The `apiVersion` of its objects: `v1`, `discovery.k8s.io/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The name with its group, as error messages have it: `services`, `leases.coordination.k8s.io`.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether objects carry metadata.generation, raised by changes of content (K35).
    #[must_use]
    pub fn has_generation(&self) -> bool {
        matches!(self.plural, "endpointslices" | "networkpolicies" | "pods")
    }

    /// Finds a type by its path: group, version, plural name.
    #[must_use]
    pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// Finds a type by an object's `apiVersion` and `kind`.
    #[must_use]
    pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// Finds a type by its plural name alone; `events` is the core group's.
    #[must_use]
    pub fn by_plural(plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.plural == plural)
    }
}
