//! loadBalancerSourceRanges that change under traffic.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use sluice_testkit::traffic::Failure;

use crate::rig::{ALL, End, SOON, WAYS, rig, until};

const NAME: &str = "walled";
const ADDRESSES: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

#[test]
fn r17_r48_narrowed_ranges_shut_out_new_connections_and_cut_none() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let router = &rig.cluster.network().router;
    let plan = rig.cluster.node("n1").unwrap().plan();
    router
        .ip(&format!(
            "route replace {}/32 via {}\nroute replace {}/128 via {}\n",
            ADDRESSES[0], plan.v4, ADDRESSES[1], plan.v6
        ))
        .unwrap();
    let spec =
        |ranges: &[String]| json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ranges });
    let office = ["192.168.88.0/24", "fd00:88::/64"].map(str::to_owned).to_vec();
    let pods = |node: &str| -> Vec<String> {
        rig.cluster.node(node).unwrap().pod_cidrs().iter().map(ToString::to_string).collect()
    };
    let addresses = ADDRESSES.map(|ip| ip.parse().unwrap());
    for (from, own, other) in
        [("office", office.clone(), pods("n1")), ("client-n1", pods("n1"), pods("n3"))]
    {
        rig.service(NAME, spec(&own));
        rig.ingress(NAME, &ADDRESSES);
        rig.endpoints(NAME, &ALL);
        rig.settle_all(from, &addresses, &ALL);
        for way in WAYS {
            let target = SocketAddr::new(way.pick(&addresses), way.port());
            let running = rig.start(from, target, way.lasting());
            until("it to be answered", SOON, || running.report().answered > 0);
            rig.service(NAME, spec(&other));
            until("new connections to be met with silence", SOON, || {
                rig.ask(from, target, way) == End::Not(Failure::TimedOut)
            });
            let before = running.report().answered;
            sleep(Duration::from_millis(300));
            let report = running.stop().unwrap();
            assert!(report.answered > before, "{from} {way:?}: {report:?}");
            assert_eq!(report.failed(), 0, "{from} {way:?}: {report:?}");
            rig.service(NAME, spec(&own));
            rig.settle(from, target, way, &ALL);
        }
        rig.remove(NAME);
    }
}
