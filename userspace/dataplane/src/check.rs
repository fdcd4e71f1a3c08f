//! What this node's kernel offers: tried, never assumed from a version.

use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{is_map_supported, is_program_supported};
use nix::unistd::geteuid;

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it is.
    pub name: &'static str,
    /// Whether the agent cannot run without it.
    pub needed: bool,
    /// Whether it is there.
    pub ok: bool,
    /// What was seen, and what it means if it is missing.
    pub detail: String,
    /// The kernel that has it first.
    pub since: &'static str,
}

/// Tries everything. Leaves nothing behind.
#[must_use]
pub fn run() -> Vec<Probe> {
    let mut probes = vec![Probe {
        name: "privileges",
        needed: true,
        ok: geteuid().is_root(),
        detail: "root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN".to_owned(),
        since: "any",
    }];
    let mut add = |name, needed, ok: Result<bool, String>, missing: &str, since| {
        let (ok, detail) = match ok {
            Ok(true) => (true, "works".to_owned()),
            Ok(false) => (false, missing.to_owned()),
            Err(error) => (false, format!("{missing} ({error})")),
        };
        probes.push(Probe { name, needed, ok, detail, since });
    };
    let none = "the data plane cannot run";
    let program = |kind| is_program_supported(kind).map_err(|error| error.to_string());
    let map = |kind| is_map_supported(kind).map_err(|error| error.to_string());
    add("tc programs", true, program(ProgramType::SchedClassifier), none, "4.1");
    add("LRU hash maps", true, map(MapType::LruHash), none, "4.10");
    add("per-CPU arrays", true, map(MapType::PerCpuArray), none, "4.6");
    add("the programs", true, crate::object::try_load().map(|()| true), none, "5.10");
    let packets =
        "the node's own processes are balanced by packets alone: not to its own addresses";
    add("socket programs", false, crate::object::try_load_sockets().map(|()| true), packets, "5.8");
    add("a cgroup v2", false, Ok(crate::find_cgroup().is_some()), packets, "4.5");
    let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    add("TCX links", false, Ok(tcx), "clsact filters are used instead", "6.6");
    add(
        "BTF of the kernel",
        false,
        Ok(Path::new("/sys/kernel/btf/vmlinux").exists()),
        "not used by the programs",
        "5.4",
    );
    probes
}
