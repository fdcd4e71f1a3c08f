//! Owns where the real Kubernetes and etcd are: binaries that `cargo xtask setup --kubernetes` built
//! into `target/kubernetes/bin`. Who needs one that is not there says so, and how to get it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Variable that names another folder of binaries.
const FOLDER: &str = "SLUICE_KUBERNETES";
/// Folder of the binaries below cargo's target folder.
const BUILT: &str = "kubernetes/bin";

/// What the real API needs, and what its tests do to it.
pub const API: [&str; 5] =
    ["etcd", "etcdctl", "etcdutl", "kube-apiserver", "kube-controller-manager"];
/// The proxy that the matrix is held against.
pub const PROXY: &str = "kube-proxy";

/// The binary of this name.
///
/// # Errors
/// When it is not there; the error says how to get it.
pub fn find(name: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!("no {name} at {}: cargo xtask setup --kubernetes", path.display());
    }
    Ok(path)
}

/// Why what needs these binaries can't run here; `None` when all are there.
#[must_use]
pub fn missing(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| find(name).err()).map(|error| format!("{error:#}"))
}

/// As told, or below the target folder that this program was built into: it lies in `PROFILE/`, a
/// test in `PROFILE/deps/`.
fn folder() -> Result<PathBuf> {
    if let Some(told) = std::env::var_os(FOLDER) {
        return Ok(told.into());
    }
    let own = std::env::current_exe().context("own program")?;
    let found = own.ancestors().skip(2).take(2).map(|dir| dir.join(BUILT)).find(|dir| dir.is_dir());
    let missing = || format!("no {BUILT} near {}: cargo xtask setup --kubernetes", own.display());
    found.as_deref().map(Path::to_owned).with_context(missing)
}
