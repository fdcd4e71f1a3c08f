//! Debian's kernels, unpacked under `target/vm/`: found through the mirror this machine's apt uses,
//! with apt state of their own so that the machine's package lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process;
use crate::repo::Repo;

/// Names the mirror (such as `http://HOST/debian`) where apt's own sources are not Debian's.
const MIRROR: &str = "SLUICE_DEBIAN_MIRROR";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel that the tests run on: the floor, and the ones of two Debian releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, as offered to Debian 12
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V5_10, Self::V6_1, Self::V6_12];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Release and metapackage it comes from. The latter's dependency names the current build.
    const fn origin(self) -> (&'static str, &'static str) {
        match self {
            Self::V5_10 => ("bullseye", "linux-image-amd64"),
            Self::V6_1 => ("bookworm", "linux-image-amd64"),
            Self::V6_12 => ("bookworm", "linux-image-6.12-amd64"),
        }
    }
}

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Folder of this kernel under `target/vm/`.
    pub(crate) folder: PathBuf,
    /// Release, as `uname -r` says.
    pub(crate) release: String,
}

impl Tree {
    /// The root of the unpacked package.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// The bootable image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root().join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder with this release's modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root().join("lib/modules").join(&self.release)
    }
}

/// Downloads and unpacks a kernel, unless that was done before.
///
/// # Errors
/// When no Debian mirror is known, or it has the kernel no more.
pub(crate) fn fetch(repo: &Repo, kernel: Kernel) -> Result<Tree> {
    let folder = repo.vm().join(kernel.name());
    let ready = folder.join("release");
    if let Ok(release) = fs::read_to_string(&ready) {
        return Ok(Tree { folder, release: release.trim().to_owned() });
    }
    println!("fetching Debian's kernel {} into {}", kernel.name(), folder.display());
    let lists = folder.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let (suite, meta) = kernel.origin();
    let sources = folder.join("debian.sources");
    fs::write(&sources, mirror()?.sources(suite))?;
    let options = [
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        // An old release's lists are not renewed any more; its signatures still hold.
        "Acquire::Check-Valid-Until=false".to_owned(),
        // The download user of apt may not write here.
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(&folder).args(options.iter().flat_map(|option| ["-o", option]));
        command
    };
    process::read(apt("apt-get").args(["update", "-q"]))
        .with_context(|| format!("updating the lists of {suite}"))?;
    let depends = process::read(apt("apt-cache").args(["depends", meta]))?;
    let package = dependency(&depends).with_context(|| format!("{meta} of {suite} depends on?"))?;
    process::read(apt("apt-get").args(["download", "-q", package]))?;
    let tree = unpack(&folder, package)?;
    // Written last: a run that was cut short starts over.
    fs::write(&ready, &tree.release)?;
    fs::remove_dir_all(lists)?;
    Ok(tree)
}

fn unpack(folder: &Path, package: &str) -> Result<Tree> {
    let archive = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(package) && name.ends_with(".deb")
        })
        .with_context(|| format!("apt-get download {package} left no archive"))?;
    let release = package.strip_prefix("linux-image-").unwrap_or(package).to_owned();
    let tree = Tree { folder: folder.to_owned(), release };
    process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(tree.root()))?;
    // Newer packages have the modules where /lib leads to on a merged system.
    let usr = tree.root().join("usr/lib/modules");
    if !tree.modules().is_dir() && usr.is_dir() {
        fs::create_dir_all(tree.root().join("lib"))?;
        fs::rename(usr, tree.root().join("lib/modules"))?;
    }
    process::run(Command::new("depmod").arg("-b").arg(tree.root()).arg(&tree.release))?;
    if !tree.image().is_file() {
        bail!("{} holds no {}", archive.display(), tree.image().display());
    }
    fs::remove_file(archive)?;
    Ok(tree)
}

/// The first dependency in what `apt-cache depends` prints.
fn dependency(listing: &str) -> Option<&str> {
    listing.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

/// Where Debian's archives are to be had.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    /// The mirror in `SITE|ORIGIN|LABEL` lines.
    fn parse(targets: &str) -> Option<Self> {
        let site = |wanted: &str| {
            targets.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
                [site, "Debian", label] if label == wanted => Some(site.to_owned()),
                _ => None,
            })
        };
        let main = site("Debian")?;
        Some(
            site("Debian-Security").map_or_else(
                || Self::beside(&main),
                |security| Self { main: main.clone(), security },
            ),
        )
    }

    /// A mirror known by its main archive: `debian-security` lies beside `debian`.
    fn beside(main: &str) -> Self {
        let main = main.trim_end_matches('/').to_owned();
        Self { security: format!("{main}-security"), main }
    }

    /// Sources for a release with its security updates, in deb822 form.
    fn sources(&self, suite: &str) -> String {
        let entry = |uri: &str, suite: &str| {
            format!(
                "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n\
                 Architectures: amd64\nSigned-By: {KEYRING}\n\n"
            )
        };
        entry(&self.main, suite) + &entry(&self.security, &format!("{suite}-security"))
    }
}

fn mirror() -> Result<Mirror> {
    if let Ok(main) = std::env::var(MIRROR) {
        return Ok(Mirror::beside(&main));
    }
    let targets = || {
        process::read(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(SITE)|$(ORIGIN)|$(LABEL)",
            "Created-By: Packages",
        ]))
    };
    if let Some(mirror) = Mirror::parse(&targets()?) {
        return Ok(mirror);
    }
    // A container image comes without lists, and then apt does not tell origins.
    process::run(Command::new("apt-get").args(["update", "-q"]))?;
    Mirror::parse(&targets()?).with_context(|| {
        format!("apt has no Debian source here; set {MIRROR} to the URI of a Debian mirror")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_apt_uses() {
        let targets = "http://packages.example/tools|Tools|Tools\n\
                       http://mirror.example/debian|Debian|Debian\n\
                       http://mirror.example/debian|Debian|Debian\n\
                       http://security.example/sec|Debian|Debian-Security\n";
        let expected = Mirror {
            main: "http://mirror.example/debian".into(),
            security: "http://security.example/sec".into(),
        };
        assert_eq!(Mirror::parse(targets), Some(expected));
    }

    #[test]
    fn without_a_security_source_it_lies_beside() {
        let mirror = Mirror::parse("http://m.example/debian/|Debian|Debian\n").unwrap();
        assert_eq!(mirror.security, "http://m.example/debian-security");
        assert!(mirror.sources("bullseye").contains("Suites: bullseye-security\n"));
    }

    #[test]
    fn other_archives_are_no_mirror() {
        assert_eq!(Mirror::parse("http://u.example/ubuntu|Ubuntu|Ubuntu\n"), None);
        assert_eq!(Mirror::parse("http://u.example/x|$(ORIGIN)|$(LABEL)\n"), None);
    }

    #[test]
    fn the_metapackage_names_the_build() {
        let listing = "linux-image-amd64\n  Depends: linux-image-5.10.0-46-amd64\n";
        assert_eq!(dependency(listing), Some("linux-image-5.10.0-46-amd64"));
        assert_eq!(dependency("linux-image-amd64\n"), None);
    }
}
