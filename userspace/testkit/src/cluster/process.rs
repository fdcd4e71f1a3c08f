//! Owns the processes of a cluster: started in a namespace, dying with their owner, ended only by
//! a pid that is certainly theirs.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::Netns;
use super::registry::Claim;

/// How much of a log is shown when something is wrong, bytes.
const LOG_TAIL: usize = 2000;

/// What to run. Standard output and error go to `log`, or to the owner's.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: Option<PathBuf>,
    pipe_stdout: bool,
    cgroup: Option<PathBuf>,
}

impl Spec {
    /// Runs `program`, found as a shell finds it.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Appends what it prints to a file.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Lets the owner read its standard output by [`Process::take_stdout`].
    #[must_use]
    pub fn pipe_stdout(mut self) -> Self {
        self.pipe_stdout = true;
        self
    }

    /// Runs in a cgroup (v2): its folder.
    #[must_use]
    pub fn cgroup(mut self, path: Option<&Path>) -> Self {
        self.cgroup = path.map(Path::to_owned);
        self
    }

    fn command(&self) -> Result<Command> {
        // sh and setpriv, which sets the parent-death signal, become the program: same pid
        // throughout. A 0 in that file moves the process that writes it.
        let mut command = match &self.cgroup {
            None => Command::new("setpriv"),
            Some(path) => {
                let mut command = Command::new("sh");
                let join = r#"echo 0 > "$0/cgroup.procs" && exec setpriv "$@""#;
                command.args(["-c", join]).arg(path);
                command
            }
        };
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.args);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        // A group of its own: Ctrl-C on the terminal is the owner's to handle.
        command.process_group(0).stdin(Stdio::null());
        if let Some(path) = &self.log {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("open {}", path.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        if self.pipe_stdout {
            command.stdout(Stdio::piped());
        }
        Ok(command)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that is parent of all processes: their parent-death signal comes when the *thread*
/// ends that started them, so it has to live as long as they should.
#[derive(Debug)]
pub struct Keeper {
    claim: Arc<Claim>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread; processes are noted in `claim`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(claim: Arc<Claim>) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            for job in todo {
                job();
            }
        })?;
        Ok(Self { claim, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Starts a process in a namespace.
    ///
    /// # Errors
    /// When it can't be started. A missing program shows as exit status 127.
    pub fn spawn(&self, netns: &Netns, spec: &Spec) -> Result<Process> {
        let (reply, answer) = mpsc::channel();
        let (netns, mut command) = (netns.clone(), spec.command()?);
        let job: Job = Box::new(move || {
            let child = netns
                .enter()
                .and_then(|()| command.spawn().context("run setpriv (package util-linux)"));
            let _ = reply.send(child);
        });
        self.jobs
            .as_ref()
            .context("keeper has ended")?
            .send(job)
            .map_err(|_| anyhow!("keeper has ended"))?;
        let mut child = answer.recv().context("keeper has ended")??;
        let pid = i32::try_from(child.id()).context("pid")?;
        self.claim.record(pid)?;
        let stdout = Mutex::new(child.stdout.take());
        Ok(Process { program: spec.program.clone(), pid, stdout, child: Mutex::new(child) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    pid: i32,
    stdout: Mutex<Option<ChildStdout>>,
    child: Mutex<Child>,
}

impl Process {
    /// Its id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The program, as it was asked for.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its standard output, once, if it was to be piped.
    #[must_use]
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends a signal. The pid can't be another's: it stays ours until it was waited for, which
    /// only happens under the same lock.
    ///
    /// # Errors
    /// With its exit status if it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.child();
        if let Some(status) = child.try_wait()? {
            return Err(anyhow!(
                "{} (pid {}) has ended: {status}",
                self.program.display(),
                self.pid
            ));
        }
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("{signal} to {}", self.pid))
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn status(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().context("wait for a process")
    }

    /// Waits for its end; `None` if it still runs after `timeout`.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn wait(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.status()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The end of a log, for an error that is about its process.
pub(crate) fn log_tail(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let mut start = log.len().saturating_sub(LOG_TAIL);
    while !log.is_char_boundary(start) {
        start += 1;
    }
    log.get(start..).unwrap_or_default().to_owned()
}

/// A process that outlives this one by a moment: it waits for the end of a claim's owner, however
/// that comes, and removes what is left then. Without it the next cluster would.
#[derive(Debug)]
pub(super) struct Janitor(Child);

impl Janitor {
    /// Starts `sluice-testkit sweep --after ID`.
    pub(super) fn start(testkit: &Path, state_root: &Path, claim: &Claim) -> Result<Self> {
        let mut command = Command::new(testkit);
        command.args(["sweep", "--after", claim.id(), "--state-root"]).arg(state_root);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("run {}", testkit.display()))?;
        Ok(Self(child))
    }
}

impl Drop for Janitor {
    /// It ends by itself once the claim is released.
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}
