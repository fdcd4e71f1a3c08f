//! The corpora of the fuzz targets (`fuzz/corpus/TARGET`), run through the targets' own functions by
//! any compiler. An input that once broke something belongs there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the targets are of another crate")]
mod targets;

use std::path::Path;

/// Runs every file of a corpus, whole and cut at every octet, for a cut is what a peer sends that
/// counts wrongly.
fn run(target: &str, decoder: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{folder:?}: {why}"));
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        let octets = std::fs::read(&path).unwrap();
        for end in 0..=octets.len() {
            let cut = &octets[..end];
            let result = std::panic::catch_unwind(|| decoder(cut));
            assert!(result.is_ok(), "{} up to octet {end}", path.display());
        }
        count += 1;
    }
    assert!(count >= 5, "{target}: {count} files");
}

#[test]
fn open() {
    run("open", targets::open);
}

#[test]
fn update() {
    run("update", targets::update);
}

#[test]
fn notification() {
    run("notification", targets::notification);
}

#[test]
fn refresh() {
    run("refresh", targets::refresh);
}

#[test]
fn frames() {
    run("frames", targets::frames);
}

#[test]
fn bfd() {
    run("bfd", targets::bfd);
}
