//! ExaBGP: announces what its configuration says and writes down what it hears.

use crate::scenario::{Daemon, Scenario};
use crate::space::{Running, Space};

pub(crate) struct ExaBgp;

/// Keeps the last state of each prefix it hears of in a folder, and passes on commands from a
/// pipe: one process does both, for ExaBGP reads commands from its helpers only.
const HELPER: &str = r#"
import json, os, sys, threading
folder = sys.argv[1]
def commands():
    with open(folder + "/commands") as pipe:
        for line in pipe:
            sys.stdout.write(line)
            sys.stdout.flush()
threading.Thread(target=commands, daemon=True).start()
for line in sys.stdin:
    try:
        update = json.loads(line)["neighbor"]["message"]["update"]
    except (KeyError, ValueError):
        continue
    for table in update.get("announce", {}).values():
        for hop, routes in table.items():
            for route in routes:
                name = route["nlri"].replace("/", "_")
                with open(folder + "/" + name + ".new", "w") as out:
                    out.write("Origin " + hop + " " + json.dumps(update["attribute"]))
                os.rename(folder + "/" + name + ".new", folder + "/" + name)
    for table in update.get("withdraw", {}).values():
        for route in table:
            name = route["nlri"].replace("/", "_")
            if os.path.exists(folder + "/" + name):
                os.remove(folder + "/" + name)
"#;

impl Daemon for ExaBgp {
    fn program(&self) -> &'static str {
        "exabgp"
    }

    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running> {
        let [ours, theirs] = scenario.addresses();
        let password = scenario.password.map_or(String::new(), |p| format!("md5-password '{p}';"));
        let helper = space.write("helper.py", HELPER);
        let folder = space.path("heard");
        std::fs::create_dir_all(&folder).expect("a folder");
        let pipe = format!("{folder}/commands");
        nix::unistd::mkfifo(pipe.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o666))
            .expect("a pipe");
        let config = format!(
            "process helper {{ run /usr/bin/python3 {helper} {folder}; encoder json; }}
neighbor {ours} {{
    router-id 10.0.0.2;
    local-address {theirs};
    local-as {};
    peer-as {};
    hold-time 9;
    {password}
    family {{ ipv4 unicast; ipv6 unicast; }}
    api {{ processes [ helper ]; receive {{ parsed; update; }} }}
    static {{
        route 10.7.0.0/24 next-hop 10.0.0.2;
        route fd07::/64 next-hop fd00:1::2;
    }}
}}
",
            scenario.peer_asn, scenario.asn
        );
        let config = space.write("exabgp.conf", &config);
        let arguments = [
            "exabgp.daemon.user=root",
            "exabgp.log.destination=stdout",
            "exabgp.api.ack=false",
            "exabgp",
            &config,
        ];
        vec![space.daemon("env", &arguments)]
    }

    fn route(&self, space: &Space, prefix: &str) -> String {
        let path = format!("{}/{}", space.path("heard"), prefix.replace('/', "_"));
        // Lists as others write them.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.replace(", ", " ")
    }

    fn withdraw(&self, space: &Space, _scenario: &Scenario) {
        let pipe = format!("{}/commands", space.path("heard"));
        std::fs::write(pipe, "withdraw route 10.7.0.0/24 next-hop 10.0.0.2\n").expect("told");
    }

    fn refresh(&self, _space: &Space, _scenario: &Scenario) -> bool {
        false
    }

    fn community(&self) -> &'static str {
        "[64512 77]"
    }

    fn large_community(&self) -> &'static str {
        "[64512 1 2]"
    }
}
