//! Owns the state machine of one peer (RFC 4271 8): which connections there are, which of them
//! becomes the session, what is sent, and when something is due. Pure: [`Machine::step`] takes an
//! event and the time and returns the machine and what is to be done.
//!
//! RFC 4271 has one machine per connection and a rule across them (6.8). Here one machine holds
//! all connections to the peer, so the rule is a plain function of its state.

mod event;
mod link;
mod negotiate;
mod settings;
mod timing;

use std::time::Duration;

pub use event::{Action, Down, Event, Reason};
pub use link::{LinkId, Side};
pub use negotiate::Negotiated;
pub use settings::{Role, Settings, Timing};

use crate::message::{Code, Message, Notification, Open, Received};
use link::{Link, Stage};

/// Time since some moment that the driver chose; never goes back.
pub type Time = Duration;

/// State of a peer, for people; that of its most advanced connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or waiting after an error.
    Idle,
    /// Waits for a connection, or for the time to try one.
    Active,
    /// Connecting.
    Connect,
    /// Connected, the peer's OPEN is awaited.
    OpenSent,
    /// OPENs exchanged, the peer's KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// The machine of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    settings: Settings,
    /// Whether the peer is to be up.
    started: bool,
    links: Vec<Link>,
    /// When to connect next.
    connect_at: Option<Time>,
    /// Until then nothing is tried and nothing accepted.
    idle_until: Option<Time>,
    /// Sessions that ended early in a row.
    failures: u32,
    next_link: u64,
    /// State of the generator behind jitter.
    random: u64,
    last_end: Option<Reason>,
}

impl Machine {
    /// A stopped machine. `seed` decides jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            started: false,
            links: Vec::new(),
            connect_at: None,
            idle_until: None,
            failures: 0,
            next_link: 0,
            // xorshift stands still at zero.
            random: seed | 1,
            last_end: None,
        }
    }

    /// Settings as they are; changed ones count from the next connection on.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes settings that the next OPEN tells, and who connects, without touching connections;
    /// [`Event::Tick`] is due then.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        let connects = self.settings.passive && !settings.passive;
        self.settings = settings;
        if connects && !self.is_idle() && self.links.is_empty() {
            self.connect_at = Some(Duration::ZERO);
        }
        self
    }

    /// Name for a connection that the peer made; see [`Event::Accepted`].
    pub fn name_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// State of the peer.
    #[must_use]
    pub fn state(&self) -> State {
        let stage = self.links.iter().map(|link| link.stage.state()).max();
        stage.unwrap_or(if self.is_idle() { State::Idle } else { State::Active })
    }

    /// The session's connection, if one is established.
    #[must_use]
    pub fn session(&self) -> Option<(LinkId, &Negotiated)> {
        self.links.iter().find_map(|link| Some((link.id, link.stage.established()?)))
    }

    /// What was negotiated on a connection whose OPEN has come.
    #[must_use]
    pub fn negotiated(&self, id: LinkId) -> Option<&Negotiated> {
        self.links.iter().find(|link| link.id == id)?.stage.negotiated()
    }

    /// Why the last connection or session ended.
    #[must_use]
    pub fn last_end(&self) -> Option<&Reason> {
        self.last_end.as_ref()
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let links = self.links.iter().flat_map(|link| link.stage.deadlines());
        links.chain(self.connect_at).chain(self.idle_until).min()
    }

    /// Takes in an event.
    #[must_use]
    pub fn step(mut self, event: Event, now: Time) -> (Self, Vec<Action>) {
        let mut out = Vec::new();
        self.on_event(event, now, &mut out);
        (self, out)
    }

    fn is_idle(&self) -> bool {
        !self.started || self.idle_until.is_some()
    }

    fn on_event(&mut self, event: Event, now: Time, out: &mut Vec<Action>) {
        match event {
            Event::Start => self.start(now, out),
            Event::Stop(notification) => {
                self.started = false;
                (self.connect_at, self.idle_until) = (None, None);
                self.end_all(notification, now, out);
            }
            Event::Fail { notification, again } => {
                self.end_all(Some(notification), now, out);
                self.connect_at = None;
                self.idle_until = again.map(|pause| now + pause);
                self.started &= again.is_some();
            }
            Event::Connected(id) => self.on_connected(id, now, out),
            Event::ConnectFailed(id) => {
                self.links.retain(|link| link.id != id);
                self.connect_later(now);
            }
            Event::Accepted(id) => self.on_accepted(id, now, out),
            Event::Closed(id) => self.end(id, Reason::Lost, now, out),
            Event::Received(id, message) => self.on_message(id, *message, now, out),
            Event::Malformed(id, kind, notification) => {
                self.on_malformed(id, kind, notification, now, out);
            }
            Event::SendStuck(id) => self.end(id, Reason::SendStuck, now, out),
            Event::Busy(id) => {
                if let Some(link) = self.link(id) {
                    link.stage.heard(now);
                }
            }
            Event::Tick => self.on_tick(now, out),
        }
    }

    fn start(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.started && self.idle_until.is_none() {
            return;
        }
        self.started = true;
        self.idle_until = None;
        self.connect(now, out);
    }

    fn connect(&mut self, now: Time, out: &mut Vec<Action>) {
        self.connect_at = None;
        if self.settings.passive || !self.links.is_empty() {
            return;
        }
        let id = self.name_link();
        let give_up_at = now + self.settings.timing.connect;
        self.links.push(Link { id, side: Side::Active, stage: Stage::Connecting { give_up_at } });
        out.push(Action::Connect(id));
    }

    fn on_connected(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        let stage = Stage::open_sent(now, self.settings.timing.open_hold);
        let Some(link) = self.link(id) else {
            // Given up meanwhile.
            out.push(Action::Close(id));
            return;
        };
        link.stage = stage;
        self.send_open(id, out);
    }

    fn on_accepted(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        if self.is_idle() {
            // B4: nothing in the way of a pause after errors.
            out.push(Action::Close(id));
            return;
        }
        // The peer holds one connection of its own; an earlier one that got nowhere is dead.
        let dead: Vec<LinkId> = self
            .links
            .iter()
            .filter(|link| link.side == Side::Passive && link.stage.established().is_none())
            .map(|link| link.id)
            .collect();
        for id in dead {
            self.drop_link(id, out);
        }
        let stage = Stage::open_sent(now, self.settings.timing.open_hold);
        self.links.push(Link { id, side: Side::Passive, stage });
        self.send_open(id, out);
    }

    fn send_open(&self, id: LinkId, out: &mut Vec<Action>) {
        out.push(Action::Send(id, Box::new(Message::Open(self.settings.open()))));
    }

    fn on_message(&mut self, id: LinkId, message: Received, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.link(id) else { return };
        link.stage.heard(now);
        let state = link.stage.state();
        match (state, message) {
            (_, Received::Notification(notification)) => {
                self.end(id, Reason::Received(notification), now, out);
            }
            (State::OpenSent, Received::Open(open)) => self.on_open(id, &open, now, out),
            (State::OpenConfirm, Received::Keepalive) => self.establish(id, now, out),
            (State::Established, Received::Keepalive) => {}
            (State::Established, Received::Update(update)) => out.push(Action::Update(update)),
            (State::Established, Received::Refresh(refresh)) => {
                out.extend(refresh.map(Action::Refresh));
            }
            (state, _) => self.refuse(id, unexpected(state), now, out),
        }
    }

    fn on_malformed(
        &mut self,
        id: LinkId,
        kind: Option<u8>,
        notification: Notification,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(state) = self.link(id).map(|link| link.stage.state()) else { return };
        match (kind, state) {
            // B9: there is no answer to a NOTIFICATION.
            (Some(3), _) => self.end(id, Reason::MalformedNotification, now, out),
            // A message that must not come now is that first of all, however malformed.
            (Some(1), State::OpenConfirm | State::Established)
            | (Some(2 | 5), State::OpenSent | State::OpenConfirm) => {
                self.refuse(id, unexpected(state), now, out);
            }
            _ => self.refuse(id, notification, now, out),
        }
    }

    fn on_open(&mut self, id: LinkId, open: &Open, now: Time, out: &mut Vec<Action>) {
        let negotiated = match negotiate::check(&self.settings, open) {
            Ok(negotiated) => negotiated,
            Err(notification) => return self.refuse(id, notification, now, out),
        };
        if !self.survives_collision(id, &negotiated, now, out) {
            self.close_with(id, Notification::new(Code::COLLISION), now, out);
            return;
        }
        let keepalive_at = self.keepalive_at(negotiated.keepalive_s(), now);
        let Some(link) = self.link(id) else { return };
        link.stage = Stage::confirm(negotiated, keepalive_at, now);
        out.push(Action::Send(id, Box::new(Message::Keepalive)));
    }

    /// B6, RFC 4271 6.8: of two connections the one opened by the speaker with the higher
    /// identifier stays; if one is the session already, that one. Closes the others if `id` stays.
    fn survives_collision(
        &mut self,
        id: LinkId,
        new: &Negotiated,
        now: Time,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(side) = self.link(id).map(|link| link.side) else { return false };
        let rivals: Vec<(LinkId, Stage)> = self
            .links
            .iter()
            .filter(|link| link.id != id && link.stage.state() >= State::OpenConfirm)
            .map(|link| (link.id, link.stage.clone()))
            .collect();
        for (rival, stage) in rivals {
            if let Stage::Established { since, .. } = stage {
                // RFC 4724 5: a peer that says it has restarted has forgotten the old one. A young
                // session is no old one: both may come from one race.
                let young = now < since + self.settings.timing.replace_after;
                if young || !new.peer_restarted() {
                    return false;
                }
                let graceful = self.is_graceful(&stage, &Reason::Replaced);
                self.drop_link(rival, out);
                self.note_end(Reason::Replaced);
                out.push(Action::Down(Down { reason: Reason::Replaced, graceful }));
            } else {
                let mine = (self.settings.bgp_id.to_bits(), self.settings.asn);
                let theirs = (new.peer_id.to_bits(), new.peer_asn);
                let preferred = if mine > theirs { Side::Active } else { Side::Passive };
                if side != preferred {
                    return false;
                }
                self.close_with(rival, Notification::new(Code::COLLISION), now, out);
            }
        }
        true
    }

    fn establish(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.link(id) else { return };
        let Some(negotiated) = link.stage.establish(now) else { return };
        self.connect_at = None;
        let others: Vec<(LinkId, State)> = self
            .links
            .iter()
            .filter(|link| link.id != id)
            .map(|link| (link.id, link.stage.state()))
            .collect();
        for (other, state) in others {
            if state == State::Connect {
                self.drop_link(other, out);
            } else {
                self.close_with(other, Notification::new(Code::COLLISION), now, out);
            }
        }
        out.push(Action::Up(id, Box::new(negotiated)));
    }

    /// Tells the peer of its error, and pauses.
    fn refuse(&mut self, id: LinkId, notification: Notification, now: Time, out: &mut Vec<Action>) {
        if self.link(id).is_some() {
            self.close_with(id, notification, now, out);
            self.pause(now);
        }
    }

    fn close_with(
        &mut self,
        id: LinkId,
        notification: Notification,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let established = self.link(id).and_then(|link| link.stage.established());
        let keeps = established.is_some_and(|negotiated| negotiated.notification_bit);
        let notification = match keeps && notification.code.is_for_good() {
            true => notification.into_hard_reset(),
            false => notification,
        };
        out.push(Action::Send(id, Box::new(Message::Notification(notification.clone()))));
        self.end(id, Reason::Sent(notification), now, out);
    }

    /// Ends a connection for a reason.
    fn end(&mut self, id: LinkId, reason: Reason, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.iter().find(|link| link.id == id).cloned() else { return };
        self.drop_link(id, out);
        match link.stage {
            Stage::Established { since, .. } => {
                let graceful = self.is_graceful(&link.stage, &reason);
                out.push(Action::Down(Down { reason: reason.clone(), graceful }));
                if now >= since + self.settings.timing.steady_after {
                    self.failures = 0;
                }
            }
            Stage::Connecting { .. } => {}
            _ => out.push(Action::Refused(reason.clone())),
        }
        let pause = match &reason {
            Reason::Received(notification) => !negotiate::is_harmless(notification),
            Reason::MalformedNotification | Reason::SendStuck => true,
            _ => false,
        };
        // Collisions end a connection, not the talk.
        let collision = matches!(&reason,
            Reason::Sent(n) | Reason::Received(n) if n.code == Code::COLLISION);
        if !collision || self.last_end.is_none() {
            self.note_end(reason);
        }
        if pause {
            self.pause(now);
        } else {
            self.connect_later(now);
        }
    }

    fn note_end(&mut self, reason: Reason) {
        self.last_end = Some(reason);
    }

    fn end_all(&mut self, notification: Option<Notification>, now: Time, out: &mut Vec<Action>) {
        let ids: Vec<LinkId> = self.links.iter().map(|link| link.id).collect();
        for id in ids {
            let connected = self.link(id).is_some_and(|link| link.stage.state() != State::Connect);
            match notification.clone().filter(|_| connected) {
                Some(notification) => self.close_with(id, notification, now, out),
                None => self.end(id, Reason::Stopped, now, out),
            }
        }
        self.connect_at = None;
    }

    fn drop_link(&mut self, id: LinkId, out: &mut Vec<Action>) {
        self.links.retain(|link| link.id != id);
        out.push(Action::Close(id));
    }

    /// B18: what keeps the peer's routes. TCP loss always; NOTIFICATIONs and timers only if both
    /// said so (N bit), and never a hard reset, whoever sent it (RFC 8538 4).
    fn is_graceful(&self, stage: &Stage, reason: &Reason) -> bool {
        let Some(negotiated) = stage.established() else { return false };
        if !negotiated.graceful_helper {
            return false;
        }
        match reason {
            Reason::Lost | Reason::Replaced => true,
            Reason::Sent(n) | Reason::Received(n) => {
                negotiated.graceful_notification && n.code != Code::HARD_RESET
            }
            Reason::SendStuck | Reason::MalformedNotification => negotiated.graceful_notification,
            Reason::Stopped | Reason::TooFar => false,
        }
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }
}

/// B5, RFC 6608.
fn unexpected(state: State) -> Notification {
    Notification::new(match state {
        State::OpenConfirm => Code::UNEXPECTED_IN_OPEN_CONFIRM,
        State::Established => Code::UNEXPECTED_IN_ESTABLISHED,
        _ => Code::UNEXPECTED_IN_OPEN_SENT,
    })
}
