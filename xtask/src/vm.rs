//! `cargo xtask vm`: runs a command of this checkout under another kernel.
//!
//! The guest sees this machine's whole file system: read-only by 9p, under an overlay whose writes
//! stay in the guest's memory. Only `target/vm/out` is shared for writing.

mod image;
mod initrd;
mod kernel;
mod machine;

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

pub(crate) use kernel::{Kernel, Tree};
pub(crate) use machine::{Machine, Running};

use crate::packages::{self, MACHINE};
use crate::repo::Repo;

/// What the machine is to be like.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Debian kernel to boot
    #[arg(long, value_enum)]
    pub(crate) kernel: Kernel,
    /// Make guest time count instructions (1 ns each), on one processor: a ruler without noise
    #[arg(long)]
    pub(crate) icount: bool,
    /// Processors; 1 with --icount
    #[arg(long, default_value_t = 2)]
    pub(crate) smp: u32,
    /// Memory in MiB; the guest's temporary files lie in it too
    #[arg(long, default_value_t = 3072)]
    pub(crate) mem: u32,
    /// Seconds until the machine is switched off
    #[arg(long, default_value_t = 1800)]
    pub(crate) timeout: u64,
}

impl Options {
    /// A machine with this kernel and the defaults of the command line.
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self { kernel, icount: false, smp: 2, mem: 3072, timeout: 1800 }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Runs `command` in a machine, with this terminal's output; returns its exit status.
pub(crate) fn run(repo: &Repo, options: &Options, command: &[String]) -> Result<ExitCode> {
    let mut running = start(repo, options, command)?;
    let mut stdout = running.stdout()?;
    let copy = thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::stdout()));
    let status = running.wait()?;
    // The machine is gone, so the pipe is at its end.
    if let Ok(copied) = copy.join() {
        copied?;
    }
    std::io::stdout().flush()?;
    Ok(ExitCode::from(status))
}

/// Fetches the kernel if needed and boots; the command's stdout is to be read by the caller.
pub(crate) fn start(repo: &Repo, options: &Options, command: &[String]) -> Result<Running> {
    if command.is_empty() {
        bail!("no command: cargo xtask vm --kernel 5.10 -- COMMAND...");
    }
    let tree = prepare(repo, options.kernel)?;
    let image = image::bootable(&tree)?;
    let initrd = initrd::pack(&tree)?;
    Machine { repo, options, tree: &tree, image: &image, initrd: &initrd }.start(command)
}

/// Makes sure of QEMU and the kernel.
///
/// # Errors
/// When they can't be had here.
pub(crate) fn prepare(repo: &Repo, kernel: Kernel) -> Result<Tree> {
    packages::ensure(MACHINE)?;
    kernel::fetch(repo, kernel)
}
