//! Test binaries: built once by cargo, then run by us, on the host or in a machine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{cargo, line, quote};
use crate::repo::{PROGRAMS, Repo};

/// One test executable of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// Name of the package.
    pub(crate) package: String,
    /// Name of the target: the crate, or the file under `tests/`.
    pub(crate) target: String,
    /// The package's folder, in which its tests run.
    pub(crate) folder: PathBuf,
    /// The file to run.
    pub(crate) executable: PathBuf,
}

impl Binary {
    /// Its name in the report.
    pub(crate) fn title(&self) -> String {
        if self.target.replace('_', "-") == self.package {
            self.package.clone()
        } else {
            format!("{} {}", self.package, self.target)
        }
    }

    /// The file its output is kept in.
    pub(crate) fn log_name(&self) -> String {
        format!("{}-{}.log", self.package, self.target)
    }

    /// A shell command that runs it but for some tests (by parts of their names), one test at a time,
    /// for at most `seconds`.
    pub(crate) fn shell(&self, seconds: u32, without: &[&str]) -> String {
        let without: String = without.iter().map(|name| format!(" --skip {name}")).collect();
        let folder = quote(&self.folder.to_string_lossy());
        let executable = quote(&self.executable.to_string_lossy());
        format!(
            "cd {folder} && CARGO_MANIFEST_DIR={folder} timeout --kill-after=10 {seconds} \
             {executable} --show-output --test-threads=1{without}"
        )
    }
}

/// Builds the tests of `packages`, or of all that run on a host when none is named. The second
/// value: whether all of them could be built.
pub(crate) fn build(repo: &Repo, packages: &[&str]) -> Result<(Vec<Binary>, bool)> {
    let mut command = cargo(repo.root());
    command.args([
        "test",
        "--no-run",
        "--no-fail-fast",
        "--message-format=json-render-diagnostics",
    ]);
    if packages.is_empty() {
        command.args(["--workspace", "--exclude", PROGRAMS]);
    }
    for package in packages {
        command.args(["-p", package]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", line(&command)))?;
    let stdout = child.stdout.take().context("cargo's stdout is a pipe")?;
    let mut binaries = Vec::new();
    for message in BufReader::new(stdout).lines() {
        binaries.extend(parse(&message?)?);
    }
    let status = child.wait()?;
    binaries.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok((binaries, status.success()))
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test executable that a message of cargo tells of, if it does.
fn parse(message: &str) -> Result<Option<Binary>> {
    let message: Message =
        serde_json::from_str(message).with_context(|| format!("cargo said {message:?}"))?;
    let Message {
        reason,
        package_id: Some(id),
        manifest_path: Some(manifest),
        target: Some(target),
        profile: Some(profile),
        executable: Some(executable),
    } = message
    else {
        return Ok(None);
    };
    if reason != "compiler-artifact" || !profile.test {
        return Ok(None);
    }
    let folder = manifest.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Some(Binary { package: package(&id), target: target.name, folder, executable }))
}

/// The name in a package id: `path+file:///r/a#name@0.1.0`, or `path+file:///r/name#0.1.0`.
fn package(id: &str) -> String {
    let (path, end) = id.rsplit_once('#').unwrap_or((id, ""));
    let name = match end.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_package_ids_hold_a_name() {
        assert_eq!(package("path+file:///r/userspace/agent#sluice-agent@0.1.0"), "sluice-agent");
        assert_eq!(package("path+file:///r/xtask#0.1.0"), "xtask");
    }

    #[test]
    fn only_test_executables_count() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///r/a#sluice-a@0.1.0",
                "manifest_path":"/r/a/Cargo.toml","target":{{"name":"rules"}},
                "profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = parse(&artifact(true, r#""/r/target/debug/deps/rules-1""#)).unwrap().unwrap();
        assert_eq!(found.title(), "sluice-a rules");
        assert_eq!(found.folder, PathBuf::from("/r/a"));
        assert_eq!(parse(&artifact(true, "null")).unwrap(), None);
        assert_eq!(parse(&artifact(false, r#""/r/target/debug/a""#)).unwrap(), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#).unwrap(), None);
    }
}
