//! Settings of the kernel's connection tracking at start, as kube-proxy makes them (R57). Sluice's own
//! flows are not the kernel's, but what a node forwards beside services is, and nodes are sized by this.
//!
//! What is to be written is decided by a pure function over what can be read.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use tracing::{info, warn};

/// `--conntrack-max-per-core`, `--conntrack-min` and the bound of kube-proxy.
const MOST_PER_CPU: u64 = 32_768;
const LEAST: u64 = 131_072;
const MOST: u64 = 1_048_576;
/// Connections in one bucket of the hash table on average, when it is full.
const PER_BUCKET: u64 = 4;
/// `--conntrack-tcp-timeout-established` and `--conntrack-tcp-timeout-close-wait`.
const ESTABLISHED_S: u64 = 86_400;
const CLOSE_WAIT_S: u64 = 3_600;

/// A setting of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// Connections at most; the machine's, not a namespace's.
    Maximum,
    /// Buckets of the hash table; the machine's as well.
    Buckets,
    /// Time-out of established TCP, seconds.
    Established,
    /// Time-out of TCP that one side has closed, seconds.
    CloseWait,
}

/// All of them, in the order in which they are written: the table grows before what goes into it.
const SETTINGS: [Setting; 4] =
    [Setting::Buckets, Setting::Maximum, Setting::Established, Setting::CloseWait];

impl Setting {
    fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Maximum => "/proc/sys/net/netfilter/nf_conntrack_max",
            Self::Buckets => "/sys/module/nf_conntrack/parameters/hashsize",
            Self::Established => "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established",
            Self::CloseWait => "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait",
        })
    }

    /// What it is to be, from what it is; `None` where nothing is to be done.
    fn wanted(self, now: u64, cpus: u64) -> Option<u64> {
        let maximum = (MOST_PER_CPU * cpus).clamp(LEAST, MOST);
        match self {
            // Never lowered: somebody may have raised them.
            Self::Maximum => (now < maximum).then_some(maximum),
            Self::Buckets => (now < maximum / PER_BUCKET).then_some(maximum / PER_BUCKET),
            Self::Established => (now != ESTABLISHED_S).then_some(ESTABLISHED_S),
            Self::CloseWait => (now != CLOSE_WAIT_S).then_some(CLOSE_WAIT_S),
        }
    }
}

/// What is to be written; `read` gives a setting that is there and that this network namespace may
/// change.
fn plan(cpus: u64, read: impl Fn(Setting) -> Option<u64>) -> Vec<(Setting, u64)> {
    // The buckets are a file of the machine that every namespace sees: whoever may not change the
    // maximum has no say in them.
    let of_machine = read(Setting::Maximum).is_some();
    let own = |setting: &Setting| *setting != Setting::Buckets || of_machine;
    let settings = SETTINGS.into_iter().filter(own);
    settings.filter_map(|setting| Some((setting, setting.wanted(read(setting)?, cpus)?))).collect()
}

fn read(setting: Setting) -> Option<u64> {
    let path = setting.path();
    // In a namespace the machine's settings are there, but for nobody to write
    // (net/netfilter/nf_conntrack_standalone.c).
    let writable = fs::metadata(path).ok()?.permissions().mode() & 0o200 != 0;
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|_| writable)
}

/// Makes the settings. Where connection tracking is not loaded there are none, and nothing is done; one
/// that the kernel refuses is told, and harms no service.
pub fn settle() {
    let cpus = available_parallelism().map_or(1, NonZeroUsize::get) as u64;
    for (setting, value) in plan(cpus, read) {
        let path: PathBuf = setting.path().into();
        match write(&path, value) {
            Ok(()) => info!(path = %path.display(), value, "connection tracking"),
            Err(fault) => warn!(path = %path.display(), value, %fault, "connection tracking stays"),
        }
    }
}

fn write(path: &Path, value: u64) -> io::Result<()> {
    fs::write(path, value.to_string())
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn r57_the_maximum_is_raised_by_processors_and_never_lowered() {
        for (cpus, now, expected) in [
            (1, 65_536, Some(131_072)),
            (2, 65_536, Some(131_072)),
            (8, 131_072, Some(262_144)),
            (64, 262_144, Some(1_048_576)),
            (8, 262_144, None),
            (2, 9_000_000, None),
        ] {
            assert_eq!(Setting::Maximum.wanted(now, cpus), expected, "{cpus} {now}");
            let buckets = Setting::Buckets.wanted(now / 4, cpus);
            assert_eq!(buckets, expected.map(|maximum| maximum / 4), "{cpus} {now}");
        }
    }

    #[test]
    fn r57_only_what_is_there_and_ones_own_is_changed() {
        use Setting::{Buckets, CloseWait, Established, Maximum};
        let all = plan(2, |_| Some(1));
        let written =
            [(Buckets, 32_768), (Maximum, 131_072), (Established, 86_400), (CloseWait, 3_600)];
        assert_eq!(all, written);
        // A namespace of its own: the buckets can be read, but not the maximum be changed.
        let own = plan(2, |setting| (setting != Maximum).then_some(1));
        assert_eq!(own, [(Established, 86_400), (CloseWait, 3_600)]);
        assert_eq!(plan(2, |_| None), []);
        let done = |setting| Some(if setting == CloseWait { 3_600 } else { 86_400 });
        assert_eq!(plan(2, |setting| done(setting).filter(|_| setting != Maximum)), []);
    }

    /// In a namespace: its own times are set, the machine's size is not touched.
    #[test]
    fn r57_the_kernel_takes_them() {
        if !nix::unistd::geteuid().is_root() || !Setting::CloseWait.path().exists() {
            println!("SKIP: needs root and a kernel with connection tracking");
            return;
        }
        let of = |setting: Setting| fs::read_to_string(setting.path()).unwrap_or_default();
        let machine = (of(Setting::Maximum), of(Setting::Buckets));
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        fs::write(Setting::CloseWait.path(), "60").expect("a namespace's own");
        settle();
        assert_eq!(of(Setting::CloseWait).trim(), "3600");
        assert_eq!(of(Setting::Established).trim(), "86400");
        assert_eq!((of(Setting::Maximum), of(Setting::Buckets)), machine);
    }
}
