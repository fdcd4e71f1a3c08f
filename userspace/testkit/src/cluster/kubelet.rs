//! Owns the kubelets: each watches the pods that are bound to its node, starts a [`Life`] for each
//! new one, and tells it when the pod is to go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use super::life::{Life, NodeParts, Order};

/// The watch of one node's pods and the pods that live because of it.
pub(super) struct Kubelet {
    parts: Arc<NodeParts>,
    client: Client,
    /// By the pod's uid: what it was told last.
    lives: HashMap<String, watch::Sender<Order>>,
    /// While a list comes in: the pods seen in it.
    listed: Option<Vec<String>>,
}

impl Kubelet {
    pub(super) fn new(parts: Arc<NodeParts>, client: Client) -> Self {
        Self { parts, client, lives: HashMap::new(), listed: None }
    }

    /// Works until the runtime ends.
    pub(super) async fn run(mut self) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let config =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.parts.plan.name));
        let mut events = watcher::watcher(pods, config).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.handle(event),
                Err(e) => {
                    tracing::warn!("kubelet of {}: watch of its pods: {e}", self.parts.plan.name);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn handle(&mut self, event: Event<Pod>) {
        self.lives.retain(|_, order| !order.is_closed());
        match event {
            Event::Init => self.listed = Some(Vec::new()),
            Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, pod.uid()) {
                    listed.push(uid);
                }
                self.seen(pod);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                for (_, order) in self.lives.iter().filter(|(uid, _)| !listed.contains(uid)) {
                    order.send_replace(Order::Gone);
                }
            }
            Event::Apply(pod) => self.seen(pod),
            Event::Delete(pod) => {
                if let Some(order) = pod.uid().and_then(|uid| self.lives.get(&uid)) {
                    order.send_replace(Order::Gone);
                }
            }
        }
    }

    fn seen(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let order =
            if pod.metadata.deletion_timestamp.is_some() { Order::Stop } else { Order::Run };
        if let Some(known) = self.lives.get(&uid) {
            // Never back from Gone or Stop.
            known.send_if_modified(|current| {
                let worse = order > *current;
                if worse {
                    *current = order;
                }
                worse
            });
            return;
        }
        if is_over(&pod) && order == Order::Run {
            return;
        }
        let (tell, orders) = watch::channel(order);
        match Life::new(self.parts.clone(), self.client.clone(), pod) {
            Ok(life) => {
                tokio::spawn(life.run(orders));
                self.lives.insert(uid, tell);
            }
            Err(e) => tracing::warn!("kubelet of {}: {e:#}", self.parts.plan.name),
        }
    }
}

/// A pod that has run to its end stays as it is until somebody deletes it.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A client for the API server and the user of a kubeconfig's text.
///
/// # Errors
/// When it is none.
pub(super) async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    // Watches are quiet for long; dead ones are noticed by the connection itself.
    config.read_timeout = None;
    Ok(Client::try_from(config)?)
}
