//! Owns what is sent: batches of UPDATEs with as many prefixes as share their attributes, nothing
//! that the peer has already (B21), End-of-RIB (B19) and the marks of a refresh (B17).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Rib;
use super::export::{self, Speaker};
use super::peer::{Out, Sent};
use super::route::Path;
use crate::family::{AfiSafi, Family};
use crate::message::{Message, Params, Refresh, RefreshKind, Update};

/// A batch for a peer.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order.
    pub messages: Vec<Message>,
    /// Prefixes whose attributes fit no message; they count as withdrawn.
    pub too_long: Vec<IpNet>,
}

impl Out {
    /// Sends everything of a family again. Asked twice before anything went out it is once: a peer
    /// that asks and asks costs nothing more.
    pub(super) fn send_again(&mut self, family: Family, enhanced: bool) {
        if self.asked.contains(&family) {
            return;
        }
        self.asked.push(family);
        let mut prefixes = Vec::new();
        for (prefix, sent) in self.sent.iter_mut().filter(|(p, _)| Family::of(p) == family) {
            sent.again = true;
            prefixes.push(*prefix);
        }
        self.dirty.extend(prefixes);
        if enhanced {
            if !self.refresh_begins.contains(&family) {
                self.refresh_begins.push(family);
            }
        } else if !self.owes_end.contains(&family) {
            self.owes_end.push(family);
        }
    }
}

impl Rib {
    /// Whether [`Rib::take_batch`] has something.
    #[must_use]
    pub fn has_batch(&self, address: IpAddr) -> bool {
        self.peers.get(&address).is_some_and(|peer| {
            let out = &peer.out;
            let ends = !out.owes_end.is_empty() && self.may_end();
            peer.session.is_some()
                && (!out.dirty.is_empty()
                    || ends
                    || !out.refresh_begins.is_empty()
                    || !out.refresh_ends.is_empty())
        })
    }

    /// Whether all that there is for now is known, so that End-of-RIB is true.
    fn may_end(&self) -> bool {
        self.locals_complete && !self.waits_for_others()
    }

    /// The next messages for a peer, about at most so many prefixes.
    pub fn take_batch(&mut self, address: IpAddr, most: usize) -> Batch {
        let mut batch = Batch::default();
        let may_end = self.may_end();
        let speaker = Speaker { cluster_id: self.cluster_id(), draining: self.draining };
        let Some(peer) = self.peers.get_mut(&address) else { return batch };
        let Some(params) = peer.session.as_ref().map(|session| session.params) else {
            return batch;
        };
        peer.out.asked.clear();
        let mark =
            |family, kind| Message::Refresh(Refresh { afi_safi: AfiSafi::from(family), kind });
        for family in std::mem::take(&mut peer.out.refresh_begins) {
            batch.messages.push(mark(family, RefreshKind::Begin));
            peer.out.refresh_ends.push(family);
        }
        let mut withdrawn: HashMap<Family, Vec<IpNet>> = HashMap::new();
        let mut announced: HashMap<(Family, Arc<Path>), Vec<IpNet>> = HashMap::new();
        for _ in 0..most {
            let Some(prefix) = peer.out.dirty.pop_first() else { break };
            let family = Family::of(&prefix);
            let entry = self.table.get(&prefix);
            let best = entry.and_then(|entry| entry.routes.get(entry.best?));
            let path = best.and_then(|route| export::export(&prefix, route, peer, speaker).ok());
            let sent = peer.out.sent.get_mut(&prefix);
            match (path, sent) {
                (None, None) => {}
                (None, Some(_)) => {
                    peer.out.sent.remove(&prefix);
                    withdrawn.entry(family).or_default().push(prefix);
                }
                (Some(path), Some(sent)) if *sent.path == path && !sent.again => {}
                (Some(path), _) => {
                    announced.entry((family, Arc::new(path))).or_default().push(prefix);
                }
            }
        }
        for (family, prefixes) in withdrawn {
            // A withdrawal of one prefix fits any message.
            let updates = Update::withdraw(family, &prefixes, &params).unwrap_or_default();
            batch.messages.extend(updates.into_iter().map(Box::new).map(Message::Update));
        }
        for ((family, path), prefixes) in announced {
            announce(&mut peer.out, &mut batch, &params, family, &path, prefixes);
        }
        if peer.out.dirty.is_empty() {
            for family in std::mem::take(&mut peer.out.refresh_ends) {
                batch.messages.push(mark(family, RefreshKind::End));
            }
            if may_end {
                for family in std::mem::take(&mut peer.out.owes_end) {
                    let end = Update::end_of_rib(family);
                    batch.messages.push(Message::Update(Box::new(end)));
                }
            }
        }
        batch
    }
}

fn announce(
    out: &mut Out,
    batch: &mut Batch,
    params: &Params,
    family: Family,
    path: &Arc<Path>,
    prefixes: Vec<IpNet>,
) {
    match Update::announce(family, &path.attributes, path.next_hop, &prefixes, params) {
        Ok(updates) => {
            batch.messages.extend(updates.into_iter().map(Box::new).map(Message::Update));
            for prefix in prefixes {
                out.sent.insert(prefix, Sent { path: Arc::clone(path), again: false });
            }
        }
        Err(_) => {
            // What the peer has of these is no longer true.
            let had: Vec<IpNet> = prefixes
                .iter()
                .filter(|prefix| out.sent.remove(*prefix).is_some())
                .copied()
                .collect();
            let updates = Update::withdraw(family, &had, params).unwrap_or_default();
            batch.messages.extend(updates.into_iter().map(Box::new).map(Message::Update));
            batch.too_long.extend(prefixes);
        }
    }
}
