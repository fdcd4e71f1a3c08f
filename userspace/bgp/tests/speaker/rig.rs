//! A running speaker on loopback, its outputs followed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use sluice_bgp::driver::{Happening, Output, PeerConfig, PeerEvent, Speaker, SpeakerConfig};
use sluice_bgp::fsm::Settings;
use sluice_bgp::policy::Policy;
use sluice_bgp::rib::{Chosen, Identity, LocalRoute, Policies, RouteView};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;

pub(crate) const ASN: u32 = 64512;
pub(crate) const EXTERNAL: u32 = 4_200_000_001;
pub(crate) const ID: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

pub(crate) struct Rig {
    pub(crate) speaker: Arc<AsyncMutex<Speaker>>,
    pub(crate) address: SocketAddr,
    /// What an installer would have put into the kernel.
    pub(crate) installed: Arc<Mutex<BTreeMap<IpNet, Chosen>>>,
    pub(crate) converged: Arc<Mutex<bool>>,
    pub(crate) happenings: mpsc::UnboundedReceiver<PeerEvent>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The n-th peer's address; loopback has plenty.
pub(crate) fn peer_address(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 1, n])
}

/// Everything is let through in both directions.
pub(crate) fn open_policies() -> Policies {
    Policies {
        import: Policy::accept_all(),
        export: Policy::accept_all(),
        enforce_first_as: true,
        // Loopback's own address is none that a peer may use.
        next_hops: vec![IpAddr::from([10, 255, 9, 9])],
        ..Policies::default()
    }
}

/// A passive peer of an AS.
pub(crate) fn peer(n: u8, asn: u32) -> PeerConfig {
    let mut settings = Settings::new(ASN, ID, asn);
    settings.passive = true;
    // Tests do not wait for pauses that others are about.
    settings.timing.idle = Duration::from_millis(10);
    settings.timing.idle_max = Duration::from_millis(10);
    PeerConfig { policies: open_policies(), ..PeerConfig::new(peer_address(n), settings) }
}

/// What such a peer says of itself.
pub(crate) fn says(n: u8, asn: u32) -> Settings {
    Settings::new(asn, Ipv4Addr::new(10, 0, 0, n), ASN)
}

impl Rig {
    pub(crate) async fn start(peers: Vec<PeerConfig>) -> Self {
        Self::start_with(peers, |_| {}).await
    }

    pub(crate) async fn start_with(
        peers: Vec<PeerConfig>,
        adjust: impl FnOnce(&mut SpeakerConfig),
    ) -> Self {
        let mut config = SpeakerConfig {
            identity: Identity {
                asn: ASN,
                bgp_id: ID,
                cluster_id: None,
                addresses: vec![IpAddr::from([127, 0, 0, 1]), "fd00::9".parse().unwrap()],
                max_paths: 8,
            },
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            deferral: Duration::from_secs(1),
            seed: 1,
        };
        adjust(&mut config);
        let (mut speaker, mut outputs, mut events) = Speaker::start(config).expect("starts");
        speaker.set_peers(peers).await.expect("peers");
        let address = speaker.listens_at()[0];
        let mut accepted = speaker.take_accepted().expect("once");
        let speaker = Arc::new(AsyncMutex::new(speaker));
        let installed = Arc::new(Mutex::new(BTreeMap::new()));
        let converged = Arc::new(Mutex::new(false));
        let (tell, happenings) = mpsc::unbounded_channel();
        let (doors, kernel, flag) =
            (Arc::clone(&speaker), Arc::clone(&installed), Arc::clone(&converged));
        let tasks = vec![
            tokio::spawn(async move {
                while let Some((stream, from)) = accepted.recv().await {
                    doors.lock().await.accept(stream, from).await;
                }
            }),
            tokio::spawn(async move {
                while let Some(output) = outputs.recv().await {
                    match output {
                        Output::Changes(changes) => {
                            let mut kernel = kernel.lock().unwrap();
                            for (prefix, chosen) in changes {
                                match chosen {
                                    Some(chosen) => kernel.insert(prefix, chosen),
                                    None => kernel.remove(&prefix),
                                };
                            }
                        }
                        Output::Converged => *flag.lock().unwrap() = true,
                    }
                }
            }),
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    drop(tell.send(event));
                }
            }),
        ];
        Self { speaker, address, installed, converged, happenings, tasks }
    }

    /// Prefixes that an installer has now.
    pub(crate) fn prefixes(&self) -> Vec<String> {
        self.installed.lock().unwrap().keys().map(ToString::to_string).collect()
    }

    pub(crate) async fn routes(&self) -> Vec<RouteView> {
        self.speaker.lock().await.routes(None, usize::MAX).await
    }

    pub(crate) async fn set_locals(&self, routes: Vec<LocalRoute>) {
        self.speaker.lock().await.set_locals(routes, true).await;
    }

    /// Waits until the installer has these prefixes, or says what it has.
    pub(crate) async fn until_installed(&self, expected: &[&str]) {
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.prefixes() != expected {
            assert!(tokio::time::Instant::now() < until, "{:?}, not {expected:?}", self.prefixes());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The next thing that happens with a peer.
    pub(crate) async fn happening(&mut self) -> Happening {
        let next = tokio::time::timeout(Duration::from_secs(30), self.happenings.recv());
        next.await.expect("something happens").expect("the speaker lives").what
    }
}
