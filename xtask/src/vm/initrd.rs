//! The first programs of a guest: busybox, the modules that reach the host's file system, and the
//! script that mounts it and leaves for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Tree;
use crate::process;

/// Modules without which the host's files and the command's output can't be reached; the rest is
/// loaded by the kernel itself from the host's file system.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Run by the kernel as process 1.
const INIT: &str = include_str!("init.sh");

/// Packs the initrd of a kernel; returns its path.
pub(crate) fn pack(tree: &Tree) -> Result<PathBuf> {
    let folder = tree.folder.join("initrd");
    let packed = tree.folder.join("initrd.cpio");
    let init = folder.join("init");
    if packed.is_file() && fs::read_to_string(&init).is_ok_and(|old| old == INIT) {
        return Ok(packed);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    for part in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "root"] {
        fs::create_dir_all(folder.join(part))?;
    }
    fs::copy(busybox()?, folder.join("bin/busybox")).context("copying busybox")?;
    for (number, module) in modules(tree)?.iter().enumerate() {
        copy_module(module, &folder.join("modules"), number)?;
    }
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let half = packed.with_extension("new");
    let pack = "find . | cpio --quiet -o -H newc >\"$0\"";
    process::run(Command::new("sh").args(["-c", pack]).arg(&half).current_dir(&folder))?;
    fs::rename(half, &packed)?;
    Ok(packed)
}

fn busybox() -> Result<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .context("no busybox: install busybox-static")
}

/// Module files in the order they have to be loaded, each once.
fn modules(tree: &Tree) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for module in MODULES {
        let listing = process::read(Command::new("modprobe").arg("-d").arg(tree.root()).args([
            "-S",
            &tree.release,
            "--show-depends",
            module,
        ]))?;
        for file in to_load(&listing) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Paths in what `modprobe --show-depends` prints; what is built in needs no loading.
fn to_load(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .map(|path| PathBuf::from(path.trim()))
        .collect()
}

/// Copies a module under a name that keeps the order, unpacked: busybox does not unpack.
fn copy_module(from: &Path, folder: &Path, number: usize) -> Result<()> {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".xz").unwrap_or(&name);
    let to = folder.join(format!("{number:02}-{plain}"));
    if plain == name {
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        return Ok(());
    }
    let file = fs::File::create(&to)?;
    process::run(Command::new("xz").arg("-dc").arg(from).stdout(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_modules_are_not_loaded() {
        let listing = "builtin virtio\ninsmod /m/kernel/net/9p/9pnet.ko \ninsmod /m/9p.ko.xz\n";
        assert_eq!(
            to_load(listing),
            [PathBuf::from("/m/kernel/net/9p/9pnet.ko"), PathBuf::from("/m/9p.ko.xz")]
        );
    }
}
