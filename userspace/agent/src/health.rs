//! Health as kube-proxy tells it: who asks, load balancers above all, takes a node out of rotation
//! by these answers (R28 to R30). Pure; the clock is a parameter.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// An update that is queued this long without a successful sync is ill health: twice kube-proxy's
/// sync period of 30 s (R28).
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
/// A node with this taint is about to be removed (R29).
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known of the own Node (R29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// Never seen, or gone.
    #[default]
    Unknown,
    /// May take traffic.
    Eligible,
    /// Being deleted or about to be.
    Leaving,
}

impl NodeState {
    /// Reads it from the Node object.
    #[must_use]
    pub fn of(node: &k8s_openapi::api::core::v1::Node) -> Self {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let tainted = taints.unwrap_or_default().iter().any(|taint| taint.key == AUTOSCALER_TAINT);
        if tainted || node.metadata.deletion_timestamp.is_some() {
            Self::Leaving
        } else {
            Self::Eligible
        }
    }
}

/// What the answers are made of.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// When the oldest change that is not written yet came in.
    pub pending_since: Option<Instant>,
    /// When the last sync succeeded.
    pub last_updated: Option<SystemTime>,
    /// The own Node.
    pub node: NodeState,
    /// Whether this kernel has IPv6 (R3).
    pub ipv6: bool,
}

impl Health {
    /// Whether the service proxy does its work (R28). Both families are written by one sync.
    #[must_use]
    pub fn is_proxy_healthy(&self, now: Instant) -> bool {
        self.pending_since.is_none_or(|since| now.duration_since(since) < HEALTH_TIMEOUT)
    }

    /// Status and body of kube-proxy's `/healthz` (R29, R30).
    #[must_use]
    pub fn healthz(&self, now: Instant, clock: SystemTime) -> (u16, Value) {
        let eligible = self.node == NodeState::Eligible;
        let healthy = self.is_proxy_healthy(now);
        let (code, mut body) = self.answer(healthy && eligible, healthy, clock);
        if let Some(body) = body.as_object_mut() {
            body.insert("nodeEligible".to_owned(), Value::Bool(eligible));
        }
        (code, body)
    }

    /// Status and body of kube-proxy's `/livez`, which ignores the node (R29, R30).
    #[must_use]
    pub fn livez(&self, now: Instant, clock: SystemTime) -> (u16, Value) {
        let healthy = self.is_proxy_healthy(now);
        self.answer(healthy, healthy, clock)
    }

    fn answer(&self, ok: bool, healthy: bool, clock: SystemTime) -> (u16, Value) {
        let updated = go_time(self.last_updated);
        let mut families = serde_json::Map::new();
        let names: &[&str] = if self.ipv6 { &["IPv4", "IPv6"] } else { &["IPv4"] };
        for name in names {
            let family = json!({ "lastUpdated": &updated, "healthy": healthy });
            families.insert((*name).to_owned(), family);
        }
        let body = json!({
            "lastUpdated": if ok { go_time(Some(clock)) } else { updated },
            "currentTime": go_time(Some(clock)),
            "healthy": healthy,
            "status": families,
        });
        (if ok { 200 } else { 503 }, body)
    }
}

/// A time as Go's `time.Time.String` writes it, which is what kube-proxy answers with; the zero
/// time where there is none.
pub(crate) fn go_time(time: Option<SystemTime>) -> String {
    let zero = || "0001-01-01 00:00:00 +0000 UTC".to_owned();
    let Some(time) = time else { return zero() };
    match k8s_openapi::jiff::Timestamp::try_from(time) {
        Ok(time) => format!("{} +0000 UTC", time.strftime("%Y-%m-%d %H:%M:%S%.f")),
        Err(_) => zero(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    fn node(json: Value) -> Node {
        serde_json::from_value(json).expect("a Node")
    }

    fn codes(health: &Health, now: Instant) -> (u16, u16) {
        let clock = SystemTime::UNIX_EPOCH;
        (health.healthz(now, clock).0, health.livez(now, clock).0)
    }

    #[test]
    fn r28_unhealthy_only_when_an_update_waits_too_long() {
        let now = Instant::now();
        let at = |pending_since| Health {
            pending_since,
            node: NodeState::Eligible,
            ..Health::default()
        };
        assert_eq!(codes(&at(None), now), (200, 200), "starting and idle are healthy");
        assert_eq!(codes(&at(Some(now)), now + HEALTH_TIMEOUT / 2), (200, 200));
        assert_eq!(codes(&at(Some(now)), now + HEALTH_TIMEOUT), (503, 503));
    }

    #[test]
    fn r29_the_node_decides_healthz_but_not_livez() {
        let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        let cases = [
            (None, 503),
            (Some(json!({})), 200),
            (Some(taint("node.kubernetes.io/not-ready")), 200),
            (Some(taint(AUTOSCALER_TAINT)), 503),
            (Some(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), 503),
        ];
        for (object, expected) in cases {
            let state =
                object.clone().map_or(NodeState::Unknown, |json| NodeState::of(&node(json)));
            let health = Health { node: state, ..Health::default() };
            assert_eq!(codes(&health, Instant::now()), (expected, 200), "{object:?}");
        }
    }

    #[test]
    fn r30_bodies() {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let updated = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let health = Health { last_updated: Some(updated), ipv6: true, ..Health::default() };
        let family = json!({"lastUpdated": "2023-11-14 22:13:20 +0000 UTC", "healthy": true});
        let (_, body) = health.healthz(Instant::now(), clock);
        let expected = json!({
            "lastUpdated": "2023-11-14 22:13:20 +0000 UTC",
            "currentTime": "2023-11-14 22:13:20.25 +0000 UTC",
            "nodeEligible": false, "healthy": true,
            "status": {"IPv4": &family, "IPv6": &family},
        });
        assert_eq!(body, expected);
        let (_, live) = health.livez(Instant::now(), clock);
        assert_eq!(live["lastUpdated"], live["currentTime"], "200: the outer time is now");
        assert_eq!(live.get("nodeEligible"), None);
        let v4_only = Health { ipv6: false, ..health };
        assert!(v4_only.livez(Instant::now(), clock).1["status"].get("IPv6").is_none());
    }
}
