//! Owns what agents may do at the real API server: the ServiceAccount and the ClusterRole of deploy/
//! and nothing else, and the token in their file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::http::Method;
use serde_json::{Value, json};

use super::remote::Remote;

/// The manifest that clusters get their agents' rights from.
pub const MANIFEST: &str = include_str!("../../../../deploy/rbac.yaml");
/// The agents' ServiceAccount.
const ACCOUNT: &str = "/api/v1/namespaces/kube-system/serviceaccounts/sluice";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
/// What tokens are bound to: one that is deleted makes its token worthless.
const BOUND: &str = "sluice-token";
/// Seconds that a token holds.
const HOLDS_S: u64 = 3600;

/// The rights of agents in one cluster.
#[derive(Debug)]
pub struct Rights {
    remote: Remote,
    token: PathBuf,
}

impl Rights {
    pub(super) fn new(remote: Remote, token: PathBuf) -> Self {
        Self { remote, token }
    }

    /// The file of the token.
    #[must_use]
    pub fn token(&self) -> &Path {
        &self.token
    }

    /// Gives what a manifest says, in the place of what there was.
    ///
    /// # Errors
    /// When it is none, or what the server says.
    pub fn give(&self, manifest: &str) -> Result<()> {
        for object in objects(manifest)? {
            let text =
                |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let folder = match text("/kind") {
                "ServiceAccount" => "/api/v1/namespaces/kube-system/serviceaccounts",
                "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                kind => anyhow::bail!("{kind} gives no rights"),
            };
            let path =
                format!("{folder}/{}?fieldManager=testkit&force=true", text("/metadata/name"));
            self.remote.insist(Method::PATCH, &path, "application/apply-patch+yaml", &object)?;
        }
        Ok(())
    }

    /// Puts a new token into the file, and makes the one before worthless.
    ///
    /// # Errors
    /// What the server says.
    pub fn new_token(&self) -> Result<()> {
        let json = "application/json";
        let bound = format!("{SECRETS}/{BOUND}");
        self.remote.request(Method::DELETE, &bound, json, &Value::Null)?;
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": BOUND } });
        let secret = self.remote.insist(Method::POST, SECRETS, json, &secret)?;
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": HOLDS_S,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Secret", "name": BOUND,
                    "uid": secret.pointer("/metadata/uid"),
                },
            },
        });
        let path = format!("{ACCOUNT}/token");
        let answer = self.remote.insist(Method::POST, &path, json, &request)?;
        let token = answer.pointer("/status/token").and_then(Value::as_str).context("a token")?;
        // As kubelet does it: whoever reads finds one or the other.
        let next = self.token.with_extension("next");
        fs::write(&next, token)?;
        fs::rename(&next, &self.token).context("put the token in its place")
    }
}

/// The objects of a manifest.
///
/// # Errors
/// When it is no YAML.
pub fn objects(manifest: &str) -> Result<Vec<Value>> {
    let documents = manifest.split("\n---\n");
    documents.map(|text| serde_saphyr::from_str(text).context("a manifest")).collect()
}
