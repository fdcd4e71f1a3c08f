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

use anyhow::{Context, Result};

use crate::packages::{self, CLUSTER};
use crate::process::cargo;
use crate::repo::{PROGRAMS, Repo};
use crate::vm::{self, Kernel, Running};
use crate::{build_ebpf, demo};
use binaries::Binary;
use record::Record;

/// Packages whose tests depend on the kernel they run on; they run in the machines too.
const KERNEL_FACING: &[&str] = &["sluice-dataplane"];
/// Packages whose tests share the host's namespaces or maps, and run one at a time.
const SERIAL: &[&str] = &["sluice-dataplane", "sluice-testkit"];
/// Seconds that one test binary may take.
const BINARY_S: u32 = 900;
/// Seconds that the demo may take on this machine.
const DEMO_S: u32 = 900;

/// Seconds that a machine may run.
const MACHINE_S: u64 = 2_700;

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
    if let Err(error) = packages::ensure(CLUSTER) {
        record.skip("setup", &format!("{error:#}"));
    }
    if let Some(kernel) = options.kernel {
        let binaries = built(repo, KERNEL_FACING, &mut record)?;
        machine(repo, kernel, &binaries, &mut record);
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
            let facing: Vec<Binary> = binaries
                .into_iter()
                .filter(|binary| KERNEL_FACING.contains(&binary.package.as_str()))
                .collect();
            for kernel in Kernel::ALL {
                machine(repo, kernel, &facing, &mut record);
            }
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
    let mut command = limited(BINARY_S, &binary.executable);
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
    const MATRIX: &str = "demo --matrix --check";
    if !nix::unistd::geteuid().is_root() {
        record.skip(STAGE, "network namespaces need root");
        return;
    }
    match demo::build(repo) {
        Ok(()) => {
            let mut command = limited(DEMO_S, &demo::binary(repo));
            command.args(["demo", "--check"]).current_dir(repo.root());
            record.command(STAGE, &logs(repo).join("demo.log"), &mut command);
            let mut command = limited(DEMO_S, &demo::binary(repo));
            command.args(["demo", "--matrix", "--check"]).current_dir(repo.root());
            record.command(MATRIX, &logs(repo).join("matrix.log"), &mut command);
        }
        Err(error) => record.fail(STAGE, &format!("{error:#}")),
    }
}

/// The tests of kernel-facing packages, and the demo, in one boot of a machine.
fn machine(repo: &Repo, kernel: Kernel, binaries: &[Binary], record: &mut Record) {
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
        script += &record::section(sections.len(), &binary.shell(BINARY_S));
        sections.push(record::Section::Tests(format!("{} on {}", binary.title(), kernel.name())));
    }
    // An emulated processor needs its time: the oldest kernels are shown everything.
    let matrix = "demo --matrix --check --patience 6";
    let shows: &[&str] =
        if kernel == Kernel::V6_12 { &[matrix] } else { &["demo --check", matrix] };
    for shown in shows {
        let show = format!("{} {shown}", demo::binary(repo).display());
        script += &record::section(sections.len(), &show);
        sections.push(record::Section::Command(format!("{shown} on {}", kernel.name())));
    }

    let options = vm::Options { timeout: MACHINE_S, ..vm::Options::new(kernel) };
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
