//! Owns network namespaces: making them under a name, entering them, running `ip` in them.
//!
//! Entering is `setns(2)` on a thread of its own, never `ip netns exec`: that one mounts a new
//! /sys, in which neither bpffs nor cgroups are seen.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::registry;
use super::topology::HOST_SYSCTLS;

/// A network namespace with a name. Clones are the same namespace; removal is the registry's.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace, named by the new file `path`, with its loopback up.
    ///
    /// # Errors
    /// Without the right to, or when the name is taken.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("make a network namespace (root is needed)")?;
            let none = None::<&str>;
            mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)
                .with_context(|| format!("mount the namespace on {}", path.display()))
        })??;
        let netns = Self::open(path)?;
        netns.sysctl(HOST_SYSCTLS, false)?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Opens a namespace that has a name.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path);
        let file = file.with_context(|| format!("open network namespace {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, path: path.to_owned(), file: Arc::new(file) })
    }

    /// Takes the name away; the namespace goes with its last process and socket.
    ///
    /// # Errors
    /// When it has been removed already.
    pub fn remove(self) -> Result<()> {
        registry::unname(&self.path)
    }

    /// The last part of its path: the name of a node, or `pod-` and that of a pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it (for `nsenter --net=`, CNI_NETNS).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace; threads and processes it starts follow.
    ///
    /// # Errors
    /// Without the right to.
    pub fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", self.name))
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When the namespace can't be entered or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Runs lines of `ip` (`ip -batch`) in the namespace; stops at the first that fails.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, script: &str) -> Result<()> {
        self.run(|| {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("run `ip` (Debian package iproute2)")?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(script.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("ip in {}: {}\n{script}", self.name, said.trim());
            }
            Ok(())
        })?
    }

    /// Writes kernel parameters below `/proc/sys/net`. One that this kernel does not have is left
    /// out if `optional` says so.
    ///
    /// # Errors
    /// When one can't be written.
    pub fn sysctl(&self, settings: &[(&str, &str)], optional: bool) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                if optional && !path.exists() {
                    continue;
                }
                fs::write(&path, value)
                    .with_context(|| format!("write {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }
}

/// Runs `work` on a thread of its own, so that a change of namespace stays there.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        anyhow!("work in a namespace panicked: {}", text.unwrap_or_default())
    })
}
