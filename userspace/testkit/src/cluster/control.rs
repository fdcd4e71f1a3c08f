//! Owns the control plane of a cluster: the API server in the router's namespace, and what tests
//! and the demo ask of it.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::netns::Netns;
use super::site::Site;
use super::topology::api_address;
use crate::api::{self, Server, Store};

/// The API server and a client of it.
#[derive(Debug)]
pub struct Control {
    server: Server,
}

impl Control {
    /// Starts the API server in the router's namespace.
    ///
    /// # Errors
    /// When its address can't be had.
    pub fn start(router: &Netns) -> Result<Self> {
        let address = api_address();
        let listener = router.run(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("API server at {address}"))?;
        let options = api::Options { listen: address, ..api::Options::default() };
        Ok(Self { server: Server::start_on(listener, options)? })
    }

    /// The server, for its faults.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.server.store()
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// What the server would say.
    pub fn apply(&self, object: Value) -> Result<Value> {
        let what = format!("{} {}", text(&object, "/kind"), text(&object, "/metadata/name"));
        self.store().apply(object).with_context(|| format!("apply {what}"))
    }

    /// Merges into the status of an object.
    ///
    /// # Errors
    /// What the server would say.
    pub fn patch_status(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        status: &Value,
    ) -> Result<()> {
        let patch = json!({ "status": status });
        let patched = self.store().merge(plural, namespace, name, "status", &patch);
        patched.map(drop).with_context(|| format!("status of {plural} {name}"))
    }

    /// The pods' ranges of a node, IPv4 first, once both families have one.
    ///
    /// # Errors
    /// When the Node holds something else.
    pub fn pod_cidrs(&self, node: &str) -> Result<Option<Vec<IpNet>>> {
        let node = self.store().get("nodes", "", node).unwrap_or_default();
        let mut cidrs = strings(&node, "/spec/podCIDRs")
            .map(|cidr| cidr.parse::<IpNet>().with_context(|| format!("podCIDR {cidr}")))
            .collect::<Result<Vec<IpNet>>>()?;
        cidrs.sort_by_key(|cidr| cidr.addr().is_ipv6());
        Ok((cidrs.len() == 2).then_some(cidrs))
    }

    /// The ranges that pods of all nodes have their addresses from.
    #[must_use]
    pub fn cluster_cidrs(&self) -> Vec<String> {
        api::Options::default().pod_cidrs.iter().map(|(cidr, _)| cidr.to_string()).collect()
    }

    /// Whether a pod of namespace `default` is ready.
    #[must_use]
    pub fn is_ready(&self, pod: &str) -> bool {
        let pod = self.store().get("pods", "default", pod).unwrap_or_default();
        array(&pod, "/status/conditions")
            .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
    }

    /// The addresses of a service of namespace `default`, IPv4 first.
    ///
    /// # Errors
    /// When there is no such service, or it has none.
    pub fn cluster_ips(&self, service: &str) -> Result<Vec<IpAddr>> {
        let object = self.store().get("services", "default", service);
        let object = object.with_context(|| format!("no service {service}"))?;
        let mut addresses: Vec<IpAddr> =
            strings(&object, "/spec/clusterIPs").map(str::parse).collect::<Result<_, _>>()?;
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// The number of ready endpoints of a service of namespace `default`, of its first family.
    #[must_use]
    pub fn ready_endpoints(&self, service: &str) -> usize {
        let slices = self.store().list("endpointslices");
        let own = slices.iter().filter(|slice| {
            text(slice, "/metadata/namespace") == "default"
                && text(slice, "/metadata/labels/kubernetes.io~1service-name") == service
                && text(slice, "/addressType") == "IPv4"
        });
        let ready =
            |endpoint: &&Value| endpoint.pointer("/conditions/ready") == Some(&Value::Bool(true));
        own.flat_map(|slice| array(slice, "/endpoints")).filter(ready).count()
    }
}

/// Asks for the deletion of a pod of namespace `default`, with its own grace, over HTTP.
///
/// # Errors
/// What the server says.
pub(super) fn delete_pod(site: &Site, client: Client, name: &str) -> Result<()> {
    let name = name.to_owned();
    site.run(async move {
        let pods: Api<Pod> = Api::namespaced(client, "default");
        pods.delete(&name, &DeleteParams::default())
            .await
            .map(drop)
            .map_err(|e| anyhow!("delete pod {name}: {e}"))
    })?
}

/// A kubeconfig for the API server as it is seen at `address`.
#[must_use]
pub(super) fn kubeconfig(address: SocketAddr) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sluice",
        "clusters": [{ "name": "sluice", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "sluice", "user": {} }],
        "contexts": [{ "name": "sluice", "context": { "cluster": "sluice", "user": "sluice" } }],
    });
    format!("{config:#}\n")
}

fn array<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn strings<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    array(object, pointer).filter_map(Value::as_str)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
