//! Schedulers by annotation, as clients see them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testkit::cluster;

use crate::rig::{ALL, PORTS, Rig, SOON, WAYS, patient, rig, until};

const NAME: &str = "scheduled";

/// Writes the Service; where its TCP port is.
fn create(rig: &Rig, scheduler: &str, backends: &[&str]) -> SocketAddr {
    let mut service = cluster::service(NAME, &Value::Null, &PORTS);
    service["metadata"]["annotations"] = json!({ "sluice.io/service.scheduler": scheduler });
    rig.cluster.apply(service).unwrap();
    rig.endpoints(NAME, backends);
    let [way, ..] = WAYS;
    let at = SocketAddr::new(way.pick(&rig.cluster.api().cluster_ips(NAME).unwrap()), way.port());
    rig.settle("client-n1", at, way, backends);
    at
}

/// A connection from a pod, and the name of who answers it.
fn open(rig: &Rig, from: &str, at: SocketAddr) -> (TcpStream, String) {
    let opened = rig.netns(from).run(|| -> std::io::Result<_> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(patient(Duration::from_secs(2))))?;
        stream.write_all(b"1\n")?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok((stream, line.split(' ').next().unwrap_or_default().to_owned()))
    });
    opened.unwrap().unwrap()
}

/// A new backend beside one that holds 150 connections: the next 120 go there unless both draws are
/// the old one, so 90 +- 4.7 of them; a scheduler that does not count sends 60 +- 5.5.
#[test]
fn least_connections_go_where_there_are_fewer() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let at = create(rig, "lc", &["web-1"]);
    let held: Vec<_> = (0..150).map(|_| open(rig, "client-n1", at)).collect();
    rig.endpoints(NAME, &["web-1", "web-3"]);
    until("the new backend", SOON, || open(rig, "client-n1", at).1 == "web-3");
    let next: Vec<_> = (0..120).map(|_| open(rig, "client-n1", at)).collect();
    let new = next.iter().filter(|(_, backend)| backend == "web-3").count();
    assert!(new > 74, "{new} of 120");
    // Those are over: the count follows, and both are drawn alike once more.
    drop((held, next));
    std::thread::sleep(Duration::from_millis(200));
    let after: Vec<_> = (0..200).map(|_| open(rig, "client-n1", at).1).collect();
    let new = after.iter().filter(|backend| *backend == "web-3").count();
    assert!((50..150).contains(&new), "{new} of 200");
    rig.remove(NAME);
}

/// One backend for each client, whatever its port, and the same from the pod's next life.
#[test]
fn by_source_hash_a_client_has_one_backend() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let mut service = cluster::service(NAME, &Value::Null, &PORTS);
    service["metadata"]["annotations"] = json!({ "sluice.io/service.scheduler": "sh" });
    rig.cluster.apply(service).unwrap();
    rig.endpoints(NAME, &ALL);
    for way in WAYS {
        let at =
            SocketAddr::new(way.pick(&rig.cluster.api().cluster_ips(NAME).unwrap()), way.port());
        for client in ["client-n1", "client-n3", "web-2"] {
            until("an answer", SOON, || rig.report(client, at, way, 1).answered == 1);
            let report = rig.report(client, at, way, 60);
            let seen: BTreeSet<&String> = report.backends.keys().collect();
            assert_eq!((seen.len(), report.failed()), (1, 0), "{client} {way:?}: {report:?}");
        }
    }
    rig.remove(NAME);
}
