//! Two sessions against each other in virtual time, and packets field by field.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Two sessions and a line between them that may be cut.
struct Line {
    sessions: [Session; 2],
    now: Time,
    cut: [bool; 2],
    heard: Vec<(Time, usize, Action)>,
    sent: [usize; 2],
}

impl Line {
    fn new(settings: [Settings; 2]) -> Self {
        let [a, b] = settings;
        let start = Duration::ZERO;
        let sessions = [Session::new(a, 11, start), Session::new(b, 22, start)];
        Self { sessions, now: start, cut: [false; 2], heard: Vec::new(), sent: [0; 2] }
    }

    fn take(&mut self, who: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(packet) => {
                    self.sent[who] += 1;
                    let packet = Packet::decode(&packet.encode()).expect("our own");
                    if !self.cut[who] {
                        let (session, more) =
                            self.sessions[1 - who].clone().receive(&packet, self.now);
                        self.sessions[1 - who] = session;
                        self.take(1 - who, more);
                    }
                }
                action => self.heard.push((self.now, who, action)),
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let (at, who) = (0..2).map(|n| (self.sessions[n].deadline(), n)).min().unwrap();
            if at > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(at);
            let (session, actions) = self.sessions[who].clone().tick(self.now);
            self.sessions[who] = session;
            self.take(who, actions);
        }
    }

    fn states(&self) -> [State; 2] {
        [self.sessions[0].state(), self.sessions[1].state()]
    }
}

#[test]
fn b11_up_by_three_ways_then_at_the_slower_pace_of_the_two() {
    let slow = Settings { receive: 700 * MS, ..Settings::default() };
    let mut line = Line::new([Settings::default(), slow]);
    line.run(Duration::from_secs(3));
    assert_eq!(line.states(), [State::Up, State::Up]);
    line.sent = [0; 2];
    line.run(Duration::from_secs(100));
    // 300 ms and 700 ms, less up to a quarter.
    assert!((140..=195).contains(&line.sent[0]), "{:?}: the other takes one in 700 ms", line.sent);
    assert!((330..=450).contains(&line.sent[1]), "{:?}", line.sent);
}

#[test]
fn b11_a_cut_is_noticed_in_the_detection_time_and_the_other_is_told() {
    let mut line = Line::new([Settings::default(); 2]);
    line.run(Duration::from_secs(3));
    line.heard.clear();
    // Only one direction: the one that hears nothing says so.
    line.cut[0] = true;
    let cut = line.now;
    line.run(Duration::from_secs(2));
    let [
        (at, 1, Action::Down(Diagnostic::DetectionExpired)),
        (_, 0, Action::Down(Diagnostic::NeighborDown)),
    ] = line.heard[..]
    else {
        panic!("{:?}", line.heard)
    };
    assert!(at - cut <= 900 * MS, "{:?}", at - cut);
    line.cut[0] = false;
    line.run(Duration::from_secs(4));
    assert_eq!(line.states(), [State::Up, State::Up]);
}

#[test]
fn b11_admin_down_is_no_failure() {
    let mut line = Line::new([Settings::default(); 2]);
    line.run(Duration::from_secs(3));
    line.heard.clear();
    let (session, packet) = line.sessions[0].clone().admin_down(line.now);
    line.sessions[0] = session;
    line.take(0, vec![Action::Send(packet)]);
    line.run(Duration::from_secs(5));
    assert_eq!(line.states(), [State::AdminDown, State::Down]);
    assert_eq!(line.heard.iter().map(|h| h.2).collect::<Vec<_>>(), [Action::AdminDown]);
}

#[test]
fn b11_packets_for_others_change_nothing() {
    let mut line = Line::new([Settings::default(); 2]);
    line.run(Duration::from_secs(3));
    let session = line.sessions[0].clone();
    let down = Packet {
        state: State::Down,
        diagnostic: Diagnostic::None,
        poll: false,
        is_final: false,
        multiplier: 3,
        my_discriminator: 22,
        your_discriminator: 12,
        desired_send: 300 * MS,
        required_receive: 300 * MS,
    };
    assert_eq!(session.clone().receive(&down, line.now), (session.clone(), vec![]));
    let up = Packet { state: State::Up, your_discriminator: 0, ..down };
    assert_eq!(session.clone().receive(&up, line.now), (session, vec![]));
    let octets = down.encode();
    let with = |at: usize, value: u8| {
        let mut octets = octets;
        octets[at] = value;
        Packet::decode(&octets)
    };
    assert_eq!(Packet::decode(&octets), Ok(down));
    assert_eq!(with(0, 0), Err(PacketError::Version(0)));
    assert_eq!(with(1, octets[1] | 4), Err(PacketError::Authentication));
    assert!(matches!(with(1, octets[1] | 1), Err(PacketError::Field(_))));
    assert!(matches!(with(2, 0), Err(PacketError::Field(_))));
    assert_eq!(with(3, 23), Err(PacketError::Short));
    assert_eq!(with(3, 25), Err(PacketError::Short));
    assert_eq!(Packet::decode(&octets[..23]), Err(PacketError::Short));
}

proptest! {
    #[test]
    fn decoding_never_panics_and_is_stable(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(packet) = Packet::decode(&octets) {
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }
}
