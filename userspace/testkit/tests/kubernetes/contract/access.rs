//! The part of the script about who asks, with or without a right, and about paths that lead nowhere.

use axum::http::Method;
use serde_json::{Value, json};

use super::wire::Wire;
use super::{services, slices};

/// K10: nobody, and somebody with a token that is worth nothing.
pub(super) async fn credentials(nobody: &mut Wire, wrong: &mut Wire) {
    for (method, path) in [
        (Method::GET, "/api/v1/services".to_owned()),
        (Method::GET, "/api/v1/services?watch=1".to_owned()),
        (Method::GET, format!("{}?watch=1&sendInitialEvents=true", slices())),
        (Method::GET, "/api/v1/nodes/n1".to_owned()),
        (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn1".to_owned()),
        (Method::POST, services()),
        (Method::PUT, format!("{}/plain", services())),
        (Method::PATCH, "/api/v1/nodes/n1/status".to_owned()),
        (Method::DELETE, format!("{}/plain", slices())),
        (Method::DELETE, slices()),
        (Method::GET, "/apis/discovery.k8s.io/v1".to_owned()),
        (Method::GET, "/readyz".to_owned()),
    ] {
        let (step, kind) = (format!("nobody: {method} {path}"), "merge-patch+json");
        let answer = nobody.step(&step, method.clone(), &path, kind, &json!({})).await;
        // Whose right is missing, and which: its words are what an operator reads.
        nobody.note(&step, answer["message"].clone());
        wrong
            .step(&format!("a false token: {method} {path}"), method, &path, kind, &json!({}))
            .await;
    }
}

/// Where there is nothing, and what is asked in a way that is not taken.
pub(super) async fn paths(wire: &mut Wire) {
    for path in [
        "/apis/networking.k8s.io/v1/things",
        "/apis/networking.k8s.io/v9/servicecidrs",
        "/apis/networking.k8s.io/v9",
        "/api/v1/things",
        "/api/v2/services",
        "/api/v1/nodes/n1/things",
        "/api/v1/namespaces/default/nodes",
        "/apis/example.org/v1/things",
        "/apis/example.org",
        "/nothing",
        "/api/v1/nodes?watch=1&resourceVersion=soon",
        "/api/v1/nodes?watch=1&timeoutSeconds=soon",
    ] {
        wire.get(&format!("nothing at {path}"), path).await;
    }
    wire.put("no such method", "/api/v1/nodes", &json!({})).await;
    for accept in ["text/plain", "application/json;as=Table;v=v9;g=meta.k8s.io"] {
        let answer = wire.accepting(&services(), accept).await;
        wire.note(&format!("accept {accept}"), answer);
    }
    let wanted = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let path = format!("{}?fieldSelector=metadata.name%3Dplain", services());
    let answer = wire.accepting(&path, wanted).await;
    wire.note("metadata only", answer);
}

/// K36: what is said beside the answer.
pub(super) async fn warnings(wire: &mut Wire) {
    use super::writes::{service, slice};
    let mut fqdn = slice("fqdn", "plain", json!([{ "addresses": ["a.example.org"] }]));
    fqdn["addressType"] = json!("FQDN");
    let unknown = service("warned", json!({ "bogus": 1 }));
    for (step, path, object) in [
        (
            "external addresses",
            services(),
            service("warned", json!({ "externalIPs": ["203.0.113.9"] })),
        ),
        (
            "PreferClose",
            services(),
            service("warned", json!({ "trafficDistribution": "PreferClose" })),
        ),
        ("a slice of names", slices(), fqdn),
        ("an unknown field", services(), unknown.clone()),
    ] {
        wire.post(&format!("warned of {step}"), &format!("{path}?dryRun=All"), &object).await;
    }
    for validation in ["Ignore", "Strict"] {
        let path = format!("{}?dryRun=All&fieldValidation={validation}", services());
        wire.post(&format!("an unknown field, {validation}"), &path, &unknown).await;
    }
    let path = format!("{}/plain?dryRun=All", services());
    let patch = json!({ "spec": { "bogus": 1, "trafficDistribution": "PreferClose" } });
    wire.step("warned of a patch", Method::PATCH, &path, "merge-patch+json", &patch).await;
    let none = Value::Null;
    let answer = wire.step("no warning", Method::GET, &path, "json", &none).await;
    wire.note("nothing came of it", answer["spec"]["trafficDistribution"].clone());
}
