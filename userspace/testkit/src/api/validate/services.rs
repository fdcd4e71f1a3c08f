//! What the server refuses of Services.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::error::FieldError;
use super::super::json::{array_at, str_at, strings};
use super::names::{is_label, is_subdomain};
use super::slices::{app_protocol, endpoint_address};
use super::{Problems, is_port, one_of};

pub(super) fn service(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let kind = str_at(value, "/spec/type");
    let headless = super::super::service::is_headless(value);
    let ports = array_at(value, "/spec/ports");
    one_of(
        problems,
        value,
        "/spec/type",
        "spec.type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    if ports.is_empty() && kind != "ExternalName" && !headless {
        problems.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName"
        && !is_subdomain(str_at(value, "/spec/externalName").trim_end_matches('.'))
    {
        problems.push(FieldError::required("spec.externalName", ""));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let message = format!("may not be set to 'None' for {kind} services");
        problems.push(FieldError::invalid("spec.clusterIPs[0]", &json!("None"), &message));
    }
    service_ports(value, kind, ports, problems);
    one_of(problems, value, "/spec/sessionAffinity", "spec.sessionAffinity", &["ClientIP", "None"]);
    if let Some(timeout) = value.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds")
        && !timeout.as_i64().is_some_and(|t| (1..=86400).contains(&t))
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        problems.push(FieldError::invalid(
            field,
            timeout,
            "must be greater than 0 and less than 86400",
        ));
    }
    one_of(
        problems,
        value,
        "/spec/internalTrafficPolicy",
        "spec.internalTrafficPolicy",
        &["Cluster", "Local"],
    );
    one_of(
        problems,
        value,
        "/spec/externalTrafficPolicy",
        "spec.externalTrafficPolicy",
        &["Cluster", "Local"],
    );
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(
        problems,
        value,
        "/spec/trafficDistribution",
        "spec.trafficDistribution",
        &distributions,
    );
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    one_of(problems, value, "/spec/ipFamilyPolicy", "spec.ipFamilyPolicy", &policies);
    let external = !array_at(value, "/spec/externalIPs").is_empty();
    if !str_at(value, "/spec/externalTrafficPolicy").is_empty()
        && !matches!(kind, "NodePort" | "LoadBalancer")
        && !external
    {
        let message = "may only be set for externally-accessible services";
        let policy = json!(str_at(value, "/spec/externalTrafficPolicy"));
        problems.push(FieldError::invalid("spec.externalTrafficPolicy", &policy, message));
    }
    for (at, address) in strings(value, "/spec/externalIPs").iter().enumerate() {
        endpoint_address(&format!("spec.externalIPs[{at}]"), address, None, problems);
    }
    source_ranges(value, kind, problems);
    ingress(value, kind, old, problems);
}

/// The annotation that was before the field.
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn source_ranges(value: &Value, kind: &str, problems: &mut Problems) {
    // So spelled.
    let field = "spec.LoadBalancerSourceRanges";
    let message = "may only be used when `type` is 'LoadBalancer'";
    let ranges = strings(value, "/spec/loadBalancerSourceRanges");
    let annotated = value.pointer("/metadata/annotations").is_some_and(|all| {
        all.get(RANGES).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
    });
    if kind != "LoadBalancer" {
        if !ranges.is_empty() {
            problems.push(FieldError::forbidden(field, message));
        } else if annotated {
            problems
                .push(FieldError::forbidden(format!("metadata.annotations[{RANGES}]"), message));
        }
        return;
    }
    for (at, range) in ranges.iter().enumerate() {
        // Blanks around it are let in, and stay.
        let parsed: Option<IpNet> = range.trim().parse().ok();
        if parsed.is_none_or(|net| net.trunc() != net) {
            problems.push(FieldError::invalid(
                format!("{field}[{at}]"),
                &json!(range),
                "must be a valid CIDR value",
            ));
        }
    }
}

/// What a load balancer says of itself; what is there already stays (K26).
fn ingress(value: &Value, kind: &str, old: Option<&Value>, problems: &mut Problems) {
    const ALL: &str = "/status/loadBalancer/ingress";
    let all = array_at(value, ALL);
    if !all.is_empty() && kind != "LoadBalancer" {
        let message = "may only be used when `spec.type` is LoadBalancer";
        problems.push(FieldError::forbidden("status.loadBalancer.ingress", message));
        return;
    }
    if old.is_some_and(|old| array_at(old, ALL) == all) {
        return;
    }
    for (at, one) in all.iter().enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{at}].{name}");
        let (ip, host) = (str_at(one, "/ip"), str_at(one, "/hostname"));
        let mode = str_at(one, "/ipMode");
        if !ip.is_empty() {
            let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            if ip.parse().map_or(true, mapped) {
                let message = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                problems.push(FieldError::invalid(field("ip"), &json!(ip), message));
            }
            one_of(problems, one, "/ipMode", &field("ipMode"), &["Proxy", "VIP"]);
        } else if !mode.is_empty() {
            let message = "may not be specified when `ip` is not set";
            problems.push(FieldError::forbidden(field("ipMode"), message));
        }
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                let message = "must be a DNS name, not an IP address";
                problems.push(FieldError::invalid(field("hostname"), &json!(host), message));
            } else if !is_subdomain(host) {
                problems.push(FieldError::invalid(
                    field("hostname"),
                    &json!(host),
                    "must be a DNS name",
                ));
            }
        }
    }
}

fn service_ports(value: &Value, kind: &str, ports: &[Value], problems: &mut Problems) {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{at}].{name}");
        let (name, protocol) = (str_at(port, "/name"), str_at(port, "/protocol"));
        if name.is_empty() && ports.len() > 1 {
            problems.push(FieldError::required(field("name"), ""));
        } else if !name.is_empty() && !is_label(name, false) {
            problems.push(FieldError::invalid(field("name"), &json!(name), "must be a DNS label"));
        } else if !names.insert(name) {
            problems.push(FieldError::duplicate(field("name"), &json!(name)));
        }
        let number = port.get("port").cloned().unwrap_or_default();
        if !is_port(port.get("port")) {
            problems.push(FieldError::invalid(
                field("port"),
                &number,
                "must be between 1 and 65535, inclusive",
            ));
        } else if !numbers.insert((number.as_i64(), protocol)) {
            problems.push(FieldError::duplicate(
                format!("spec.ports[{at}]"),
                &json!({"port": number, "protocol": protocol}),
            ));
        }
        app_protocol(port, field("appProtocol"), problems);
        one_of(problems, port, "/protocol", &field("protocol"), &["SCTP", "TCP", "UDP"]);
        let target = port.get("targetPort").cloned().unwrap_or_default();
        let good = match &target {
            Value::String(text) => {
                is_label(text, false)
                    && text.len() <= 15
                    && text.contains(|c: char| c.is_ascii_lowercase())
            }
            other => is_port(Some(other)),
        };
        if !good {
            let message = "must be between 1 and 65535, inclusive, or a port name";
            problems.push(FieldError::invalid(field("targetPort"), &target, message));
        }
        let node_port = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        if node_port != 0 && !matches!(kind, "NodePort" | "LoadBalancer") {
            problems.push(FieldError::forbidden(
                field("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    let health = value.pointer("/spec/healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
    let local = str_at(value, "/spec/externalTrafficPolicy") == "Local";
    if health != 0 && !(kind == "LoadBalancer" && local) {
        let message =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        problems.push(FieldError::invalid("spec.healthCheckNodePort", &json!(health), message));
    }
}
