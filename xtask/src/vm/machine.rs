//! One run of QEMU: its arguments, the folder it shares with the guest, its output and its end.
//!
//! The command's stdout and stderr come through two virtio ports, its exit status through a file in
//! the run's folder, the kernel's messages through a serial line into `console.log` there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Options;
use super::kernel::Tree;
use crate::process::{line, quote};
use crate::repo::Repo;

/// The guest's process 1 after the initrd.
const START: &str = include_str!("start.sh");
/// How often the end of a machine is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Variables that reach the guest's command as they are here.
const KEPT: &[&str] = &["PATH", "HOME", "LANG", "RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"];

/// A machine that is to be booted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    /// The checkout, visible in the guest at the same path.
    pub(crate) repo: &'a Repo,
    /// Processors, memory and clock.
    pub(crate) options: &'a Options,
    /// The kernel.
    pub(crate) tree: &'a Tree,
    /// Its bootable image.
    pub(crate) image: &'a Path,
    /// Its initrd.
    pub(crate) initrd: &'a Path,
}

impl Machine<'_> {
    /// Boots and runs `command` in the repository's root.
    pub(crate) fn start(&self, command: &[String]) -> Result<Running> {
        let out = self.repo.vm().join("out");
        // One process may run one of each kernel at once.
        let name = format!("{}-{}", std::process::id(), self.options.kernel.name());
        let folder = self.repo.vm().join("run").join(name);
        fs::create_dir_all(&out)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("start.sh"), self.start_script())?;
        fs::write(folder.join("command.sh"), self.command_script(command))?;

        let mut qemu = self.qemu(&folder, &out);
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", line(&qemu)))?;
        let mut stderr = child.stderr.take().context("QEMU's stderr is a pipe")?;
        let errors = thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let end = Instant::now() + self.options.timeout();
        Ok(Running { child, folder, errors, end })
    }

    fn start_script(&self) -> String {
        let repository = self.repo.root().to_string_lossy();
        let variables = [
            ("repository", repository.to_string()),
            ("modules", self.tree.modules().to_string_lossy().into_owned()),
            ("release", self.tree.release.clone()),
            // A checkout under /tmp must not be hidden.
            ("tmpfs", if repository.starts_with("/tmp/") { "no" } else { "yes" }.to_owned()),
        ];
        let mut script = String::new();
        for (name, value) in variables {
            script += &format!("{name}={}\n", quote(&value));
        }
        script + START
    }

    fn command_script(&self, command: &[String]) -> String {
        let mut script = format!("export SLUICE_VM={}\n", self.options.kernel.name());
        for name in KEPT {
            if let Ok(value) = std::env::var(name) {
                script += &format!("export {name}={}\n", quote(&value));
            }
        }
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        script + "exec " + &words.join(" ") + "\n"
    }

    fn qemu(&self, folder: &Path, out: &Path) -> Command {
        let options = self.options;
        // Should this process be killed, the machine goes with it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args([
            "-machine",
            "q35",
            "-nic",
            "none",
            "-cpu",
            "max,la57=off",
            "-m",
            &options.mem.to_string(),
        ]);
        if options.icount {
            // One instruction is one nanosecond, and a sleeping guest's clock jumps to its next timer.
            qemu.args(["-accel", "tcg,thread=single", "-smp", "1"]);
            qemu.args(["-icount", "shift=0,align=off,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi", "-smp", &options.smp.to_string()]);
        }
        qemu.arg("-kernel").arg(self.image).arg("-initrd").arg(self.initrd);
        qemu.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1"]);
        qemu.args(["-serial", &format!("file:{}", comma(&folder.join("console.log")))]);
        let share = |path: &Path, tag: &str, more: &str| {
            format!("local,path={},mount_tag={tag},security_model=none{more}", comma(path))
        };
        qemu.args(["-virtfs", &share(Path::new("/"), "host", ",readonly=on,multidevs=remap")]);
        qemu.args(["-virtfs", &share(folder, "run", "")]);
        qemu.args(["-virtfs", &share(out, "out", "")]);
        qemu.args(["-device", "virtio-serial-pci"]);
        for stream in ["stdout", "stderr"] {
            qemu.args(["-chardev", &format!("file,id={stream},path=/dev/{stream}")]);
            qemu.args(["-device", &format!("virtserialport,chardev={stream},name={stream}")]);
        }
        qemu
    }
}

/// A path as QEMU's options want it: a comma is doubled.
fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A booted machine.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
    errors: JoinHandle<std::io::Result<u64>>,
    end: Instant,
}

impl Running {
    /// The command's stdout; to be taken once, and read to its end.
    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("the output was taken already")
    }

    /// Waits for the end of the machine; returns the exit status of the command.
    ///
    /// # Errors
    /// When time ran out or the guest died, with its last words.
    pub(crate) fn wait(mut self) -> Result<u8> {
        let in_time = loop {
            if self.child.try_wait()?.is_some() {
                break true;
            }
            if Instant::now() >= self.end {
                self.child.kill()?;
                self.child.wait()?;
                break false;
            }
            thread::sleep(POLL);
        };
        let _ = self.errors.join();
        let status = fs::read_to_string(self.folder.join("status"));
        match status.ok().and_then(|text| text.trim().parse().ok()) {
            Some(status) => {
                fs::remove_dir_all(&self.folder)?;
                Ok(status)
            }
            None if in_time => bail!("the machine ended early. {}", last_words(&self.folder)),
            None => bail!("the machine ran out of time. {}", last_words(&self.folder)),
        }
    }
}

/// The end of the kernel's messages.
fn last_words(folder: &Path) -> String {
    let path = folder.join("console.log");
    let log = fs::read(&path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    format!("Its console ({}) ends:\n{tail}", path.display())
}
