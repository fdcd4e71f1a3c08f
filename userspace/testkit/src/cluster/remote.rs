//! Owns requests to an API server over HTTP that wait for their answer: what tests and the demo ask
//! of the real one, in the words in which they ask the embedded one's store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use axum::http::{Method, Request, header};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::site::Site;
use crate::api::{RESOURCES, Resource};

/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Time between two questions whether it is ready.
const AGAIN: Duration = Duration::from_millis(50);

/// A client that blocks.
#[derive(Clone)]
pub struct Remote {
    site: Arc<Site>,
    client: Client,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Remote {
    /// Asks in the site's namespace.
    #[must_use]
    pub fn new(site: Arc<Site>, client: Client) -> Self {
        Self { site, client }
    }

    /// Makes one request, and returns the status and the body, null if it is no JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<(u16, Value)> {
        let line = format!("{method} {path}");
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, content_type).body(Body::from(bytes))?;
        let client = self.client.clone();
        let answer = self.site.run(async move {
            let whole = async {
                let answer = client.send(request).await?;
                let code = answer.status().as_u16();
                Ok((code, answer.into_body().collect_bytes().await?))
            };
            tokio::time::timeout(ANSWER, whole).await.context("no answer in time")?
        })?;
        let (code, bytes) = answer.map_err(|e: anyhow::Error| e.context(line))?;
        Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Like [`Remote::request`], but whatever is not a success is an error.
    ///
    /// # Errors
    /// What the server says.
    pub fn insist(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value> {
        let line = format!("{method} {path}");
        let (code, answer) = self.request(method, path, content_type, body)?;
        if !(200..300).contains(&code) {
            return Err(refused(&line, code, &answer));
        }
        Ok(answer)
    }

    /// Creates or replaces an object of a type that the embedded server knows, too.
    ///
    /// # Errors
    /// What the server says.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = text("/kind");
        let version = text("/apiVersion");
        let resource = RESOURCES.iter().find(|r| r.kind == kind && group_version(r) == version);
        let resource = resource.with_context(|| format!("no type {version} {kind}"))?;
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let folder = path(resource, namespace, "");
        let (code, answer) = self.request(Method::POST, &folder, JSON, object)?;
        match code {
            200..300 => Ok(answer),
            409 => self.insist(Method::PUT, &path(resource, namespace, name), JSON, object),
            _ => Err(refused(&format!("POST {folder}"), code, &answer)),
        }
    }

    /// Merges into an object; `subresource` is "" or "status".
    ///
    /// # Errors
    /// What the server says.
    pub fn merge(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Value> {
        let mut path = path(known(plural)?, namespace, name);
        if !subresource.is_empty() {
            path = format!("{path}/{subresource}");
        }
        self.insist(Method::PATCH, &path, MERGE, patch)
    }

    /// Removes an object at once; true if there was one.
    ///
    /// # Errors
    /// What the server says.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<bool> {
        let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
        let path = path(known(plural)?, namespace, name);
        let (code, answer) = self.request(Method::DELETE, &path, JSON, &now)?;
        match code {
            200..300 => Ok(true),
            404 => Ok(false),
            _ => Err(refused(&format!("DELETE {path}"), code, &answer)),
        }
    }

    /// One object.
    ///
    /// # Errors
    /// What the server says, but for that there is none.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let path = path(known(plural)?, namespace, name);
        let (code, answer) = self.request(Method::GET, &path, JSON, &Value::Null)?;
        match code {
            200..300 => Ok(Some(answer)),
            404 => Ok(None),
            _ => Err(refused(&format!("GET {path}"), code, &answer)),
        }
    }

    /// All objects of a type.
    ///
    /// # Errors
    /// What the server says.
    pub fn list(&self, plural: &str) -> Result<Vec<Value>> {
        let path = path(known(plural)?, "", "");
        let mut answer = self.insist(Method::GET, &path, JSON, &Value::Null)?;
        let items = answer.get_mut("items").map(Value::take).unwrap_or_default();
        Ok(items.as_array().cloned().unwrap_or_default())
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// With its last words when it is not within `limit`, and those of `alive` at once.
    pub fn wait_ready(&self, limit: Duration, alive: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            alive()?;
            match self.request(Method::GET, "/readyz", JSON, &Value::Null) {
                Ok((200, _)) => return Ok(()),
                answer if Instant::now() > deadline => {
                    bail!("API server is not ready after {limit:?}: {answer:?}")
                }
                _ => std::thread::sleep(AGAIN),
            }
        }
    }
}

/// Content types.
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// A request that is no success, with the server's words.
fn refused(line: &str, code: u16, answer: &Value) -> anyhow::Error {
    let message = answer.get("message").and_then(Value::as_str).unwrap_or_default();
    anyhow!("{line}: {code}: {message}")
}

fn known(plural: &str) -> Result<&'static Resource> {
    let found = RESOURCES.iter().find(|resource| resource.plural == plural);
    found.with_context(|| format!("no type {plural}"))
}

fn group_version(resource: &Resource) -> String {
    match resource.group {
        "" => resource.version.to_owned(),
        group => format!("{group}/{}", resource.version),
    }
}

/// The path of an object, of a namespace's objects, or of all, as far as names are given.
fn path(resource: &Resource, namespace: &str, name: &str) -> String {
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    let mut path = format!("{root}/{}", group_version(resource));
    if resource.namespaced && !namespace.is_empty() {
        path = format!("{path}/namespaces/{namespace}");
    }
    path = format!("{path}/{}", resource.plural);
    if name.is_empty() { path } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let of = |plural, namespace, name| path(known(plural).unwrap(), namespace, name);
        assert_eq!(of("nodes", "", "n1"), "/api/v1/nodes/n1");
        assert_eq!(of("services", "default", ""), "/api/v1/namespaces/default/services");
        let slices = "/apis/discovery.k8s.io/v1/endpointslices";
        assert_eq!(of("endpointslices", "", ""), slices);
    }
}
