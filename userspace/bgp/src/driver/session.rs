//! Owns the task of one peer: its state machine, its connections, its timers.
//!
//! The task waits for readiness of sockets, a free place at the tables, commands and time, all at
//! once. While the tables are busy nothing is read, so the peer is slowed down by TCP, but
//! KEEPALIVEs go out and its hold timer counts what is there to be read (B28).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::PeerConfig;
use super::connection::{Connection, connect};
use super::listener;
use super::seldom::Seldom;
use super::status::{Counters, PeerStatus};
use super::tables::{Outbound, ToTables, sleep_until};
use super::{Happening, PeerEvent};
use crate::attribute::{self, Fault};
use crate::fsm::{Action, Event, LinkId, Machine, Negotiated, Reason, Settings, Time};
use crate::message::{Message, Notification, Params, ReceivedUpdate, Refresh, decode, next_frame};
use crate::rib::{Keep, Limit, SessionUp};

/// Messages taken in before timers and writing are looked at again.
const MESSAGES: usize = 64;
/// Octets that may wait for the socket before the tables are asked for more.
const LOW_WATER: usize = 64 * 1024;

pub(super) enum Command {
    Accepted(TcpStream),
    Start,
    Stop(Option<Notification>),
    /// Ends the session; it is tried again after the pause.
    Fail {
        notification: Notification,
        again: Option<Duration>,
    },
    /// Another key, who connects, pauses: nothing that ends the session.
    Config(Box<PeerConfig>),
}

pub(super) struct Peer {
    config: PeerConfig,
    machine: Option<Machine>,
    connections: Vec<Connection>,
    connecting: JoinSet<(LinkId, std::io::Result<TcpStream>)>,
    aborts: Vec<(LinkId, tokio::task::AbortHandle)>,
    /// For the tables, in order.
    pending: VecDeque<ToTables>,
    outbound: Option<mpsc::Receiver<Outbound>>,
    /// A batch was taken, the tables wait to hear that it was written.
    owes_ready: bool,
    session: Option<Negotiated>,
    faults_told: Seldom,
    ignored_told: Seldom,
    /// Messages may be left in what was read.
    more: bool,
    epoch: Instant,
    tables: mpsc::Sender<ToTables>,
    events: mpsc::Sender<PeerEvent>,
    closing: mpsc::Sender<()>,
    status: watch::Sender<PeerStatus>,
    counters: Counters,
}

/// What a peer's task runs on.
pub(super) struct Surroundings {
    pub(super) epoch: Instant,
    pub(super) tables: mpsc::Sender<ToTables>,
    pub(super) events: mpsc::Sender<PeerEvent>,
    /// Held by connections until they are closed.
    pub(super) closing: mpsc::Sender<()>,
    pub(super) status: watch::Sender<PeerStatus>,
    pub(super) seed: u64,
}

/// Runs a peer until its commands end; what it was told then is done.
pub(super) async fn run(
    config: PeerConfig,
    around: Surroundings,
    mut commands: mpsc::Receiver<Command>,
) {
    let Surroundings { epoch, tables, events, closing, status, seed } = around;
    let mut peer = Peer {
        machine: Some(Machine::new(config.settings.clone(), seed)),
        config,
        connections: Vec::new(),
        connecting: JoinSet::new(),
        aborts: Vec::new(),
        pending: VecDeque::new(),
        outbound: None,
        owes_ready: false,
        session: None,
        faults_told: Seldom::default(),
        ignored_told: Seldom::default(),
        more: false,
        epoch,
        tables,
        events,
        closing,
        status,
        counters: Counters::default(),
    };
    peer.run(&mut commands).await;
}

impl Peer {
    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) {
        loop {
            self.work();
            self.publish();
            let deadline = self.deadline();
            let more_to_take = self.more && self.pending.is_empty();
            let tables = self.tables.clone();
            // No more is read than is worked off: a peer takes memory for one reading, no more.
            let reads = self.pending.is_empty() && !self.more;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Ok(permit) = tables.reserve(), if !self.pending.is_empty() => {
                    if let Some(message) = self.pending.pop_front() {
                        permit.send(message);
                    }
                    while let Some(message) = self.pending.pop_front() {
                        if let Err(error) = tables.try_send(message) {
                            self.pending.push_front(error.into_inner());
                            break;
                        }
                    }
                }
                outbound = next(&mut self.outbound) => self.send_batch(outbound),
                Some(done) = self.connecting.join_next() => self.connected(done),
                index = ready(&self.connections, reads) => self.read_and_write(index, reads),
                () = sleep_until(self.epoch, deadline) => self.tick(),
                // Other peers' tasks come first.
                () = tokio::task::yield_now(), if more_to_take => {}
            }
        }
        // The tables hear of the end before the peer's routes are removed by name.
        while let Some(message) = self.pending.pop_front() {
            if self.tables.send(message).await.is_err() {
                break;
            }
        }
        for connection in self.connections.drain(..) {
            connection.close(self.closing.clone());
        }
    }

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn step(&mut self, event: Event) {
        let Some(machine) = self.machine.take() else { return };
        let (machine, actions) = machine.step(event, self.now());
        self.machine = Some(machine);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect(id) => {
                let config = self.config.clone();
                let task = self.connecting.spawn(async move { (id, connect(config).await) });
                self.aborts.push((id, task));
            }
            Action::Send(id, message) => self.send(id, &message),
            Action::Close(id) => {
                self.aborts.retain(|(other, task)| {
                    if *other == id {
                        task.abort();
                    }
                    *other != id
                });
                if let Some(index) = self.connections.iter().position(|c| c.id == id) {
                    self.connections.remove(index).close(self.closing.clone());
                }
            }
            Action::Up(id, negotiated) => self.up(id, *negotiated),
            Action::Down(down) => {
                self.outbound = None;
                let keep = self.session.take().filter(|_| down.graceful).and_then(|negotiated| {
                    let restart = negotiated.graceful_restart.as_ref()?;
                    let time = Duration::from_secs(u64::from(restart.time_s));
                    Some(Keep { families: negotiated.restart_families(), time })
                });
                self.counters.lost += 1;
                self.pending.push_back(ToTables::Down { peer: self.config.address, keep });
                let what = Happening::Down { reason: down.reason, graceful: down.graceful };
                self.tell(what);
            }
            Action::Update(update) => self.update(update),
            Action::Refresh(refresh) => self.refresh(refresh),
            Action::Refused(reason) => self.tell(Happening::Refused(reason)),
        }
    }

    fn update(&mut self, update: Box<ReceivedUpdate>) {
        let discarded = |fault: &&Fault| fault.action == attribute::Action::Discard;
        self.counters.updates_received += 1;
        self.counters.faults += update.faults.len() as u64;
        self.counters.withdrawn_by_fault += u64::from(update.is_treated_as_withdraw());
        self.counters.discarded_by_fault += update.faults.iter().filter(discarded).count() as u64;
        let now = self.now();
        // The worst of them: what made routes go, if any did.
        if let Some(fault) = update.faults.iter().max_by_key(|fault| fault.action)
            && self.faults_told.lets(now)
        {
            self.tell(Happening::Fault(fault.clone()));
        }
        self.pending.push_back(ToTables::Update { peer: self.config.address, update });
    }

    fn refresh(&mut self, refresh: Refresh) {
        let now = self.now();
        match self.session.as_ref().map(|negotiated| negotiated.takes(&refresh)) {
            Some(Ok(())) => {
                self.pending.push_back(ToTables::Refresh { peer: self.config.address, refresh });
            }
            Some(Err(why)) if self.ignored_told.lets(now) => {
                self.tell(Happening::Ignored { refresh, why });
            }
            _ => {}
        }
    }

    fn up(&mut self, id: LinkId, negotiated: Negotiated) {
        let local = self.connections.iter().find(|c| c.id == id).and_then(|c| c.local_address);
        let (tell, outbound) = mpsc::channel(4);
        self.outbound = Some(outbound);
        self.owes_ready = false;
        self.counters.established += 1;
        self.session = Some(negotiated.clone());
        // RFC 4724 4.1: we have restarted once, and forward from now on.
        if let Some(machine) = self.machine.take() {
            let mut settings = machine.settings().clone();
            settings.restarted = false;
            settings.forwarding = true;
            self.machine = Some(machine.with_settings(settings));
        }
        let local_address = local.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let up = Box::new(SessionUp { negotiated, local_address });
        let peer = self.config.address;
        self.pending.push_back(ToTables::Up { peer, up, outbound: tell });
        self.tell(Happening::Up);
    }

    fn tell(&self, what: Happening) {
        // Nobody who is far behind is worth waiting for.
        drop(self.events.try_send(PeerEvent { peer: self.config.address, what }));
    }

    fn params(&self, id: LinkId) -> Params {
        let negotiated = self.machine.as_ref().and_then(|machine| machine.negotiated(id));
        negotiated.map(|negotiated| negotiated.params).unwrap_or_default()
    }

    fn send(&mut self, id: LinkId, message: &Message) {
        let params = self.params(id);
        let now = self.now();
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        if connection.waiting() == 0 {
            connection.progress_at = now;
        }
        // The tables make no message that is too long, and all others are short.
        if message.encode(&params, connection.outbox()).is_ok() {
            self.counters.sent += 1;
            self.counters.updates_sent += u64::from(matches!(message, Message::Update(_)));
        }
    }

    fn send_batch(&mut self, outbound: Outbound) {
        let session = self.machine.as_ref().and_then(|machine| machine.session());
        let Some(id) = session.map(|(id, _)| id) else { return };
        match outbound {
            Outbound::Messages(messages) => {
                messages.iter().for_each(|message| self.send(id, message));
                self.owes_ready = true;
            }
            Outbound::Limit(Limit { notification, .. }) => {
                self.step(Event::Fail { notification, again: self.config.limit_pause });
            }
        }
    }

    fn connected(
        &mut self,
        done: Result<(LinkId, std::io::Result<TcpStream>), tokio::task::JoinError>,
    ) {
        // Aborted ones were given up.
        let Ok((id, result)) = done else { return };
        self.aborts.retain(|(other, _)| *other != id);
        match result {
            Ok(stream) => {
                self.connections.push(Connection::new(id, stream, self.now()));
                self.step(Event::Connected(id));
            }
            Err(_) => self.step(Event::ConnectFailed(id)),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Accepted(stream) => {
                match listener::adjust(&stream, &self.config) {
                    Ok(true) => {}
                    Ok(false) => return self.tell(Happening::Refused(Reason::TooFar)),
                    Err(_) => return,
                }
                let Some(machine) = &mut self.machine else { return };
                let id = machine.name_link();
                self.connections.push(Connection::new(id, stream, self.epoch.elapsed()));
                self.step(Event::Accepted(id));
            }
            Command::Start => self.step(Event::Start),
            Command::Stop(notification) => self.step(Event::Stop(notification)),
            Command::Fail { notification, again } => {
                self.step(Event::Fail { notification, again });
            }
            Command::Config(config) => {
                let rekeyed = self.config.password != config.password;
                self.config = *config;
                for connection in self.connections.iter().filter(|_| rekeyed) {
                    // A connection that cannot take the key dies of the other side's silence.
                    drop(connection.set_password(&self.config));
                }
                if let Some(machine) = self.machine.take() {
                    let Settings { passive, timing, .. } = self.config.settings;
                    let settings = Settings { passive, timing, ..machine.settings().clone() };
                    self.machine = Some(machine.with_settings(settings));
                }
                self.step(Event::Tick);
            }
        }
    }

    /// Takes messages from what was read, and writes.
    fn work(&mut self) {
        let ids: Vec<LinkId> = self.connections.iter().map(|connection| connection.id).collect();
        self.more = false;
        for id in ids {
            // What the tables have not taken yet holds up the next.
            let taken =
                (0..MESSAGES).take_while(|_| self.pending.is_empty() && self.take_message(id));
            let left = taken.count() == MESSAGES || !self.pending.is_empty();
            self.more |= left;
            // What came before the end counts.
            if !left && self.connections.iter().any(|c| c.id == id && c.is_ended()) {
                self.lose(id);
            }
        }
        let now = self.now();
        for connection in &mut self.connections {
            connection.write(now);
        }
        let waiting: usize = self.connections.iter().map(Connection::waiting).sum();
        if self.owes_ready && waiting <= LOW_WATER {
            self.owes_ready = false;
            self.pending.push_back(ToTables::Ready { peer: self.config.address });
        }
    }

    /// Takes one message; false if there is none.
    fn take_message(&mut self, id: LinkId) -> bool {
        let params = self.params(id);
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else {
            return false;
        };
        let event = match next_frame(&mut connection.inbox, params.extended_messages) {
            Ok(None) => return false,
            Err(notification) => Event::Malformed(id, None, notification),
            Ok(Some(frame)) => {
                self.counters.received += 1;
                match decode(&frame, &params) {
                    Ok(received) => Event::Received(id, Box::new(received)),
                    Err(notification) => Event::Malformed(id, Some(frame.kind), notification),
                }
            }
        };
        self.step(event);
        true
    }

    fn read_and_write(&mut self, index: usize, reads: bool) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.write(now);
        if reads {
            connection.read();
        }
    }

    fn lose(&mut self, id: LinkId) {
        self.connections.retain(|connection| connection.id != id);
        self.step(Event::Closed(id));
    }

    fn tick(&mut self) {
        let now = self.now();
        let send_hold = self.send_hold();
        let ids: Vec<(LinkId, bool, bool)> = self
            .connections
            .iter()
            .map(|c| {
                let stuck = c.waiting() > 0 && c.progress_at + send_hold <= now;
                (c.id, !self.pending.is_empty() || !c.inbox.is_empty(), stuck)
            })
            .collect();
        for (id, busy, stuck) in ids {
            if stuck {
                self.step(Event::SendStuck(id));
            } else if busy && !self.pending.is_empty() {
                self.step(Event::Busy(id));
            }
        }
        self.step(Event::Tick);
    }

    fn send_hold(&self) -> Duration {
        let hold = self.session.as_ref().map_or(0, |negotiated| negotiated.hold_s);
        self.config.settings.timing.send_hold.max(Duration::from_secs(2 * u64::from(hold)))
    }

    fn deadline(&self) -> Option<Time> {
        let send_hold = self.send_hold();
        let stuck = self.connections.iter().filter(|c| c.waiting() > 0);
        let stuck = stuck.map(|connection| connection.progress_at + send_hold);
        let machine = self.machine.as_ref().and_then(Machine::deadline);
        stuck.chain(machine).min()
    }

    fn publish(&self) {
        let Some(machine) = &self.machine else { return };
        let state = machine.state();
        let last_end = machine.last_end().map(ToString::to_string);
        let session = machine.session();
        let local = session.and_then(|(id, _)| {
            self.connections.iter().find(|c| c.id == id).and_then(|c| c.local_address)
        });
        self.status.send_if_modified(|status| {
            if status.state == state
                && status.counters == self.counters
                && status.last_end == last_end
            {
                return false;
            }
            if status.state != state {
                status.since = Instant::now();
            }
            status.state = state;
            status.negotiated = session.map(|(_, negotiated)| negotiated.clone());
            status.local_address = local;
            status.last_end = last_end;
            status.counters = self.counters;
            true
        });
    }
}

/// The next batch; never completes without a session.
async fn next(outbound: &mut Option<mpsc::Receiver<Outbound>>) -> Outbound {
    if let Some(receiver) = outbound
        && let Some(batch) = receiver.recv().await
    {
        return batch;
    }
    std::future::pending().await
}

/// Position of a connection that can be read or written.
async fn ready(connections: &[Connection], read: bool) -> usize {
    let first = connections.first();
    let waits = connections.iter().enumerate().map(|(index, connection)| {
        Box::pin(async move {
            connection.ready(read).await;
            index
        })
    });
    if first.is_none() {
        return std::future::pending().await;
    }
    futures::future::select_all(waits).await.0
}
