//! What the server refuses of EndpointSlices, and what it does not (K23).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};

use super::super::error::FieldError;
use super::super::json::{array_at, str_at, strings};
use super::names::{is_label, is_label_value, is_qualified, is_subdomain};
use super::{Problems, one_of};

/// The most hints of a kind that an endpoint has.
const HINTS: usize = 8;

pub(super) fn slice(value: &Value, old: Option<&Value>, problems: &mut Problems) {
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
        names(endpoint, at, problems);
        for (kind, good) in [
            ("forZones", is_label_value as fn(&str) -> bool),
            ("forNodes", is_subdomain as fn(&str) -> bool),
        ] {
            hints(endpoint, &format!("endpoints[{at}].hints.{kind}"), kind, good, problems);
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
        app_protocol(port, format!("ports[{at}].appProtocol"), problems);
        one_of(
            problems,
            port,
            "/protocol",
            &format!("ports[{at}].protocol"),
            &["SCTP", "TCP", "UDP"],
        );
    }
}

/// An endpoint's own names; there, they are not empty.
fn names(endpoint: &Value, at: usize, problems: &mut Problems) {
    for (key, good) in [
        ("nodeName", is_subdomain as fn(&str) -> bool),
        ("hostname", |text: &str| is_label(text, false)),
    ] {
        if let Some(name) = endpoint.get(key).and_then(Value::as_str)
            && !good(name)
        {
            let message = "must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            problems.push(FieldError::invalid(
                format!("endpoints[{at}].{key}"),
                &json!(name),
                message,
            ));
        }
    }
}

fn hints(
    endpoint: &Value,
    field: &str,
    kind: &str,
    good: fn(&str) -> bool,
    problems: &mut Problems,
) {
    let hints = array_at(endpoint, &format!("/hints/{kind}"));
    if hints.len() > HINTS {
        problems.push(FieldError::too_many(field, hints.len(), HINTS));
        return;
    }
    let mut seen = HashSet::new();
    for (at, hint) in hints.iter().enumerate() {
        let (name, field) = (str_at(hint, "/name"), format!("{field}[{at}].name"));
        if !seen.insert(name) {
            problems.push(FieldError::duplicate(field.clone(), &json!(name)));
        }
        if !good(name) {
            problems.push(FieldError::invalid(field, &json!(name), "must be a name"));
        }
    }
}

/// A port's application protocol, of a Service or of a slice.
pub(super) fn app_protocol(port: &Value, field: String, problems: &mut Problems) {
    if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str)
        && !is_qualified(protocol)
    {
        problems.push(FieldError::invalid(field, &json!(protocol), "must be a qualified name"));
    }
}

/// An address traffic may be sent to, in canonical form, of the family asked for.
pub(super) fn endpoint_address(
    field: &str,
    text: &str,
    family: Option<&str>,
    problems: &mut Problems,
) {
    let mut refuse =
        |message: &str| problems.push(FieldError::invalid(field, &json!(text), message));
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    if address.to_string() != text {
        return refuse("must be in canonical form");
    }
    if let Some(family) = family
        && (family == "IPv4") != address.is_ipv4()
    {
        // The list is named, not the one address.
        let list = field.rsplit_once('[').map_or(field, |(list, _)| list);
        let article = format!("must be an {family} address");
        problems.push(FieldError::invalid(list, &json!(text), &article));
        return;
    }
    let mut refuse =
        |message: &str| problems.push(FieldError::invalid(field, &json!(text), message));
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
