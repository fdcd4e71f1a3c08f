//! Takes away all that this data plane leaves on a node, and nothing else: what [`crate::Dataplane`]
//! keeps beyond its own end, whatever version made it.
//!
//! | what | how it is known | how it goes |
//! |---|---|---|
//! | programs on interfaces and at the cgroup, by links | pinned under `BPF_DIR/vN/links` | with their pins |
//! | programs on interfaces, by clsact | filters of priority 92 and handle 0:92 | one by one |
//! | maps | pinned under `BPF_DIR/vN/maps` | with their pins |
//! | a bpf file system of our own | mounted at `BPF_DIR` from `sluice` | unmounted |
//! | ports of translated sources | the one range in `ip_local_reserved_ports` | taken out |
//!
//! A clsact qdisc stays, since it may be somebody else's, too, as does an `rp_filter` that was made
//! loose: what it was before is not known any more.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::umount;
use tokio::runtime::Builder;

use crate::Error;
use crate::interfaces::scan;
use crate::links::detach_all;
use crate::object::{failed, layouts};
use crate::settings::release_ports;

/// Removes everything; what was there, one line each. No agent may be running.
///
/// # Errors
/// A pin, mount or setting that cannot be removed, or netlink refuses.
pub fn cleanup(bpf_dir: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::netlink("start the event loop", error))?;
    for interface in runtime.block_on(scan("", None))?.interfaces {
        let filters = detach_all(&interface.name);
        if filters > 0 {
            removed.push(format!("{filters} filters on {}", interface.name));
        }
    }
    if bpf_dir.exists() {
        for pins in layouts(bpf_dir)? {
            fs::remove_dir_all(&pins).map_err(failed("remove", &pins))?;
            removed.push(format!("programs and maps pinned in {}", pins.display()));
        }
        if is_own_mount(bpf_dir) {
            umount(bpf_dir).map_err(|errno| failed("unmount", bpf_dir)(errno.into()))?;
            removed.push(format!("the bpf file system at {}", bpf_dir.display()));
        }
        match fs::remove_dir(bpf_dir) {
            Ok(()) => removed.push(bpf_dir.display().to_string()),
            // Others have something there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(failed("remove", bpf_dir)(error)),
        }
    }
    if release_ports()? {
        removed.push("ports of translated sources in ip_local_reserved_ports".into());
    }
    Ok(removed)
}

/// Whether a bpf file system of ours is mounted there.
fn is_own_mount(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.to_string_lossy();
    mounts.lines().any(|line| line.starts_with(&format!("sluice {folder} bpf ")))
}
