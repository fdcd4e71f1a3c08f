//! Owns the nodes' cgroups: all processes of a node are in one of its own, so that programs that an
//! agent attaches there see the sockets of that node's processes and of no other's.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Where the kernel lists mounts (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";
/// A cgroup stays busy for a moment after the end of its last process.
const BUSY: Duration = Duration::from_secs(2);

/// The folder on which cgroup v2 is mounted.
#[must_use]
pub(super) fn root() -> Option<PathBuf> {
    mounted(&fs::read_to_string(MOUNTS).ok()?)
}

/// Field 5 is the mount point; the type follows a lone hyphen.
fn mounted(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Makes the cgroup `name`.
///
/// # Errors
/// When cgroup v2 is not mounted, or without the right to.
pub(super) fn create(name: &str) -> Result<PathBuf> {
    let path = root().context("cgroup v2 is not mounted")?.join(name);
    fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
    Ok(path)
}

/// Removes a cgroup whose processes have ended.
///
/// # Errors
/// When some have not.
pub(super) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                sleep(Duration::from_millis(5));
            }
            result => {
                return result.with_context(|| format!("remove cgroup {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_v2_is_found_beside_v1() {
        let mounts = "40 31 0:37 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("40 31 0:37 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
