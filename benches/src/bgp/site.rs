//! Owns the two namespaces of a case: the speaker's, and one with the addresses of all its peers.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use sluice_testkit::cluster::STATE_ROOT;
use sluice_testkit::cluster::netns::Netns;
use sluice_testkit::cluster::process::Keeper;
use sluice_testkit::cluster::registry::Claim;

/// The speaker's address and AS.
pub(super) const SPEAKER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
pub(super) const SPEAKER_ASN: u32 = 64512;
/// The AS of all peers.
pub(super) const PEERS_ASN: u32 = 65001;
/// Long enough that no KEEPALIVE is needed while anything is measured, seconds.
pub(super) const HOLD_S: u16 = 600;

/// When peers begin to send routes, which is when the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstRoutes {
    /// The sessions are up before.
    AfterSession,
    /// The sessions come up first, and that counts.
    WithSession,
}

/// Two namespaces with a link between them. Gone when dropped.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) peers: Vec<Ipv4Addr>,
    pub(super) speaker: Netns,
    pub(super) feeder: Netns,
    pub(super) keeper: Keeper,
    claim: Arc<Claim>,
}

impl Site {
    /// Builds it, with so many peers.
    pub(super) fn build(peers: u16) -> Result<Self> {
        let claim = Arc::new(Claim::take(Path::new(STATE_ROOT))?);
        let speaker = Netns::create(&claim.netns("speaker"))?;
        let feeder = Netns::create(&claim.netns("feeder"))?;
        let keeper = Keeper::start(claim.clone())?;
        let peers: Vec<Ipv4Addr> = (0..peers).map(peer).collect();
        speaker.ip(&format!(
            "link add link0 type veth peer name link0 netns {}\n\
             link set link0 up\naddress add {SPEAKER}/16 dev link0\n",
            claim.netns("feeder").display()
        ))?;
        let mut script = "link set link0 up\n".to_owned();
        for peer in &peers {
            let _ = writeln!(script, "address add {peer}/16 dev link0");
        }
        feeder.ip(&script)?;
        Ok(Self { peers, speaker, feeder, keeper, claim })
    }

    /// A file of this case.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.claim.dir().join(name)
    }

    /// Writes such a file.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// IPv4 prefixes in the main routing table of the speaker's namespace, as the kernel counts them.
    pub(super) fn kernel_prefixes(&self) -> Result<usize> {
        let read = || fs::read_to_string("/proc/thread-self/net/fib_triestat");
        let text = self.speaker.run(read)?.context("read fib_triestat")?;
        count(&text).context("fib_triestat tells no prefixes")
    }
}

/// Prefixes of the main table in fib_triestat.
fn count(text: &str) -> Option<usize> {
    let main = text.lines().skip_while(|line| line.trim() != "Main:");
    main.take_while(|line| line.trim() != "Local:")
        .find_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse().ok())
}

/// Address of the n-th peer.
pub(super) fn peer(n: u16) -> Ipv4Addr {
    // 250 to a /24, so that they are easily told apart.
    let offset = u32::from(n / 250) * 256 + u32::from(n % 250);
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 66, 1, 1).to_bits() + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_addresses_of_their_own() {
        assert_eq!(peer(0).to_string(), "10.66.1.1");
        assert_eq!(peer(249).to_string(), "10.66.1.250");
        assert_eq!(peer(250).to_string(), "10.66.2.1");
        assert_eq!(peer(299).to_string(), "10.66.2.50");
    }

    #[test]
    fn the_kernels_count_is_that_of_the_main_table() {
        let text =
            "Basic info: x\nMain:\n\tLeaves:  9\n\tPrefixes:       7\nLocal:\n\tPrefixes: 3\n";
        assert_eq!(count(text), Some(7));
        assert_eq!(count("Main:\nLocal:\n\tPrefixes: 3\n"), None);
    }
}
