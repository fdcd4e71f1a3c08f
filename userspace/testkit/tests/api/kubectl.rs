//! The real kubectl, where there is one.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sluice_testkit::api::Server;

use crate::raw::{eventually, server, service, slice};

struct Kubectl {
    home: tempfile::TempDir,
}

impl Kubectl {
    /// None, said aloud, where kubectl is not installed.
    fn of(server: &Server) -> Option<Self> {
        if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
            eprintln!("SKIPPED: kubectl is not installed");
            return None;
        }
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("config"), server.kubeconfig()).expect("kubeconfig");
        Some(Self { home })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path());
        command
    }

    fn run_with(&self, arguments: &[&str], input: &Value) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        child.stdin.take().expect("stdin").write_all(input.to_string().as_bytes()).expect("write");
        child.wait_with_output().expect("kubectl")
    }

    /// What it prints; fails the test if it fails.
    fn ok_with(&self, arguments: &[&str], input: &Value) -> String {
        let output = self.run_with(arguments, input);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?}: {out}{err}");
        out.into_owned()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, &Value::Null)
    }
}

#[test]
fn kubectl_applies_gets_describes_watches_and_deletes() {
    let server = server();
    let Some(kubectl) = Kubectl::of(&server) else { return };
    assert!(kubectl.ok(&["version"]).contains("v1.37"), "the server's version");
    assert!(kubectl.ok(&["api-resources"]).contains("endpointslices"));
    let mut object = service("web");
    let out = kubectl.ok_with(&["apply", "-f", "-"], &object);
    assert_eq!(out.trim(), "service/web created");
    assert_eq!(kubectl.ok_with(&["apply", "-f", "-"], &object).trim(), "service/web unchanged");
    object["spec"]["ports"] =
        json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "UDP"}]);
    assert_eq!(kubectl.ok_with(&["apply", "-f", "-"], &object).trim(), "service/web configured");
    let table = kubectl.ok(&["get", "svc", "web"]);
    let heads: Vec<&str> = table.lines().next().expect("a head").split_whitespace().collect();
    assert_eq!(heads, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert!(table.contains("80/TCP,81/UDP"), "{table}");
    assert!(kubectl.ok(&["get", "svc", "-A", "-o", "wide"]).contains("app=web"));
    assert!(kubectl.ok(&["get", "service", "web", "-o", "yaml"]).contains("clusterIP: 10."));
    assert_eq!(kubectl.ok(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[*].port}"]), "80 81");
    let mut hand = slice("web-hand", "web", &["10.0.0.1", "10.0.0.2"]);
    hand["ports"][0]["name"] = "a".into();
    kubectl.ok_with(&["apply", "-f", "-"], &hand);
    let described = kubectl.ok(&["describe", "svc", "web"]);
    assert!(described.contains("Selector:") && described.contains("10.0.0.1:8080"), "{described}");
    assert!(kubectl.ok(&["get", "endpointslices"]).contains("10.0.0.1,10.0.0.2"));
    let deleted = kubectl.ok(&["delete", "svc", "web"]);
    assert!(deleted.contains("\"web\" deleted"), "{deleted}");
    assert!(!kubectl.command(&["get", "svc", "web"]).output().expect("kubectl").status.success());
}

#[test]
fn kubectl_server_side_apply_conflicts_and_strict_fields() {
    let server = server();
    let Some(kubectl) = Kubectl::of(&server) else { return };
    let mut object = service("web");
    object["metadata"]["labels"] = json!({"a": "1"});
    let apply = ["apply", "--server-side", "-f", "-"];
    assert!(kubectl.ok_with(&apply, &object).contains("serverside-applied"));
    object["metadata"]["labels"] = json!({"a": "2"});
    let other =
        kubectl.run_with(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &object);
    assert!(!other.status.success());
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(error.contains("conflict") && error.contains(".metadata.labels.a"), "{error}");
    kubectl.ok_with(
        &["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"],
        &object,
    );
    object["spec"]["selectr"] = json!({});
    let typo = kubectl.run_with(&["apply", "-f", "-"], &object);
    assert!(
        String::from_utf8_lossy(&typo.stderr).contains("unknown field \"spec.selectr\""),
        "{typo:?}"
    );
}

#[test]
fn kubectl_watches() {
    let server = server();
    let Some(kubectl) = Kubectl::of(&server) else { return };
    server.store().apply(service("first")).expect("apply");
    let mut child = kubectl
        .command(&["get", "svc", "--watch", "--no-headers", "-o", "name"])
        .stdout(std::fs::File::create(kubectl.home.path().join("out")).expect("file"))
        .spawn()
        .expect("kubectl");
    let seen = || std::fs::read_to_string(kubectl.home.path().join("out")).expect("read");
    eventually("the first", || seen().contains("service/first").then_some(()));
    server.store().apply(service("second")).expect("apply");
    eventually("the second", || seen().contains("service/second").then_some(()));
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn kubectl_labels_edits_and_deletes_namespaces() {
    let server = server();
    let Some(kubectl) = Kubectl::of(&server) else { return };
    // `create namespace` and `create service` speak protobuf only.
    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    kubectl.ok_with(&["create", "-f", "-"], &team);
    let mut object = service("s");
    object["metadata"]["namespace"] = "team".into();
    kubectl.ok_with(&["create", "-f", "-"], &object);
    kubectl.ok(&["label", "svc", "s", "-n", "team", "x=y"]);
    kubectl.ok(&["patch", "svc", "s", "-n", "team", "-p", r#"{"spec":{"type":"NodePort"}}"#]);
    let shown: Value =
        serde_json::from_str(&kubectl.ok(&["get", "svc", "-n", "team", "-l", "x=y", "-o", "json"]))
            .expect("JSON");
    assert_eq!(shown["items"][0]["spec"]["type"], "NodePort");
    kubectl.ok(&["delete", "namespace", "team"]);
    assert!(server.store().get("namespaces", "", "team").is_none());
}
