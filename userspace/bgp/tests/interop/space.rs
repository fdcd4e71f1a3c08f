//! Two network namespaces with a link between them, and programs within.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Why the tests with a program cannot run here.
pub(crate) fn cannot_run(program: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let found = ["/usr/sbin", "/usr/bin", "/usr/lib/frr"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    (!found).then(|| format!("{program} is not installed (cargo xtask setup)"))
}

/// The two namespaces; "ours" is .1, "theirs" .2.
pub(crate) struct Space {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// For sockets and configuration of the other speaker.
    pub(crate) folder: PathBuf,
    _folder: tempfile::TempDir,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Space {
    pub(crate) fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("sbgp-{}-{n}-{side}", std::process::id());
        let (ours, theirs) = (name("a"), name("b"));
        let folder = tempfile::Builder::new().prefix("sbgp").tempdir().expect("a folder");
        // Other speakers drop their privileges and still want their sockets there.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let space = Self { ours, theirs, folder: folder.path().to_owned(), _folder: folder };
        for space in [&space.ours, &space.theirs] {
            ip(&["netns", "add", space]);
        }
        ip(&[
            "-n",
            &space.ours,
            "link",
            "add",
            "link0",
            "type",
            "veth",
            "peer",
            "name",
            "link0",
            "netns",
            &space.theirs,
        ]);
        for (name, last) in [(&space.ours, 1), (&space.theirs, 2)] {
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["-n", name, "link", "set", "link0", "up"]);
            ip(&["-n", name, "addr", "add", &format!("10.0.0.{last}/24"), "dev", "link0"]);
            ip(&[
                "-n",
                name,
                "addr",
                "add",
                &format!("fd00:1::{last}/64"),
                "dev",
                "link0",
                "nodad",
            ]);
        }
        space
    }

    /// A command in the other speaker's namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.theirs)).arg(program);
        command
    }

    /// Output of a command in the other speaker's namespace, whatever its status.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// A daemon in the other speaker's namespace, its output in a file of its own.
    pub(crate) fn daemon(&self, program: &str, arguments: &[&str]) -> Running {
        let log = File::create(self.folder.join(format!("{}.log", program.replace('/', "_"))));
        let log = log.expect("a log");
        let child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("starts");
        Running(child)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Drops all that arrives at either, or nothing, without either noticing on its link.
    pub(crate) fn set_link(&self, passes: bool) {
        let rules = match passes {
            true => "delete table inet cut".to_owned(),
            false => "table inet cut { chain in { type filter hook input priority 0; iifname link0 drop; }; }"
                .to_owned(),
        };
        for name in [&self.ours, &self.theirs] {
            let place = format!("--net=/run/netns/{name}");
            let status = Command::new("nsenter").args([&place, "nft", &rules]).status();
            assert!(status.expect("nft runs").success(), "nft {rules}");
        }
    }

    /// Everything the daemons have said, for failures.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
        logs.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for space in [&self.ours, &self.theirs] {
            drop(Command::new("ip").args(["netns", "del", space]).status());
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(status.success(), "ip {arguments:?}");
}

/// A daemon that ends with its owner; `nsenter` has become it.
pub(crate) struct Running(Child);

impl Running {
    /// SIGKILL: no time for last words.
    pub(crate) fn kill(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
