//! `sluice-testkit api`: the server as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;

use super::{Options, Ranges, Server};

/// Flags of `sluice-testkit api`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 for any free one
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where to write a kubeconfig for clients
    #[arg(long, value_name = "FILE")]
    pub kubeconfig_out: Option<PathBuf>,
    /// Pod addresses, IPv4: each node gets a /24 of it
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub pod_cidr_v4: IpNet,
    /// Pod addresses, IPv6: each node gets a /64 of it
    #[arg(long, default_value = "fd00:10:244::/56", value_name = "CIDR")]
    pub pod_cidr_v6: IpNet,
    /// Service addresses, one range per family, the first is the default
    #[arg(long, value_name = "CIDR", default_values = ["10.96.0.0/12", "fd00:10:96::/112"])]
    pub service_cidr: Vec<IpNet>,
    /// Demand this bearer token
    #[arg(long)]
    pub token: Option<String>,
    /// Objects to begin with: JSON, one object or a List
    #[arg(long, value_name = "FILE")]
    pub load: Vec<PathBuf>,
    /// Leave slices, node ranges and namespaces alone
    #[arg(long)]
    pub no_controllers: bool,
}

impl Config {
    /// What the flags say, checked.
    ///
    /// # Errors
    /// When a range is of the wrong family or too small to hand parts of it to nodes.
    pub fn options(&self) -> Result<Options> {
        let parts = [
            ("--pod-cidr-v4", self.pod_cidr_v4, 24, true),
            ("--pod-cidr-v6", self.pod_cidr_v6, 64, false),
        ];
        for (flag, range, length, v4) in parts {
            if range.addr().is_ipv4() != v4 || range.prefix_len() > length {
                let family = if v4 { "IPv4" } else { "IPv6" };
                bail!("{flag} {range}: expected an {family} range of /{length} or larger");
            }
        }
        let families: Vec<bool> = self.service_cidr.iter().map(|r| r.addr().is_ipv4()).collect();
        if families.len() > 2 || families.first() == families.get(1) {
            bail!("--service-cidr: expected one or two ranges, one of each family");
        }
        Ok(Options {
            listen: self.listen,
            ranges: Ranges { service_cidrs: self.service_cidr.clone(), ..Ranges::default() },
            pod_cidrs: vec![(self.pod_cidr_v4, 24), (self.pod_cidr_v6, 64)],
            controllers: !self.no_controllers,
            ..Options::default()
        })
    }
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// When the address, a file or a loaded object is of no use.
pub async fn serve(config: Config) -> Result<()> {
    let server = Server::start(config.options()?)?;
    server.set_token(config.token.as_deref());
    for path in &config.load {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        let objects = match value.get("items").and_then(|i| i.as_array()) {
            Some(items) => items.clone(),
            None => vec![value],
        };
        for object in objects {
            server
                .store()
                .apply(object)
                .with_context(|| format!("object in {}", path.display()))?;
        }
    }
    if let Some(path) = &config.kubeconfig_out {
        std::fs::write(path, server.kubeconfig())
            .with_context(|| format!("write {}", path.display()))?;
    }
    println!("serving {}", server.url());
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        _ = term.recv() => {}
    }
    server.stop();
    Ok(())
}
