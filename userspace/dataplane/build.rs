//! Puts the BPF object that `cargo xtask build-ebpf` made where `include_bytes!` finds it.

use std::path::Path;
use std::{env, fs, process};

fn main() {
    // Asked now, not when this was compiled: a cached build script may come from another checkout.
    let (Some(folder), Some(out)) = (env::var_os("CARGO_MANIFEST_DIR"), env::var_os("OUT_DIR"))
    else {
        process::exit(1)
    };
    let object = Path::new(&folder).join("../../target/sluice-ebpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if let Err(error) = fs::copy(&object, Path::new(&out).join("sluice-ebpf.o")) {
        println!("cargo::error=no BPF object ({error}): run `cargo xtask build-ebpf` first");
    }
}
