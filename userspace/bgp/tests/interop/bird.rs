//! BIRD 2.

use crate::scenario::{Daemon, Scenario};
use crate::space::{Running, Space};

pub(crate) struct Bird;

impl Bird {
    fn ask(&self, space: &Space, question: &str) -> String {
        space.output("birdc", &["-s", &space.path("bird.ctl"), question])
    }
}

impl Daemon for Bird {
    fn program(&self) -> &'static str {
        "bird"
    }

    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running> {
        let [ours, theirs] = scenario.addresses();
        let password = scenario.password.map_or(String::new(), |p| format!("password \"{p}\";"));
        let (bfd_protocol, bfd) = match scenario.bfd {
            true => ("protocol bfd bfd1 { }", "bfd on;"),
            false => ("", ""),
        };
        let security = if scenario.ttl_security { "ttl security on;" } else { "" };
        let graceful = if scenario.graceful { "yes" } else { "aware" };
        let config = format!(
            "router id 10.0.0.2;
            graceful restart wait 5;
            protocol device {{ }}
            {bfd_protocol}
            protocol static static4 {{ ipv4; route 10.7.0.0/24 blackhole; }}
            protocol static static6 {{ ipv6; route fd07::/64 blackhole; }}
            protocol bgp peer {{
                local {theirs} as {}; neighbor {ours} as {}; {password} {bfd} {security}
                hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;
                graceful restart {graceful};
                ipv4 {{ import all; export where source = RTS_STATIC; next hop address 10.0.0.2; }};
                ipv6 {{ import all; export where source = RTS_STATIC; next hop address fd00:1::2; }};
            }}",
            scenario.peer_asn, scenario.asn
        );
        let config = space.write("bird.conf", &config);
        let mut arguments = vec!["-f", "-c", &config];
        let (control, pid) = (space.path("bird.ctl"), space.path("bird.pid"));
        arguments.extend(["-s", &control, "-P", &pid]);
        if scenario.graceful {
            arguments.push("-R");
        }
        vec![space.daemon("bird", &arguments)]
    }

    fn route(&self, space: &Space, prefix: &str) -> String {
        let text = self.ask(space, &format!("show route for {prefix} protocol peer all"));
        let text = text.replace(", ", ":").replace(',', ":").replace(['(', ')'], "");
        if text.contains("BGP.origin") { text } else { String::new() }
    }

    fn withdraw(&self, space: &Space, _scenario: &Scenario) {
        self.ask(space, "disable static4");
    }

    fn refresh(&self, space: &Space, _scenario: &Scenario) -> bool {
        self.ask(space, "reload in peer");
        true
    }
}
