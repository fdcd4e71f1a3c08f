//! How lists merge: the merge keys of strategic patches and the list types of server-side apply,
//! for the fields the known types have (`patchMergeKey` and `x-kubernetes-list-map-keys` in the
//! published OpenAPI document). Paths leave out the positions in lists.

/// The merge key of a strategic patch: a name, "" for a set of plain values, none where a list is
/// replaced as a whole.
pub(crate) fn merge_key(kind: &str, path: &str) -> Option<&'static str> {
    match (kind, path) {
        (_, "/metadata/ownerReferences") => Some("uid"),
        (_, "/metadata/finalizers") | ("Node", "/spec/podCIDRs") => Some(""),
        (_, "/status/conditions") | ("Node", "/status/addresses") => Some("type"),
        ("Service", "/spec/ports") => Some("port"),
        (
            "Pod",
            "/spec/containers"
            | "/spec/initContainers"
            | "/spec/ephemeralContainers"
            | "/spec/volumes",
        ) => Some("name"),
        ("Pod", "/spec/containers/ports" | "/spec/initContainers/ports") => Some("containerPort"),
        ("Pod", "/spec/containers/env" | "/spec/initContainers/env" | "/spec/imagePullSecrets") => {
            Some("name")
        }
        ("Pod", "/spec/containers/volumeMounts" | "/spec/initContainers/volumeMounts") => {
            Some("mountPath")
        }
        ("Pod", "/spec/hostAliases" | "/status/podIPs" | "/status/hostIPs") => Some("ip"),
        ("Pod", "/spec/topologySpreadConstraints") => Some("topologyKey"),
        _ => None,
    }
}

/// How server-side apply takes a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// One value, owned as a whole.
    Atomic,
    /// A set of plain values.
    Set,
    /// Elements known by these keys.
    Map(&'static [&'static str]),
}

/// The list type of a field.
pub(crate) fn list_type(kind: &str, path: &str) -> ListType {
    match (kind, path) {
        ("Service", "/spec/ports") => ListType::Map(&["port", "protocol"]),
        ("Pod", "/spec/containers/ports" | "/spec/initContainers/ports") => {
            ListType::Map(&["containerPort", "protocol"])
        }
        _ => match merge_key(kind, path) {
            Some("") => ListType::Set,
            Some("uid") => ListType::Map(&["uid"]),
            Some("type") => ListType::Map(&["type"]),
            Some("name") => ListType::Map(&["name"]),
            Some("mountPath") => ListType::Map(&["mountPath"]),
            Some("ip") => ListType::Map(&["ip"]),
            Some("topologyKey") => ListType::Map(&["topologyKey", "whenUnsatisfiable"]),
            _ => ListType::Atomic,
        },
    }
}

/// What a list-map key reads as when the element does not say it.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}

/// Maps that are owned as a whole.
pub(crate) fn atomic_map(kind: &str, path: &str) -> bool {
    matches!((kind, path), ("Service", "/spec/selector") | (_, "/involvedObject" | "/regarding"))
}
