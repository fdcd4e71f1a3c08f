//! FRR: bgpd, and zebra, which tells it of interfaces.

use std::path::Path;
use std::time::Duration;

use crate::scenario::{Daemon, Scenario, until};
use crate::space::{Running, Space};

pub(crate) struct Frr;

impl Frr {
    fn ask(&self, space: &Space, lines: &[&str]) -> String {
        let folder = space.path("vty");
        let mut arguments = vec!["--vty_socket", folder.as_str()];
        for line in lines {
            arguments.extend(["-c", line]);
        }
        space.output("vtysh", &arguments)
    }
}

impl Daemon for Frr {
    fn program(&self) -> &'static str {
        "bgpd"
    }

    fn start(&self, space: &Space, scenario: &Scenario) -> Vec<Running> {
        let [ours, _] = scenario.addresses();
        let password =
            scenario.password.map_or(String::new(), |p| format!("neighbor {ours} password {p}\n"));
        let graceful = if scenario.graceful {
            "bgp graceful-restart\nbgp graceful-restart preserve-fw-state\n\
             bgp graceful-restart select-defer-time 3\n"
        } else {
            ""
        };
        let security = match scenario.ttl_security {
            true => format!("neighbor {ours} ttl-security hops 1\n"),
            false => String::new(),
        };
        // RFC 8212: without a policy FRR takes nothing from external peers. Policies stand first:
        // those that change after the session is up count only seconds later.
        let config = format!(
            "route-map all permit 10
route-map hop4 permit 10
 set ip next-hop 10.0.0.2
route-map hop6 permit 10
 set ipv6 next-hop global fd00:1::2
router bgp {}
 bgp router-id 10.0.0.2
 no bgp network import-check
 no bgp default ipv4-unicast
 {graceful} neighbor {ours} remote-as {}
 neighbor {ours} timers 3 9
 neighbor {ours} timers connect 1
 neighbor {ours} advertisement-interval 0
 {security} {password} address-family ipv4 unicast
  network 10.7.0.0/24
  neighbor {ours} activate
  neighbor {ours} route-map all in
  neighbor {ours} route-map hop4 out
 exit-address-family
 address-family ipv6 unicast
  network fd07::/64
  neighbor {ours} activate
  neighbor {ours} route-map all in
  neighbor {ours} route-map hop6 out
 exit-address-family
",
            scenario.peer_asn, scenario.asn
        );
        let config = space.write("bgpd.conf", &config);
        let folder = space.path("vty");
        drop(std::fs::remove_file(space.path("zserv.api")));
        std::fs::create_dir_all(&folder).expect("a folder");
        // bgpd drops its privileges before it makes its socket.
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&folder, open).expect("open to all");
        let (pid, zebra) = (space.path("bgpd.pid"), space.path("zserv.api"));
        let place = ["-z", &zebra, "--vty_socket", &folder, "--log", "stdout"];
        let none = space.write("zebra.conf", "");
        let zebra_pid = space.path("zebra.pid");
        let of_zebra = [&["-f", &none, "-i", &zebra_pid][..], &place].concat();
        let running = space.daemon("/usr/lib/frr/zebra", &of_zebra);
        until("zebra listens", Duration::from_secs(10), || Path::new(&zebra).exists());
        let of_bgpd = [&["-f", &config, "-i", &pid, "-P", "0"][..], &place].concat();
        vec![space.daemon("/usr/lib/frr/bgpd", &of_bgpd), running]
    }

    fn route(&self, space: &Space, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = self.ask(space, &[&format!("show bgp {family} unicast {prefix}")]);
        if text.contains("Origin") { text } else { String::new() }
    }

    fn withdraw(&self, space: &Space, scenario: &Scenario) {
        let router = format!("router bgp {}", scenario.peer_asn);
        let lines = ["conf t", &router, "address-family ipv4 unicast", "no network 10.7.0.0/24"];
        self.ask(space, &lines);
    }

    fn refresh(&self, space: &Space, _scenario: &Scenario) -> bool {
        self.ask(space, &["clear bgp ipv4 unicast * soft in"]);
        true
    }
}
