//! Owns the control plane of a cluster: the API server in the router's namespace, embedded or real,
//! and what tests and the demo ask of it.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::PATIENCE;
use super::kubelet;
use super::netns::Netns;
use super::process::Keeper;
use super::remote::Remote;
use super::rights::{self, Rights};
use super::site::Site;
use super::topology::api_address;
use crate::api::real::access::{ADMIN, KUBE_PROXY, kubeconfig};
use crate::api::real::{Place, RealServer};
use crate::api::{self, Server};

/// Which API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ApiServer {
    /// The one in this program
    #[default]
    Embedded,
    /// The real kube-apiserver, with etcd and kube-controller-manager
    Kubernetes,
}

/// The API server and a client of it.
#[derive(Debug)]
pub struct Control {
    kind: Kind,
    dir: PathBuf,
}

#[derive(Debug)]
enum Kind {
    Embedded(Server),
    Real(Box<Real>),
}

/// The real server and what belongs to it.
#[derive(Debug)]
struct Real {
    rights: Rights,
    remote: Remote,
    server: RealServer,
}

impl Control {
    /// Starts the API server in the router's namespace, and waits until it is ready; its files are
    /// kept in `dir`.
    ///
    /// # Errors
    /// When its address can't be had, or programs are missing.
    pub fn start(
        which: ApiServer,
        router: &Netns,
        dir: &Path,
        keeper: &Arc<Keeper>,
        site: &Arc<Site>,
    ) -> Result<Self> {
        let kind = match which {
            ApiServer::Embedded => {
                let address = api_address();
                let listener = router.run(|| TcpListener::bind(address))?;
                let listener = listener.with_context(|| format!("API server at {address}"))?;
                let options = api::Options { listen: address, ..api::Options::default() };
                Kind::Embedded(Server::start_on(listener, options)?)
            }
            ApiServer::Kubernetes => {
                let options = api::Options::default();
                let place = Place {
                    netns: router.clone(),
                    dir: dir.join("api"),
                    address: api_address(),
                    ranges: options.ranges,
                    pod_cidrs: options.pod_cidrs,
                };
                let server = RealServer::start(place, keeper.clone())?;
                let admin = server.access().user(ADMIN, None);
                let client = site.run(async move { kubelet::client(&admin).await })??;
                let remote = Remote::new(site.clone(), client);
                remote.wait_ready(PATIENCE, || server.alive())?;
                let rights = Rights::new(remote.clone(), dir.join("agent.token"));
                Kind::Real(Box::new(Real { rights, remote, server }))
            }
        };
        Ok(Self { kind, dir: dir.to_owned() })
    }

    /// Writes the kubeconfigs: of agents, of kube-proxy, and one that may do everything, for whoever
    /// sees the server at `entrance`.
    ///
    /// # Errors
    /// When they can't be written, or the agents' rights can't be given.
    pub(super) fn admit(&self, entrance: SocketAddr) -> Result<()> {
        let (agent, outside) = match &self.kind {
            Kind::Embedded(_) => (open(api_address()), open(entrance)),
            Kind::Real(real) => {
                let Real { rights, server, .. } = real.as_ref();
                rights.give(rights::MANIFEST)?;
                rights.new_token()?;
                let access = server.access();
                (access.by_file(rights.token()), access.user(ADMIN, Some(entrance)))
            }
        };
        fs::write(self.dir.join("kubeconfig"), agent)?;
        fs::write(self.outside(), outside)?;
        Ok(fs::write(self.dir.join("kubeconfig.kube-proxy"), self.user(KUBE_PROXY))?)
    }

    /// The kubeconfig for those who see the server at its entrance.
    pub(super) fn outside(&self) -> PathBuf {
        self.dir.join("kubeconfig.outside")
    }

    /// A client with all rights, for the site.
    ///
    /// # Errors
    /// When there can't be one.
    pub(super) fn client(&self, site: &Site) -> Result<Client> {
        let kubeconfig = self.user(ADMIN);
        site.run(async move { kubelet::client(&kubeconfig).await })?
    }

    /// A kubeconfig of a user, for the site and the nodes.
    fn user(&self, user: &str) -> String {
        match &self.kind {
            Kind::Embedded(_) => open(api_address()),
            Kind::Real(real) => real.server.access().user(user, None),
        }
    }

    /// The embedded server, for its faults; `None`: it is the real one.
    #[must_use]
    pub fn embedded(&self) -> Option<&Server> {
        match &self.kind {
            Kind::Embedded(server) => Some(server),
            Kind::Real(_) => None,
        }
    }

    /// The real server, to be ended and started again, the agents' rights in it, and a client;
    /// `None`: it is the embedded one.
    #[must_use]
    pub fn real(&self) -> Option<(&RealServer, &Rights, &Remote)> {
        match &self.kind {
            Kind::Embedded(_) => None,
            Kind::Real(real) => Some((&real.server, &real.rights, &real.remote)),
        }
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// What the server would say.
    pub fn apply(&self, object: Value) -> Result<Value> {
        let what = format!("{} {}", text(&object, "/kind"), text(&object, "/metadata/name"));
        let applied = match &self.kind {
            Kind::Embedded(server) => server.store().apply(object).map_err(Into::into),
            Kind::Real(real) => real.remote.apply(&object),
        };
        applied.with_context(|| format!("apply {what}"))
    }

    /// Merges a JSON merge patch into an object; `subresource` is "" or "status".
    ///
    /// # Errors
    /// What the server would say.
    pub fn merge(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Value> {
        match &self.kind {
            Kind::Embedded(server) => {
                Ok(server.store().merge(plural, namespace, name, subresource, patch)?)
            }
            Kind::Real(real) => real.remote.merge(plural, namespace, name, subresource, patch),
        }
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
        let patched = self.merge(plural, namespace, name, "status", &patch);
        patched.map(drop).with_context(|| format!("status of {plural} {name}"))
    }

    /// Removes an object at once, whatever its grace; true if there was one.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        match &self.kind {
            Kind::Embedded(server) => server.store().delete(plural, namespace, name),
            Kind::Real(real) => heard(real.remote.delete(plural, namespace, name)),
        }
    }

    /// One object; `None` also when the server does not say.
    #[must_use]
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        match &self.kind {
            Kind::Embedded(server) => server.store().get(plural, namespace, name),
            Kind::Real(real) => heard(real.remote.get(plural, namespace, name)),
        }
    }

    /// All objects of a type; none also when the server does not say.
    #[must_use]
    pub fn list(&self, plural: &str) -> Vec<Value> {
        match &self.kind {
            Kind::Embedded(server) => {
                server.store().list(plural).iter().map(|object| (**object).clone()).collect()
            }
            Kind::Real(real) => heard(real.remote.list(plural)),
        }
    }

    /// The pods' ranges of a node, IPv4 first, once both families have one.
    ///
    /// # Errors
    /// When the Node holds something else.
    pub fn pod_cidrs(&self, node: &str) -> Result<Option<Vec<IpNet>>> {
        let node = self.get("nodes", "", node).unwrap_or_default();
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
        let pod = self.get("pods", "default", pod).unwrap_or_default();
        array(&pod, "/status/conditions")
            .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
    }

    /// The addresses of a service of namespace `default`, IPv4 first.
    ///
    /// # Errors
    /// When there is no such service, or it has none.
    pub fn cluster_ips(&self, service: &str) -> Result<Vec<IpAddr>> {
        let object = self.get("services", "default", service);
        let object = object.with_context(|| format!("no service {service}"))?;
        let mut addresses: Vec<IpAddr> =
            strings(&object, "/spec/clusterIPs").map(str::parse).collect::<Result<_, _>>()?;
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// The number of ready endpoints of a service of namespace `default`, of its first family.
    #[must_use]
    pub fn ready_endpoints(&self, service: &str) -> usize {
        let slices = self.list("endpointslices");
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

/// What was answered, or nothing, which the log tells.
fn heard<T: Default>(answer: Result<T>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        T::default()
    })
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

/// A kubeconfig for the embedded server as it is seen at `address`: it knows no users.
fn open(address: SocketAddr) -> String {
    kubeconfig(&json!({ "server": format!("http://{address}") }), &json!({}))
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
