//! What clients learn the API from: groups, resources, aggregated discovery, version, and as much
//! of the OpenAPI documents as kubectl needs to send its field validation to the server.

use serde_json::{Map, Value, json};

use super::json::set;
use super::resource::{RESOURCES, Resource};

/// The version this server behaves like.
const GIT_VERSION: &str = "v1.37.2+sluice-testkit";

fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for resource in RESOURCES {
        if !groups.contains(&(resource.group, resource.version)) {
            groups.push((resource.group, resource.version));
        }
    }
    groups
}

fn verbs(status: bool) -> Value {
    if status {
        json!(["get", "patch", "update"])
    } else {
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    }
}

/// What `kubectl get all` shows.
fn categories(resource: &Resource) -> &'static [&'static str] {
    if matches!(resource.plural, "pods" | "services") { &["all"] } else { &[] }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for r in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        entries.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
            "verbs": verbs(false), "shortNames": r.short, "categories": categories(r),
        }));
        if r.status {
            entries.push(json!({
                "name": format!("{}/status", r.plural), "singularName": "", "namespaced": r.namespaced,
                "kind": r.kind, "verbs": verbs(true),
            }));
        }
    }
    (!entries.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
            "resources": entries,
        })
    })
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": group_version(name, version), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, version)| {
            let resources: Vec<Value> = RESOURCES
                .iter()
                .filter(|r| r.group == name && r.version == version)
                .map(|r| {
                    let kind = json!({"group": r.group, "version": r.version, "kind": r.kind});
                    let mut entry = json!({
                        "resource": r.plural, "responseKind": kind, "singularResource": r.singular,
                        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
                        "verbs": verbs(false), "shortNames": r.short, "categories": categories(r),
                    });
                    if r.status {
                        set(&mut entry, &["subresources"], json!([{"subresource": "status", "responseKind": kind, "verbs": verbs(true)}]));
                    }
                    entry
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !name.is_empty() {
                set(&mut metadata, &["name"], name);
            }
            let version = json!({"version": version, "resources": resources, "freshness": "Current"});
            json!({"metadata": metadata, "versions": [version]})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

/// An answer about the API itself: the document and its content type, none for other paths.
pub(crate) fn answer(path: &[&str], accept: &str) -> Option<(Value, &'static str)> {
    const JSON: &str = "application/json";
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let wants_aggregated = accept.split(',').any(|a| {
        a.contains("as=APIGroupDiscoveryList") && a.split(';').any(|p| p.trim() == "v=v2")
    });
    let value = match path {
        ["api"] | ["apis"] if wants_aggregated => {
            return Some((aggregated(*path == ["api"]), AGGREGATED));
        }
        ["api"] => {
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        }
        ["apis"] => {
            let groups: Vec<Value> = groups()
                .into_iter()
                .filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| group(g, v))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resource_list("", version)?,
        ["apis", name] => {
            let (name, version) = groups().into_iter().find(|(g, _)| !g.is_empty() && g == name)?;
            let mut value = group(name, version);
            set(&mut value, &["kind"], "APIGroup");
            set(&mut value, &["apiVersion"], "v1");
            value
        }
        ["apis", name, version] if !name.is_empty() => resource_list(name, version)?,
        ["version"] => json!({
            "major": "1", "minor": "37", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux",
        }),
        ["openapi", "v3"] => {
            let mut paths = Map::new();
            for (group, version) in groups() {
                let path = group_path(group, version);
                paths.insert(
                    path.clone(),
                    json!({"serverRelativeURL": format!("/openapi/v3/{path}")}),
                );
            }
            json!({"paths": paths})
        }
        ["openapi", "v3", "api", version] => openapi("", version)?,
        ["openapi", "v3", "apis", group, version] => openapi(group, version)?,
        _ => return None,
    };
    Some((value, JSON))
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Enough of the document for kubectl to see that a PATCH takes `fieldValidation`.
fn openapi(group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for r in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        let kind = json!({"group": r.group, "version": r.version, "kind": r.kind});
        let parameter =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        let patch = json!({
            "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind,
            "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")],
            "responses": {"200": {"description": "OK"}},
        });
        let path = one_path(r);
        paths.insert(path, json!({"patch": patch}));
        let name = format!(
            "io.k8s.api.{}.{}.{}",
            r.group.split('.').next().unwrap_or_default(),
            r.version,
            r.kind
        );
        schemas.insert(name, json!({"type": "object", "x-kubernetes-group-version-kind": [kind]}));
    }
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": GIT_VERSION},
            "paths": paths, "components": {"schemas": schemas},
        })
    })
}

fn one_path(r: &Resource) -> String {
    let namespace = if r.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("/{}/{namespace}{}/{{name}}", group_path(r.group, r.version), r.plural)
}
