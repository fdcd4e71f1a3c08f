//! What the server refuses, and only that (K23): names, Services, EndpointSlices, Pods, Events.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::error::FieldError;
use super::json::{array_at, str_at, strings};
use super::resource::Resource;

type Problems = Vec<FieldError>;

/// Letters, digits and dashes, at most 63 (RFC 1123); `letter_first` is the older RFC 1035 form.
fn is_label(text: &str, letter_first: bool) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = |c: char| c != '-' && !(letter_first && c.is_ascii_digit());
    (1..=63).contains(&text.len())
        && text.chars().all(good)
        && text.starts_with(first)
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part =
        |p: &str| !p.is_empty() && p.chars().all(good) && !p.starts_with('-') && !p.ends_with('-');
    text.len() <= 253 && text.split('.').all(part)
}

/// Checks a new or changed object; what it gives back becomes the causes of a 422.
pub(crate) fn check(resource: &Resource, value: &Value, old: Option<&Value>) -> Problems {
    let mut problems = Vec::new();
    metadata(resource, value, &mut problems);
    match resource.plural {
        "services" => service(value, old, &mut problems),
        "endpointslices" => slice(value, old, &mut problems),
        "pods" => pod(value, old, &mut problems),
        "nodes" => node(value, old, &mut problems),
        "leases" => lease(value, &mut problems),
        "servicecidrs" => service_cidr(value, old, &mut problems),
        "events" if resource.group == "events.k8s.io" => event(value, old, &mut problems),
        _ => {}
    }
    problems
}

fn metadata(resource: &Resource, value: &Value, problems: &mut Problems) {
    let name = str_at(value, "/metadata/name");
    let good = match resource.plural {
        "services" => is_label(name, true),
        "namespaces" => is_label(name, false),
        _ => is_subdomain(name),
    };
    if name.is_empty() {
        problems.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if !good {
        let message = "must consist of lower case alphanumeric characters, '-' or '.', and start and end with an alphanumeric character";
        problems.push(FieldError::invalid("metadata.name", &json!(name), message));
    }
    let base = str_at(value, "/metadata/generateName");
    // A dash at the end is what the suffix follows; a dot would make a name of two parts.
    if !base.is_empty() && !is_subdomain(&format!("{}a", base.trim_end_matches('-')))
        || base.ends_with('.')
    {
        problems.push(FieldError::invalid(
            "metadata.generateName",
            &json!(base),
            "must be the beginning of a name",
        ));
    }
    let size: usize = value
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .map_or(0, |a| a.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum());
    // TotalAnnotationSizeLimitB of apimachinery.
    if size > 256 * 1024 {
        let message = format!("Too long: may not be more than {} bytes", 256 * 1024);
        problems.push(FieldError {
            field: "metadata.annotations".into(),
            reason: "FieldValueTooLong",
            message,
        });
    }
}

fn one_of(problems: &mut Problems, value: &Value, pointer: &str, field: &str, accepted: &[&str]) {
    let text = str_at(value, pointer);
    if !text.is_empty() && !accepted.contains(&text) {
        problems.push(FieldError::unsupported(field, &json!(text), accepted));
    }
}

fn is_port(value: Option<&Value>) -> bool {
    value.and_then(Value::as_i64).is_some_and(|p| (1..=65535).contains(&p))
}

fn service(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let kind = str_at(value, "/spec/type");
    let headless = super::service::is_headless(value);
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
    for (at, range) in strings(value, "/spec/loadBalancerSourceRanges").iter().enumerate() {
        // Blanks around it are let in, and stay.
        let parsed: Option<IpNet> = range.trim().parse().ok();
        if parsed.is_none_or(|net| net.trunc() != net) {
            let field = format!("spec.loadBalancerSourceRanges[{at}]");
            problems.push(FieldError::invalid(field, &json!(range), "must be a valid CIDR value"));
        }
    }
    if !array_at(value, "/status/loadBalancer/ingress").is_empty() && kind != "LoadBalancer" {
        let message = "may only be used when `spec.type` is LoadBalancer";
        problems.push(FieldError::forbidden("status.loadBalancer.ingress", message));
    }
    if let Some(old) = old {
        let first = |v: &Value| str_at(v, "/spec/clusterIP").to_owned();
        let was = str_at(old, "/spec/type");
        if was != "ExternalName" && kind != "ExternalName" && first(value) != first(old) {
            let message = "may not change once set";
            problems.push(FieldError::invalid("spec.clusterIPs[0]", &json!(first(value)), message));
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

/// An address traffic may be sent to, in canonical form, of the family asked for.
fn endpoint_address(field: &str, text: &str, family: Option<&str>, problems: &mut Problems) {
    let mut refuse =
        |message: &str| problems.push(FieldError::invalid(field, &json!(text), message));
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    if address.to_string() != text {
        return refuse("must be in canonical form");
    }
    match family {
        Some("IPv4") if !address.is_ipv4() => return refuse("must be an IPv4 address"),
        Some("IPv6") if !address.is_ipv6() => return refuse("must be an IPv6 address"),
        _ => {}
    }
    let (link_local, mapped) = match address {
        IpAddr::V4(a) => (a.is_link_local(), false),
        IpAddr::V6(a) => (a.is_unicast_link_local(), Ipv6Addr::to_ipv4_mapped(&a).is_some()),
    };
    if mapped {
        refuse("must not be an IPv4-mapped IPv6 address");
    } else if address.is_unspecified() {
        refuse("may not be unspecified");
    } else if address.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if link_local {
        refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if address.is_multicast() {
        refuse("may not be in the multicast range (224.0.0.0/4, ff00::/10)");
    }
}

fn slice(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let family = str_at(value, "/addressType");
    if family.is_empty() {
        problems.push(FieldError::required("addressType", ""));
    }
    one_of(problems, value, "/addressType", "addressType", &["FQDN", "IPv4", "IPv6"]);
    if let Some(old) = old
        && str_at(old, "/addressType") != family
    {
        problems.push(FieldError::invalid("addressType", &json!(family), "field is immutable"));
    }
    let endpoints = array_at(value, "/endpoints");
    if endpoints.len() > 1000 {
        problems.push(FieldError::too_many("endpoints", endpoints.len(), 1000));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let addresses = strings(endpoint, "/addresses");
        let field = format!("endpoints[{at}].addresses");
        if addresses.is_empty() {
            problems.push(FieldError::required(field.clone(), "must contain at least 1 address"));
        } else if addresses.len() > 100 {
            problems.push(FieldError::too_many(field.clone(), addresses.len(), 100));
        }
        for (i, address) in addresses.iter().enumerate() {
            let field = format!("{field}[{i}]");
            if family == "FQDN" {
                if !is_subdomain(address) {
                    problems.push(FieldError::invalid(
                        field,
                        &json!(address),
                        "must be a DNS name",
                    ));
                }
            } else {
                endpoint_address(&field, address, Some(family), problems);
            }
        }
        let zones = array_at(endpoint, "/hints/forZones").len();
        if zones > 8 {
            problems.push(FieldError::too_many(
                format!("endpoints[{at}].hints.forZones"),
                zones,
                8,
            ));
        }
    }
    let ports = array_at(value, "/ports");
    if ports.len() > 20000 {
        problems.push(FieldError::too_many("ports", ports.len(), 20000));
    }
    let mut names = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let name = str_at(port, "/name");
        if !name.is_empty() && !is_label(name, false) {
            problems.push(FieldError::invalid(
                format!("ports[{at}].name"),
                &json!(name),
                "must be a DNS label",
            ));
        }
        if !names.insert(name) {
            problems.push(FieldError::duplicate(format!("ports[{at}].name"), &json!(name)));
        }
        one_of(
            problems,
            port,
            "/protocol",
            &format!("ports[{at}].protocol"),
            &["SCTP", "TCP", "UDP"],
        );
    }
}

fn pod(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let containers = array_at(value, "/spec/containers");
    if containers.is_empty() {
        problems.push(FieldError::required("spec.containers", ""));
    }
    for (at, container) in containers.iter().enumerate() {
        for key in ["name", "image"] {
            if str_at(container, &format!("/{key}")).is_empty() {
                problems.push(FieldError::required(format!("spec.containers[{at}].{key}"), ""));
            }
        }
    }
    let node = |v: &Value| str_at(v, "/spec/nodeName").to_owned();
    if let Some(old) = old
        && !node(old).is_empty()
        && node(old) != node(value)
    {
        problems.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`",
        ));
    }
}

fn node(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let Some(old) = old else { return };
    let had = array_at(old, "/spec/podCIDRs");
    if !had.is_empty() && had != array_at(value, "/spec/podCIDRs") {
        let message = "node updates may not change podCIDR except from \"\" to valid";
        problems.push(FieldError::forbidden("spec.podCIDRs", message));
    }
}

fn lease(value: &Value, problems: &mut Problems) {
    for key in ["leaseDurationSeconds", "leaseTransitions"] {
        let least = i64::from(key == "leaseDurationSeconds");
        if let Some(number) = value.pointer(&format!("/spec/{key}"))
            && number.as_i64().is_some_and(|n| n < least)
        {
            problems.push(FieldError::invalid(
                format!("spec.{key}"),
                number,
                "must be greater than 0",
            ));
        }
    }
}

fn service_cidr(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let cidrs = strings(value, "/spec/cidrs");
    if cidrs.is_empty() || cidrs.len() > 2 {
        problems
            .push(FieldError::required("spec.cidrs", "one or two ranges, one of each IP family"));
    }
    for (at, cidr) in cidrs.iter().enumerate() {
        if !cidr.parse::<IpNet>().is_ok_and(|net| net.trunc() == net) {
            problems.push(FieldError::invalid(
                format!("spec.cidrs[{at}]"),
                &json!(cidr),
                "must be a valid CIDR value",
            ));
        }
    }
    if let Some(old) = old
        && strings(old, "/spec/cidrs") != cidrs
    {
        problems.push(FieldError::invalid("spec.cidrs", &json!(cidrs), "field is immutable"));
    }
}

/// After its creation only an Event's series may change (K29).
fn event(value: &Value, old: Option<&Value>, problems: &mut Problems) {
    let (Some(fields), Some(old)) = (value.as_object(), old) else { return };
    for (name, now) in fields {
        let may = matches!(name.as_str(), "metadata" | "series" | "kind" | "apiVersion");
        if !may && old.get(name) != Some(now) {
            problems.push(FieldError::invalid(name, now, "field is immutable"));
        }
    }
}

/// Rules of events.k8s.io/v1 (K29), on the form the client sent.
pub(crate) fn new_style_event(value: &Value) -> Problems {
    let mut problems = Vec::new();
    for key in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        if str_at(value, &format!("/{key}")).is_empty() {
            problems.push(FieldError::required(key, ""));
        }
    }
    if !matches!(str_at(value, "/type"), "Normal" | "Warning") {
        problems.push(FieldError::invalid(
            "type",
            &json!(str_at(value, "/type")),
            "has invalid value",
        ));
    }
    if str_at(value, "/note").len() > 1024 {
        problems.push(FieldError::invalid("note", &json!("..."), "can have at most 1024 bytes"));
    }
    problems
}
