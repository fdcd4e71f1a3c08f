//! B28: a peer that says nothing, as fast as it can. Alone in its process, whose memory is looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "speaker/peer.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod peer;
#[path = "speaker/rig.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod rig;

use std::io::Write;
use std::time::{Duration, Instant};

use peer::{RawPeer, message};
use rig::{EXTERNAL, Rig, peer as configured, peer_address, says};
use sluice_bgp::fsm::State;
use sluice_bgp::{Message, Received};

/// How long each flood lasts: more than a hold time of the other peer.
const FLOOD: Duration = Duration::from_secs(4);
/// What the process may grow by, KiB: one reading of the socket and what the test itself takes.
const MOST_KIB: u64 = 16 * 1024;

/// The most memory that this process has had, KiB.
fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn b28_messages_that_say_nothing_take_neither_memory_nor_time_of_others() {
    let mut other = configured(2, EXTERNAL);
    other.settings.hold_s = 3;
    let rig = Rig::start(vec![configured(1, EXTERNAL), other]).await;
    let mut innocent = RawPeer::established(peer_address(2), rig.address, &says(2, EXTERNAL)).await;
    let before = peak_kib();
    // A KEEPALIVE, and a ROUTE-REFRESH of a subtype that is ignored (RFC 7313 5).
    for octets in [message(4, &[]), message(5, &[0, 1, 7, 1])] {
        let flooder = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
        let mut stream = flooder.stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let flood = std::thread::spawn(move || {
            let (many, until, mut sent) = (octets.repeat(3000), Instant::now() + FLOOD, 0);
            while Instant::now() < until {
                stream.write_all(&many).expect("the session stays");
                sent += many.len();
            }
            sent
        });
        let mut heard = Instant::now();
        while !flood.is_finished() {
            innocent.send(&Message::Keepalive).await;
            let next = tokio::time::timeout(Duration::from_millis(300), innocent.receive()).await;
            if let Ok(Received::Keepalive) = next {
                heard = Instant::now();
            }
            assert!(heard.elapsed() < Duration::from_secs(3), "no KEEPALIVE for a hold time");
        }
        println!("{} MiB of messages in {FLOOD:?}", flood.join().unwrap() >> 20);
        let state = rig.speaker.lock().await.peers().await[1].status.state;
        assert_eq!(state, State::Established);
    }
    let grown = peak_kib() - before;
    println!("{grown} KiB more at most");
    assert!(grown < MOST_KIB, "{grown} KiB");
}
