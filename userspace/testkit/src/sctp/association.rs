//! Owns an association once both ends know each other's tag: what comes in order, what is
//! acknowledged, what is sent again, how it ends. Pure: packets in and out, time passed in.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::wire::{Chunk, Data, Packet};
use super::{AGAIN, ATTEMPTS};

/// Octets of a message in one chunk: fits every link of a cluster.
const PART: usize = 1200;

/// What both ends told each other in INIT and INIT ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// What packets from the peer have to carry.
    pub(super) local_tag: u32,
    /// What those to it have to.
    pub(super) peer_tag: u32,
    /// The first TSN of this end.
    pub(super) local_tsn: u32,
    /// That of the peer.
    pub(super) peer_tsn: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// SHUTDOWN is sent.
    Closing,
    /// SHUTDOWN ACK is sent.
    Answering,
    Closed,
}

/// One end.
#[derive(Debug)]
pub(super) struct Association {
    local_port: u16,
    peer_port: u16,
    beginning: Beginning,
    phase: Phase,
    /// The last TSN that came in order.
    taken: u32,
    /// What has come of a message.
    partly: Vec<u8>,
    /// The next TSN of this end.
    next: u32,
    sequence: u16,
    /// Sent, and not yet acknowledged.
    waiting: VecDeque<Data>,
    sent: Instant,
    attempts: u32,
}

/// What came of a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whole messages, in order.
    pub(super) messages: Vec<Vec<u8>>,
    /// What is to be sent now.
    pub(super) answers: Vec<Packet>,
}

impl Association {
    pub(super) fn new(local: u16, peer: u16, beginning: Beginning, now: Instant) -> Self {
        Self {
            local_port: local,
            peer_port: peer,
            beginning,
            phase: Phase::Open,
            taken: beginning.peer_tsn.wrapping_sub(1),
            partly: Vec::new(),
            next: beginning.local_tsn,
            sequence: 0,
            waiting: VecDeque::new(),
            sent: now,
            attempts: 0,
        }
    }

    pub(super) fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// Whether nothing comes or goes any more.
    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// A packet to the peer.
    pub(super) fn packet(&self, chunks: Vec<Chunk>) -> Packet {
        let tag = self.beginning.peer_tag;
        Packet { source: self.local_port, destination: self.peer_port, tag, chunks }
    }

    /// The packets of a message.
    pub(super) fn send(&mut self, message: &[u8], now: Instant) -> Vec<Packet> {
        let first = self.waiting.len();
        let number = message.chunks(PART).len();
        for (n, part) in message.chunks(PART).enumerate() {
            let (begins, ends, content) = (n == 0, n + 1 == number, part.to_vec());
            let (tsn, sequence) = (self.next, self.sequence);
            self.waiting.push_back(Data { begins, ends, tsn, sequence, content });
            self.next = self.next.wrapping_add(1);
        }
        self.sequence = self.sequence.wrapping_add(1);
        if first == 0 {
            (self.sent, self.attempts) = (now, 0);
        }
        self.waiting.iter().skip(first).map(|data| self.data(data)).collect()
    }

    fn data(&self, data: &Data) -> Packet {
        self.packet(vec![Chunk::Data(data.clone())])
    }

    /// What is to be sent again by now; an error when it was sent too often.
    pub(super) fn late(&mut self, now: Instant) -> io::Result<Vec<Packet>> {
        let again: Vec<Packet> = match self.phase {
            Phase::Open => self.waiting.iter().map(|data| self.data(data)).collect(),
            Phase::Closing => vec![self.packet(vec![Chunk::Shutdown { cumulative: self.taken }])],
            Phase::Answering => vec![self.packet(vec![Chunk::ShutdownAck])],
            Phase::Closed => Vec::new(),
        };
        if again.is_empty() || now.saturating_duration_since(self.sent) < AGAIN {
            return Ok(Vec::new());
        }
        if self.attempts >= ATTEMPTS {
            self.phase = Phase::Closed;
            return Err(io::ErrorKind::TimedOut.into());
        }
        (self.sent, self.attempts) = (now, self.attempts + 1);
        Ok(again)
    }

    /// Begins the end (RFC 9260 section 9.2).
    pub(super) fn shut_down(&mut self, now: Instant) -> Packet {
        (self.phase, self.sent, self.attempts) = (Phase::Closing, now, 0);
        self.packet(vec![Chunk::Shutdown { cumulative: self.taken }])
    }

    /// Ends it at once; `None` where it has ended.
    pub(super) fn abort(&mut self) -> Option<Packet> {
        let open = !self.is_closed();
        self.phase = Phase::Closed;
        open.then(|| self.packet(vec![Chunk::Abort { reflected: false }]))
    }

    /// Takes a packet of the peer's; an error when the peer aborts. What carries a wrong tag is
    /// not the peer's (section 8.5).
    pub(super) fn take(&mut self, packet: &Packet, now: Instant) -> io::Result<Taken> {
        let mut taken = Taken::default();
        if !self.is_peers(packet) {
            return Ok(taken);
        }
        let mut acknowledge = false;
        for chunk in &packet.chunks {
            match chunk {
                Chunk::Data(data) => {
                    acknowledge = true;
                    taken.messages.extend(self.data_came(data));
                }
                Chunk::Sack { cumulative } => self.acknowledged(*cumulative, now),
                Chunk::Heartbeat(information) => {
                    let answer = Chunk::HeartbeatAck(information.clone());
                    taken.answers.push(self.packet(vec![answer]));
                }
                Chunk::Abort { .. } => {
                    self.phase = Phase::Closed;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Chunk::Shutdown { cumulative } => {
                    self.acknowledged(*cumulative, now);
                    (self.phase, self.sent, self.attempts) = (Phase::Answering, now, 0);
                    taken.answers.push(self.packet(vec![Chunk::ShutdownAck]));
                }
                Chunk::ShutdownAck => {
                    self.phase = Phase::Closed;
                    let answer = Chunk::ShutdownComplete { reflected: false };
                    taken.answers.push(self.packet(vec![answer]));
                }
                Chunk::ShutdownComplete { .. } => self.phase = Phase::Closed,
                _ => {}
            }
        }
        if acknowledge {
            taken.answers.push(self.packet(vec![Chunk::Sack { cumulative: self.taken }]));
        }
        Ok(taken)
    }

    fn is_peers(&self, packet: &Packet) -> bool {
        let reflected = matches!(
            packet.chunks.first(),
            Some(Chunk::Abort { reflected: true } | Chunk::ShutdownComplete { reflected: true })
        );
        let Beginning { local_tag, peer_tag, .. } = self.beginning;
        (packet.destination, packet.source) == (self.local_port, self.peer_port)
            && packet.tag == if reflected { peer_tag } else { local_tag }
    }

    /// The message that is whole with this. What does not come in order comes again.
    fn data_came(&mut self, data: &Data) -> Option<Vec<u8>> {
        if data.tsn != self.taken.wrapping_add(1) {
            return None;
        }
        self.taken = data.tsn;
        if data.begins {
            self.partly.clear();
        }
        self.partly.extend(&data.content);
        data.ends.then(|| std::mem::take(&mut self.partly))
    }

    fn acknowledged(&mut self, cumulative: u32, now: Instant) {
        // Serial numbers (section 1.6): half of them are behind any of them.
        let behind = |tsn: u32| cumulative.wrapping_sub(tsn) < 1 << 31;
        while self.waiting.pop_front_if(|data| behind(data.tsn)).is_some() {
            (self.sent, self.attempts) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(now: Instant) -> [Association; 2] {
        // Numbers that wrap around soon.
        let one =
            Beginning { local_tag: 1, peer_tag: 2, local_tsn: u32::MAX - 1, peer_tsn: u32::MAX };
        let other =
            Beginning { local_tag: 2, peer_tag: 1, local_tsn: u32::MAX, peer_tsn: u32::MAX - 1 };
        [Association::new(4000, 90, one, now), Association::new(90, 4000, other, now)]
    }

    fn messages(to: &mut Association, packets: &[Packet], now: Instant) -> Vec<Vec<u8>> {
        packets.iter().flat_map(|packet| to.take(packet, now).unwrap().messages).collect()
    }

    #[test]
    fn messages_come_whole_and_once_however_their_packets_do() {
        let now = Instant::now();
        let message: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
        let [mut one, mut other] = pair(now);
        let packets = one.send(&message, now);
        assert_eq!(packets.len(), 5);
        // The second is lost; those behind it come again with it.
        let mut lossy = packets.clone();
        lossy.remove(1);
        assert!(messages(&mut other, &lossy, now).is_empty());
        assert!(one.late(now).unwrap().is_empty(), "not yet");
        let again = one.late(now + AGAIN).unwrap();
        assert_eq!(messages(&mut other, &again, now), [message]);
        assert!(messages(&mut other, &again, now).is_empty(), "twice");
        // Acknowledged is what came; nothing is sent again.
        for answer in other.take(&again[0], now).unwrap().answers {
            one.take(&answer, now).unwrap();
        }
        assert!(one.late(now + 9 * AGAIN).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_tag_or_port_is_nobodys() {
        let now = Instant::now();
        let [mut one, mut other] = pair(now);
        let packet = one.send(b"x", now).remove(0);
        for wrong in [
            Packet { tag: 3, ..packet.clone() },
            Packet { source: 4001, ..packet.clone() },
            Packet { destination: 91, ..packet.clone() },
        ] {
            assert_eq!(other.take(&wrong, now).unwrap(), Taken::default(), "{wrong:?}");
        }
        // An ABORT may carry the tag of the one who sent what it is about.
        let abort = |tag, reflected| {
            let chunks = vec![Chunk::Abort { reflected }];
            Packet { source: 4000, destination: 90, tag, chunks }
        };
        assert!(other.take(&abort(1, false), now).is_ok());
        assert!(other.take(&abort(1, true), now).is_err());
        assert!(other.is_closed());
    }

    #[test]
    fn both_ends_close_and_what_was_never_acknowledged_is_given_up() {
        let mut now = Instant::now();
        let [mut one, mut other] = pair(now);
        let shutdown = one.shut_down(now);
        let ack = other.take(&shutdown, now).unwrap().answers.remove(0);
        let complete = one.take(&ack, now).unwrap().answers.remove(0);
        other.take(&complete, now).unwrap();
        assert!(one.is_closed() && other.is_closed());
        let [mut one, _] = pair(now);
        one.send(b"x", now);
        for _ in 0..ATTEMPTS {
            now += AGAIN;
            assert_eq!(one.late(now).unwrap().len(), 1);
        }
        assert!(one.late(now + AGAIN).is_err() && one.is_closed());
    }
}
