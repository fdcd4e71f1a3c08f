//! What load balancers are told at a Service's healthCheckNodePort (R24 to R27, R50).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde_json::{Value, json};
use sluice_agent::nodeports::NodePortAddresses;

use crate::rig::{NODE, Rig, put, service, slice};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A port of the API's range that nobody listens on.
fn free_node_port() -> u16 {
    loop {
        let port = 30000 + rand::random::<u16>() % 2767;
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A Service whose load balancer asks at this port.
fn balanced(name: &str, port: u16) -> Value {
    let mut object = service(name);
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["externalTrafficPolicy"] = json!("Local");
    object["spec"]["healthCheckNodePort"] = json!(port);
    object
}

/// Waits until the port answers with this code, and gives head and body.
async fn answers(rig: &Rig, address: IpAddr, port: u16, code: u16) -> (String, String) {
    let at = SocketAddr::new(address, port);
    for _ in 0..2000 {
        if tokio::net::TcpStream::connect(at).await.is_ok() {
            let (found, head, body) = rig.get(at, "/any/path").await;
            if found == code {
                return (head, body);
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no {code} from {at}");
}

async fn closes(address: IpAddr, port: u16) {
    for _ in 0..2000 {
        if tokio::net::TcpStream::connect((address, port)).await.is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{address}:{port} stays open");
}

#[tokio::test(flavor = "multi_thread")]
async fn r24_r25_r26_the_answer_follows_the_ready_endpoints_here() {
    let mut rig = Rig::new();
    let port = free_node_port();
    put(rig.store(), balanced("web", port));
    let mut endpoints = slice("web", &["10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    endpoints["endpoints"][2]["nodeName"] = json!("elsewhere");
    put(rig.store(), endpoints.clone());
    rig.start();
    let (head, body) = answers(&rig, V4, port, 200).await;
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\
        \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body, expected);
    for line in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(head.contains(line), "{line} not in\n{head}");
    }

    // They drain: still in use here, but load balancers shall go elsewhere.
    for at in [0, 1] {
        endpoints["endpoints"][at]["conditions"] =
            json!({"ready": false, "serving": true, "terminating": true});
    }
    put(rig.store(), endpoints);
    let (head, body) = answers(&rig, V4, port, 503).await;
    assert!(body.contains("\"localEndpoints\": 0,"), "{body}");
    assert!(head.contains("x-load-balancing-endpoint-weight: 0"), "{head}");
    rig.stop().await;
    closes(V4, port).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_ports_follow_the_service() {
    let mut rig = Rig::started().await;
    let (first, second) = (free_node_port(), free_node_port());
    put(rig.store(), balanced("web", first));
    answers(&rig, V4, first, 200).await;
    // An open connection does not outlive its port.
    let mut idle = tokio::net::TcpStream::connect((V4, first)).await.expect("it listens");
    rig.store().delete("services", "default", "web");
    closes(V4, first).await;
    let end = tokio::io::AsyncReadExt::read(&mut idle, &mut [0; 1]).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");

    put(rig.store(), balanced("web", second));
    answers(&rig, V4, second, 200).await;
    // The port goes over to another Service in one sync.
    let scope = sluice_testkit::api::Scope::of("services").on(sluice_testkit::api::Verb::Watch);
    rig.server().faults().inject(sluice_testkit::api::Fault::InternalError, scope);
    rig.server().faults().end_watches(Some("services"), sluice_testkit::api::Ending::Eof);
    rig.store().delete("services", "default", "web");
    put(rig.store(), balanced("api", second));
    rig.server().faults().clear();
    rig.converges().await;
    let (_, body) = answers(&rig, V4, second, 200).await;
    assert!(body.contains("\"name\": \"api\""), "{body}");
    assert_eq!(refusals(&rig), 0, "nobody was in the way of the other");

    // The policy no longer asks for it.
    let mut cluster = service("api");
    cluster["spec"]["type"] = json!("LoadBalancer");
    put(rig.store(), cluster);
    closes(V4, second).await;
    rig.stop().await;
}

/// Events about ports that could not be opened.
fn refusals(rig: &Rig) -> usize {
    let events = rig.store().list("events");
    events.iter().filter(|event| event["reason"] == "FailedToStartServiceHealthcheck").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_a_taken_port_is_an_event_on_its_service_and_tried_again() {
    let mut rig = Rig::started().await;
    let (taken, other) = (free_node_port(), free_node_port());
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).expect("free");
    put(rig.store(), balanced("web", taken));
    put(rig.store(), balanced("api", other));
    answers(&rig, V4, other, 200).await;
    rig.eventually("the Event", |rig| (refusals(rig) > 0).then_some(())).await;
    let events = rig.store().list("events");
    let event = events
        .iter()
        .find(|event| event["reason"] == "FailedToStartServiceHealthcheck")
        .expect("there");
    let web = rig.store().get("services", "default", "web").expect("there");
    assert_eq!((&event["type"], &event["action"]), (&json!("Warning"), &json!("Listen")));
    assert_eq!(event["metadata"]["namespace"], json!("default"));
    assert_eq!(event["involvedObject"]["kind"], json!("Service"));
    assert_eq!(event["involvedObject"]["uid"], web["metadata"]["uid"], "kubectl finds it by this");
    assert_eq!(event["reportingComponent"], json!("sluice"));
    assert!(event["message"].as_str().is_some_and(|text| text.contains(&taken.to_string())));
    // The next agent meets the same and finds the Event that is there.
    rig.stop().await;
    rig.start();
    rig.eventually("it is counted", |rig| {
        let name = event["metadata"]["name"].as_str()?;
        let counted = rig.store().get("events", "default", name)?;
        (counted["series"]["count"] == 2).then_some(())
    })
    .await;
    drop(squatter);
    answers(&rig, V4, taken, 200).await;
    assert_eq!(refusals(&rig), 1, "one Event, however often it was tried");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r50_each_family_has_its_own_listener_and_count() {
    let mut rig = Rig::started().await;
    let port = free_node_port();
    let mut dual = balanced("dual", port);
    dual["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    put(rig.store(), dual);
    put(rig.store(), slice("dual", &["10.1.0.3", "10.1.0.4"]));
    let (_, body) = answers(&rig, V4, port, 200).await;
    assert!(body.contains("\"localEndpoints\": 2,"), "{body}");
    let (_, body) = answers(&rig, V6, port, 503).await;
    assert!(body.contains("\"localEndpoints\": 0,"), "{body}");
    let mut v6 = slice("dual", &["fd00:1::3"]);
    v6["metadata"]["name"] = json!("dual-6");
    v6["addressType"] = json!("IPv6");
    put(rig.store(), v6);
    let (_, body) = answers(&rig, V6, port, 200).await;
    assert!(body.contains("\"localEndpoints\": 1,"), "{body}");

    // A Service of one family has no listener in the other.
    let single = free_node_port();
    put(rig.store(), balanced("web", single));
    answers(&rig, V4, single, 200).await;
    closes(V6, single).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r24_only_on_the_addresses_of_node_ports_where_these_are_restricted() {
    let mut rig = Rig::new();
    let words = vec!["localhost".parse().expect("a word")];
    rig.config.nodeports = NodePortAddresses::new(words);
    let port = free_node_port();
    put(rig.store(), balanced("web", port));
    rig.start();
    answers(&rig, V4, port, 200).await;
    closes(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), port).await;
    // The Node's address decides with `primary`, and it is followed.
    rig.stop().await;
    rig.config.nodeports = NodePortAddresses::new(vec!["primary".parse().expect("a word")]);
    rig.start();
    rig.converges().await;
    let address = |address: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    };
    // 192.0.2.1 is not of this machine.
    closes(V4, port).await;
    let own = own_address();
    put(rig.store(), address(&own.to_string()));
    answers(&rig, own, port, 200).await;
    closes(V4, port).await;
    rig.stop().await;
}

/// An address of this machine that is not loopback.
fn own_address() -> IpAddr {
    let interfaces = nix::ifaddrs::getifaddrs().expect("interfaces");
    let v4 = interfaces.filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip()));
    let mut usable = v4.filter(|address| !address.is_loopback());
    usable.next().expect("an interface with an IPv4 address").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_one_taken_address_closes_all_of_its_family() {
    let mut rig = Rig::new();
    let own = own_address();
    let words = ["127.0.0.1/32".to_owned(), format!("{own}/32"), "localhost".to_owned()];
    let words = words.iter().map(|word| word.parse().expect("a word")).collect();
    rig.config.nodeports = NodePortAddresses::new(words);
    let port = free_node_port();
    let squatter = TcpListener::bind((own, port)).expect("free");
    let mut dual = balanced("web", port);
    dual["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    put(rig.store(), dual);
    rig.start();
    rig.eventually("the Event", |rig| (refusals(rig) == 1).then_some(())).await;
    closes(V4, port).await;
    answers(&rig, V6, port, 503).await;
    drop(squatter);
    answers(&rig, V4, port, 200).await;
    answers(&rig, own, port, 200).await;
    rig.stop().await;
}
