//! `cargo xtask test`: every test this machine can run, in stages, and one closing line.
//!
//! A Rust test that can't run here prints `SKIP: reason` and returns; a stage that can't run is
//! skipped with its reason. Logs of what ran lie in `target/test/`.

mod binaries;
mod libtest;
mod record;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result};

use crate::packages::{self, CLUSTER, ROUTERS};
use crate::process::cargo;
use crate::repo::{PROGRAMS, Repo};
use crate::setup::kubernetes::{self, Part};
use crate::vm::{self, Kernel, Running};
use crate::{build_ebpf, demo};
use binaries::Binary;
use record::Record;

/// Packages whose tests depend on the kernel they run on; they run in the machines too, as does what
/// clients see of the cluster.
const KERNEL_FACING: &[&str] = &["sluice-dataplane"];
const CONFORMANCE: (&str, &str) = ("sluice-testkit", "conformance");
/// Tests of the conformance stage that machines leave out: always, since the demo shows it there; and
/// where all kernels are to be done with in minutes, with the reason.
const MATRIX: &str = "matrix::";
const NOT_IN_MACHINES: &[(&str, &str)] = &[
    ("flags::", "an emulated processor takes half a minute for each start of an agent"),
    ("detectors::", "as flags"),
    ("health::", "what user space answers is the same with every kernel"),
    ("objects::", "as health"),
    ("restart::", "as flags"),
    ("itself::r19", "as flags"),
    ("itself::r21", "as flags"),
    ("r23_bindings_outlive_the_agent", "as flags"),
    ("a_node_whose_uplink_is_in_a_vlan", "as flags"),
    ("udp::r31_a_connected_socket_of_the_node_is_ended_with_its_backend", "as flags"),
    ("sctp::r37_associations_survive_that_all_agents_are_killed", "as flags"),
];
/// Tests of the data plane that start it many times, and those that ask it thousands of questions.
const STARTS: &str = "plane";
const HISTORIES: &str = "orders";
/// Packages whose tests share the host's namespaces or maps, and run one at a time.
const SERIAL: &[&str] = &["sluice-dataplane", "sluice-testkit"];
/// Seconds that one test binary may take.
const BINARY_S: u32 = 900;
/// Seconds that one may take in a machine, by its clock, which jumps over what it sleeps.
const GUEST_S: u32 = 6_000;
/// Seconds for the one that waits for API servers and for agents' longest pauses.
const KUBERNETES_S: u32 = 2_400;
/// Seconds that the demo may take on this machine.
const DEMO_S: u32 = 900;

/// Seconds of this machine that a virtual one may run, its own are fewer or more: with what is left out in
/// machines, and with all of it.
const MACHINE_S: u64 = 3_600;
const WHOLE_MACHINE_S: u64 = 14_400;

/// What is to be tested.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Only what depends on the kernel, in a machine with this one
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Leave out the demo and the virtual machines
    #[arg(long, conflicts_with = "kernel")]
    quick: bool,
}

/// Runs the tests; the exit code is 1 when one failed.
pub(crate) fn run(repo: &Repo, options: Options) -> Result<ExitCode> {
    fs::create_dir_all(logs(repo)).context("making the folder for logs")?;
    let mut record = Record::default();
    build_ebpf::build(repo, false)?;
    for need in [CLUSTER, ROUTERS] {
        if let Err(error) = packages::ensure(need) {
            record.skip("setup", &format!("{error:#}"));
        }
    }
    if let Some(kernel) = options.kernel {
        let packages: Vec<&str> = KERNEL_FACING.iter().copied().chain([CONFORMANCE.0]).collect();
        let binaries = facing(built(repo, &packages, &mut record)?);
        machine(repo, kernel, &binaries, true, &mut record);
    } else {
        source(repo, &mut record);
        let binaries = built(repo, &[], &mut record)?;
        for binary in &binaries {
            on_host(repo, binary, &mut record);
        }
        documentation(repo, &mut record);
        if options.quick {
            record.skip("demo and virtual machines", "left out by --quick");
        } else {
            show(repo, &mut record);
            // An agent's start takes a minute where a processor is emulated: what starts many is shown with
            // `--kernel`, for one kernel at a time.
            for what in ["data plane's starts", "demo --check", "demo --matrix"] {
                record.skip(&format!("{what} in machines"), "takes too long; shown with --kernel");
            }
            let mut binaries = facing(binaries);
            binaries.retain(|binary| binary.target != STARTS);
            machines(repo, &binaries, &mut record);
        }
    }
    let failed = record.close();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The test binaries of `packages`; that some could not be built is a failure, but the others run.
fn built(repo: &Repo, packages: &[&str], record: &mut Record) -> Result<Vec<Binary>> {
    let (binaries, all) = binaries::build(repo, packages)?;
    if !all {
        record.fail("building the tests", "see the compiler's messages above");
    }
    Ok(binaries)
}

/// Those that run in the machines.
fn facing(binaries: Vec<Binary>) -> Vec<Binary> {
    let faces = |binary: &Binary| {
        KERNEL_FACING.contains(&binary.package.as_str()) || is_conformance(binary)
    };
    binaries.into_iter().filter(faces).collect()
}

fn is_conformance(binary: &Binary) -> bool {
    (binary.package.as_str(), binary.target.as_str()) == CONFORMANCE
}

fn logs(repo: &Repo) -> PathBuf {
    repo.target().join("test")
}

/// A command of the host under a time limit; it stays in the foreground for Ctrl-C.
fn limited(seconds: u32, program: &std::path::Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=10", &seconds.to_string()]).arg(program);
    command
}

/// Formatting and lints.
fn source(repo: &Repo, record: &mut Record) {
    let mut format = cargo(repo.root());
    format.args(["fmt", "--all", "--check"]);
    record.command("format", &logs(repo).join("format.log"), &mut format);

    let mut clippy = cargo(repo.root());
    clippy.args(["clippy", "--quiet", "--workspace", "--exclude", PROGRAMS, "--all-targets"]);
    clippy.args(["--", "-D", "warnings"]);
    record.command("lints", &logs(repo).join("lints.log"), &mut clippy);
}

fn on_host(repo: &Repo, binary: &Binary, record: &mut Record) {
    let seconds = if binary.target == "kubernetes" { KUBERNETES_S } else { BINARY_S };
    let mut command = limited(seconds, &binary.executable);
    command.arg("--show-output").current_dir(&binary.folder);
    command.env("CARGO_MANIFEST_DIR", &binary.folder);
    if SERIAL.contains(&binary.package.as_str()) {
        command.arg("--test-threads=1");
    }
    record.tests(&binary.title(), &logs(repo).join(binary.log_name()), &mut command);
}

fn documentation(repo: &Repo, record: &mut Record) {
    let mut command = cargo(repo.root());
    command.args(["test", "--quiet", "--doc", "--workspace", "--exclude", PROGRAMS]);
    command.args(["--", "--show-output"]);
    record.tests("examples in the documentation", &logs(repo).join("doc.log"), &mut command);
}

/// The demo with its expectations and the matrix of services, on this kernel.
fn show(repo: &Repo, record: &mut Record) {
    const STAGE: &str = "demo --check";
    /// Without the socket hooks nodes themselves are served otherwise; others don't notice.
    const MATRICES: &[(&str, &str, &[&str])] = &[
        ("demo --matrix --check", "matrix.log", &[]),
        ("demo --matrix --packets-only", "packets.log", &["--packets-only", "--from", "node"]),
    ];
    if !nix::unistd::geteuid().is_root() {
        record.skip(STAGE, "network namespaces need root");
        return;
    }
    match demo::build(repo) {
        Ok(()) => {
            let mut command = limited(DEMO_S, &demo::binary(repo));
            command.args(["demo", "--check"]).current_dir(repo.root());
            record.command(STAGE, &logs(repo).join("demo.log"), &mut command);
            for (title, log, more) in MATRICES {
                let mut command = limited(DEMO_S, &demo::binary(repo));
                command.args(["demo", "--matrix", "--check"]).args(*more).current_dir(repo.root());
                record.command(title, &logs(repo).join(log), &mut command);
            }
            beside_kubernetes(repo, record);
        }
        Err(error) => record.fail(STAGE, &format!("{error:#}")),
    }
}

/// What of the demo needs parts of the real Kubernetes: skipped where they are not built, which takes
/// longer than all tests together.
fn beside_kubernetes(repo: &Repo, record: &mut Record) {
    let shows: [(Part, &[&str]); 2] = [
        (Part::Proxy, &["demo", "--matrix", "--check", "--proxy", "kube-proxy"]),
        (Part::Api, &["demo", "--check", "--api", "kubernetes"]),
    ];
    for (part, show) in shows {
        let stage = show.join(" ");
        match kubernetes::missing(repo, part) {
            Ok(None) => {
                let mut command = limited(DEMO_S, &demo::binary(repo));
                command.args(show).current_dir(repo.root());
                let log = logs(repo).join(format!("{part:?}.log").to_lowercase());
                record.command(&stage, &log, &mut command);
            }
            Ok(Some(missing)) => record.skip(&stage, &missing),
            Err(error) => record.fail(&stage, &format!("{error:#}")),
        }
    }
}

/// A machine with each kernel, all at once: each has a processor of its own, and none minds the others,
/// since its clock counts instructions.
fn machines(repo: &Repo, binaries: &[Binary], record: &mut Record) {
    for kernel in Kernel::ALL {
        // One after the other, since packages are fetched. What fails is told by the machine.
        let _ = vm::prepare(repo, kernel);
    }
    let run = |kernel| {
        let mut own = Record::default();
        machine(repo, kernel, binaries, false, &mut own);
        own
    };
    thread::scope(|scope| {
        let started = Kernel::ALL.map(|kernel| scope.spawn(move || run(kernel)));
        for (kernel, machine) in Kernel::ALL.into_iter().zip(started) {
            match machine.join() {
                Ok(own) => record.merge(own),
                Err(_) => record.fail(&format!("machine with {}", kernel.name()), "xtask panicked"),
            }
        }
    });
}

/// The tests of kernel-facing packages, and the demo, in one boot of a machine.
fn machine(repo: &Repo, kernel: Kernel, binaries: &[Binary], all: bool, record: &mut Record) {
    let stage = format!("machine with {}", kernel.name());
    if let Err(error) = vm::prepare(repo, kernel) {
        record.skip(&stage, &format!("{error:#}"));
        return;
    }
    if let Err(error) = demo::build(repo) {
        record.fail(&stage, &format!("{error:#}"));
        return;
    }
    let mut script = String::new();
    let mut sections = Vec::new();
    for binary in binaries {
        let title = format!("{} on {}", binary.title(), kernel.name());
        let mut left_out = Vec::new();
        if !all {
            left_out.push(HISTORIES);
        }
        if is_conformance(binary) {
            if kernel == Kernel::V6_12 {
                record.skip(&title, "older and newer kernels show it");
                continue;
            }
            left_out.push(MATRIX);
            for (name, reason) in NOT_IN_MACHINES.iter().filter(|_| !all) {
                record.skip(&format!("{name} on {}", kernel.name()), reason);
                left_out.push(*name);
            }
        }
        script += &record::section(sections.len(), &binary.shell(GUEST_S, &left_out));
        sections.push(record::Section::Tests(title));
    }
    // An emulated processor needs its time: the oldest kernels are shown everything. SCTP in user space
    // takes more of it than there is, since each of its sockets reads every packet.
    let matrix = "demo --matrix --check --patience 6 --over tcp,udp";
    let shows: &[&str] = match (all, kernel) {
        (false, _) => &[],
        (true, Kernel::V6_12) => &[matrix],
        (true, _) => &["demo --check", matrix],
    };
    for shown in shows {
        let show = format!("{} {shown}", demo::binary(repo).display());
        script += &record::section(sections.len(), &show);
        sections.push(record::Section::Command(format!("{shown} on {}", kernel.name())));
    }

    // Time that counts instructions: what else this machine does makes no test late.
    let timeout = if all { WHOLE_MACHINE_S } else { MACHINE_S };
    let options = vm::Options { timeout, icount: true, ..vm::Options::new(kernel) };
    let command = ["sh", "-c", &script].map(str::to_owned);
    let log = logs(repo).join(format!("machine-{}.log", kernel.name()));
    let started = vm::start(repo, &options, &command);
    if let Err(error) = started.and_then(|running| follow(running, &sections, &log, record)) {
        record.fail(&stage, &format!("{error:#}"));
    }
}

fn follow(
    mut running: Running,
    sections: &[record::Section],
    log: &std::path::Path,
    record: &mut Record,
) -> Result<()> {
    let stdout = running.stdout()?;
    let seen = record.follow(sections, log, stdout);
    // The guest's own trouble explains missing sections best.
    running.wait()?;
    seen
}
