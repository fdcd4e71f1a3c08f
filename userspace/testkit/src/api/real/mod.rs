//! Owns the real API: etcd, kube-apiserver and kube-controller-manager as processes in a network
//! namespace, each of which can be ended and started again. Used by clusters on the real API and by
//! the contract test.

pub mod access;
mod keys;
mod parts;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;

use self::access::Access;
use self::keys::Keys;
use super::allocate::Ranges;
use crate::cluster::netns::Netns;
use crate::cluster::process::{Keeper, Process, Spec, log_tail};
use crate::kubernetes;

/// Where etcd listens: on the namespace's own loopback.
const ETCD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2379);
/// Time for a part to end when asked to.
const END: Duration = Duration::from_secs(70);

/// The processes of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// etcd
    Etcd,
    /// kube-apiserver
    Server,
    /// kube-controller-manager: podCIDRs, slices, garbage, service accounts
    Controllers,
}

impl Part {
    /// In the order of starting.
    pub const ALL: [Self; 3] = [Self::Etcd, Self::Server, Self::Controllers];

    /// The binary.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Server => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
        }
    }
}

/// Where the real API is to run, and with which ranges.
#[derive(Clone, Debug)]
pub struct Place {
    /// The namespace.
    pub netns: Netns,
    /// For data, keys and logs.
    pub dir: PathBuf,
    /// Address of the API server: one of the namespace's own, and not loopback, which
    /// kube-apiserver does not announce.
    pub address: SocketAddr,
    /// ClusterIPs and node ports.
    pub ranges: Ranges,
    /// Range that Nodes get their podCIDRs from, with the length of these.
    pub pod_cidrs: Vec<(IpNet, u8)>,
}

/// The real API. Its processes end when dropped.
#[derive(Debug)]
pub struct RealServer {
    // In the order of their end.
    processes: Mutex<[Option<Process>; 3]>,
    place: Place,
    access: Access,
    keys: Keys,
    keeper: Arc<Keeper>,
}

impl RealServer {
    /// Starts all parts; they may not be ready yet.
    ///
    /// # Errors
    /// When binaries or openssl are missing, or processes can't be started.
    pub fn start(place: Place, keeper: Arc<Keeper>) -> Result<Self> {
        if let Some(missing) = kubernetes::missing(&kubernetes::API) {
            bail!(missing);
        }
        fs::create_dir_all(&place.dir)?;
        let keys = Keys::make(&place.dir, place.address.ip())?;
        let access = Access::make(&place.dir, place.address, keys.authority())?;
        fs::write(parts::audit_policy(&place.dir), parts::AUDIT)?;
        let server = Self { processes: Mutex::default(), place, access, keys, keeper };
        for part in Part::ALL {
            server.start_part(part)?;
        }
        Ok(server)
    }

    /// Users and their ways in.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Where it runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts a part, which must not run; it may not be ready yet.
    ///
    /// # Errors
    /// When it runs already, or can't be started.
    pub fn start_part(&self, part: Part) -> Result<()> {
        let program = kubernetes::find(part.program())?;
        let args = match part {
            Part::Etcd => parts::etcd(&self.place),
            Part::Server => parts::server(&self.place, &self.keys, &self.access),
            Part::Controllers => parts::controllers(&self.place, &self.keys, &self.access)?,
        };
        let mut processes = self.processes();
        let slot = slot(&mut processes, part);
        ensure!(slot.is_none(), "{} runs already", part.program());
        let log = self.place.dir.join(format!("{}.log", part.program()));
        *slot =
            Some(self.keeper.spawn(&self.place.netns, &Spec::new(program).args(args).log(log))?);
        Ok(())
    }

    /// Ends a part and waits for its end.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_part(&self, part: Part, signal: Signal) -> Result<()> {
        let process = slot(&mut self.processes(), part).take();
        let process = process.with_context(|| format!("{} does not run", part.program()))?;
        process.signal(signal)?;
        let ended = process.wait(END)?.is_some();
        ensure!(ended, "{} still runs {END:?} after {signal}", part.program());
        Ok(())
    }

    /// The first part that has ended by itself, with the last lines of its log.
    ///
    /// # Errors
    /// That there is one.
    pub fn alive(&self) -> Result<()> {
        for part in Part::ALL {
            let ended = match slot(&mut self.processes(), part) {
                Some(process) => process.status()?,
                None => None,
            };
            if let Some(status) = ended {
                let log = self.place.dir.join(format!("{}.log", part.program()));
                bail!("{} has ended ({status}):\n{}", part.program(), log_tail(&log));
            }
        }
        Ok(())
    }

    /// Forgets all revisions of etcd but the newest, so that watches from before get 410.
    ///
    /// # Errors
    /// What etcd says.
    pub fn compact(&self) -> Result<()> {
        let status = self.tool("etcdctl", &["endpoint", "status", "--write-out=fields"])?;
        let mut revisions = status.lines().filter_map(|line| line.strip_prefix("\"Revision\" : "));
        let revision = revisions.next().with_context(|| format!("no revision in: {status}"))?;
        self.tool("etcdctl", &["compact", revision.trim()]).map(drop)
    }

    /// Saves what is stored now.
    ///
    /// # Errors
    /// What etcd says.
    pub fn save(&self, to: &Path) -> Result<()> {
        let to = to.to_str().context("a path of UTF-8")?;
        self.tool("etcdctl", &["snapshot", "save", to]).map(drop)
    }

    /// Puts a saved state in the place of what is stored. etcd and the API server must not run. With
    /// `bump`, revisions go on far above all that were ever given (the restore by the book); without
    /// it they begin again at the old state's (K32).
    ///
    /// # Errors
    /// What etcd says.
    pub fn restore(&self, from: &Path, bump: bool) -> Result<()> {
        let data = parts::data(&self.place.dir);
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        let mut args = vec!["snapshot", "restore", from.to_str().context("a path of UTF-8")?];
        let data = data.to_str().context("a path of UTF-8")?;
        args.extend(["--data-dir", data]);
        if bump {
            args.extend(["--bump-revision", "1000000000", "--mark-compacted"]);
        }
        self.tool("etcdutl", &args).map(drop)
    }

    /// Requests of agents, as the API server's audit has them.
    ///
    /// # Errors
    /// When its log can't be read.
    pub fn audit(&self) -> Result<Vec<serde_json::Value>> {
        let log = fs::read_to_string(parts::audit_log(&self.place.dir)).context("audit log")?;
        // The last line may still be on its way.
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Runs a tool of etcd's in the namespace.
    fn tool(&self, name: &str, args: &[&str]) -> Result<String> {
        let program = kubernetes::find(name)?;
        let output = self.place.netns.run(|| {
            Command::new(&program).env("ETCDCTL_ENDPOINTS", ETCD.to_string()).args(args).output()
        })??;
        if !output.status.success() {
            bail!("{name} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn processes(&self) -> MutexGuard<'_, [Option<Process>; 3]> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(processes: &mut [Option<Process>; 3], part: Part) -> &mut Option<Process> {
    // The last to start is the first to end.
    let [controllers, server, etcd] = processes;
    match part {
        Part::Etcd => etcd,
        Part::Server => server,
        Part::Controllers => controllers,
    }
}
