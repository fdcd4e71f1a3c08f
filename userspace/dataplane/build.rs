//! Puts the BPF object that `cargo xtask build-ebpf` made where `include_bytes!` finds it.

use std::path::Path;
use std::{env, fs, process};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let object = root.join("target/sluice-ebpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    let Some(out) = env::var_os("OUT_DIR") else { process::exit(1) };
    if let Err(error) = fs::copy(&object, Path::new(&out).join("sluice-ebpf.o")) {
        println!("cargo::error=no BPF object ({error}): run `cargo xtask build-ebpf` first");
    }
}
