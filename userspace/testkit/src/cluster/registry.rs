//! Owns the marks of a cluster: its id, the folder that says what it made, and the removal of it
//! all, in the same way after a clean end and, by a later run, after a crash.
//!
//! A cluster's id is `sl<pid>`. Its network namespaces are mounted in its folder, `<id>/netns/`: not
//! in /run/netns, which `ip netns add` may mount once more over itself, so that names in it can't be
//! removed. Its pins lie in `/sys/fs/bpf/sluice-<id>-*`, cgroups have such names, too; its processes are listed with their start
//! times. The folder's lock is held by the owner and let go by the kernel when
//! the owner dies, however it dies: a folder whose lock is free is a leftover.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup;

/// Folder of the network namespaces' names, below a cluster's own.
const NETNS_DIR: &str = "netns";
/// Where BPF objects are pinned.
const BPF_DIR: &str = "/sys/fs/bpf";
/// How long a killed process may take to go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The claim on an id and its folder. Dropping it removes everything that carries the id.
#[derive(Debug)]
pub struct Claim {
    id: String,
    dir: PathBuf,
    processes: Mutex<File>,
    lock: Mutex<Option<Flock<File>>>,
}

impl Claim {
    /// Sweeps what dead owners left under `root` and takes an id of its own.
    ///
    /// # Errors
    /// When folders or locks under `root` can't be made.
    pub fn take(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        let _root =
            lock(&root.join("lock"), FlockArg::LockExclusive)?.context("lock of the registry")?;
        sweep_locked(root)?;
        let pid = std::process::id();
        for turn in 0..1000_u32 {
            let id = if turn == 0 { format!("sl{pid}") } else { format!("sl{pid}x{turn}") };
            let dir = root.join(&id);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e).with_context(|| format!("create {}", dir.display())),
            }
            let lock = lock(&dir.join("owner"), FlockArg::LockExclusiveNonblock)?
                .context("lock of a new folder")?;
            let processes =
                OpenOptions::new().create(true).append(true).open(dir.join("processes"))?;
            return Ok(Self {
                id,
                dir,
                processes: Mutex::new(processes),
                lock: Mutex::new(Some(lock)),
            });
        }
        bail!("no free id under {}", root.display())
    }

    /// The id, `sl<pid>`: the prefix of everything made.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder for state and logs; goes with the claim.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of the network namespace of `part` (a node, a pod).
    #[must_use]
    pub fn netns(&self, part: &str) -> PathBuf {
        self.dir.join(NETNS_DIR).join(part)
    }

    /// The folder below bpffs for `part` (a node).
    #[must_use]
    pub fn bpf_dir(&self, part: &str) -> PathBuf {
        Path::new(BPF_DIR).join(format!("{}{part}", mark(&self.id)))
    }

    /// The name of the cgroup of `part` (a node).
    #[must_use]
    pub fn cgroup(&self, part: &str) -> String {
        format!("{}{part}", mark(&self.id))
    }

    /// Notes a process, so that a later run can end it should this one crash.
    ///
    /// # Errors
    /// When the list can't be written.
    pub fn record(&self, pid: i32) -> Result<()> {
        let Some(started) = start_time(pid) else { return Ok(()) };
        let mut file = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{pid} {started}").context("note a process")
    }
}

impl Claim {
    /// Removes everything that carries the id and gives the claim back. Does nothing the second
    /// time. What fails is logged and left to a later run.
    pub fn release(&self) {
        let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        if let Err(e) = remove(&self.id, &self.dir) {
            tracing::warn!(
                "cluster {} is not removed in full, a later run will try again: {e:#}",
                self.id
            );
        }
        drop(lock);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// Removes what clusters of dead owners left. Returns their ids.
///
/// # Errors
/// When something that a dead owner left can't be removed.
pub fn sweep(root: &Path) -> Result<Vec<String>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let _root =
        lock(&root.join("lock"), FlockArg::LockExclusive)?.context("lock of the registry")?;
    sweep_locked(root)
}

/// Waits until the owner of `id` is gone, however it went, and removes what it left.
///
/// # Errors
/// When something can't be removed.
pub fn sweep_after(root: &Path, id: &str) -> Result<()> {
    let dir = root.join(id);
    if !dir.exists() {
        return Ok(());
    }
    let _owner = lock(&dir.join("owner"), FlockArg::LockExclusive)?.context("lock of the owner")?;
    if dir.exists() { remove(id, &dir) } else { Ok(()) }
}

fn sweep_locked(root: &Path) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() || !id.starts_with("sl") {
            continue;
        }
        if let Some(_owner) = lock(&entry.path().join("owner"), FlockArg::LockExclusiveNonblock)? {
            remove(&id, &entry.path())?;
            swept.push(id);
        }
    }
    Ok(swept)
}

/// `None`: somebody else holds it.
fn lock(path: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e).with_context(|| format!("lock {}", path.display())),
    }
}

/// Ends the listed processes, then removes namespaces, pins, cgroups and the folder. Devices, routes and
/// sockets go with their namespaces.
fn remove(id: &str, dir: &Path) -> Result<()> {
    let list = fs::read_to_string(dir.join("processes")).unwrap_or_default();
    end_processes(&list);
    // One that can't be removed must not keep the others.
    let namespaces = entries(&dir.join(NETNS_DIR), "")?.into_iter().map(|path| unname(&path));
    let pins = entries(Path::new(BPF_DIR), &mark(id))?.into_iter().map(|path| {
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
    });
    let cgroups = match cgroup::root() {
        Some(root) => entries(&root, &mark(id))?,
        None => Vec::new(),
    };
    let cgroups = cgroups.into_iter().map(|path| cgroup::remove(&path));
    let results: Vec<Result<()>> = namespaces.chain(pins).chain(cgroups).collect();
    results.into_iter().collect::<Result<()>>()?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// How names of what lies in folders shared with others begin.
fn mark(id: &str) -> String {
    format!("sluice-{id}-")
}

/// Takes the name of a network namespace away.
pub(super) fn unname(path: &Path) -> Result<()> {
    // EINVAL: a crash came between making the file and mounting on it.
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(e) => return Err(e).with_context(|| format!("unmount {}", path.display())),
    }
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

fn entries(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("read {}", dir.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn end_processes(list: &str) {
    let mut alive: Vec<(i32, u64)> =
        list.lines().filter_map(parse_process).filter(|p| lives(*p)).collect();
    for (pid, _) in &alive {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    while !alive.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
        alive.retain(|p| lives(*p));
    }
}

fn parse_process(line: &str) -> Option<(i32, u64)> {
    let (pid, started) = line.split_once(' ')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

/// Whether this very process runs: the pid may have gone to another since.
fn lives((pid, started): (i32, u64)) -> bool {
    start_time(pid) == Some(started)
}

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); `None` for one
/// that is gone or only waits for its parent.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2 is the name in parentheses and may hold anything; field 3 follows the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_owner_is_left_alone_and_a_dead_one_swept() {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(root.path()).unwrap();
        fs::create_dir(root.path().join("sl1")).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), ["sl1"]);
        assert!(claim.dir().exists() && !root.path().join("sl1").exists());
        let second = Claim::take(root.path()).unwrap();
        assert_ne!(claim.id(), second.id());
        let dir = claim.dir().to_owned();
        drop(claim);
        assert!(!dir.exists() && second.dir().exists());
    }

    #[test]
    fn only_the_recorded_process_is_ended_not_a_later_one_with_its_pid() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_time(pid).unwrap();
        end_processes(&format!("{pid} {}\nnonsense\n", started + 1));
        assert!(child.try_wait().unwrap().is_none());
        end_processes(&format!("{pid} {started}\n"));
        assert!(!child.wait().unwrap().success());
    }
}
