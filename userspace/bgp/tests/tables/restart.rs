//! B18: graceful restart in the tables.

use sluice_bgp::Family;

use crate::{address, announce, end_of_rib, graceful, lose, open_policies, prefixes, rib, s, up};

const EXTERNAL: u32 = 65001;

#[test]
fn b18_stale_routes_of_a_peer_that_is_back_wait_for_its_end_of_rib_not_its_restart_time() {
    for marked in [true, false] {
        let mut rib = rib(&[(1, EXTERNAL, open_policies())]);
        let mut theirs = graceful(1, EXTERNAL);
        up(&mut rib, 1, &theirs, s(0));
        for prefix in ["10.1.0.0/24", "10.2.0.0/24"] {
            rib.update(address(1), announce(1, EXTERNAL, prefix)).unwrap();
        }
        lose(&mut rib, 1, &theirs, s(10));
        theirs.restarted = true;
        up(&mut rib, 1, &theirs, s(13));
        // Its restart time of 4 s is over; it is still reading its own tables.
        for now in [15, 100, 372] {
            rib.tick(s(now));
            assert_eq!(prefixes(&rib).len(), 2, "after {now} s");
        }
        rib.update(address(1), announce(1, EXTERNAL, "10.2.0.0/24")).unwrap();
        if marked {
            rib.update(address(1), end_of_rib(Family::Ipv4Unicast)).unwrap();
        } else {
            // FRR's stalepath-time, 360 s, from when it was back.
            rib.tick(s(373));
        }
        assert_eq!(prefixes(&rib), ["10.2.0.0/24"], "marked: {marked}");
    }
}
