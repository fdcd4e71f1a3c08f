//! Owns BFD for external peers (RFC 5880 asynchronous mode, RFC 5881 one hop): packets and the
//! state machine of a session. Pure, like the machine of BGP: time and packets in, packets and
//! verdicts out.

mod packet;

use std::time::Duration;

pub use packet::{Diagnostic, Packet, PacketError, State};

use crate::fsm::Time;

/// UDP port of control packets (RFC 5881 4).
pub const PORT: u16 = 3784;
/// While a session is not up nothing is sent more often (RFC 5880 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// Settings of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often we want to send at most.
    pub send: Duration,
    /// How often we can receive.
    pub receive: Duration,
    /// After so many packets that did not come the peer is down, at least 1.
    pub multiplier: u8,
}

impl Default for Settings {
    fn default() -> Self {
        let interval = Duration::from_millis(300);
        Self { send: interval, receive: interval, multiplier: 3 }
    }
}

/// What follows from a packet or from time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send(Packet),
    /// The peer is reachable.
    Up,
    /// The peer is not: the session above has to end (B11).
    Down(Diagnostic),
    /// The peer's operator ended BFD; that says nothing about the path (B11, RFC 5882 4.2).
    AdminDown,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    discriminator: u32,
    remote_discriminator: u32,
    remote_receive: Duration,
    /// Its detection time, from its last packet.
    detection: Option<Duration>,
    expires_at: Option<Time>,
    send_at: Time,
    /// Our interval changed: the peer has to confirm (P until F, RFC 5880 6.5).
    polling: bool,
    random: u64,
}

impl Session {
    /// A session that is down. `discriminator` is ours, not 0 and not that of another session.
    #[must_use]
    pub fn new(settings: Settings, discriminator: u32, now: Time) -> Self {
        Self {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::None,
            discriminator: discriminator.max(1),
            remote_discriminator: 0,
            remote_receive: Duration::from_micros(1),
            detection: None,
            expires_at: None,
            send_at: now,
            polling: false,
            random: u64::from(discriminator) | 1,
        }
    }

    /// Our state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Our discriminator.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// When [`Session::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.expires_at.map_or(self.send_at, |at| at.min(self.send_at))
    }

    /// A packet of the peer (RFC 5880 6.8.6). Those that are not for this session change nothing.
    #[must_use]
    pub fn receive(mut self, packet: &Packet, now: Time) -> (Self, Vec<Action>) {
        let mut out = Vec::new();
        let ours = packet.your_discriminator == self.discriminator;
        let first = packet.your_discriminator == 0
            && matches!(packet.state, State::Down | State::AdminDown);
        if !ours && !first {
            return (self, out);
        }
        self.remote_discriminator = packet.my_discriminator;
        self.remote_receive = packet.required_receive;
        if packet.is_final {
            self.polling = false;
        }
        let interval = self.settings.receive.max(packet.desired_send);
        let detection = interval * u32::from(packet.multiplier);
        self.detection = Some(detection);
        self.expires_at = Some(now + detection);
        match (self.state, packet.state) {
            (State::AdminDown, _) => {}
            (State::Down, State::AdminDown) => {}
            (_, State::AdminDown) => {
                self.enter(State::Down, Diagnostic::NeighborDown, now);
                out.push(Action::AdminDown);
            }
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::None, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::None, now);
                // From the slow interval to ours.
                self.polling = true;
                out.push(Action::Up);
            }
            (State::Up, State::Down) => {
                self.enter(State::Down, Diagnostic::NeighborDown, now);
                out.push(Action::Down(Diagnostic::NeighborDown));
            }
            _ => {}
        }
        if packet.poll {
            let answer = Packet { poll: false, is_final: true, ..self.packet() };
            out.push(Action::Send(answer));
        }
        (self, out)
    }

    /// Time has passed.
    #[must_use]
    pub fn tick(mut self, now: Time) -> (Self, Vec<Action>) {
        let mut out = Vec::new();
        if self.expires_at.is_some_and(|at| at <= now) {
            self.expires_at = None;
            self.remote_discriminator = 0;
            self.remote_receive = Duration::from_micros(1);
            if matches!(self.state, State::Init | State::Up) {
                let was_up = self.state == State::Up;
                self.enter(State::Down, Diagnostic::DetectionExpired, now);
                if was_up {
                    out.push(Action::Down(Diagnostic::DetectionExpired));
                }
            }
        }
        if self.send_at <= now {
            // A peer that wants none gets none (RFC 5880 6.8.7).
            if !self.remote_receive.is_zero() {
                out.push(Action::Send(self.packet()));
            }
            self.send_at = now + self.interval();
        }
        (self, out)
    }

    /// Ends by our operator: the peer is told that this says nothing about the path.
    #[must_use]
    pub fn admin_down(mut self, now: Time) -> (Self, Packet) {
        self.enter(State::AdminDown, Diagnostic::AdminDown, now);
        let packet = self.packet();
        (self, packet)
    }

    fn enter(&mut self, state: State, diagnostic: Diagnostic, now: Time) {
        self.state = state;
        self.diagnostic = diagnostic;
        // The peer hears of it at once.
        self.send_at = now;
        if state != State::Up {
            self.polling = false;
        }
    }

    fn desired_send(&self) -> Duration {
        if self.state == State::Up { self.settings.send } else { self.settings.send.max(SLOW) }
    }

    /// Three to four quarters of the interval, at most 90 % with a multiplier of 1 (6.8.7).
    fn interval(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let spread = if self.settings.multiplier == 1 { 0.15 } else { 0.25 };
        let share = 0.75 + spread * ((self.random % 1024) as f64 / 1024.0);
        self.desired_send().max(self.remote_receive).mul_f64(share)
    }

    fn packet(&self) -> Packet {
        Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: self.polling,
            is_final: false,
            multiplier: self.settings.multiplier.max(1),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote_discriminator,
            desired_send: self.desired_send(),
            required_receive: self.settings.receive,
        }
    }
}

#[cfg(test)]
mod tests;
