//! A change costs what it touches: 10,000 Services with 100,000 endpoints, one of them changed.

use std::sync::Arc;

use serde_json::json;
use sluice_services::{Index, State};

use crate::objects::{endpoint, index, service, slice};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;

/// Fills the index from one parsed Service and slice, renamed and renumbered.
fn filled() -> Index {
    let mut index = index();
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|_| endpoint("10.1.0.1", json!({}))).collect();
    let mut one_slice = slice(json!({"endpoints": endpoints}));
    let mut one_service = service(json!({}));
    for i in 0..SERVICES {
        let name = format!("s{i}");
        let address = format!("10.96.{}.{}", i / 256, i % 256);
        one_service.metadata.name = Some(name.clone());
        let spec = one_service.spec.as_mut().unwrap();
        spec.cluster_ip = Some(address.clone());
        spec.cluster_ips = Some(vec![address]);
        one_slice.metadata.name = Some(name.clone());
        one_slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
        for (j, endpoint) in one_slice.endpoints.iter_mut().enumerate() {
            let n = i * ENDPOINTS + j;
            endpoint.addresses =
                vec![format!("10.{}.{}.{}", 100 + n / 65536, n / 256 % 256, n % 256)];
        }
        index.apply_service(&one_service);
        index.apply_slice(&one_slice);
    }
    index
}

/// Names of the Services whose port is not the same allocation in both states.
fn recomputed(before: &State, after: &State) -> Vec<String> {
    assert_eq!(before.ports.len(), after.ports.len());
    let pairs = before.ports.iter().zip(after.ports.values());
    pairs
        .filter(|((_, old), new)| !Arc::ptr_eq(old, new))
        .map(|((key, _), _)| key.name.clone())
        .collect()
}

#[test]
fn r38_one_change_among_10000_services_computes_its_own_ports_only() {
    let mut index = filled();
    let before = index.state();
    assert_eq!(before.ports.len(), SERVICES);
    assert_eq!(
        before.ports.values().map(|port| port.cluster.len()).sum::<usize>(),
        SERVICES * ENDPOINTS
    );
    assert_eq!(before.frontends().len(), SERVICES);

    let moved = slice(json!({
        "metadata": {"name": "s777", "labels": {"kubernetes.io/service-name": "s777"}},
        "endpoints": [endpoint("10.1.0.1", json!({}))],
    }));
    assert!(index.apply_slice(&moved));
    let update = index.update();
    assert_eq!(update.changed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["s777"]);
    assert_eq!(recomputed(&before, &update.state), ["s777"]);

    // The reader of the old state still has it.
    let key = &update.changed[0];
    assert_eq!(
        (before.ports[key].cluster.len(), update.state.ports[key].cluster.len()),
        (ENDPOINTS, 1)
    );

    // A touched Service that comes out equal stays the same allocation.
    assert!(index.delete_slice("ns", "s777") && index.apply_slice(&moved));
    assert!(Arc::ptr_eq(&update.state, &index.state()));
}

#[test]
fn lists_that_stay_equal_stay_the_same_allocation() {
    let mut index = index();
    index.apply_service(&service(json!({})));
    index.apply_slice(&slice(json!({"endpoints": [endpoint("10.1.0.1", json!({}))]})));
    let before = index.state();
    index.apply_service(&service(json!({"spec": {"externalIPs": ["198.51.100.7"]}})));
    let update = index.update();
    let (old, new) = (&before.ports[&update.changed[0]], &update.state.ports[&update.changed[0]]);
    assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(&old.cluster, &new.cluster));
    // Within a service port equal lists are one.
    assert!(Arc::ptr_eq(&new.cluster, &new.serving));
}
