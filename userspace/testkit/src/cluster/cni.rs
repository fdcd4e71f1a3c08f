//! Owns the wiring of pods: runs the real `bridge` plugin (with `host-local`) as a container
//! runtime does (CNI specification 1.0.0, section 2: environment, configuration on stdin).

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::netns::Netns;
use super::topology::BRIDGE;

/// Folders where distributions put the plugins; Debian's first.
const PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The pod's own interface.
const POD_INTERFACE: &str = "eth0";

/// Where the plugins are and what they are told, for one node.
#[derive(Clone, Debug)]
pub struct Cni {
    plugin_dir: PathBuf,
    config: Value,
}

/// The folder of the plugins; `None` where they are not installed.
pub(super) fn plugin_dir() -> Option<&'static Path> {
    PLUGIN_DIRS.iter().map(Path::new).find(|dir| dir.join("bridge").exists())
}

#[derive(Deserialize)]
struct Success {
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    /// With the prefix's length: `10.244.1.2/24`.
    address: String,
}

impl Cni {
    /// For a node with these pod ranges; leases are kept below `state_dir`.
    ///
    /// # Errors
    /// When the plugins are not installed.
    pub fn new(pod_cidrs: &[IpNet], state_dir: &Path) -> Result<Self> {
        let plugin_dir = plugin_dir()
            .context("CNI plugins are missing: apt-get install containernetworking-plugins")?;
        let ranges: Vec<Value> =
            pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr.to_string() }])).collect();
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "sluice",
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "isDefaultGateway": true,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": ranges, "dataDir": state_dir.join("leases") },
        });
        Ok(Self { plugin_dir: plugin_dir.to_owned(), config })
    }

    /// Gives the pod its interface; returns its addresses, IPv4 first.
    ///
    /// # Errors
    /// With what the plugin said.
    pub fn add(&self, node: &Netns, pod: &Netns, id: &str) -> Result<Vec<IpAddr>> {
        let output = self.call("ADD", node, pod, id)?;
        let result: Success = serde_json::from_str(&output)
            .with_context(|| format!("bridge plugin's answer: {output}"))?;
        let mut addresses = Vec::new();
        for ip in &result.ips {
            let net: IpNet = ip
                .address
                .parse()
                .with_context(|| format!("bridge plugin's address {}", ip.address))?;
            addresses.push(net.addr());
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// Takes the interface and the addresses back.
    ///
    /// # Errors
    /// With what the plugin said.
    pub fn delete(&self, node: &Netns, pod: &Netns, id: &str) -> Result<()> {
        self.call("DEL", node, pod, id).map(drop)
    }

    fn call(&self, command: &str, node: &Netns, pod: &Netns, id: &str) -> Result<String> {
        node.run(|| {
            let mut child = Command::new(self.plugin_dir.join("bridge"))
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", id)
                .env("CNI_NETNS", pod.path())
                .env("CNI_IFNAME", POD_INTERFACE)
                .env("CNI_PATH", &self.plugin_dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("run the bridge plugin")?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(self.config.to_string().as_bytes())?;
            }
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                let more = String::from_utf8_lossy(&output.stderr);
                bail!("bridge plugin, {command} of {id}: {said}{more}");
            }
            Ok(said)
        })?
    }
}
