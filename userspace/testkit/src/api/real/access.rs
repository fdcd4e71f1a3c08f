//! Owns who may come to a real API server, and by which kubeconfig: users with tokens of a file, and
//! service accounts with tokens that are asked for later.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// May do everything.
pub const ADMIN: &str = "admin";
/// The user that Kubernetes' own role for kube-proxy is bound to.
pub const KUBE_PROXY: &str = "system:kube-proxy";

/// Users and their groups.
const USERS: [(&str, &str); 2] = [(ADMIN, "system:masters"), (KUBE_PROXY, "")];

/// The ways into an API server.
#[derive(Clone, Debug)]
pub struct Access {
    address: SocketAddr,
    authority: PathBuf,
    tokens: Vec<(&'static str, String)>,
    file: PathBuf,
}

impl Access {
    pub(super) fn make(dir: &Path, address: SocketAddr, authority: PathBuf) -> Result<Self> {
        let (file, mut lines, mut tokens) = (dir.join("users.csv"), String::new(), Vec::new());
        for (user, group) in USERS {
            let token = format!("{:032x}", rand::random::<u128>());
            let _ = writeln!(lines, "{token},{user},{user},\"{group}\"");
            tokens.push((user, token));
        }
        fs::write(&file, lines).with_context(|| format!("write {}", file.display()))?;
        Ok(Self { address, authority, tokens, file })
    }

    /// The file of users, as kube-apiserver takes it.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// A kubeconfig of one of the file's users; the server as it is seen at `from`, or in its own
    /// namespace.
    #[must_use]
    pub fn user(&self, user: &str, from: Option<SocketAddr>) -> String {
        let known = self.tokens.iter().find(|(name, _)| *name == user);
        let token = known.map(|(_, token)| token.as_str()).unwrap_or_default();
        self.kubeconfig(from, &json!({ "token": token }))
    }

    /// A kubeconfig of whoever's token is in a file, which may change.
    #[must_use]
    pub fn by_file(&self, token: &Path) -> String {
        self.kubeconfig(None, &json!({ "tokenFile": token }))
    }

    fn kubeconfig(&self, from: Option<SocketAddr>, user: &Value) -> String {
        let server = format!("https://{}", from.unwrap_or(self.address));
        let cluster = json!({ "server": server, "certificate-authority": self.authority });
        kubeconfig(&cluster, user)
    }
}

/// A kubeconfig with one cluster and one user.
#[must_use]
pub fn kubeconfig(cluster: &Value, user: &Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sluice",
        "clusters": [{ "name": "sluice", "cluster": cluster }],
        "users": [{ "name": "sluice", "user": user }],
        "contexts": [{ "name": "sluice", "context": { "cluster": "sluice", "user": "sluice" } }],
    });
    format!("{config:#}\n")
}
