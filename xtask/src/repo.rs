//! Where things lie in the repository. Every verb asks here; no path is spelled elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// File name of the BPF object under `target/`; the dataplane crate embeds it.
const OBJECT: &str = "sluice-ebpf.o";

/// Package and binary that the kernel programs are built from.
pub(crate) const PROGRAMS: &str = "sluice-programs";

/// The checkout.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    root: PathBuf,
}

impl Repo {
    /// Finds the checkout this xtask was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("xtask lies at the root of the repository")?;
        Ok(Self { root: root.canonicalize().with_context(|| format!("no {}", root.display()))? })
    }

    /// The workspace's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Where the object lies once built.
    pub(crate) fn object(&self) -> PathBuf {
        self.target().join(OBJECT)
    }

    /// Target folder of the kernel programs: a second compiler works there, and sharing a folder
    /// would make each rebuild the other's work.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target().join("ebpf")
    }

    /// Kernels, initrds and run folders of virtual machines.
    pub(crate) fn vm(&self) -> PathBuf {
        self.target().join("vm")
    }

    /// Binaries of the real Kubernetes and etcd.
    pub(crate) fn kubernetes(&self) -> PathBuf {
        self.target().join("kubernetes/bin")
    }

    /// A binary of the profile that tests are built with.
    pub(crate) fn development(&self, name: &str) -> PathBuf {
        self.target().join("debug").join(name)
    }

    /// A release binary.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }
}
