//! What a request is about: the type, namespace and name in its path, and what it wants of them, as
//! the server counts it and as its refusals name it.

use axum::http::Method;
use serde_json::json;

use super::error::ApiError;
use super::faults::Verb;
use super::json::set;
use super::query::Query;
use super::resource::{RESOURCES, Resource};
use super::store::Key;
use super::watch::Watch;

/// What a path names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
}

impl Target {
    /// None where nothing is.
    pub(crate) fn parse(path: &[&str]) -> Option<Self> {
        let (group, version, rest) = match path {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        // `namespaces/NAME/status` and the like are about the Namespace itself.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, tail @ ..]
                if !matches!(*plural, "status" | "finalize") =>
            {
                let _ = tail;
                (Some((*namespace).to_owned()), rest.get(2..)?)
            }
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, ""),
            [plural, name] => (plural, Some((*name).to_owned()), ""),
            [plural, name, subresource] => (plural, Some((*name).to_owned()), *subresource),
            _ => return None,
        };
        let resource = Resource::by_path(group, version, plural)?;
        if namespace.is_some() && !resource.namespaced {
            return None;
        }
        let known = match subresource {
            "" => true,
            "status" => resource.status,
            "binding" => resource.plural == "pods",
            "finalize" => resource.plural == "namespaces",
            _ => false,
        };
        known.then(|| Self { resource, namespace, name, subresource: subresource.to_owned() })
    }

    /// What it is stored by.
    pub(crate) fn key(&self) -> Key {
        Key::new(
            self.namespace.as_deref().unwrap_or_default(),
            self.name.as_deref().unwrap_or_default(),
        )
    }
}

/// Whether a path is one of a group that is known: what is missing there the API says, and not the
/// mux before it.
pub(crate) fn in_known_group(path: &[&str]) -> bool {
    match path {
        ["api", _, ..] => true,
        ["apis", group, _, ..] => {
            RESOURCES.iter().any(|r| !r.group.is_empty() && r.group == *group)
        }
        _ => false,
    }
}

/// The kind of a request.
pub(crate) fn verb_of(method: &Method, target: Option<&Target>, query: &Query) -> Verb {
    let reads = *method == Method::GET || *method == Method::HEAD;
    match target {
        None => Verb::Other,
        Some(_) if !reads => Verb::Write,
        // One object is not watched by its path.
        Some(target) if target.name.is_some() => Verb::Get,
        Some(_) if query.flag("watch") && Watch::is_list(query) => Verb::WatchList,
        Some(_) if query.flag("watch") => Verb::Watch,
        _ if !query.text("continue").is_empty() => Verb::Continue,
        _ => Verb::List,
    }
}

/// The verb as rights name it.
fn right(method: &Method, verb: Verb, named: bool) -> &'static str {
    match (method.as_str(), verb) {
        (_, Verb::Watch | Verb::WatchList) => "watch",
        (_, Verb::List | Verb::Continue) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) if named => "delete",
        ("DELETE", _) => "deletecollection",
        _ => "get",
    }
}

/// A request, as far as rights go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) target: Option<&'a Target>,
    pub(crate) query: &'a Query,
}

impl Asked<'_> {
    /// Paths that everybody may read (the role system:public-info-viewer).
    pub(crate) fn is_public(self) -> bool {
        let path = self.path.trim_end_matches('/');
        matches!(path, "/healthz" | "/livez" | "/readyz" | "/version")
    }

    /// 403: the user has no right to this.
    pub(crate) fn forbidden(self, user: &str) -> ApiError {
        let Some(target) = self.target else {
            let verb = self.method.as_str().to_lowercase();
            let message =
                format!("forbidden: User \"{user}\" cannot {verb} path \"{}\"", self.path);
            let mut error = ApiError::new(403, "Forbidden", message);
            error.details = json!({});
            return error;
        };
        let (resource, sub) = (target.resource, &target.subresource);
        let verb = verb_of(self.method, self.target, self.query);
        let verb = right(self.method, verb, target.name.is_some());
        let what = if sub.is_empty() {
            resource.plural.into()
        } else {
            format!("{}/{sub}", resource.plural)
        };
        let place = match &target.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        // A list of one name is about that one.
        let name = target.name.as_deref().or_else(|| self.query.only_name()).unwrap_or_default();
        let about = if name.is_empty() {
            resource.qualified()
        } else {
            format!("{} \"{name}\"", resource.qualified())
        };
        let mut error = ApiError::new(
            403,
            "Forbidden",
            format!(
                "{about} is forbidden: User \"{user}\" cannot {verb} resource \"{what}\" in API group \"{}\" {place}",
                resource.group
            ),
        );
        error.details = json!({"kind": resource.plural});
        for (key, value) in [("name", name), ("group", resource.group)] {
            if !value.is_empty() {
                set(&mut error.details, &[key], value);
            }
        }
        error
    }
}
