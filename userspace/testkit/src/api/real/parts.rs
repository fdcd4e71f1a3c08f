//! Owns the command lines of etcd, kube-apiserver and kube-controller-manager. As close to kubeadm's
//! as one machine allows; what is different says why.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ipnet::IpNet;

use super::access::{ADMIN, Access};
use super::keys::Keys;
use super::{ETCD, Place};

/// The controllers that a cluster without kubelets has work for. Not the one of node life: nobody
/// renews leases here, and it would call all pods lost.
const CONTROLLERS: [&str; 6] = [
    "node-ipam-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "namespace-controller",
    "service-cidr-controller",
];

/// Which requests are noted: all of service accounts in kube-system, where the agents' is, and all
/// that come without credentials, which agents always have (K10).
pub(super) const AUDIT: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    { "level": "Metadata", "userGroups": ["system:serviceaccounts:kube-system", "system:unauthenticated"] },
    { "level": "Metadata", "users": ["system:anonymous"] },
    { "level": "None" }
  ]
}
"#;

/// etcd's data below a server's folder.
pub(super) fn data(dir: &Path) -> PathBuf {
    dir.join("etcd")
}

pub(super) fn audit_policy(dir: &Path) -> PathBuf {
    dir.join("audit-policy.json")
}

pub(super) fn audit_log(dir: &Path) -> PathBuf {
    dir.join("audit.log")
}

pub(super) fn etcd(place: &Place) -> Vec<String> {
    vec![
        format!("--data-dir={}", data(&place.dir).display()),
        format!("--listen-client-urls=http://{ETCD}"),
        format!("--advertise-client-urls=http://{ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // kubeadm's: what quiet types' bookmarks come from (K4).
        "--watch-progress-notify-interval=5s".to_owned(),
        // The data lives as long as the test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

pub(super) fn server(place: &Place, keys: &Keys, access: &Access) -> Vec<String> {
    let address = place.address;
    let file = |name: &str| keys.file(name).display().to_string();
    let (first, last) = place.ranges.node_ports;
    vec![
        format!("--etcd-servers=http://{ETCD}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("tokens.pub")),
        format!("--service-account-signing-key-file={}", file("tokens.key")),
        format!("--token-auth-file={}", access.file().display()),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-cluster-ip-range={}", joined(&place.ranges.service_cidrs)),
        format!("--service-node-port-range={first}-{last}"),
        // Pods here have no service account, and namespaces get theirs a moment late.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--audit-policy-file={}", audit_policy(&place.dir).display()),
        format!("--audit-log-path={}", audit_log(&place.dir).display()),
        // kubeadm's: agents are privileged.
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

pub(super) fn controllers(place: &Place, keys: &Keys, access: &Access) -> Result<Vec<String>> {
    let kubeconfig = place.dir.join("controllers.kubeconfig");
    fs::write(&kubeconfig, access.user(ADMIN, None))?;
    let cidrs: Vec<IpNet> = place.pod_cidrs.iter().map(|(cidr, _)| *cidr).collect();
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--service-account-private-key-file={}", keys.file("tokens.key").display()),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", joined(&cidrs)),
        format!("--service-cluster-ip-range={}", joined(&place.ranges.service_cidrs)),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        // The usual 20 a second are for clusters whose API server is shared.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
    ];
    for (cidr, length) in &place.pod_cidrs {
        let family = if cidr.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        args.push(format!("--node-cidr-mask-size-{family}={length}"));
    }
    Ok(args)
}

fn joined(ranges: &[IpNet]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
