//! What the server refuses, and only that (K23): names, Services, EndpointSlices, Pods, Events.

mod events;
pub(crate) mod names;
mod services;
mod slices;

use ipnet::IpNet;
use serde_json::{Value, json};

use self::names::{is_label, is_subdomain};
use super::error::FieldError;
use super::json::{array_at, str_at, strings};
use super::resource::Resource;

type Problems = Vec<FieldError>;

/// Checks a new or changed object; what it gives back becomes the causes of a 422.
pub(crate) fn check(resource: &Resource, value: &Value, old: Option<&Value>) -> Problems {
    let mut problems = Vec::new();
    metadata(resource, value, &mut problems);
    match resource.plural {
        "services" => services::service(value, old, &mut problems),
        "endpointslices" => slices::slice(value, old, &mut problems),
        "pods" => pod(value, old, &mut problems),
        "nodes" => node(value, old, &mut problems),
        "leases" => lease(value, &mut problems),
        "servicecidrs" => service_cidr(value, old, &mut problems),
        "events" => events::event(resource, value, old, &mut problems),
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
    if cidrs.is_empty() {
        problems.push(FieldError::required("spec.cidrs", "at least one CIDR required"));
    }
    let of_v4: Vec<bool> =
        cidrs.iter().filter_map(|c| c.parse().ok()).map(|c: IpNet| c.addr().is_ipv4()).collect();
    if of_v4.iter().filter(|v4| **v4).count() > 1 || of_v4.iter().filter(|v4| !**v4).count() > 1 {
        let message = "may specify no more than one IP for each IP family";
        problems.push(FieldError::invalid("spec.cidrs", &json!(cidrs), message));
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
