//! Owns the task of the tables: takes in what sessions and the caller tell, hands batches to
//! sessions that can take one, and changes to whoever installs routes.
//!
//! A session gets a batch only after it has written the last one, and the installer changes only
//! when it asks for more: what waits is the difference, never a queue of all that happened.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Happening, PeerEvent};
use crate::fsm::Time;
use crate::message::{Message, ReceivedUpdate, Refresh};
use crate::rib::{
    Keep, Limit, LocalRoute, PeerView, Policies, Rib, RouteChange, RouteView, SessionUp,
};

/// Prefixes in one batch for a session: some hundred KiB at most.
const BATCH: usize = 4096;
/// Changes handed to the installer at once.
const CHANGES: usize = 4096;
/// Inputs taken in before outputs are looked at.
const INPUTS: usize = 256;

/// What comes out of the tables for whoever installs routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// These prefixes' routes differ now.
    Changes(Vec<RouteChange>),
    /// All that a former run left and that was not told of again may go; once.
    Converged,
}

/// What a session is told.
#[derive(Debug)]
pub(super) enum Outbound {
    Messages(Vec<Message>),
    Limit(Limit),
}

pub(super) enum ToTables {
    Up {
        peer: IpAddr,
        up: Box<SessionUp>,
        outbound: mpsc::Sender<Outbound>,
    },
    Down {
        peer: IpAddr,
        keep: Option<Keep>,
    },
    Update {
        peer: IpAddr,
        update: Box<ReceivedUpdate>,
    },
    Refresh {
        peer: IpAddr,
        refresh: Refresh,
    },
    /// The session has written its last batch.
    Ready {
        peer: IpAddr,
    },
    SetPeer {
        peer: IpAddr,
        asns: (u32, u32),
        policies: Box<Policies>,
    },
    RemovePeer {
        peer: IpAddr,
    },
    PeersKnown,
    SetLocals {
        routes: Vec<LocalRoute>,
        complete: bool,
    },
    SetLinks(Option<Vec<IpNet>>),
    SetAddresses(Vec<IpAddr>),
    SetClusterId(Option<Ipv4Addr>),
    SetDraining(bool),
    Show {
        within: Option<IpNet>,
        most: usize,
        answer: oneshot::Sender<Vec<RouteView>>,
    },
    ShowPeers {
        peers: Vec<IpAddr>,
        answer: oneshot::Sender<Vec<PeerView>>,
    },
}

struct Session {
    outbound: mpsc::Sender<Outbound>,
    ready: bool,
}

pub(super) struct Tables {
    pub(super) rib: Rib,
    pub(super) inputs: mpsc::Receiver<ToTables>,
    pub(super) output: mpsc::Sender<Output>,
    pub(super) events: mpsc::Sender<PeerEvent>,
    pub(super) epoch: Instant,
}

impl Tables {
    pub(super) async fn run(mut self) {
        let mut sessions: HashMap<IpAddr, Session> = HashMap::new();
        let mut converged = false;
        loop {
            let now = self.epoch.elapsed();
            let tells_end = !converged && !self.rib.has_changes() && self.rib.is_converged(now);
            let deadline = self.rib.deadline();
            let output = self.output.clone();
            tokio::select! {
                input = self.inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input, &mut sessions);
                    for _ in 1..INPUTS {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.take(input, &mut sessions);
                    }
                }
                Ok(permit) = output.reserve(), if self.rib.has_changes() || tells_end => {
                    let changes = self.rib.take_changes(CHANGES);
                    if !changes.is_empty() {
                        permit.send(Output::Changes(changes));
                    } else if tells_end {
                        permit.send(Output::Converged);
                        converged = true;
                    }
                }
                () = sleep_until(self.epoch, deadline) => self.rib.tick(self.epoch.elapsed()),
            }
            self.hand_out(&mut sessions);
        }
    }

    fn take(&mut self, input: ToTables, sessions: &mut HashMap<IpAddr, Session>) {
        let rib = &mut self.rib;
        match input {
            ToTables::Up { peer, up, outbound } => {
                rib.up(peer, *up, self.epoch.elapsed());
                sessions.insert(peer, Session { outbound, ready: true });
            }
            ToTables::Down { peer, keep } => {
                sessions.remove(&peer);
                rib.down(peer, keep, self.epoch.elapsed());
            }
            ToTables::Update { peer, update } => {
                // What still comes from a session that is to end is not wanted.
                if !sessions.contains_key(&peer) {
                    return;
                }
                if let Err(limit) = rib.update(peer, *update)
                    && let Some(session) = sessions.remove(&peer)
                {
                    // Room for one batch and one word is kept in the channel.
                    drop(session.outbound.try_send(Outbound::Limit(limit)));
                }
            }
            ToTables::Refresh { peer, refresh } => {
                rib.refresh(peer, refresh, self.epoch.elapsed());
            }
            ToTables::Ready { peer } => {
                if let Some(session) = sessions.get_mut(&peer) {
                    session.ready = true;
                }
            }
            ToTables::SetPeer { peer, asns, policies } => rib.set_peer(peer, asns, *policies),
            ToTables::RemovePeer { peer } => {
                sessions.remove(&peer);
                rib.remove_peer(peer);
            }
            ToTables::PeersKnown => rib.peers_known(self.epoch.elapsed()),
            ToTables::SetLocals { routes, complete } => rib.set_locals(routes, complete),
            ToTables::SetLinks(links) => rib.set_links(links),
            ToTables::SetAddresses(addresses) => rib.set_addresses(addresses),
            ToTables::SetClusterId(cluster_id) => rib.set_cluster_id(cluster_id),
            ToTables::SetDraining(draining) => rib.set_draining(draining),
            // Whoever asked may have gone.
            ToTables::Show { within, most, answer } => drop(answer.send(rib.show(within, most))),
            ToTables::ShowPeers { peers, answer } => {
                drop(answer.send(peers.iter().map(|peer| rib.show_peer(*peer)).collect()));
            }
        }
    }

    fn hand_out(&mut self, sessions: &mut HashMap<IpAddr, Session>) {
        for (peer, session) in sessions.iter_mut().filter(|(_, session)| session.ready) {
            if !self.rib.has_batch(*peer) {
                continue;
            }
            let batch = self.rib.take_batch(*peer, BATCH);
            if !batch.messages.is_empty() {
                session.ready = false;
                // A session that has ended says so itself.
                drop(session.outbound.try_send(Outbound::Messages(batch.messages)));
            }
        }
        for (peer, family, count) in self.rib.take_warnings() {
            let what = Happening::NearLimit { family, count };
            drop(self.events.try_send(PeerEvent { peer, what }));
        }
    }
}

pub(super) async fn sleep_until(epoch: Instant, at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep_until(epoch + at).await,
        None => std::future::pending().await,
    }
}
