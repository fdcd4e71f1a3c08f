//! Owns the keys of a real API server: an authority of its own, the server's certificate, and the
//! key that signs tokens of service accounts. Made by openssl, gone with their folder.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// How long certificates hold, days.
const DAYS: &str = "30";
/// The kind of all keys.
const KIND: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// Files of keys and certificates, PEM.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    dir: PathBuf,
}

impl Keys {
    /// Makes all of them, for a server at `address` and on loopback.
    pub(super) fn make(dir: &Path, address: IpAddr) -> Result<Self> {
        let dir = dir.join("keys");
        fs::create_dir_all(&dir)?;
        let mut config = String::from(
            "[req]\ndistinguished_name = name\n[name]\n\
             [authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\n\
             [server]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = DNS:kubernetes",
        );
        for address in [address, Ipv4Addr::LOCALHOST.into()] {
            let _ = write!(config, ", IP:{address}");
        }
        fs::write(dir.join("openssl.conf"), config + "\n")?;
        let keys = Self { dir };
        let own = ["-extensions", "authority", "-subj", "/CN=authority"];
        keys.request("authority", &own)?;
        let signed = ["-CA", "authority.crt", "-CAkey", "authority.key"];
        let server = ["-extensions", "server", "-subj", "/CN=kube-apiserver"];
        keys.request("server", &[signed, server].concat())?;
        let [_, kind @ ..] = KIND;
        let [algorithm, options @ ..] = kind;
        let mut tokens = vec!["genpkey", "-algorithm", algorithm];
        tokens.extend(options);
        tokens.extend(["-out", "tokens.key"]);
        keys.openssl(&tokens)?;
        keys.openssl(&["pkey", "-in", "tokens.key", "-pubout", "-out", "tokens.pub"])?;
        Ok(keys)
    }

    /// The certificate of the authority.
    pub(super) fn authority(&self) -> PathBuf {
        self.file("authority.crt")
    }

    /// A file of the folder: `server.crt`, `server.key`, `tokens.key`, `tokens.pub`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes `NAME.key` and `NAME.crt`.
    fn request(&self, name: &str, args: &[&str]) -> Result<()> {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let mut all = vec!["req", "-x509", "-config", "openssl.conf", "-nodes", "-days", DAYS];
        all.extend(KIND);
        all.extend(["-keyout", &key, "-out", &certificate]);
        all.extend(args);
        self.openssl(&all)
    }

    fn openssl(&self, args: &[&str]) -> Result<()> {
        let output = Command::new("openssl").args(args).current_dir(&self.dir).output();
        let output = output.context("run openssl (Debian package openssl)")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("openssl {}: {}", args.join(" "), said.trim());
        }
        Ok(())
    }
}
