//! B22: a peer that floods. Alone in its process, whose memory is what is looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "speaker/peer.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod peer;
#[path = "speaker/rig.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod rig;

use std::net::Ipv4Addr;
use std::time::Duration;

use peer::{RawPeer, mandatory, update};
use rig::{EXTERNAL, Rig, peer as configured, peer_address, says};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Prefixes that the peer would send, and those of one UPDATE.
const PREFIXES: u32 = 1_000_000;
const IN_ONE: u32 = 500;
/// What it may send.
const LIMIT: u32 = 1000;
/// What the process may grow by, KiB: what is under way between the tasks, some 10 MiB. All the
/// prefixes in the tables would be several hundred.
const MOST_KIB: u64 = 64 * 1024;

/// The most memory that this process has had, KiB.
fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The n-th UPDATE: /28s of 16.0.0.0/4.
fn nth(n: u32) -> Vec<u8> {
    let prefix = |k| {
        let address = Ipv4Addr::from_bits(0x1000_0000 + (n * IN_ONE + k) * 16);
        [&[28][..], &address.octets()].concat()
    };
    let nlri: Vec<u8> = (0..IN_ONE).flat_map(prefix).collect();
    update(&[], &mandatory(Some(EXTERNAL), Ipv4Addr::new(10, 255, 0, 1)), &nlri)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_a_million_prefixes_meet_the_limit_and_memory_stays_bounded() {
    let mut config = configured(1, EXTERNAL);
    config.policies.max_prefixes = Some(LIMIT);
    let rig = Rig::start(vec![config]).await;
    let mut raw = RawPeer::established(peer_address(1), rig.address, &says(1, EXTERNAL)).await;
    let before = peak_kib();
    // UPDATE by UPDATE, so that the flood itself takes no memory, until the speaker hangs up.
    let (mut reader, mut writer) = raw.stream.split();
    let mut inbox = bytes::BytesMut::new();
    let write = async {
        for n in 0..PREFIXES / IN_ONE {
            if writer.write_all(&nth(n)).await.is_err() {
                return n;
            }
        }
        PREFIXES / IN_ONE
    };
    let read =
        async { while matches!(reader.read_buf(&mut inbox).await, Ok(count) if count > 0) {} };
    let (written, ()) =
        tokio::time::timeout(Duration::from_secs(120), async { tokio::join!(write, read) })
            .await
            .expect("the end");
    rig.until_installed(&[]).await;
    assert_eq!(rig.routes().await.len(), 0);
    let grown = peak_kib() - before;
    println!("{written} UPDATEs taken by the socket, {grown} KiB more at most");
    assert!(grown < MOST_KIB, "{grown} KiB");
    // RFC 4486 4: AFI, SAFI, limit.
    let limit = [6, 1, 0, 1, 1, 0, 0, 3, 0xe8];
    assert!(inbox.windows(9).any(|octets| octets == limit), "6/1 with the limit: {inbox:x?}");
}
