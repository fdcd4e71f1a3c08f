//! Owns the real kube-proxy (nftables mode) as a process on every node, in the agents' place: a second
//! witness of what a client must see.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::PATIENCE;
use super::agent::get;
use super::node::Node;
use super::process::{Process, Spec, log_tail};

/// Port of `/healthz`, kube-proxy's default.
const HEALTH_PORT: u16 = 10256;
/// What it needs that a node of ours does without: answers from pod to pod of one node pass the
/// bridge only, where netfilter sees them only with these.
const SYSCTLS: [(&str, &str); 2] =
    [("bridge/bridge-nf-call-iptables", "1"), ("bridge/bridge-nf-call-ip6tables", "1")];

/// Time for one to end.
const END: Duration = Duration::from_secs(20);

/// A kube-proxy on every node. They end when dropped; their rules go with the nodes' namespaces.
#[derive(Debug)]
pub(super) struct KubeProxies(Vec<Process>);

impl KubeProxies {
    /// Starts them, with files in folders of `dir` named like the nodes, and waits until all are healthy.
    ///
    /// # Errors
    /// When the kernel has no netfilter for bridges, or one can't be started or is not healthy in time.
    pub(super) fn start(
        program: &Path,
        nodes: &[Node],
        dir: &Path,
        kubeconfig: &Path,
        cluster_cidrs: &[String],
    ) -> Result<Self> {
        let dir = |node: &Node| dir.join(node.name());
        let start = |node| start(program, node, &dir(node), kubeconfig, cluster_cidrs);
        let processes = nodes.iter().map(start).collect::<Result<Vec<Process>>>()?;
        for (process, node) in processes.iter().zip(nodes) {
            wait_ready(process, node, &dir(node), PATIENCE)?;
        }
        Ok(Self(processes))
    }

    /// Ends them.
    ///
    /// # Errors
    /// When one does not end.
    pub(super) fn end(self) -> Result<()> {
        for process in self.0 {
            process.signal(Signal::SIGTERM)?;
            ensure!(process.wait(END)?.is_some(), "kube-proxy still runs {END:?} after SIGTERM");
        }
        Ok(())
    }
}

fn start(
    program: &Path,
    node: &Node,
    dir: &Path,
    kubeconfig: &Path,
    cluster_cidrs: &[String],
) -> Result<Process> {
    node.netns().sysctl(&SYSCTLS, false)?;
    let any: IpAddr = [0, 0, 0, 0].into();
    // Conntrack's settings belong to the whole machine: 0 leaves them as they are. The embedded API
    // server speaks JSON.
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name(),
        "clusterCIDR": cluster_cidrs.join(","),
        "clientConnection": { "kubeconfig": kubeconfig, "contentType": "application/json" },
        "healthzBindAddress": SocketAddr::new(any, HEALTH_PORT).to_string(),
        "conntrack": {
            "maxPerCore": 0, "min": 0,
            "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    });
    fs::create_dir_all(dir)?;
    let path = dir.join("kube-proxy.json");
    fs::write(&path, format!("{config:#}\n"))?;
    let args = ["--config".into(), path.into_os_string()];
    node.spawn(&Spec::new(program).args(args).log(log(dir)))
}

/// Waits until it says that it is healthy; the error has the end of its log.
fn wait_ready(proxy: &Process, node: &Node, dir: &Path, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = proxy.status()? {
            bail!("kube-proxy of {} has ended ({status}):\n{}", node.name(), log_tail(&log(dir)));
        }
        if let Ok(200) = node.netns().run(|| get(HEALTH_PORT, "/healthz"))? {
            return Ok(());
        }
        if Instant::now() > deadline {
            let said = log_tail(&log(dir));
            bail!("kube-proxy of {} is not healthy after {limit:?}:\n{said}", node.name());
        }
        sleep(Duration::from_millis(50));
    }
}

fn log(dir: &Path) -> std::path::PathBuf {
    dir.join("kube-proxy.log")
}
