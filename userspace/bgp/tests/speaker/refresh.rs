//! B17: what a ROUTE-REFRESH does that must not be sent (RFC 2918 4, RFC 7313 5): nothing.

use std::time::Duration;

use sluice_bgp::driver::Happening;
use sluice_bgp::{AfiSafi, Family, Message, Params, Received, Refresh, RefreshKind};

use crate::peer::{PATIENCE, RawPeer, net};
use crate::rig::{EXTERNAL, Rig, peer, peer_address, says};
use crate::routes::{announce, local, send};

const V4: AfiSafi = AfiSafi { afi: 1, safi: 1 };
const V6: AfiSafi = AfiSafi { afi: 2, safi: 1 };

/// Capabilities that the peer lacks, its families, the one it asks for, whether it is answered.
type Row = (&'static [u8], &'static [Family], AfiSafi, bool);

/// A session whose OPEN lacks these capabilities; both ends of it are up.
async fn without(rig: &mut Rig, n: u8, codes: &[u8], families: &[Family]) -> RawPeer {
    let mut settings = says(n, EXTERNAL);
    settings.families = families.iter().copied().collect();
    let mut open = settings.open();
    open.capabilities.retain(|capability| !codes.contains(&capability.code()));
    let mut raw = RawPeer::connect(peer_address(n), rig.address).await;
    raw.receive().await;
    raw.send(&Message::Open(open)).await;
    raw.send(&Message::Keepalive).await;
    raw.params = Params {
        four_octet_as: true,
        extended_messages: true,
        enhanced_refresh: true,
        families: settings.families,
        ..Params::default()
    };
    assert_eq!(rig.happening().await, Happening::Up);
    raw
}

/// Reads all that the speaker has to tell at first.
async fn read_all(raw: &mut RawPeer) {
    let mut ends = raw.params.families.iter().count();
    while ends > 0 {
        if let Received::Update(update) = raw.receive().await {
            ends -= usize::from(update.end_of_rib.is_some());
        }
    }
}

/// Whether an UPDATE or ROUTE-REFRESH comes within this time.
async fn hears_something(raw: &mut RawPeer, within: Duration) -> bool {
    let wait = async { while matches!(raw.receive().await, Received::Keepalive) {} };
    tokio::time::timeout(within, wait).await.is_ok()
}

#[tokio::test]
async fn b17_a_request_without_the_capability_or_of_another_family_is_ignored_and_told_once() {
    let rows: [Row; 6] = [
        (&[2, 70], &Family::ALL, V4, false),
        (&[70], &Family::ALL, V4, true),
        (&[2], &Family::ALL, V4, true),
        (&[], &[Family::Ipv4Unicast], V6, false),
        (&[], &[Family::Ipv4Unicast], AfiSafi { afi: 25, safi: 70 }, false),
        (&[], &[Family::Ipv4Unicast], V4, true),
    ];
    let peers = (0..rows.len()).map(|n| peer(u8::try_from(n + 1).unwrap(), EXTERNAL)).collect();
    let mut rig = Rig::start(peers).await;
    rig.set_locals(vec![local("10.1.0.0/24"), local("fd01::/64")]).await;
    let mut sessions = Vec::new();
    for (n, (codes, families, afi_safi, answered)) in (1u8..).zip(rows) {
        let name = format!("without {codes:?}, {families:?}: {afi_safi:?}");
        let mut raw = without(&mut rig, n, codes, families).await;
        read_all(&mut raw).await;
        let refresh = Refresh { afi_safi, kind: RefreshKind::Request };
        for _ in 0..2 {
            raw.send(&Message::Refresh(refresh)).await;
        }
        if answered {
            assert!(hears_something(&mut raw, PATIENCE).await, "{name}");
        } else {
            let what = rig.happening().await;
            let ignored = matches!(what, Happening::Ignored { refresh: r, .. } if r == refresh);
            assert!(ignored, "{name}: {what:?}");
            assert!(!hears_something(&mut raw, Duration::from_millis(200)).await, "{name}");
        }
        assert!(rig.happenings.try_recv().is_err(), "{name}: once at most");
        sessions.push(raw);
    }
}

#[tokio::test]
async fn b17_marks_without_enhanced_refresh_make_nothing_stale_and_sweep_nothing() {
    let mut rig = Rig::start(vec![peer(1, EXTERNAL)]).await;
    let mut raw = without(&mut rig, 1, &[70], &Family::ALL).await;
    for prefix in ["10.7.0.0/24", "10.8.0.0/24"] {
        send(&mut raw, announce(prefix, &[EXTERNAL], [10, 0, 0, 1])).await;
    }
    rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24"]).await;
    for kind in [RefreshKind::Begin, RefreshKind::End] {
        raw.send(&Message::Refresh(Refresh { afi_safi: V4, kind })).await;
        send(&mut raw, announce("10.9.0.0/24", &[EXTERNAL], [10, 0, 0, 1])).await;
        rig.until_installed(&["10.7.0.0/24", "10.8.0.0/24", "10.9.0.0/24"]).await;
        assert!(rig.routes().await.iter().all(|view| !view.route.stale), "{kind:?}");
    }
    let what = rig.happening().await;
    assert!(
        matches!(what, Happening::Ignored { refresh, .. } if refresh.kind == RefreshKind::Begin)
    );
    assert!(rig.routes().await.iter().any(|view| view.prefix == net("10.7.0.0/24")));
}
