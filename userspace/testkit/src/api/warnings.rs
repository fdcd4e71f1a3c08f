//! The `Warning` headers of writes: what is deprecated, or of no use (K36).

use std::net::IpAddr;

use serde_json::Value;

use super::json::{array_at, str_at};
use super::resource::Resource;
use super::service;

/// What the writer of this object is told.
pub(crate) fn of(resource: &Resource, value: &Value, created: bool) -> Vec<String> {
    match resource.plural {
        "endpoints" => {
            vec![
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                    .to_owned(),
            ]
        }
        "endpointslices" if created && str_at(value, "/addressType") == "FQDN" => {
            vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()]
        }
        "services" => of_service(value),
        _ => Vec::new(),
    }
}

fn of_service(value: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let (headless, kind) = (service::is_headless(value), str_at(value, "/spec/type"));
    let external = !array_at(value, "/spec/externalIPs").is_empty();
    if headless && external {
        warn("spec.externalIPs is ignored for headless services");
    }
    if headless && str_at(value, "/spec/sessionAffinity") != "None" {
        warn("spec.SessionAffinity is ignored for headless services");
    }
    if external && !headless && kind != "ExternalName" {
        warn("spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    }
    if external && kind == "ExternalName" {
        warn("spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    }
    if kind != "ExternalName" && !str_at(value, "/spec/externalName").is_empty() {
        warn("spec.externalName is ignored when spec.type is not \"ExternalName\"");
    }
    if str_at(value, "/spec/trafficDistribution") == "PreferClose" {
        warn("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    }
    for (at, ingress) in array_at(value, "/status/loadBalancer/ingress").iter().enumerate() {
        let text = str_at(ingress, "/ip");
        if let Ok(IpAddr::V6(ip)) = text.parse()
            && ip.to_string() != text
        {
            warn(&format!(
                "status.loadBalancer.ingress[{at}]: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{ip}\")"
            ));
        }
    }
    warnings
}
