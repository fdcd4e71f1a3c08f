//! The compiler for the kernel programs: Debian's rustc with its built libcore, or nightly with
//! rust-src, and bpf-linker for either. Finding, installing, and setting up cargo to use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages::{self, COMPILER};
use crate::process;

/// Version of bpf-linker that the object is linked with.
const BPF_LINKER: &str = "0.13.0";
/// Debian's rustc-web; not the rustup one that comes first in PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's llvm-22-dev, the LLVM that rustc-web 1.96 uses.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// The kernel's target, little endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A way to compile for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustc-web and libstd-rust-web-dev-bpf: stable, libcore is built already.
    Debian,
    /// rustup's nightly with rust-src: builds libcore with `-Z build-std`.
    Nightly,
}

impl Toolchain {
    /// The toolchain that is installed and complete, bpf-linker included.
    pub(crate) fn find() -> Option<Self> {
        let linker = bpf_linker_version()? == format!("bpf-linker {BPF_LINKER}");
        let found = if has_debian_libcore() {
            Self::Debian
        } else if nightly_source().is_some() {
            Self::Nightly
        } else {
            return None;
        };
        linker.then_some(found)
    }

    /// Installs what lacks.
    ///
    /// # Errors
    /// When neither way can be had; the error says which lines to run.
    pub(crate) fn ensure() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let found = match Self::debian() {
            Ok(found) => found,
            Err(error) => {
                println!("Debian's compiler for BPF can't be had: {error:#}");
                println!("using rustup's nightly with rust-src instead");
                Self::nightly().context(
                    "no compiler for BPF. On Debian: apt-get install rustc-web \
                     libstd-rust-web-dev-bpf llvm-22-dev. Elsewhere: rustup toolchain install \
                     nightly --component rust-src",
                )?
            }
        };
        found.ensure_linker()?;
        Ok(found)
    }

    fn debian() -> Result<Self> {
        packages::ensure(COMPILER)?;
        if has_debian_libcore() {
            Ok(Self::Debian)
        } else {
            anyhow::bail!("{DEBIAN_RUSTC} has no libcore for {TARGET}")
        }
    }

    fn nightly() -> Result<Self> {
        if nightly_source().is_none() {
            let mut rustup = Command::new("rustup");
            process::run(rustup.args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]))?;
        }
        Ok(Self::Nightly)
    }

    /// Installs bpf-linker, built against the LLVM of this compiler: bitcode of a newer LLVM can't
    /// be read by an older one.
    fn ensure_linker(self) -> Result<()> {
        let wanted = format!("bpf-linker {BPF_LINKER}");
        if bpf_linker_version().as_deref() == Some(&wanted) {
            return Ok(());
        }
        println!("installing {wanted} (needed to link the eBPF programs); a minute or two");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--force"]);
        match self {
            Self::Debian => {
                cargo.args(["--no-default-features", "--features", "llvm-22"]);
                cargo.env("LLVM_PREFIX", DEBIAN_LLVM);
            }
            // Its default features are the LLVM of the newest nightly.
            Self::Nightly => {
                if let Some(prefix) = std::env::var_os("LLVM_PREFIX") {
                    cargo.env("LLVM_PREFIX", prefix);
                }
            }
        }
        let by_hand = format!(
            "run by hand, with LLVM_PREFIX naming an LLVM with headers: {}",
            process::line(&cargo)
        );
        process::run(&mut cargo).context(by_hand)
    }

    /// A `cargo build` of the programs, ready but for its package and target folder.
    pub(crate) fn cargo(self, root: &Path) -> Command {
        let mut cargo = process::cargo(root);
        cargo.env_remove("RUSTFLAGS").env(
            "CARGO_ENCODED_RUSTFLAGS",
            // Separated by 0x1f: cargo's rule for this variable. v3 is what 5.10 understands: 32-bit
            // jumps (5.1); atomics beyond add came later and are not used.
            // With memcpy "in order" LLVM would call byte loops to clear three octets.
            [
                "-Clinker=bpf-linker",
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
                "-Clink-arg=--disable-expand-memcpy-in-order",
                "-Ctarget-cpu=v3",
            ]
            .join("\x1f"),
        );
        match self {
            // aya_ebpf has unstable attributes; the variable names the one crate that may use them.
            Self::Debian => {
                cargo.env_remove("RUSTUP_TOOLCHAIN");
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "aya_ebpf");
                cargo.arg("build");
            }
            // `cargo run` put its toolchain's cargo first in PATH: `+nightly` would not be understood.
            Self::Nightly => {
                cargo.env("RUSTUP_TOOLCHAIN", "nightly").env("RUSTC", nightly_tool("rustc"));
                cargo.args(["build", "-Zbuild-std=core"]).env("RUSTC_BOOTSTRAP", "1");
            }
        }
        cargo.args(["--release", "--target", TARGET]);
        cargo
    }

    /// The compiler's own words, for reports.
    pub(crate) fn describe(self) -> String {
        let (rustc, kind) = match self {
            Self::Debian => (PathBuf::from(DEBIAN_RUSTC), "Debian, built libcore"),
            Self::Nightly => (nightly_tool("rustc"), "nightly, -Z build-std=core"),
        };
        let version = process::version(rustc, &["--version"]).unwrap_or_default();
        format!("{version} ({kind})")
    }
}

/// What `bpf-linker --version` says.
pub(crate) fn bpf_linker_version() -> Option<String> {
    process::version("bpf-linker", &["--version"])
}

fn sysroot(rustc: impl AsRef<Path>) -> Option<PathBuf> {
    process::version(rustc.as_ref(), &["--print", "sysroot"]).map(PathBuf::from)
}

fn has_debian_libcore() -> bool {
    sysroot(DEBIAN_RUSTC)
        .and_then(|root| root.join("lib/rustlib").join(TARGET).join("lib").read_dir().ok())
        .is_some_and(|files| {
            files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        })
}

fn nightly_tool(name: &str) -> PathBuf {
    process::version("rustup", &["which", "--toolchain", "nightly", name])
        .map_or_else(|| PathBuf::from(name), PathBuf::from)
}

fn nightly_source() -> Option<PathBuf> {
    process::version("rustup", &["which", "--toolchain", "nightly", "rustc"])?;
    let source = sysroot(nightly_tool("rustc"))?.join("lib/rustlib/src/rust/library/core");
    source.is_dir().then_some(source)
}
