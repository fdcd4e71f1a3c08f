//! GoBGP.

use std::time::Duration;

use crate::scenario::{Daemon, Scenario, until};
use crate::space::{Running, Space};

pub(crate) struct GoBgp;

impl Daemon for GoBgp {
    fn program(&self) -> &'static str {
        "gobgpd"
    }

    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running> {
        let [ours, theirs] = scenario.addresses();
        let password =
            scenario.password.map_or(String::new(), |p| format!("auth-password = \"{p}\""));
        let (graceful, family) = if scenario.graceful {
            (
                "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 60\n",
                "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n",
            )
        } else {
            ("", "")
        };
        let security = match scenario.ttl_security {
            true => "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n",
            false => "",
        };
        let config = format!(
            "[global.config]
as = {}
router-id = \"10.0.0.2\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{ours}\"
peer-as = {}
{password}
[neighbors.transport.config]
local-address = \"{theirs}\"
[neighbors.timers.config]
connect-retry = 5
hold-time = 9
keepalive-interval = 3
idle-hold-time-after-reset = 1
{security}{graceful}
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"ipv4-unicast\"
{family}
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"ipv6-unicast\"
{family}
",
            scenario.peer_asn, scenario.asn
        );
        let config = space.write("gobgpd.toml", &config);
        let mut arguments = vec!["-f", config.as_str(), "--pprof-disable"];
        if scenario.graceful {
            arguments.push("-r");
        }
        let running = space.daemon("gobgpd", &arguments);
        let add = |prefix, hop| {
            let family = if hop == "10.0.0.2" { "ipv4" } else { "ipv6" };
            let words = ["global", "rib", "add", "-a", family, prefix, "nexthop", hop];
            space.command("gobgp").args(words).output().is_ok_and(|done| done.status.success())
        };
        let patience = Duration::from_secs(10);
        until("gobgpd listens", patience, || add("10.7.0.0/24", "10.0.0.2"));
        until("gobgpd takes IPv6", patience, || add("fd07::/64", "fd00:1::2"));
        vec![running]
    }

    fn route(&self, space: &Space, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = space.output("gobgp", &["global", "rib", "-a", family, prefix]);
        if text.contains("Origin") { text } else { String::new() }
    }

    fn withdraw(&self, space: &Space, _scenario: &Scenario) {
        space.output("gobgp", &["global", "rib", "del", "-a", "ipv4", "10.7.0.0/24"]);
    }

    fn refresh(&self, _space: &Space, _scenario: &Scenario) -> bool {
        // It keeps what it was told and never asks again, whatever `softresetin` is told.
        false
    }
}
