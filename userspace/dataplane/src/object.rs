//! The BPF object: loads it over pinned maps, and knows the clock of the kernel.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, SYSFS_MAGIC, statfs};
use tracing::info;

use crate::{Error, sockets};

/// The object that `cargo xtask build-ebpf` made.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf.o"));

/// Maps that are pinned and adopted.
const MAPS: [&str; 17] = [
    "SERVICES4",
    "SERVICES6",
    "SLOTS",
    "BACKENDS",
    "CONNECTIONS",
    "CONFIG",
    "FLOWS4",
    "FLOWS6",
    "AFFINITIES4",
    "AFFINITIES6",
    "CONNECTED4",
    "CONNECTED6",
    "SOCKETS4",
    "SOCKETS6",
    "RANGES4",
    "RANGES6",
    "COUNTERS",
];
/// Programs that are attached.
pub(crate) const PROGRAMS: [&str; 4] = ["from_pod", "from_network", "to_pods", "to_network"];
/// Frequencies that Linux is built with (kernel/Kconfig.hz, and 24 to 1024 of other machines).
const FREQUENCIES: [u32; 8] = [24, 48, 100, 128, 250, 300, 1000, 1024];

/// A loaded object.
pub(crate) struct Object {
    pub(crate) ebpf: Ebpf,
    pub(crate) hz: u32,
    /// Writes what programs built with `cargo xtask build-ebpf --log` have recorded since the last call
    /// to the log; `None` for programs that record nothing.
    pub(crate) records: Option<Box<dyn FnMut() + Send>>,
    /// Why the programs at the cgroup can't be used, if so.
    pub(crate) sockets: Result<(), String>,
}

/// Where the kernel means a bpf file system to be, and systemd mounts one.
const USUAL: &str = "/sys/fs/bpf";

/// Folder of this layout's pins.
pub(crate) fn pins(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{}", sluice_abi::LAYOUT))
}

/// Removes what versions with other layouts have pinned: their programs leave the interfaces, their
/// maps go. Once this layout's maps are filled.
///
/// # Errors
/// A folder that cannot be read or removed.
pub(crate) fn remove_others(bpf_dir: &Path) -> Result<(), Error> {
    let own = pins(bpf_dir);
    for path in layouts(bpf_dir)?.into_iter().filter(|path| *path != own) {
        tracing::info!(path = %path.display(), "pins of another version are removed");
        fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// The folders of all layouts' pins.
pub(crate) fn layouts(bpf_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(bpf_dir).map_err(failed("read", bpf_dir))?.flatten();
    let is_layout = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('v')).map(str::parse::<u32>);
        matches!(number, Some(Ok(_)))
    };
    Ok(entries.filter(is_layout).map(|entry| entry.path()).collect())
}

/// Loads the programs over the pinned maps, which are created where they are missing.
///
/// # Errors
/// A folder that cannot be made, an object the kernel refuses.
pub(crate) fn load(bpf_dir: &Path, flow_entries: u32) -> Result<Object, Error> {
    let hz = frequency()?;
    let pins = pins(bpf_dir);
    prepare(bpf_dir, &pins)?;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("FLOWS4", flow_entries)
        .map_max_entries("FLOWS6", flow_entries)
        .override_global("HZ", &hz, true);
    for name in MAPS {
        loader.map_pin_path(name, pins.join("maps").join(name));
    }
    let mut ebpf = parse(&mut loader)?;
    for name in PROGRAMS.into_iter().chain(["clock"]) {
        classifier(&mut ebpf, name)?.load().map_err(|error| refused(name, error))?;
    }
    let records = match EbpfLogger::init(&mut ebpf) {
        Ok(mut logger) => {
            tracing::warn!(
                "the programs record every packet: built with --log, not for production"
            );
            Some(Box::new(move || logger.flush()) as Box<dyn FnMut() + Send>)
        }
        Err(aya_log::Error::MapNotFound) => None,
        Err(error) => return Err(refused("the log of the programs", error)),
    };
    // Now, while the maps they refer to are all open.
    let sockets = sockets::load(&mut ebpf).map_err(|error| error.to_string());
    Ok(Object { ebpf, hz, records, sockets })
}

/// A loader for a moment: its maps would take 100 MB at their full size.
fn small() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    for name in MAPS.into_iter().filter(|name| !["CONFIG", "COUNTERS"].contains(name)) {
        loader.map_max_entries(name, 1);
    }
    loader
}

/// Loads the programs without pinning or attaching anything.
pub(crate) fn try_load() -> Result<(), String> {
    let mut ebpf = parse(&mut small()).map_err(|error| error.to_string())?;
    for name in PROGRAMS {
        let loaded = classifier(&mut ebpf, name).map(SchedClassifier::load);
        loaded.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// As [`try_load`], the programs at the cgroup.
pub(crate) fn try_load_sockets() -> Result<(), String> {
    let mut ebpf = parse(&mut small()).map_err(|error| error.to_string())?;
    sockets::load(&mut ebpf).map_err(|error| error.to_string())
}

/// Reads the low 32 bits of jiffies, the clock of the flow table.
pub(crate) fn jiffies(clock: &SchedClassifier) -> Result<u32, Error> {
    // The least the kernel takes for a packet.
    let packet = [0_u8; 14];
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    let result = clock.test_run(options).map_err(|error| refused("clock", error))?;
    Ok(result.return_value)
}

/// Jiffies a second, measured: no file tells it on every kernel, and programs cannot know.
fn frequency() -> Result<u32, Error> {
    let mut ebpf = parse(&mut small())?;
    let clock = classifier(&mut ebpf, "clock")?;
    clock.load().map_err(|error| refused("clock", error))?;
    let (start, before) = (Instant::now(), jiffies(clock)?);
    thread::sleep(Duration::from_millis(200));
    let (after, elapsed) = (jiffies(clock)?, start.elapsed());
    let measured = f64::from(after.wrapping_sub(before)) / elapsed.as_secs_f64();
    let nearest = FREQUENCIES.into_iter().min_by(|a, b| {
        let distance = |hz: u32| (f64::from(hz) / measured).ln().abs();
        distance(*a).total_cmp(&distance(*b))
    });
    Ok(nearest.unwrap_or(250))
}

fn parse(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, Error> {
    loader.load(OBJECT).map_err(|error| refused("the BPF object", error))
}

/// A classifier of a loaded object.
pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .ok_or_else(|| refused(name, "not in the object"))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| refused(name, error))
}

/// What a failed operation on a file or folder is told as.
pub(crate) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

fn refused(
    object: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Load { object, source: source.into() }
}

/// Makes the folders, on a bpf file system of our own where there is none.
fn prepare(bpf_dir: &Path, pins: &Path) -> Result<(), Error> {
    if bpf_dir.starts_with(USUAL) {
        mount_usual().map_err(failed("mount a bpf file system on", Path::new(USUAL)))?;
    }
    fs::create_dir_all(bpf_dir).map_err(failed("create", bpf_dir))?;
    let mounted = statfs(bpf_dir).map_err(|errno| failed("inspect", bpf_dir)(errno.into()))?;
    if mounted.filesystem_type() != BPF_FS_MAGIC {
        let none: Option<&str> = None;
        mount(Some("sluice"), bpf_dir, Some("bpf"), MsFlags::empty(), none)
            .map_err(|errno| failed("mount a bpf file system on", bpf_dir)(errno.into()))?;
    }
    for folder in ["maps", "links"] {
        let path = pins.join(folder);
        fs::create_dir_all(&path).map_err(failed("create", &path))?;
    }
    Ok(())
}

/// Mounts the bpf file system that others look for, too, where none has: sysfs takes no folders. It
/// stays, as that of systemd does. One at a time: a second mount would hide the first's pins.
fn mount_usual() -> io::Result<()> {
    let is_missing = || Ok::<_, Errno>(statfs(USUAL)?.filesystem_type() == SYSFS_MAGIC);
    if !is_missing()? {
        return Ok(());
    }
    let below = File::open(USUAL)?;
    below.lock()?;
    if is_missing()? {
        let none: Option<&str> = None;
        mount(Some("bpf"), USUAL, Some("bpf"), MsFlags::empty(), none)?;
        info!(folder = USUAL, "mounted a bpf file system");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, umount2};
    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn the_usual_file_system_is_mounted_once_where_it_is_missing() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP: mounts need root");
            return;
        }
        let mounts = || {
            let all = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            all.lines().filter(|line| line.contains(" /sys/fs/bpf bpf ")).count()
        };
        let thread = thread::spawn(move || {
            let none: Option<&str> = None;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            while mounts() > 0 {
                umount2(USUAL, MntFlags::MNT_DETACH).unwrap();
            }
            let folder = Path::new("/sys/fs/bpf/sluice-test");
            assert!(fs::create_dir(folder).is_err());
            prepare(folder, &pins(folder)).unwrap();
            assert_eq!(statfs(USUAL).unwrap().filesystem_type(), BPF_FS_MAGIC);
            prepare(folder, &pins(folder)).unwrap();
            assert!(pins(folder).join("maps").is_dir());
            mounts()
        });
        assert_eq!(thread.join().unwrap(), 1);
    }
}
