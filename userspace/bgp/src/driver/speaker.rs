//! Owns the speaker as its user sees it: peers by configuration, own routes, views.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::PeerEvent;
use super::bfd::{Bfd, States, Wanted};
use super::config::{Password, PeerConfig, SpeakerConfig};
use super::listener::{Fault, Listeners};
use super::session::{self, Command, Surroundings};
use super::status::PeerStatus;
use super::tables::{Output, Tables, ToTables};
use crate::bfd;
use crate::message::{Code, Notification};
use crate::rib::{LocalRoute, PeerView, Rib, RouteView};

/// Inputs that may wait for the tables; sessions stop reading when they pile up.
const INPUTS: usize = 1024;
/// Events that may wait for their reader; more are lost.
const EVENTS: usize = 1024;
/// Commands that may wait for a peer.
const COMMANDS: usize = 16;

/// Why a speaker cannot start or take a setting.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// Another process has the port, or the address is not ours.
    #[error("listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// BFD cannot be heard; sessions go on without.
    #[error("listen for BFD at port 3784: {0}")]
    Bfd(io::Error),
    /// The key cannot be set.
    #[error("TCP MD5 key of peer {peer}: {source}")]
    Password {
        /// Whose.
        peer: IpAddr,
        /// Why.
        source: io::Error,
    },
}

impl From<Fault> for SpeakerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Listen(address, source) => Self::Listen { address, source },
            Fault::Key(peer, source) => Self::Password { peer, source },
        }
    }
}

/// A peer as it is configured and as it stands.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// Configuration.
    pub config: PeerConfig,
    /// Session.
    pub status: PeerStatus,
    /// State of BFD, if it is configured and could start.
    pub bfd: Option<bfd::State>,
    /// Routes.
    pub routes: PeerView,
}

struct Member {
    config: PeerConfig,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<PeerStatus>,
    task: JoinHandle<()>,
}

/// A running speaker. Ends, without a word to the peers, when dropped.
pub struct Speaker {
    tables: mpsc::Sender<ToTables>,
    tables_task: JoinHandle<()>,
    listeners: Listeners,
    members: BTreeMap<IpAddr, Member>,
    events: mpsc::Sender<PeerEvent>,
    /// Each connection that is closing holds the sender: nothing is sent, the end is what counts.
    closing: (mpsc::Sender<()>, mpsc::Receiver<()>),
    epoch: Instant,
    seed: u64,
    /// The task of BFD, once some peer wants it, and what it shows.
    bfd: Option<mpsc::Sender<Vec<Wanted>>>,
    bfd_states: watch::Receiver<States>,
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaker").field("peers", &self.members.keys()).finish_non_exhaustive()
    }
}

impl Speaker {
    /// Starts a speaker without peers. Changes of routes come out at the first receiver, which
    /// must be read; events at the second.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(
        config: SpeakerConfig,
    ) -> Result<(Self, mpsc::Receiver<Output>, mpsc::Receiver<PeerEvent>), SpeakerError> {
        let mut listeners = Listeners::new();
        let faults = listeners.add(&config.listen.iter().copied().collect(), &[]);
        if let Some(fault) = faults.into_iter().next() {
            return Err(fault.into());
        }
        let epoch = Instant::now();
        let (tables, inputs) = mpsc::channel(INPUTS);
        let (output, outputs) = mpsc::channel(1);
        let (events, happened) = mpsc::channel(EVENTS);
        let rib = Rib::new(config.identity, config.deferral);
        let task = Tables { rib, inputs, output, events: events.clone(), epoch };
        let speaker = Self {
            tables,
            tables_task: tokio::spawn(task.run()),
            listeners,
            members: BTreeMap::new(),
            events,
            closing: mpsc::channel(1),
            epoch,
            seed: config.seed,
            bfd: None,
            bfd_states: watch::channel(States::new()).1,
        };
        Ok((speaker, outputs, happened))
    }

    /// Where it listens.
    #[must_use]
    pub fn listens_at(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Listens at these addresses and no others, nowhere if there are none. What stays is not
    /// touched, and no session is; see [`SpeakerConfig::listen`].
    ///
    /// # Errors
    /// The first address that cannot be listened at; the others are. It is tried again whenever
    /// this is called.
    pub async fn set_listen(&mut self, addresses: Vec<SocketAddr>) -> Result<(), SpeakerError> {
        let keys: Vec<(IpAddr, &Password)> = self
            .members
            .iter()
            .filter_map(|(peer, member)| Some((*peer, member.config.password.as_ref()?)))
            .collect();
        let faults = self.listeners.set(&addresses, &keys).await;
        faults.into_iter().next().map_or(Ok(()), |fault| Err(fault.into()))
    }

    /// Connections that peers, or anyone, made: each is to be given to [`Speaker::accept`]. Once.
    pub fn take_accepted(&mut self) -> Option<mpsc::Receiver<(TcpStream, SocketAddr)>> {
        self.listeners.accepted.take()
    }

    /// Hands a connection to its peer; closes it if there is none by that address (B4).
    pub async fn accept(&self, stream: TcpStream, from: SocketAddr) {
        match self.members.get(&from.ip().to_canonical()) {
            Some(member) => drop(member.commands.send(Command::Accepted(stream)).await),
            // RST: whoever it is learns that there is nobody.
            None => {
                drop(socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)))
            }
        }
    }

    /// Makes the peers those given: others are told that they are deconfigured, new ones start,
    /// changed ones take what they can without a reset and are reset for the rest. No other
    /// session is touched. The first call says that the peers are known: from then on their
    /// End-of-RIBs are waited for, see [`Output::Converged`].
    ///
    /// # Errors
    /// Keys that cannot be set; those peers are left out, all else is done.
    pub async fn set_peers(&mut self, peers: Vec<PeerConfig>) -> Result<(), SpeakerError> {
        let mut result = Ok(());
        let new: BTreeMap<IpAddr, PeerConfig> =
            peers.into_iter().map(|peer| (peer.address, peer)).collect();
        let gone: Vec<IpAddr> =
            self.members.keys().filter(|address| !new.contains_key(*address)).copied().collect();
        for address in gone {
            self.remove(address, Notification::new(Code::DECONFIGURED)).await;
        }
        for (address, config) in new {
            if let Err(error) = self.set_peer(address, config).await {
                result = Err(error);
            }
        }
        if let Err(error) = self.set_bfd().await {
            result = Err(error);
        }
        self.tell_tables(ToTables::PeersKnown).await;
        result
    }

    async fn set_bfd(&mut self) -> Result<(), SpeakerError> {
        let list: Vec<Wanted> = self
            .members
            .values()
            .filter_map(|member| {
                Some(Wanted {
                    peer: member.config.address,
                    local: member.config.local_address,
                    settings: member.config.bfd?,
                    commands: member.commands.downgrade(),
                })
            })
            .collect();
        if self.bfd.is_none() {
            if list.is_empty() {
                return Ok(());
            }
            let (publish, states) = watch::channel(States::new());
            let seed = u32::try_from(self.seed >> 32).unwrap_or(1);
            let task = Bfd::open(self.epoch, seed, publish).map_err(SpeakerError::Bfd)?;
            let (tell, wanted) = mpsc::channel(4);
            tokio::spawn(task.run(wanted));
            (self.bfd, self.bfd_states) = (Some(tell), states);
        }
        if let Some(bfd) = &self.bfd {
            // It ends with this speaker only.
            drop(bfd.send(list).await);
        }
        Ok(())
    }

    async fn set_peer(&mut self, address: IpAddr, config: PeerConfig) -> Result<(), SpeakerError> {
        let before = self.members.get(&address).map(|member| member.config.clone());
        if before.as_ref() == Some(&config) {
            return Ok(());
        }
        let old_key = before.as_ref().and_then(|config| config.password.clone());
        if old_key != config.password {
            self.listeners
                .set_key(address, config.password.as_ref())
                .map_err(|source| SpeakerError::Password { peer: address, source })?;
        }
        if before.as_ref().is_some_and(|before| before.needs_reset(&config)) {
            self.remove(address, Notification::new(Code::CONFIG_CHANGE)).await;
            self.listeners
                .set_key(address, config.password.as_ref())
                .map_err(|source| SpeakerError::Password { peer: address, source })?;
        }
        let asns = (config.settings.asn, config.settings.peer_asn);
        let policies = Box::new(config.policies.clone());
        self.tell_tables(ToTables::SetPeer { peer: address, asns, policies }).await;
        if let Some(member) = self.members.get_mut(&address) {
            member.config = config.clone();
            drop(member.commands.send(Command::Config(Box::new(config))).await);
            return Ok(());
        }
        let (tell, commands) = mpsc::channel(COMMANDS);
        let (publish, status) = watch::channel(PeerStatus::new());
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let around = Surroundings {
            epoch: self.epoch,
            tables: self.tables.clone(),
            events: self.events.clone(),
            closing: self.closing.0.clone(),
            status: publish,
            seed: self.seed,
        };
        let task = tokio::spawn(session::run(config.clone(), around, commands));
        drop(tell.send(Command::Start).await);
        self.members.insert(address, Member { config, commands: tell, status, task });
        Ok(())
    }

    async fn remove(&mut self, address: IpAddr, notification: Notification) {
        let Some(member) = self.members.remove(&address) else { return };
        drop(member.commands.send(Command::Stop(Some(notification))).await);
        drop(member.commands);
        // Ends when it has told the tables; then its routes can go by its name.
        drop(member.task.await);
        self.tell_tables(ToTables::RemovePeer { peer: address }).await;
        // A key that stays behind harms nobody but this peer.
        drop(self.listeners.set_key(address, None));
    }

    /// Ends a peer's session; it is tried again at once, or after a pause. `None`: only after
    /// [`Speaker::start_peer`].
    pub async fn fail(
        &self,
        peer: IpAddr,
        notification: Notification,
        again: Option<std::time::Duration>,
    ) {
        if let Some(member) = self.members.get(&peer) {
            drop(member.commands.send(Command::Fail { notification, again }).await);
        }
    }

    /// Ends a peer's session because an operator wants it so, and says why to the operator on the
    /// other side (6/2, RFC 9003: at most 255 octets of `reason` arrive). It stays down until
    /// [`Speaker::start_peer`], or until settings come that need a new session.
    pub async fn shutdown_peer(&self, peer: IpAddr, reason: &str) {
        self.fail(peer, Notification::with_reason(Code::SHUTDOWN, reason), None).await;
    }

    /// Starts a peer that was stopped by a limit or an operator.
    pub async fn start_peer(&self, peer: IpAddr) {
        if let Some(member) = self.members.get(&peer) {
            drop(member.commands.send(Command::Start).await);
        }
    }

    /// Sets our own routes; `complete` once all are known, so that peers may be told End-of-RIB.
    pub async fn set_locals(&self, routes: Vec<LocalRoute>, complete: bool) {
        self.tell_tables(ToTables::SetLocals { routes, complete }).await;
    }

    /// Sets the networks on our links; see [`Rib::set_links`].
    pub async fn set_links(&self, links: Option<Vec<IpNet>>) {
        self.tell_tables(ToTables::SetLinks(links)).await;
    }

    /// Sets this node's addresses.
    pub async fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.tell_tables(ToTables::SetAddresses(addresses)).await;
    }

    /// Sets our cluster as a route reflector; our identifier if `None`. Routes are looked at again
    /// for it (RFC 4456 8), and only peers that are told of reflected routes hear of it.
    pub async fn set_cluster_id(&self, cluster_id: Option<Ipv4Addr>) {
        self.tell_tables(ToTables::SetClusterId(cluster_id)).await;
    }

    /// Announces everything as about to go away (B10), or no longer so.
    pub async fn set_draining(&self, draining: bool) {
        self.tell_tables(ToTables::SetDraining(draining)).await;
    }

    /// Routes within a prefix (all if not given), at most so many prefixes.
    pub async fn routes(&self, within: Option<IpNet>, most: usize) -> Vec<RouteView> {
        let (answer, answered) = oneshot::channel();
        self.tell_tables(ToTables::Show { within, most, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// All peers.
    pub async fn peers(&self) -> Vec<PeerReport> {
        let (answer, answered) = oneshot::channel();
        let peers: Vec<IpAddr> = self.members.keys().copied().collect();
        self.tell_tables(ToTables::ShowPeers { peers, answer }).await;
        let routes = answered.await.unwrap_or_default();
        let states = self.bfd_states.borrow().clone();
        let members = self.members.values().zip(routes);
        members
            .map(|(member, routes)| PeerReport {
                config: member.config.clone(),
                bfd: states.get(&member.config.address).copied(),
                status: member.status.borrow().clone(),
                routes,
            })
            .collect()
    }

    /// Stops for good because an operator wants it so, and says why to those on the other sides
    /// (6/2, RFC 9003: at most 255 octets of `reason` arrive). No peer keeps our routes.
    pub async fn shutdown(self, reason: &str) {
        self.stop(Some(Notification::with_reason(Code::SHUTDOWN, reason))).await;
    }

    /// Stops: every peer is told `notification`, which is delivered, for three seconds at most, when
    /// this returns. Without one they are left alone, so that those with graceful restart keep our
    /// routes until the next run (RFC 4724).
    pub async fn stop(mut self, notification: Option<Notification>) {
        self.listeners.close();
        // BFD's peers are told that this is no failure.
        self.bfd = None;
        let told = notification.is_some();
        let members = std::mem::take(&mut self.members);
        let mut tasks = Vec::new();
        for member in members.into_values() {
            drop(member.commands.send(Command::Stop(notification.clone())).await);
            tasks.push(member.task);
        }
        for task in tasks {
            drop(task.await);
        }
        self.tables_task.abort();
        if told {
            // Ours is the last that could say anything.
            let (own, mut over) = std::mem::replace(&mut self.closing, mpsc::channel(1));
            drop(own);
            while over.recv().await.is_some() {}
        }
    }

    async fn tell_tables(&self, message: ToTables) {
        // They end with this speaker only.
        drop(self.tables.send(message).await);
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.tables_task.abort();
        for member in self.members.values() {
            member.task.abort();
        }
    }
}
