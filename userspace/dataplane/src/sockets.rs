//! Programs at a cgroup: balancing at the socket, for processes in the node's network namespace.
//!
//! Links are pinned like those of interfaces and outlive the agent. A new run attaches its programs
//! beside the old ones and then takes those away: a socket that both see is translated once.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{CgroupSockAddr, Program};
use sluice_abi::Namespace;

use crate::Error;
use crate::links::Attachment;
use crate::maps::{Plain, take};
use crate::object::pins;

/// Programs at the cgroup.
pub(crate) const SOCKET_PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// What may be wrong with balancing at the socket; services are then reached by packets alone.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The root of the cgroups (v2) as it is mounted here.
#[must_use]
pub fn find_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let folder = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(folder))
    })
}

/// Loads the programs.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), Fault> {
    for name in SOCKET_PROGRAMS {
        let Some(Program::CgroupSockAddr(program)) = ebpf.program_mut(name) else {
            return Err(format!("no {name} in the object").into());
        };
        program.load()?;
    }
    Ok(())
}

/// Attaches the programs to `cgroup`, in the place of an earlier run's.
///
/// # Errors
/// The kernel refuses a program, or this process is not below the cgroup.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    cgroup: &Path,
    bpf_dir: &Path,
) -> Result<Vec<Attachment>, Error> {
    let failed = |program: &'static str| {
        move |source: Fault| Error::Attach {
            program,
            interface: cgroup.display().to_string(),
            source,
        }
    };
    let folder = File::open(cgroup).map_err(|error| failed("connect4")(error.into()))?;
    let mut attached = Vec::new();
    let mut links = Vec::new();
    for name in SOCKET_PROGRAMS {
        links.push((name, attach_one(ebpf, name, &folder).map_err(failed(name))?));
    }
    learn_namespace(ebpf)?;
    for (name, link) in links {
        let folder = pins(bpf_dir).join("links");
        let (at, new) = (folder.join(pin_name(name)), folder.join(pin_name("new")));
        let _ = fs::remove_file(&new);
        let pin = |link: FdLink| -> Result<(), Fault> {
            link.pin(&new)?;
            // What stood there before lets go of the earlier run's program.
            fs::rename(&new, &at)?;
            Ok(())
        };
        pin(link).map_err(failed(name))?;
        let interface = cgroup.display().to_string();
        attached.push(Attachment { interface, program: name, mode: "cgroup" });
    }
    Ok(attached)
}

/// Takes away what an earlier run attached.
pub(crate) fn detach(bpf_dir: &Path) {
    for name in SOCKET_PROGRAMS {
        // Where it is not there, there is nothing to do.
        let _ = fs::remove_file(pins(bpf_dir).join("links").join(pin_name(name)));
    }
}

fn attach_one(ebpf: &mut Ebpf, name: &'static str, cgroup: &File) -> Result<FdLink, Fault> {
    let program = ebpf.program_mut(name).ok_or("not in the object")?;
    let program: &mut CgroupSockAddr = program.try_into()?;
    // A link always leaves others their place; the kernel takes no flags that say so
    // (kernel/bpf/cgroup.c, `cgroup_bpf_link_attach`).
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Tells the programs which network namespace is the node's: the one this process is in. A socket of
/// ours connects to an address that nobody else knows, and `connect4` notes where it came from.
fn learn_namespace(ebpf: &mut Ebpf) -> Result<(), Error> {
    const NAME: &str = "NAMESPACE";
    let mut map: Array<MapData, Plain<Namespace>> = take(ebpf, NAME)?;
    let [_, b, c, d] = (RandomState::new().build_hasher().finish() as u32).to_be_bytes();
    let token = [0xf0 | (b >> 4), b, c, d];
    map.set(0, Plain(Namespace { token: u32::from_ne_bytes(token), ..Namespace::default() }), 0)
        .map_err(|error| Error::map(NAME, "write", error))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(|error| Error::map(NAME, "ask for", error))?;
    // That there is no way there is no matter.
    let _ = socket.connect((Ipv4Addr::from(token), 9));
    let known = map.get(&0, 0).map_err(|error| Error::map(NAME, "read", error))?;
    let cookie = known.0.cookie;
    map.set(0, Plain(Namespace { cookie, ..Namespace::default() }), 0)
        .map_err(|error| Error::map(NAME, "write", error))?;
    if cookie == 0 {
        return Err(Error::map(NAME, "learn", "this process is not below the cgroup"));
    }
    Ok(())
}

fn pin_name(program: &str) -> String {
    format!("cgroup-{program}")
}
