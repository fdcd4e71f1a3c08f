//! The cluster of all tests here: two backends on n1, one on n2, clients on n1 and n3, and short
//! words for writing Services and asking them.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_testkit::cluster::netns::Netns;
use sluice_testkit::cluster::process::{Process, Spec};
use sluice_testkit::cluster::{self, ApiServer, Cluster, Node, Options};
use sluice_testkit::kubernetes;
use sluice_testkit::traffic::{self, Failure, Load, Plan, Report, Running};

/// Ports of all Services here.
pub(crate) const PORTS: [(&str, u16, u16); 2] = [("TCP", 80, 8080), ("UDP", 53, 5353)];
/// The backends and their nodes.
pub(crate) const BACKENDS: [(&str, &str); 3] = [("web-1", "n1"), ("web-2", "n1"), ("web-3", "n2")];
/// All of them.
pub(crate) const ALL: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Time for a change to come to all nodes, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// An emulated processor takes so many times as long (the machines of `cargo xtask vm` say that they
/// are such).
const EMULATED: u32 = 8;
/// An answer is late, or there is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this nobody has answered.
const SILENCE: Duration = Duration::from_millis(400);

/// Protocol and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) udp: bool,
    pub(crate) v4: bool,
}

pub(crate) const WAYS: [Way; 4] = [
    Way { udp: false, v4: true },
    Way { udp: false, v4: false },
    Way { udp: true, v4: true },
    Way { udp: true, v4: false },
];

impl Way {
    /// Questions that are independent of one another.
    pub(crate) fn load(self) -> Load {
        let per_s = 500;
        if self.udp { Load::Datagrams { per_s } } else { Load::Connections { per_s } }
    }

    /// One connection or socket that asks again and again.
    pub(crate) fn lasting(self) -> Load {
        let pause = Duration::from_millis(2);
        if self.udp { Load::Flow { pause } } else { Load::Stream { pause } }
    }

    pub(crate) fn port(self) -> u16 {
        if self.udp { 53 } else { 80 }
    }

    pub(crate) fn pick(self, addresses: &[IpAddr]) -> IpAddr {
        *addresses.iter().find(|ip| ip.is_ipv4() == self.v4).unwrap()
    }
}

/// A time in which something is done on a processor of one's own: longer where that is emulated.
pub(crate) fn patient(time: Duration) -> Duration {
    if std::env::var_os("SLUICE_VM").is_some() { time * EMULATED } else { time }
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Answered by this backend.
    By(String),
    /// Not answered.
    Not(Failure),
}

pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
}

static RIG: Mutex<Option<Rig>> = Mutex::new(None);

/// Why this machine has no cluster; `None` when it has.
pub(crate) fn missing() -> Option<String> {
    if let Some(reason) = cluster::missing() {
        return Some(reason.to_owned());
    }
    if !agent().is_file() {
        return Some(format!("no agent at {}: cargo build -p sluice-agent", agent().display()));
    }
    (crate::API == ApiServer::Kubernetes).then(|| kubernetes::missing(&kubernetes::API)).flatten()
}

/// The cluster, for one test at a time; `None` after telling why this machine has none.
pub(crate) fn rig() -> Option<MutexGuard<'static, Option<Rig>>> {
    if let Some(reason) = missing() {
        println!("SKIP: {reason}");
        return None;
    }
    // A test that failed has left no state that matters to others.
    let mut rig = RIG.lock().unwrap_or_else(PoisonError::into_inner);
    if rig.is_none() {
        *rig = Some(Rig::build(agent()));
    }
    Some(rig)
}

/// `SLUICE_TEST_AGENT`, or the binary that cargo puts beside the testkit's own.
pub(crate) fn agent() -> PathBuf {
    let testkit = PathBuf::from(env!("CARGO_BIN_EXE_sluice-testkit"));
    let told = std::env::var_os("SLUICE_TEST_AGENT").map(PathBuf::from);
    told.unwrap_or_else(|| testkit.with_file_name("sluice"))
}

impl Rig {
    // The cluster is never dropped: statics are not. Its janitor removes it after our end.
    pub(crate) fn build(sluice: PathBuf) -> Self {
        let options = Options {
            sluice: Some(sluice),
            testkit: Some(env!("CARGO_BIN_EXE_sluice-testkit").into()),
            cgroups: cluster::has_cgroups(),
            api: crate::API,
            ..Options::default()
        };
        let cluster = Cluster::start(options).unwrap();
        // SCTP for the tests and the matrix that ask by it.
        let ports = PORTS.map(|(protocol, _, target)| (protocol, target)).into_iter();
        let ports: Vec<(&str, u16)> = ports.chain([("SCTP", 9090)]).collect();
        for (name, node) in BACKENDS {
            cluster.apply(cluster::pod(name, node, "echo", &json!({}), &ports)).unwrap();
        }
        for node in ["n1", "n3"] {
            let name = format!("client-{node}");
            cluster.apply(cluster::pod(&name, node, "pause", &json!({}), &[])).unwrap();
        }
        for name in ALL.into_iter().chain(["client-n1", "client-n3"]) {
            cluster.wait_for_pod(name).unwrap();
        }
        Self { cluster }
    }

    /// Where a pod, a node or the office asks from.
    pub(crate) fn netns(&self, name: &str) -> Netns {
        match name {
            "office" => self.cluster.network().office.clone(),
            name => match self.cluster.node(name) {
                Ok(node) => node.netns().clone(),
                Err(_) => self.cluster.pod(name).unwrap().netns,
            },
        }
    }

    /// Writes a dual-stack Service with `spec` on top of the usual one; its ClusterIPs.
    pub(crate) fn service(&self, name: &str, spec: Value) -> Vec<IpAddr> {
        let mut service = cluster::service(name, &Value::Null, &PORTS);
        let own = service["spec"].as_object_mut().unwrap();
        own.extend(spec.as_object().cloned().unwrap_or_default());
        self.cluster.apply(service).unwrap();
        self.cluster.api().cluster_ips(name).unwrap_or_default()
    }

    /// Gives a load balancer's Service its addresses.
    pub(crate) fn ingress(&self, name: &str, addresses: &[&str]) {
        let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        self.cluster.api().patch_status("services", "default", name, &status).unwrap();
    }

    /// Makes these the ready endpoints of a Service.
    pub(crate) fn endpoints(&self, service: &str, pods: &[&str]) {
        let endpoints: Vec<(&str, Value)> = pods
            .iter()
            .map(|pod| {
                let node = BACKENDS.iter().find(|(name, _)| name == pod).unwrap().1;
                (*pod, json!({ "nodeName": node, "conditions": { "ready": true } }))
            })
            .collect();
        self.slices(service, &endpoints, &PORTS);
    }

    /// Writes one slice for each family, each endpoint as given but for its address.
    pub(crate) fn slices(&self, service: &str, pods: &[(&str, Value)], ports: &[(&str, u16, u16)]) {
        for (at, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let name = format!("{service}-{}", family.to_lowercase());
            let mut slice = cluster::slice(&name, service, &[], ports);
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|(pod, endpoint)| {
                    let mut endpoint = endpoint.clone();
                    let addresses = self.cluster.pod(pod).unwrap().addresses;
                    endpoint["addresses"] = json!([addresses[at]]);
                    endpoint
                })
                .collect();
            slice["addressType"] = json!(family);
            slice["endpoints"] = json!(endpoints);
            self.cluster.apply(slice).unwrap();
        }
    }

    /// Deletes a Service and its slices.
    pub(crate) fn remove(&self, service: &str) {
        self.cluster.store().delete("services", "default", service);
        for family in ["ipv4", "ipv6"] {
            let name = format!("{service}-{family}");
            self.cluster.store().delete("endpointslices", "default", &name);
        }
    }

    /// Asks so many times.
    pub(crate) fn report(&self, from: &str, target: SocketAddr, way: Way, times: u64) -> Report {
        self.run(from, target, way, times, PATIENCE)
    }

    /// Asks from a namespace; for a node by a process of it, so that it is in the node's cgroup.
    fn run(&self, from: &str, at: SocketAddr, way: Way, times: u64, timeout: Duration) -> Report {
        let timeout = patient(timeout);
        let Ok(node) = self.cluster.node(from) else {
            let plan = Plan { timeout, ..Plan::new(at, way.load()).limit(times) };
            return traffic::run(&self.netns(from), plan).unwrap();
        };
        let kind = if way.udp { "datagrams" } else { "connections" };
        let args =
            format!("{kind} --per-s 500 --count {times} --timeout-ms {}", timeout.as_millis());
        self.spawn(node, at, &args).report()
    }

    /// A UDP socket of a node's own process, in the node's cgroup, that asks for so long.
    pub(crate) fn own_flow(&self, node: &Node, target: SocketAddr, seconds: u32) -> Own {
        let args = format!("flow --pause-ms 10 --seconds {seconds} --timeout-ms 400");
        self.spawn(node, target, &args)
    }

    fn spawn(&self, node: &Node, target: SocketAddr, args: &str) -> Own {
        let netns = node.netns().path().display();
        let args = format!("traffic {target} --netns {netns} --kind {args}");
        let log = self.cluster.dir().join("traffic.log");
        let spec = Spec::new(self.cluster.program()).args(args.split(' ')).log(&log).pipe_stdout();
        Own { process: node.spawn(&spec).unwrap(), args, log }
    }

    /// Asks once.
    pub(crate) fn ask(&self, from: &str, target: SocketAddr, way: Way) -> End {
        let report = self.run(from, target, way, 1, SILENCE);
        match report.backends.into_keys().next() {
            Some(backend) => End::By(backend),
            None => End::Not(report.failures.into_keys().next().unwrap()),
        }
    }

    /// Starts questions that go on until they are stopped.
    pub(crate) fn start(&self, from: &str, target: SocketAddr, load: Load) -> Running {
        let plan = Plan { timeout: patient(SILENCE), ..Plan::new(target, load) };
        traffic::start(&self.netns(from), plan).unwrap()
    }

    /// Waits until exactly these backends answer (nobody: until there is no answer).
    pub(crate) fn settle(&self, from: &str, target: SocketAddr, way: Way, backends: &[&str]) {
        self.settle_within(from, target, way, backends, SOON);
    }

    /// [`Rig::settle`], with a time of its own.
    pub(crate) fn settle_within(
        &self,
        from: &str,
        target: SocketAddr,
        way: Way,
        backends: &[&str],
        limit: Duration,
    ) {
        let expected: BTreeSet<&str> = backends.iter().copied().collect();
        let deadline = Instant::now() + patient(limit);
        loop {
            let times = if backends.is_empty() { 2 } else { 8 * backends.len() as u64 };
            let report = self.run(from, target, way, times, SILENCE);
            let seen: BTreeSet<&str> = report.backends.keys().map(String::as_str).collect();
            if seen == expected && (report.failed() == 0 || backends.is_empty()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{target} from {from} {way:?}: must lead to {backends:?}: {report:?}"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// [`Rig::settle`] in all ways, at a Service's ClusterIPs.
    pub(crate) fn settle_all(&self, from: &str, addresses: &[IpAddr], backends: &[&str]) {
        for way in WAYS {
            self.settle(from, SocketAddr::new(way.pick(addresses), way.port()), way, backends);
        }
    }
}

/// A process of a node that asks.
pub(crate) struct Own {
    process: Process,
    args: String,
    log: PathBuf,
}

impl Own {
    /// What it has seen, at its end.
    pub(crate) fn report(self) -> Report {
        let mut report = String::new();
        self.process.take_stdout().unwrap().read_to_string(&mut report).unwrap();
        // That attempts fail is in the report.
        serde_json::from_str(&report).unwrap_or_else(|fault| {
            let told = std::fs::read_to_string(&self.log).unwrap_or_default();
            let end = self.process.wait(Duration::from_secs(1));
            panic!(
                "{fault} in {report:?} of {}, which ended with {end:?} and told {told}",
                self.args
            )
        })
    }
}

/// Waits until `is` holds, patiently; how long that took.
pub(crate) fn until(what: &str, limit: Duration, is: impl Fn() -> bool) -> Duration {
    let (start, limit) = (Instant::now(), patient(limit));
    while !is() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(1));
    }
    start.elapsed()
}
