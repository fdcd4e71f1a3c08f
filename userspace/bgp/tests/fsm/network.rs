//! Two machines and a network between them, in virtual time: connections that take their time or
//! fail, octets that are delayed (in order, as TCP does), connections that are reset.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use sluice_bgp::fsm::{Action, Event, LinkId, Machine, State, Time};
use sluice_bgp::{Code, Message, Params, Received, decode, next_frame};

/// How the network behaves; each number is drawn anew from the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Longest delay of a message or connection, in ms.
    pub(crate) delay_ms: u64,
    /// Of 100 connections, so many fail.
    pub(crate) refused: u64,
    /// Of 100 messages, so many are lost with their connection (reset).
    pub(crate) reset: u64,
    /// Until then; after that everything arrives.
    pub(crate) bad_until: Duration,
}

/// A connection: the links of both ends, and when the last octet on its way arrives there.
#[derive(Clone, Debug)]
struct Wire {
    links: [Option<LinkId>; 2],
    busy_until: [Time; 2],
    open: bool,
}

/// Something on its way.
#[derive(Clone, Debug)]
enum Transit {
    /// A connection asked for by a speaker arrives at the other.
    Connect { from: usize, link: LinkId },
    /// Message to a speaker over a wire.
    Octets { to: usize, wire: usize, octets: BytesMut },
    /// The end of a wire, to a speaker.
    End { to: usize, wire: usize },
    /// A connection could not be made.
    Refused { to: usize, link: LinkId },
}

pub(crate) struct Network {
    pub(crate) now: Time,
    pub(crate) machines: [Machine; 2],
    /// What went over it, for failures: (time, speaker, text).
    pub(crate) log: VecDeque<String>,
    /// How many sessions each has lost.
    pub(crate) downs: [u32; 2],
    /// Connections that each has asked for.
    pub(crate) connects: [u32; 2],
    /// Connections closed by the rule of collisions.
    pub(crate) collisions: u32,
    wires: Vec<Wire>,
    transit: BTreeMap<(Time, u64), Transit>,
    sequence: u64,
    random: u64,
    weather: Weather,
}

impl Network {
    pub(crate) fn new(machines: [Machine; 2], weather: Weather, seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            machines,
            log: VecDeque::new(),
            downs: [0; 2],
            connects: [0; 2],
            collisions: 0,
            wires: Vec::new(),
            transit: BTreeMap::new(),
            sequence: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            weather,
        }
    }

    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % below.max(1)
    }

    fn is_bad(&mut self, percent: u64) -> bool {
        self.now < self.weather.bad_until && self.draw(100) < percent
    }

    fn delay(&mut self) -> Duration {
        let most = self.weather.delay_ms * 1000;
        Duration::from_micros(50 + self.draw(most))
    }

    fn send(&mut self, at: Time, transit: Transit) {
        self.sequence += 1;
        self.transit.insert((at, self.sequence), transit);
    }

    pub(crate) fn feed(&mut self, who: usize, event: Event) {
        let text = format!("{:>10.3?} {who} <- {event:?}", self.now);
        self.note(text);
        let machine = self.machines[who].clone();
        let (machine, actions) = machine.step(event, self.now);
        self.machines[who] = machine;
        for action in actions {
            self.act(who, action);
        }
    }

    fn note(&mut self, text: String) {
        if self.log.len() > 120 {
            self.log.pop_front();
        }
        self.log.push_back(text);
    }

    fn wire_of(&self, who: usize, link: LinkId) -> Option<usize> {
        self.wires.iter().position(|wire| wire.links[who] == Some(link))
    }

    fn act(&mut self, who: usize, action: Action) {
        let text = format!("{:>10.3?} {who} -> {action:?}", self.now);
        self.note(text);
        match action {
            Action::Connect(link) => {
                self.connects[who] += 1;
                let at = self.now + self.delay();
                let transit = if self.is_bad(self.weather.refused) {
                    Transit::Refused { to: who, link }
                } else {
                    Transit::Connect { from: who, link }
                };
                self.send(at, transit);
            }
            Action::Send(link, message) => {
                let collision = matches!(&*message,
                    Message::Notification(n) if n.code == Code::COLLISION);
                self.collisions += u32::from(collision);
                let Some(wire) = self.wire_of(who, link) else { return };
                if self.is_bad(self.weather.reset) {
                    self.reset(wire);
                    return;
                }
                let mut octets = BytesMut::new();
                message.encode(&Params::default(), &mut octets).expect("fits");
                self.deliver(1 - who, wire, |to| Transit::Octets { to, wire, octets });
            }
            Action::Close(link) => {
                if let Some(wire) = self.wire_of(who, link) {
                    self.wires[wire].links[who] = None;
                    self.deliver(1 - who, wire, |to| Transit::End { to, wire });
                }
            }
            Action::Down(_) => self.downs[who] += 1,
            Action::Up(..) | Action::Update(_) | Action::Refresh(_) | Action::Refused(_) => {}
        }
    }

    /// In order: nothing overtakes on one wire.
    fn deliver(&mut self, to: usize, wire: usize, transit: impl FnOnce(usize) -> Transit) {
        if !self.wires[wire].open {
            return;
        }
        let at = (self.now + self.delay()).max(self.wires[wire].busy_until[to]);
        let at = at + Duration::from_nanos(1);
        self.wires[wire].busy_until[to] = at;
        self.send(at, transit(to));
    }

    fn reset(&mut self, wire: usize) {
        self.wires[wire].open = false;
        for to in 0..2 {
            let at = self.now + self.delay();
            self.send(at, Transit::End { to, wire });
        }
    }

    /// Goes to the next thing that happens; false if nothing does before `until`.
    pub(crate) fn advance(&mut self, until: Time) -> bool {
        let deadline = |who: usize| self.machines[who].deadline().map(|at| (at.max(self.now), who));
        let timer = deadline(0).into_iter().chain(deadline(1)).min();
        let first = self.transit.keys().next().copied();
        match (first, timer) {
            (Some((at, _)), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                if at > until {
                    return false;
                }
                self.now = at;
                if let Some((_, transit)) = self.transit.pop_first() {
                    self.arrive(transit);
                }
                true
            }
            (_, Some((due, who))) if due <= until => {
                self.now = due;
                self.feed(who, Event::Tick);
                true
            }
            _ => false,
        }
    }

    fn arrive(&mut self, transit: Transit) {
        match transit {
            Transit::Refused { to, link } => self.feed(to, Event::ConnectFailed(link)),
            Transit::Connect { from, link } => {
                let other = self.machines[1 - from].name_link();
                let mut links = [None, None];
                links[from] = Some(link);
                links[1 - from] = Some(other);
                self.wires.push(Wire { links, busy_until: [self.now; 2], open: true });
                self.feed(from, Event::Connected(link));
                self.feed(1 - from, Event::Accepted(other));
            }
            Transit::Octets { to, wire, mut octets } => {
                let (Some(link), true) = (self.wires[wire].links[to], self.wires[wire].open) else {
                    return;
                };
                let frame = next_frame(&mut octets, false).unwrap().unwrap();
                match decode(&frame, &Params::default()) {
                    Ok(message) => self.feed(to, Event::Received(link, Box::new(message))),
                    Err(notification) => {
                        self.feed(to, Event::Malformed(link, Some(frame.kind), notification))
                    }
                }
            }
            Transit::End { to, wire } => {
                if let Some(link) = self.wires[wire].links[to].take() {
                    self.feed(to, Event::Closed(link));
                }
            }
        }
    }

    /// Both are established on the two ends of one open wire.
    pub(crate) fn is_established(&self) -> bool {
        let [Some((a, _)), Some((b, _))] = [self.machines[0].session(), self.machines[1].session()]
        else {
            return false;
        };
        self.wires.iter().any(|wire| wire.open && wire.links == [Some(a), Some(b)])
    }

    pub(crate) fn states(&self) -> [State; 2] {
        [self.machines[0].state(), self.machines[1].state()]
    }

    pub(crate) fn story(&self) -> String {
        self.log.iter().map(|line| line.chars().take(220).collect::<String>() + "\n").collect()
    }
}

/// A message as the peer's codec would hand it over.
pub(crate) fn received(message: &Message) -> Box<Received> {
    let mut octets = BytesMut::new();
    message.encode(&Params::default(), &mut octets).expect("fits");
    let frame = next_frame(&mut octets, false).unwrap().unwrap();
    Box::new(decode(&frame, &Params::default()).expect("decodes"))
}
