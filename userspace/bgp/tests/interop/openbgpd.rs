//! OpenBGPD. It couples its routes to the kernel's, so they are announced by configuration.

use crate::scenario::{Daemon, Scenario, THEIRS, Transport};
use crate::space::{Running, Space};

pub(crate) struct OpenBgpd;

impl OpenBgpd {
    fn ask(&self, space: &Space, words: &[&str]) -> String {
        let socket = space.path("bgpd.sock");
        let mut arguments = vec!["-s", socket.as_str()];
        arguments.extend(words);
        space.output("bgpctl", &arguments)
    }
}

impl Daemon for OpenBgpd {
    fn program(&self) -> &'static str {
        // Its daemon has the name of FRR's.
        "bgpctl"
    }

    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running> {
        let [ours, theirs] = scenario.addresses();
        let password =
            scenario.password.map_or(String::new(), |p| format!("tcp md5sig password \"{p}\"\n"));
        let networks: String =
            self.announces(scenario).iter().map(|prefix| format!("network {prefix}\n")).collect();
        let config = format!(
            "AS {}
router-id 10.0.0.2
fib-update no
holdtime 9
listen on {theirs}
socket \"{}\"
{networks}neighbor {ours} {{
    remote-as {}
    local-address {theirs}
    announce IPv4 unicast
    announce IPv6 unicast
    {password}
}}
allow from any
allow to any
",
            scenario.peer_asn,
            space.path("bgpd.sock"),
            scenario.asn
        );
        let config = space.write("bgpd.conf", &config);
        // Where it locks itself in; systemd would make it.
        std::fs::create_dir_all("/run/openbgpd").expect("a folder");
        use std::os::unix::fs::PermissionsExt;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&config, private).expect("private");
        vec![space.daemon("/usr/sbin/bgpd", &["-d", "-f", &config])]
    }

    /// It has no next hop for a family that is not the session's.
    fn announces(&self, scenario: &Scenario) -> Vec<&'static str> {
        match scenario.transport {
            Transport::V4 => THEIRS[..1].to_vec(),
            Transport::V6 => THEIRS[1..].to_vec(),
        }
    }

    fn route(&self, space: &Space, prefix: &str) -> String {
        let text = self.ask(space, &["show", "rib", "detail", prefix]);
        if text.contains("Origin") { text } else { String::new() }
    }

    fn withdraw(&self, space: &Space, _scenario: &Scenario) {
        let path = space.path("bgpd.conf");
        let config = std::fs::read_to_string(&path).expect("its configuration");
        std::fs::write(&path, config.replace("network 10.7.0.0/24\n", "")).expect("written");
        self.ask(space, &["reload"]);
    }

    fn refresh(&self, space: &Space, scenario: &Scenario) -> bool {
        let [ours, _] = scenario.addresses();
        self.ask(space, &["neighbor", &ours.to_string(), "refresh"]);
        true
    }
}
