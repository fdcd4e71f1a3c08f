//! The real Kubernetes and etcd, built from the Go modules that `xtask/kubernetes/go.mod` pins, into
//! `target/kubernetes/bin`. Built once, by parts: who needs one asks for it here.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process::{self, line};
use crate::repo::Repo;

/// How often a build says that it still goes on.
const PROGRESS: Duration = Duration::from_secs(20);
/// Packages that are compiled at once: more would take the machine from everybody else.
const AT_ONCE: &str = "2";
/// The module whose version the binaries report.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// What is built together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// etcd with its tools, kube-apiserver, kube-controller-manager, kubectl
    Api,
    /// kube-proxy
    Proxy,
    /// Both, kube-scheduler and kubelet
    All,
}

impl Part {
    /// The binaries' names and their packages.
    fn tools(self) -> Vec<(&'static str, String)> {
        let names: &[&str] = match self {
            Self::Api => &[
                "etcd",
                "etcdctl",
                "etcdutl",
                "kube-apiserver",
                "kube-controller-manager",
                "kubectl",
            ],
            Self::Proxy => &["kube-proxy"],
            Self::All => {
                let more = ["kube-scheduler", "kubelet"].map(|name| (name, package(name)));
                return [Self::Api.tools(), Self::Proxy.tools(), more.into()].concat();
            }
        };
        names.iter().map(|name| (*name, package(name))).collect()
    }
}

fn package(tool: &str) -> String {
    match tool {
        "etcd" => "go.etcd.io/etcd/server/v3".to_owned(),
        "etcdctl" | "etcdutl" => format!("go.etcd.io/etcd/{tool}/v3"),
        _ => format!("{KUBERNETES}/cmd/{tool}"),
    }
}

/// What of `part` is not there, or is of other sources than go.mod and go.sum say.
fn lacking(repo: &Repo, part: Part) -> Result<Vec<(&'static str, String)>> {
    let wanted = stamp(repo)?;
    let mut tools = part.tools();
    tools.retain(|(name, _)| {
        let stamped = fs::read_to_string(stamp_file(repo, name)).unwrap_or_default();
        stamped != wanted || !repo.kubernetes().join(name).is_file()
    });
    Ok(tools)
}

/// What of `part` is to be built first, and how; `None` when all is there.
pub(crate) fn missing(repo: &Repo, part: Part) -> Result<Option<String>> {
    let lacking = lacking(repo, part)?;
    let names: Vec<&str> = lacking.iter().map(|(name, _)| *name).collect();
    let text =
        format!("no {} in target/kubernetes: cargo xtask setup --kubernetes", names.join(" "));
    Ok((!names.is_empty()).then_some(text))
}

/// Builds what of `part` is not there yet, saying what and why.
///
/// # Errors
/// Without Go, or when something can't be built.
pub(crate) fn ensure(repo: &Repo, part: Part, why: &str) -> Result<()> {
    let lacking = lacking(repo, part)?;
    let Some(((_, first), number)) = lacking.first().zip(Some(lacking.len())) else {
        return Ok(());
    };
    let names: Vec<&str> = lacking.iter().map(|(name, _)| *name).collect();
    let names = names.join(" ");
    let Some(go) = process::version("go", &["version"]) else {
        bail!(
            "{names}: needed to {why}, built from Go modules, and there is no `go` here: install \
             Go as new as xtask/kubernetes/go.mod says, or newer"
        );
    };
    println!("building {names} (needed to {why}) with {go}; up to ten minutes for the first");
    fs::create_dir_all(repo.kubernetes()).context("making target/kubernetes")?;
    fetch(repo, first)?;
    for (turn, (name, package)) in lacking.iter().enumerate() {
        println!("{name} ({} of {number})", turn + 1);
        build(repo, name, package)?;
    }
    Ok(())
}

/// Fetches the modules: a step of its own, since only this one needs a network.
fn fetch(repo: &Repo, package: &str) -> Result<()> {
    let mut go = go(repo);
    go.args(["list", "-deps", "-f", "{{.ImportPath}}", package]);
    process::read(&mut go).map(drop).context("fetching Go modules")
}

fn build(repo: &Repo, name: &str, package: &str) -> Result<()> {
    let start = Instant::now();
    let output = repo.kubernetes().join(name);
    let mut command = go(repo);
    command.args(["build", "-v", "-p", AT_ONCE, "-trimpath", "-ldflags", &linked(repo)?, "-o"]);
    command.arg(&output).arg(package).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", line(&command)))?;
    // It names each package it has compiled, one a line; all else is an error's text.
    let (mut compiled, mut told, mut said) = (0, start, Vec::new());
    let stderr = child.stderr.take().context("standard error")?;
    for text in BufReader::new(stderr).lines() {
        let text = text?;
        if text.contains(' ') {
            said.push(text);
        } else {
            compiled += 1;
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            println!("  {compiled} packages compiled, {} s", start.elapsed().as_secs());
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{}: {status}\n{}", line(&command), said.join("\n"));
    }
    fs::write(stamp_file(repo, name), stamp(repo)?).context("noting what was built")?;
    println!("  {} in {} s", output.display(), start.elapsed().as_secs());
    Ok(())
}

/// `go` in the module, gentle to whatever else runs.
fn go(repo: &Repo) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "15", "go"]).env("CGO_ENABLED", "0").current_dir(module(repo));
    command
}

fn module(repo: &Repo) -> PathBuf {
    repo.root().join("xtask/kubernetes")
}

fn go_mod(repo: &Repo) -> Result<String> {
    read(repo, "go.mod")
}

/// A file of the module.
fn read(repo: &Repo, name: &str) -> Result<String> {
    let path = module(repo).join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The linker's flags: without its release script, a binary calls itself v0.0.0.
fn linked(repo: &Repo) -> Result<String> {
    let version = required(&go_mod(repo)?, KUBERNETES).context("go.mod without Kubernetes")?;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let set = [set("gitVersion", &version), set("gitMajor", major), set("gitMinor", minor)];
    Ok(format!("-s -w {}", set.join(" ")))
}

/// The version of a module that a go.mod requires.
fn required(go_mod: &str, module: &str) -> Option<String> {
    let mut versions = go_mod.lines().filter_map(|line| {
        line.trim().trim_start_matches("require ").strip_prefix(module)?.strip_prefix(' ')
    });
    versions.next()?.split_whitespace().next().map(str::to_owned)
}

/// What a binary is built from: versions by go.mod, the very sources by go.sum.
fn stamp(repo: &Repo) -> Result<String> {
    Ok(format!("{}\n{}\n{}", linked(repo)?, go_mod(repo)?, read(repo, "go.sum")?))
}

fn stamp_file(repo: &Repo, name: &str) -> PathBuf {
    repo.kubernetes().join(format!(".{name}.built-from"))
}

/// The names and versions of what is built, for reports.
pub(crate) fn versions(repo: &Repo) -> Vec<(&'static str, String)> {
    let dir = repo.kubernetes();
    let version = |name: &str| {
        let path: &Path = &dir.join(name);
        match name {
            "etcdctl" | "etcdutl" => process::version(path, &["version"]),
            "kubectl" => process::version(path, &["version", "--client"]),
            _ => process::version(path, &["--version"]),
        }
    };
    let there = Part::All.tools().into_iter().filter(|(name, _)| dir.join(name).is_file());
    there.map(|(name, _)| (name, version(name).unwrap_or("does not run".to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_one_of_the_module() {
        let repo = Repo::find().unwrap();
        let go_mod = go_mod(&repo).unwrap();
        for (name, package) in Part::All.tools() {
            assert!(go_mod.contains(&format!("\t{package}\n")), "{name}: no tool {package}");
        }
        assert!(Part::Api.tools().len() + Part::Proxy.tools().len() < Part::All.tools().len());
    }

    #[test]
    fn what_a_binary_is_built_from_covers_its_sources() {
        let repo = Repo::find().unwrap();
        let stamp = stamp(&repo).unwrap();
        for file in ["go.mod", "go.sum"] {
            assert!(stamp.contains(&read(&repo, file).unwrap()), "{file}");
        }
    }

    #[test]
    fn the_version_is_that_of_the_requirement_and_not_of_a_module_with_a_longer_name() {
        let text = "tool k8s.io/kubernetes/cmd/kubelet\nrequire (\n\tk8s.io/kubernetes-x v9.9.9\n\
                    \tk8s.io/kubernetes v1.2.3 // why\n)\n";
        assert_eq!(required(text, KUBERNETES).as_deref(), Some("v1.2.3"));
        assert_eq!(required("require k8s.io/kubernetes v1.4.5\n", KUBERNETES).unwrap(), "v1.4.5");
        let flags = linked(&Repo::find().unwrap()).unwrap();
        assert!(flags.contains("version.gitMinor=") && !flags.contains("gitMinor= "), "{flags}");
    }
}
