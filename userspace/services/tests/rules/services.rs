//! R1-R4, R16-R18, R22, R24, R42's age, R45: what is read of a Service.

use serde_json::{Value, json};
use sluice_services::{AddressKind, Config, Family, Index, Protocol, Scheduler, ServicePort};

use crate::objects::{http, index, port, problems, service, slice, text};

/// The service port that the Service with this patch leads to.
fn served(patch: Value) -> Option<ServicePort> {
    let mut index = index();
    index.apply_service(&service(patch));
    http(&mut index)
}

#[test]
fn r1_a_proxy_name_label_of_any_value_hides_a_service_whenever_it_comes() {
    for value in ["other", ""] {
        let mut index = index();
        assert!(index.apply_service(&service(json!({}))));
        assert!(http(&mut index).is_some());
        let labels =
            json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}});
        assert!(index.apply_service(&service(labels)));
        assert!(http(&mut index).is_none());
        assert!(index.apply_service(&service(json!({}))));
        assert!(http(&mut index).is_some());
    }
}

#[test]
fn r1_the_headless_label_means_nothing_on_a_service() {
    assert!(
        served(json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}})).is_some()
    );
}

#[test]
fn r2_services_without_cluster_ip_and_external_names_are_skipped() {
    for (patch, seen) in [
        (json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}), false),
        (json!({"spec": {"clusterIP": "", "clusterIPs": null, "ipFamilies": null}}), false),
        (json!({"spec": {"clusterIP": null}}), false),
        (json!({"spec": {"type": "ExternalName"}}), false),
        (json!({"spec": {"type": null}}), true),
        (json!({"spec": {"type": "LoadBalancer"}}), true),
    ] {
        assert_eq!(served(patch.clone()).is_some(), seen, "{patch}");
    }
}

#[test]
fn k22_the_zero_values_of_a_bookmark_are_no_service() {
    let mut index = index();
    for metadata in [json!({"resourceVersion": "7"}), json!({"namespace": "ns", "name": "svc"})] {
        let zero = json!({"metadata": metadata, "spec": {}, "status": {"loadBalancer": {}}});
        assert!(!index.apply_service(&serde_json::from_value(zero).unwrap()));
        let zero =
            json!({"metadata": metadata, "addressType": "", "endpoints": null, "ports": null});
        assert!(!index.apply_slice(&serde_json::from_value(zero).unwrap()));
    }
    assert!(index.state().ports.is_empty());
}

#[test]
fn r2_node_ports_and_lb_addresses_count_under_any_type() {
    for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
        let port = served(json!({
            "spec": {"type": kind, "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
        }))
        .unwrap();
        assert_eq!(port.node_port, 30080, "{kind}");
        assert!(
            port.addresses.contains(&("203.0.113.1".parse().unwrap(), AddressKind::LoadBalancer))
        );
    }
}

#[test]
fn r3_each_family_has_the_cluster_ip_of_its_place() {
    // spec, IPv4 address, IPv6 address
    for (spec, v4, v6) in [
        (json!({}), Some("10.96.0.1"), None),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]}),
            Some("10.96.0.1"),
            Some("fd00::1"),
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.9"]}),
            Some("10.96.0.9"),
            Some("fd00::1"),
        ),
        // Without families clusterIP alone counts.
        (json!({"ipFamilies": null, "clusterIPs": null}), Some("10.96.0.1"), None),
        (
            json!({"ipFamilies": [], "clusterIP": "fd00::2", "clusterIPs": ["10.96.0.1"]}),
            None,
            Some("fd00::2"),
        ),
        // An address in the other's place is nobody's.
        (json!({"ipFamilies": ["IPv6"], "clusterIPs": ["10.96.0.1"]}), None, None),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1"]}),
            Some("10.96.0.1"),
            None,
        ),
        (json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0"]}), None, None),
        // R6
        (
            json!({"clusterIP": "010.096.00.01", "clusterIPs": ["010.096.00.01"]}),
            Some("10.96.0.1"),
            None,
        ),
    ] {
        let mut index = index();
        index.apply_service(&service(json!({"spec": spec.clone()})));
        for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
            let found = port(&mut index, "http", Protocol::Tcp, family).map(|p| p.addresses);
            let expected = expected.map(|a| vec![(a.parse().unwrap(), AddressKind::ClusterIp)]);
            assert_eq!(found, expected, "{spec} {family:?}");
        }
    }
}

#[test]
fn r3_without_ipv6_in_the_kernel_only_ipv4_is_served() {
    let mut index = Index::new(Config { ipv6: false, ..Config::default() });
    index.apply_service(&service(
        json!({"spec": {"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]}}),
    ));
    index.apply_slice(&slice(
        json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00:1::1"], "conditions": {}}]}),
    ));
    assert!(http(&mut index).is_some());
    assert!(port(&mut index, "http", Protocol::Tcp, Family::V6).is_none());
}

#[test]
fn r4_lists_are_filtered_to_the_family_and_invalid_entries_skipped() {
    let mut index = index();
    index.apply_service(&service(json!({
        "spec": {
            "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["198.51.100.7", "not-an-ip", "2001:db8::7", "0.0.0.0", "198.051.100.007"],
            "loadBalancerSourceRanges": [" 203.0.113.0/25", "2001:db8:1::/48", "oops", "203.0.113.9/25"],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}, {"ip": "1.2.3"}]}},
    })));
    let of = |index: &mut Index, family| {
        let port = port(index, "http", Protocol::Tcp, family).unwrap();
        let addresses: Vec<_> = port.addresses.iter().map(|(a, k)| format!("{a} {k:?}")).collect();
        (addresses, port.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (addresses, ranges) = of(&mut index, Family::V4);
    assert_eq!(
        addresses,
        ["10.96.0.1 ClusterIp", "198.51.100.7 ExternalIp", "192.0.2.1 LoadBalancer"]
    );
    assert_eq!(ranges, ["203.0.113.0/25"]);
    let (addresses, ranges) = of(&mut index, Family::V6);
    assert_eq!(
        addresses,
        ["fd00::1 ClusterIp", "2001:db8::7 ExternalIp", "2001:db8::1 LoadBalancer"]
    );
    assert_eq!(ranges, ["2001:db8:1::/48"]);
    let fields: Vec<_> = index.problems().map(|p| p.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.externalIPs[1]",
            "spec.externalIPs[3]",
            "status.loadBalancer.ingress[2].ip",
            "spec.loadBalancerSourceRanges[2]"
        ]
    );
}

#[test]
fn r16_only_ips_with_mode_vip_are_served() {
    let port = served(json!({
        "spec": {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.9"},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"ip": "192.0.2.4", "ipMode": "vip"}, {"hostname": "lb.example.org"}, {"ip": "192.0.2.5", "ipMode": ""},
        ]}},
    }));
    let vips: Vec<_> = port.unwrap().addresses.iter().skip(1).map(|(a, _)| a.to_string()).collect();
    assert_eq!(vips, ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn r17_ranges_of_the_family_or_open() {
    for (ranges, expected, problem) in [
        (json!(null), "", false),
        (json!([]), "", false),
        (json!(["10.0.0.0/8", "192.168.0.0/16"]), "10.0.0.0/8 192.168.0.0/16", false),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), "", false),
        // A zero range of the other family does not open this one.
        (json!(["10.0.0.0/8", "::/0"]), "10.0.0.0/8", false),
        (json!(["2001:db8::/32"]), "", true),
        (json!(["10.0.0.0"]), "", true),
    ] {
        let mut index = index();
        index.apply_service(&service(json!({
            "spec": {"loadBalancerSourceRanges": ranges.clone()},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        })));
        let found: Vec<_> =
            http(&mut index).unwrap().source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected, "{ranges}");
        let open = problems(&index).iter().any(|p| p.contains("open to all sources"));
        assert_eq!(open, problem, "{ranges}");
    }
}

#[test]
fn r17_an_address_that_is_both_external_and_lb_keeps_the_ranges_of_lb() {
    let port = served(json!({
        "spec": {"externalIPs": ["192.0.2.1", "10.96.0.1"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    }));
    let found: Vec<_> = port.unwrap().addresses.iter().map(|(a, k)| format!("{a} {k:?}")).collect();
    assert_eq!(found, ["10.96.0.1 ClusterIp", "192.0.2.1 LoadBalancer"]);
}

#[test]
fn r18_external_ips_can_be_switched_off() {
    let mut index = Index::new(Config { external_ips: false, ..Config::default() });
    let local =
        json!({"spec": {"externalIPs": ["198.51.100.7"], "externalTrafficPolicy": "Local"}});
    index.apply_service(&service(local));
    let port = http(&mut index).unwrap();
    assert_eq!(port.addresses.len(), 1);
    assert!(!port.external_local);
}

/// B section 0: what is served is announced, so both follow from this.
#[test]
fn addresses_outside_of_the_operators_ranges_are_not_served_and_told_so() {
    let patch = json!({
        "spec": {"externalIPs": ["192.0.2.1", "198.51.100.1", "203.0.113.1"]},
        "status": {"loadBalancer": {"ingress":
            [{"ip": "198.51.100.2"}, {"ip": "203.0.113.2"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}]}},
    });
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let both = &["198.51.100.0/24", "203.0.113.1/32"][..];
    // external, load balancers, what is served beside the ClusterIP, and how many are told of
    for (external, balancers, expected, told) in [
        (&[][..], &[][..], "192.0.2.1 198.51.100.1 203.0.113.1 198.51.100.2 203.0.113.2", 0),
        (both, &[], "198.51.100.1 203.0.113.1 198.51.100.2 203.0.113.2", 1),
        (&[], both, "192.0.2.1 198.51.100.1 203.0.113.1 198.51.100.2", 1),
        (both, both, "198.51.100.1 203.0.113.1 198.51.100.2", 2),
        (&["fd00::/8"], &["fd00::/8"], "", 5),
    ] {
        let mut index = Index::new(Config {
            external_ranges: ranges(external),
            load_balancer_ranges: ranges(balancers),
            ..Config::default()
        });
        index.apply_service(&service(patch.clone()));
        let served = http(&mut index).unwrap().addresses;
        let served = served.iter().filter(|(_, kind)| *kind != AddressKind::ClusterIp);
        let served: Vec<String> = served.map(|(address, _)| address.to_string()).collect();
        assert_eq!(served.join(" "), expected, "{external:?} {balancers:?}");
        let problems = problems(&index);
        assert_eq!(problems.len(), told, "{problems:?}");
        let flags = ["--service-external-ip-range", "--loadbalancer-ip-range"];
        assert!(problems.iter().all(|text| flags.iter().any(|f| text.contains(f))), "{problems:?}");
    }
}

#[test]
fn r22_affinity_is_by_client_ip_with_the_apis_default() {
    let timeout = |s: i64| json!({"clientIP": {"timeoutSeconds": s}});
    for (affinity, config, expected) in [
        ("None", timeout(5), None),
        ("ClientIP", json!(null), Some(10_800)),
        ("ClientIP", json!({"clientIP": {}}), Some(10_800)),
        ("ClientIP", timeout(1), Some(1)),
        ("ClientIP", timeout(86_400), Some(86_400)),
        ("ClientIP", timeout(86_401), Some(10_800)),
        ("ClientIP", timeout(0), Some(10_800)),
        ("ClientIP", timeout(-1), Some(10_800)),
    ] {
        let spec = json!({"sessionAffinity": affinity, "sessionAffinityConfig": config});
        assert_eq!(served(json!({"spec": spec.clone()})).unwrap().affinity_s, expected, "{spec}");
    }
}

#[test]
fn r24_the_health_port_needs_load_balancer_local_and_a_number() {
    for (kind, policy, number, expected) in [
        ("LoadBalancer", "Local", 32000, 32000),
        ("LoadBalancer", "Cluster", 32000, 0),
        ("NodePort", "Local", 32000, 0),
        ("LoadBalancer", "Local", 0, 0),
        ("LoadBalancer", "Local", 70000, 0),
    ] {
        let spec =
            json!({"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": number});
        assert_eq!(
            served(json!({"spec": spec.clone()})).unwrap().health_check_node_port,
            expected,
            "{spec}"
        );
    }
}

#[test]
fn r45_policies_are_cluster_unless_local_where_it_counts() {
    for (spec, internal, external) in [
        (json!({"internalTrafficPolicy": null}), false, false),
        (json!({"internalTrafficPolicy": "Local"}), true, false),
        (json!({"internalTrafficPolicy": "local"}), false, false),
        (json!({"externalTrafficPolicy": "Local"}), false, false),
        (json!({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]}), false, true),
        (json!({"externalTrafficPolicy": "Local", "type": "NodePort"}), false, true),
        (json!({"externalTrafficPolicy": "Local", "type": "LoadBalancer"}), false, true),
        (json!({"externalTrafficPolicy": "Cluster", "type": "LoadBalancer"}), false, false),
    ] {
        let port = served(json!({"spec": spec.clone()})).unwrap();
        assert_eq!((port.internal_local, port.external_local), (internal, external), "{spec}");
    }
}

#[test]
fn the_scheduler_annotation_has_an_alias_and_unknown_words_are_told() {
    let (own, alias) = ("sluice.io/service.scheduler", "kube-router.io/service.scheduler");
    for (annotations, expected, problem) in [
        (json!({}), Scheduler::Random, false),
        (json!({own: "mh"}), Scheduler::Maglev, false),
        (json!({alias: "mh"}), Scheduler::Maglev, false),
        (json!({own: "rr", alias: "mh"}), Scheduler::Random, false),
        (json!({own: "lc"}), Scheduler::LeastConnections, false),
        (json!({alias: "sh"}), Scheduler::SourceHash, false),
        (json!({own: "LC", alias: "mh"}), Scheduler::Random, true),
        (json!({alias: "wrr", "other": "mh"}), Scheduler::Random, true),
    ] {
        let mut index = index();
        index.apply_service(&service(json!({"metadata": {"annotations": annotations.clone()}})));
        assert_eq!(http(&mut index).unwrap().scheduler, expected, "{annotations}");
        assert_eq!(problems(&index).len(), usize::from(problem), "{annotations}");
    }
}

#[test]
fn the_local_annotation_is_policy_local_for_all_addresses() {
    let (own, alias) = ("sluice.io/service.local", "kube-router.io/service.local");
    for (annotations, local, told) in [
        (json!({}), false, 0),
        (json!({own: "true"}), true, 0),
        (json!({alias: "true"}), true, 0),
        (json!({own: "false", alias: "true"}), false, 0),
        (json!({alias: "yes"}), false, 1),
    ] {
        let mut index = index();
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"type": "NodePort"}});
        index.apply_service(&service(patch));
        let port = http(&mut index).unwrap();
        assert_eq!((port.internal_local, port.external_local), (local, local), "{annotations}");
        assert_eq!(problems(&index).len(), told, "{annotations}");
    }
}

#[test]
fn what_an_annotation_says_stays_when_it_no_longer_parses() {
    let mut index = index();
    let mut say = |scheduler: &str, local: &str| {
        let annotations = json!({"sluice.io/service.scheduler": scheduler, "kube-router.io/service.local": local});
        index.apply_service(&service(json!({"metadata": {"annotations": annotations}})));
        let port = http(&mut index).unwrap();
        (port.scheduler, port.internal_local, problems(&index))
    };
    assert_eq!(say("mh", "true"), (Scheduler::Maglev, true, vec![]));
    for _ in 0..2 {
        let (scheduler, local, told) = say("hm", "ture");
        assert_eq!((scheduler, local), (Scheduler::Maglev, true));
        assert!(
            told.len() == 2 && told.iter().any(|text| text.ends_with("mh is used")),
            "{told:?}"
        );
    }
    index.apply_service(&service(json!({})));
    let port = http(&mut index).unwrap();
    assert_eq!((port.scheduler, port.internal_local), (Scheduler::Random, false), "taken away");
    assert_eq!(problems(&index), Vec::<String>::new());
}

#[test]
fn direct_server_return_is_refused_in_words_and_the_service_is_served() {
    for name in ["sluice.io/service.dsr", "kube-router.io/service.dsr"] {
        let mut index = index();
        index.apply_service(&service(json!({"metadata": {"annotations": {name: "tunnel"}}})));
        assert!(http(&mut index).is_some());
        let told = problems(&index);
        assert!(told.len() == 1 && told[0].contains(name) && told[0].contains("NAT"), "{told:?}");
    }
}

#[test]
fn r42_the_creation_time_is_kept_in_unix_seconds() {
    assert_eq!(served(json!({})).unwrap().created_s, 1_767_225_600);
    assert_eq!(
        served(json!({"metadata": {"creationTimestamp": null}})).unwrap().created_s,
        i64::MAX
    );
}

#[test]
fn r38_an_update_without_effect_on_what_is_read_changes_nothing() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(json!({})));
    let before = index.state();
    assert!(!index.apply_service(&service(
        json!({"metadata": {"resourceVersion": "9", "annotations": {"a": "b"}}, "spec": {"selector": {"x": "y"}}})
    )));
    assert!(!index.apply_slice(&slice(json!({"metadata": {"resourceVersion": "9"}}))));
    assert!(std::sync::Arc::ptr_eq(&before, &index.state()));
}

#[test]
fn r39_deleting_the_last_port_or_the_service_removes_everything_at_once() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index
        .apply_slice(&slice(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {}}]})));
    assert_eq!(text(&http(&mut index).unwrap().cluster), "10.1.0.1:8080");
    index.apply_service(&service(json!({"spec": {"ports": null}})));
    assert!(index.state().ports.is_empty());
    index.apply_service(&service(json!({})));
    assert_eq!(text(&http(&mut index).unwrap().cluster), "10.1.0.1:8080");
    assert!(index.delete_service("ns", "svc"));
    let update = index.update();
    assert!(update.state.ports.is_empty());
    assert_eq!(update.changed.len(), 1);
    assert!(!index.delete_service("ns", "svc"));
}
