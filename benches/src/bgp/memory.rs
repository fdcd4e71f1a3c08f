//! What the kernel says of a process' memory.

use std::fs;

use anyhow::{Context, Result};

/// Resident memory in KiB (proc(5), status).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Now.
    pub(super) now_kib: u64,
    /// The most it has been.
    pub(super) peak_kib: u64,
}

/// That of a process.
///
/// # Errors
/// When there is no such process.
pub(super) fn of(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    read(&text).with_context(|| format!("{path} tells no memory"))
}

fn read(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().trim_end_matches(" kB").parse().ok()
    };
    Some(Memory { now_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_status() {
        let text = "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t   12 kB\nVmRSS:\t    7 kB\n";
        assert_eq!(read(text), Some(Memory { now_kib: 7, peak_kib: 12 }));
        assert_eq!(read("Name:\tkthread\n"), None);
        assert!(of(std::process::id().cast_signed()).unwrap().now_kib > 0);
    }
}
