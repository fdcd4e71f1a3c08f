//! SCTP through services: by a stack of others' (usrsctp, in user space over raw IP), which looks at
//! every checksum and tag; and associations while their service changes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testkit::cluster;
use sluice_testkit::cluster::process::{Process, Spec};
use sluice_testkit::traffic::{self, Failure, Load, Plan, Report, Running};

use crate::rig::{Rig, SOON, rig, until};

const CLIENT: &str = "client-n1";
const NODE: &str = "n1";
const NAME: &str = "sctp";
/// The testkit's own server, then those of usrsctp, whose ports are their own choice.
const PORTS: [(&str, u16, u16); 3] = [("SCTP", 90, 9090), ("SCTP", 91, 7), ("SCTP", 92, 5001)];
/// Backends and their nodes: the testkit's server, or whatever is started there.
const PODS: [(&str, &str); 4] =
    [("web-1", "n1"), ("web-3", "n2"), ("stack-1", "n1"), ("stack-2", "n2")];
/// Where Debian's libusrsctp-examples are.
const STACK: &str = "/usr/lib/usrsctp";

/// The Service; its ClusterIPs.
fn service(rig: &Rig) -> Vec<IpAddr> {
    let mut service = cluster::service(NAME, &Value::Null, &PORTS);
    service["spec"]["type"] = json!("NodePort");
    rig.cluster.apply(service).unwrap();
    rig.cluster.api().cluster_ips(NAME).unwrap()
}

fn endpoints(rig: &Rig, pods: &[&'static str]) {
    let ready = |pod: &&'static str| {
        let node = PODS.iter().find(|(name, _)| name == pod).unwrap().1;
        (*pod, json!({ "nodeName": node, "conditions": { "ready": true } }))
    };
    rig.slices(NAME, &pods.iter().map(ready).collect::<Vec<_>>(), &PORTS);
}

/// New associations, each asks once.
fn ask(rig: &Rig, target: SocketAddr, times: u64) -> Report {
    let plan = Plan::new(target, Load::Associations { per_s: 200 }).limit(times);
    let plan = Plan { timeout: Duration::from_secs(2), ..plan };
    traffic::run(&rig.netns(CLIENT), plan).unwrap()
}

/// Waits until this backend answers, and no other.
fn settle(rig: &Rig, target: SocketAddr, backend: &str) {
    until(&format!("{target} to lead to {backend}"), SOON, || {
        let report = ask(rig, target, 8);
        report.failed() == 0 && report.backends.keys().eq([backend])
    });
}

/// The Service's port at its addresses.
fn all_at(addresses: &[IpAddr]) -> Vec<SocketAddr> {
    addresses.iter().map(|ip| SocketAddr::new(*ip, 90)).collect()
}

/// An association with each target, which asks again and again.
fn lasting(rig: &Rig, from: &str, targets: &[SocketAddr]) -> Vec<Running> {
    let start = |target: &SocketAddr| {
        let load = Load::Association { pause: Duration::from_millis(2) };
        let running = rig.start(from, *target, load);
        until("the association to be answered", SOON, || running.report().answered > 0);
        running
    };
    targets.iter().map(start).collect()
}

/// The node port of the Service's first port.
fn node_port(rig: &Rig) -> u16 {
    let object = rig.cluster.store().get("services", "default", NAME).unwrap();
    u16::try_from(object["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).unwrap()
}

/// They go on, without a failure, and none was made anew.
fn unbroken(associations: Vec<Running>, backend: &str) {
    let before: Vec<u64> = associations.iter().map(|running| running.report().answered).collect();
    sleep(Duration::from_millis(500));
    for (running, before) in associations.into_iter().zip(before) {
        let report = running.stop().unwrap();
        assert!(report.answered > before, "{report:?}");
        assert_eq!((report.failed(), report.connections), (0, 1), "{report:?}");
        assert!(report.backends.keys().eq([backend]), "{report:?}");
    }
}

#[test]
fn r37_associations_survive_that_all_agents_are_killed() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = service(rig);
    let node = rig.cluster.node(NODE).unwrap();
    let node_port = node_port(rig);
    for backend in ["web-1", "web-3"] {
        endpoints(rig, &[backend]);
        addresses.iter().for_each(|ip| settle(rig, SocketAddr::new(*ip, 90), backend));
        let own: [IpAddr; 2] = [node.plan().v4.into(), node.plan().v6.into()];
        let mut associations = lasting(rig, NODE, &own.map(|ip| SocketAddr::new(ip, node_port)));
        associations.extend(lasting(rig, CLIENT, &all_at(&addresses)));
        for node in rig.cluster.nodes() {
            node.stop_agent(Signal::SIGKILL).unwrap();
        }
        sleep(Duration::from_millis(300));
        for node in rig.cluster.nodes() {
            node.start_agent().unwrap();
        }
        for node in rig.cluster.nodes() {
            node.wait_agent_ready(Duration::from_secs(60)).unwrap();
        }
        unbroken(associations, backend);
    }
    rig.remove(NAME);
}

#[test]
fn r14_r36_associations_stay_with_a_removed_endpoint_and_new_ones_do_not() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let addresses = service(rig);
    let at = |ip: &IpAddr| SocketAddr::new(*ip, 90);
    for others in [&["web-1"][..], &[]] {
        endpoints(rig, &["web-3"]);
        addresses.iter().for_each(|ip| settle(rig, at(ip), "web-3"));
        let associations = lasting(rig, CLIENT, &all_at(&addresses));
        endpoints(rig, others);
        for ip in &addresses {
            match others {
                [] => {
                    until("new associations to be refused", SOON, || {
                        let failures = ask(rig, at(ip), 2).failures;
                        failures.keys().eq([&Failure::Refused])
                    });
                }
                _ => settle(rig, at(ip), "web-1"),
            }
        }
        unbroken(associations, "web-3");
    }
    rig.remove(NAME);
}

#[test]
fn another_stacks_messages_arrive_whole_through_a_cluster_ip() {
    let Some(rig) = rig() else { return };
    if !Path::new(STACK).join("tsctp").is_file() {
        println!("SKIP: no {STACK}: package libusrsctp-examples");
        return;
    }
    let rig = rig.as_ref().unwrap();
    let addresses = service(rig);
    for (backend, node) in &PODS[2..] {
        rig.cluster.apply(cluster::pod(backend, node, "pause", &json!({}), &[])).unwrap();
        rig.cluster.wait_for_pod(backend).unwrap();
        endpoints(rig, &[backend]);
        let (echo, _) = serve(rig, backend, "echo_server", &["0", "0"]);
        for ip in &addresses {
            // It answers without a name.
            let target = SocketAddr::new(*ip, 91);
            until(&format!("{backend} to be served at {target}"), SOON, || {
                ask(rig, target, 1).failures.keys().eq([&Failure::WrongAnswer])
            });
            echoed(rig, target);
        }
        drop(echo);
        // Messages of several packets, 1 MB of them.
        let (_bulk, told) = serve(rig, backend, "tsctp", &["-E", "0"]);
        let ip = addresses.iter().find(|ip| ip.is_ipv4()).unwrap().to_string();
        let args = ["-E", "0", "-p", "92", "-l", "5000", "-n", "200", ip.as_str()];
        // Until the server listens, the association is refused.
        until(&format!("{backend} to take all"), SOON, || {
            let sent = rig.netns(CLIENT).run(|| {
                let mut command = Command::new(Path::new(STACK).join("tsctp"));
                command.args(args).stderr(Stdio::null()).stdout(Stdio::null()).status()
            });
            sent.unwrap().unwrap().success()
        });
        // Length, messages expected and come, octets.
        until(&format!("{backend} to have all"), SOON, || {
            fs::read_to_string(&told).unwrap().contains("5000, 200, 200, 1000000, ")
        });
    }
    rig.remove(NAME);
}

/// A server of usrsctp's in a pod, and where it writes.
fn serve(rig: &Rig, pod: &str, program: &str, args: &[&str]) -> (Process, PathBuf) {
    let log = rig.cluster.dir().join(format!("{pod}-{program}.log"));
    // Its buffers are to be written at once.
    let line: Vec<&str> = ["-oL", "-eL", program].iter().chain(args).copied().collect();
    let path = format!("{STACK}:/usr/bin:/bin");
    let spec = Spec::new("stdbuf").args(line).env("PATH", path).log(&log);
    let process = rig.cluster.keeper().spawn(&rig.netns(pod), &spec).unwrap();
    (process, log)
}

/// usrsctp's client sends 8 KB in lines, and writes what comes back.
fn echoed(rig: &Rig, target: SocketAddr) {
    let lines: String = (0..100).map(|n| format!("{n:077}\n")).collect();
    let (ip, port) = (target.ip().to_string(), target.port().to_string());
    let back = rig.netns(CLIENT).run(|| -> std::io::Result<String> {
        let mut client = Command::new("timeout")
            .args(["20", &format!("{STACK}/client"), &ip, &port, "0", "0", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        stdin.write_all(lines.as_bytes())?;
        let mut back = vec![0; lines.len()];
        // Its end of input is the association's: first all is awaited.
        let read = stdout.read_exact(&mut back);
        drop(stdin);
        client.wait()?;
        read?;
        Ok(String::from_utf8_lossy(&back).into_owned())
    });
    assert_eq!(back.unwrap().unwrap(), lines, "{target}");
}
