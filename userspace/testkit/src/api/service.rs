//! What the server does to a Service that is written: defaults, addresses, node ports, and what a
//! change of type takes away (K26).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::allocate::port_number;
use super::error::{ApiError, FieldError};
use super::json::{array_at, fill, items_mut, map_mut, remove, set, str_at, strings};
use super::resource::Resource;
use super::store::{Key, State};

const HEADLESS: &str = "None";

pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(crate) fn is_headless(service: &Value) -> bool {
    str_at(service, "/spec/clusterIP") == HEADLESS
}

fn uses_node_ports(service: &Value) -> bool {
    match str_at(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool)
                != Some(false)
        }
        _ => false,
    }
}

/// Brings a Service into the shape that is stored. `old` is the stored one for a change.
///
/// # Errors
/// 422 when an address or node port cannot be had.
pub(crate) fn prepare(
    state: &State,
    resource: &Resource,
    key: &Key,
    value: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    simple_defaults(value);
    if let Some(old) = old {
        keep_allocated(value, old);
        drop_by_type(value, old);
    }
    let mut problems = Vec::new();
    if str_at(value, "/spec/type") == "ExternalName" {
        for gone in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            remove(value, &["spec", gone]);
        }
    } else {
        fill(value, &["spec", "internalTrafficPolicy"], "Cluster");
        addresses(state, key, value, old, &mut problems);
    }
    external_defaults(value);
    node_ports(state, key, value, &mut problems);
    status(value);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, &key.name, &problems))
    }
}

fn simple_defaults(value: &mut Value) {
    fill(value, &["spec", "type"], "ClusterIP");
    fill(value, &["spec", "sessionAffinity"], "None");
    if str_at(value, "/spec/sessionAffinity") == "ClientIP" {
        fill(value, &["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10800);
    } else {
        remove(value, &["spec", "sessionAffinityConfig"]);
    }
    for port in items_mut(value, "/spec/ports") {
        fill(port, &["protocol"], "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target.as_i64() == Some(0) || target.as_str() == Some(""),
        };
        if unset && let Some(number) = port.get("port").cloned() {
            set(port, &["targetPort"], number);
        }
    }
}

/// A change that does not name addresses and ports keeps those the service has.
fn keep_allocated(value: &mut Value, old: &Value) {
    let was_external = str_at(old, "/spec/type") == "ExternalName";
    let is_external = str_at(value, "/spec/type") == "ExternalName";
    if !was_external && !is_external {
        let (was, now) = (str_at(old, "/spec/clusterIP"), str_at(value, "/spec/clusterIP"));
        let list_stays = value.pointer("/spec/clusterIPs") == old.pointer("/spec/clusterIPs");
        // One of the two alone is what the writer meant: the old name of the field, or nothing.
        if list_stays && !now.is_empty() && now != was {
            let now = now.to_owned();
            set(value, &["spec", "clusterIPs"], json!([now]));
        } else if list_stays && now.is_empty() {
            set(value, &["spec", "clusterIP"], was);
        }
        let now = str_at(value, "/spec/clusterIP");
        if (now.is_empty() || now == was) && array_at(value, "/spec/clusterIPs").is_empty() {
            for key in ["clusterIP", "clusterIPs"] {
                if let Some(kept) = old.pointer(&format!("/spec/{key}")).cloned() {
                    set(value, &["spec", key], kept);
                }
            }
        }
        for key in ["ipFamilyPolicy", "ipFamilies"] {
            if let Some(kept) = old.pointer(&format!("/spec/{key}")).cloned() {
                fill(value, &["spec", key], kept);
            }
        }
    }
    if uses_node_ports(value) && uses_node_ports(old) {
        let ports = array_at(old, "/spec/ports").to_vec();
        for port in items_mut(value, "/spec/ports") {
            let same = |o: &&Value| {
                o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
            };
            if let Some(number) = ports.iter().find(same).and_then(|o| o.get("nodePort")).cloned() {
                fill(port, &["nodePort"], number);
            }
        }
    }
    if str_at(value, "/spec/type") == "LoadBalancer"
        && str_at(value, "/spec/externalTrafficPolicy") == "Local"
        && let Some(number) = old.pointer("/spec/healthCheckNodePort").cloned()
    {
        fill(value, &["spec", "healthCheckNodePort"], number);
    }
}

/// What belongs to the old type only goes with it, unless the writer changed it in the same write.
fn drop_by_type(value: &mut Value, old: &Value) {
    let same = |value: &Value, pointer: &str| value.pointer(pointer) == old.pointer(pointer);
    let kind = str_at(value, "/spec/type").to_owned();
    if kind == "ExternalName" && str_at(old, "/spec/type") != kind {
        for gone in ["clusterIP", "clusterIPs"] {
            remove(value, &["spec", gone]);
        }
    }
    if !uses_node_ports(value) && uses_node_ports(old) {
        let old_ports: Vec<Option<Value>> =
            array_at(old, "/spec/ports").iter().map(|p| p.get("nodePort").cloned()).collect();
        for port in items_mut(value, "/spec/ports") {
            if old_ports.contains(&port.get("nodePort").cloned()) {
                remove(port, &["nodePort"]);
            }
        }
    }
    let external = !array_at(value, "/spec/externalIPs").is_empty();
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        && !external
        && same(value, "/spec/externalTrafficPolicy")
    {
        remove(value, &["spec", "externalTrafficPolicy"]);
    }
    if kind != "LoadBalancer" {
        for gone in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(value, &format!("/spec/{gone}")) {
                remove(value, &["spec", gone]);
            }
        }
        if str_at(old, "/spec/type") == "LoadBalancer" {
            set(value, &["status", "loadBalancer"], json!({}));
        }
    }
    let health = kind == "LoadBalancer" && str_at(value, "/spec/externalTrafficPolicy") == "Local";
    if !health && same(value, "/spec/healthCheckNodePort") {
        remove(value, &["spec", "healthCheckNodePort"]);
    }
    // From two families back to one: the second address goes.
    if str_at(value, "/spec/ipFamilyPolicy") == "SingleStack"
        && str_at(old, "/spec/ipFamilyPolicy") != "SingleStack"
    {
        for list in ["clusterIPs", "ipFamilies"] {
            if same(value, &format!("/spec/{list}"))
                && let Some(Value::Array(items)) = value.pointer_mut(&format!("/spec/{list}"))
            {
                items.truncate(1);
            }
        }
    }
}

/// The ranges of all ServiceCIDR objects, oldest first, and the cluster's families in order.
fn ranges(state: &State) -> (Vec<IpNet>, Vec<&'static str>) {
    let resource = Resource::by_plural("servicecidrs");
    let mut objects: Vec<_> =
        resource.into_iter().flat_map(|r| state.all(r)).map(|(_, object)| object).collect();
    objects.sort_by_key(|o| {
        (
            str_at(o, "/metadata/name") != "kubernetes",
            str_at(o, "/metadata/creationTimestamp").to_owned(),
        )
    });
    let ranges: Vec<IpNet> = objects
        .iter()
        .flat_map(|o| strings(o, "/spec/cidrs"))
        .filter_map(|c| c.parse().ok())
        .collect();
    let mut families = Vec::new();
    for range in &ranges {
        let family = family(range.addr());
        if !families.contains(&family) {
            families.push(family);
        }
    }
    (ranges, families)
}

/// What is wrong with the addresses that the writer named, against those the service has.
fn misnamed(value: &Value, old: Option<&Value>, given: &[String]) -> Option<FieldError> {
    let refuse = |field: &str, message| Some(FieldError::invalid(field, &json!(given), message));
    let first = given.first().map_or("", String::as_str);
    let named = str_at(value, "/spec/clusterIP");
    if named.is_empty() && !given.is_empty() {
        return refuse("spec.clusterIPs", "must be empty when `clusterIP` is not specified");
    }
    if named != first {
        return refuse("spec.clusterIPs", "first value must match `clusterIP`");
    }
    if first != HEADLESS
        && let Some(at) = given.iter().position(|text| text.parse::<IpAddr>().is_err())
    {
        let message = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return refuse(&format!("spec.clusterIPs[{at}]"), message);
    }
    let had =
        strings(old.filter(|old| str_at(old, "/spec/type") != "ExternalName")?, "/spec/clusterIPs");
    let policy = str_at(value, "/spec/ipFamilyPolicy");
    if had.len() > 1 && given.len() == 1 && policy != "SingleStack" {
        let message = "must be 'SingleStack' to release the secondary cluster IP";
        return Some(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), message));
    }
    for (at, (had, now)) in had.iter().zip(given).enumerate() {
        if had != now {
            return refuse(&format!("spec.clusterIPs[{at}]"), "may not change once set");
        }
    }
    None
}

fn addresses(
    state: &State,
    key: &Key,
    value: &mut Value,
    old: Option<&Value>,
    problems: &mut Vec<FieldError>,
) {
    let (ranges, cluster) = ranges(state);
    let mut given = strings(value, "/spec/clusterIPs");
    let first = str_at(value, "/spec/clusterIP").to_owned();
    if given.is_empty() && !first.is_empty() {
        given.push(first);
    }
    if let Some(problem) = misnamed(value, old, &given) {
        problems.push(problem);
        return;
    }
    let headless = given.first().is_some_and(|g| g == HEADLESS);
    let wanted: Vec<IpAddr> = given.iter().filter_map(|g| g.parse().ok()).collect();
    let mut families = strings(value, "/spec/ipFamilies");
    for (at, address) in wanted.iter().enumerate() {
        match families.get(at) {
            None => families.push(family(*address).to_owned()),
            Some(f) if f != family(*address) => problems.push(FieldError::invalid(
                format!("spec.clusterIPs[{at}]"),
                &json!(address),
                &format!("expected an {f} value as indicated by `ipFamilies[{at}]`"),
            )),
            Some(_) => {}
        }
    }
    let selectorless = headless && value.pointer("/spec/selector").is_none();
    let policy = match str_at(value, "/spec/ipFamilyPolicy") {
        "" if selectorless && families.len() != 1 => "RequireDualStack",
        "" if families.len() > 1 => "RequireDualStack",
        "" => "SingleStack",
        given => given,
    }
    .to_owned();
    set(value, &["spec", "ipFamilyPolicy"], policy.clone());
    if families.is_empty() {
        families.extend(cluster.first().map(|f| (*f).to_owned()));
    }
    if policy != "SingleStack" && families.len() == 1 {
        let both = ["IPv4", "IPv6"];
        let other = both.into_iter().find(|f| families.iter().all(|have| have != f));
        families.extend(other.filter(|f| selectorless || cluster.contains(f)).map(str::to_owned));
    }
    if policy == "RequireDualStack" && families.len() < 2 {
        let message = "this cluster is not configured for dual-stack services";
        problems.push(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), message));
    }
    if policy == "SingleStack" && families.len() > 1 {
        let message = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        problems.push(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), message));
    }
    for (at, wanted) in families.iter().enumerate() {
        if !selectorless && !cluster.iter().any(|f| f == wanted) {
            let message = "not configured on this cluster";
            problems.push(FieldError::invalid(
                format!("spec.ipFamilies[{at}]"),
                &json!(wanted),
                message,
            ));
        }
    }
    set(value, &["spec", "ipFamilies"], json!(families));
    if headless {
        set(value, &["spec", "clusterIP"], HEADLESS);
        set(value, &["spec", "clusterIPs"], json!([HEADLESS]));
        return;
    }
    if problems.is_empty() {
        assign(state, key, value, &ranges, &families, &wanted, problems);
    }
}

fn assign(
    state: &State,
    key: &Key,
    value: &mut Value,
    ranges: &[IpNet],
    families: &[String],
    wanted: &[IpAddr],
    problems: &mut Vec<FieldError>,
) {
    let mut chosen = Vec::new();
    for (at, wanted_family) in families.iter().enumerate() {
        let field = "spec.clusterIPs";
        let own: Vec<IpNet> =
            ranges.iter().filter(|r| family(r.addr()) == wanted_family).copied().collect();
        let address = match wanted.get(at) {
            Some(address) if state.claims.address_taken(*address, key) => {
                let message = "failed to allocate IP: provided IP is already allocated";
                problems.push(FieldError::invalid(field, &json!(wanted), message));
                continue;
            }
            Some(address) if !own.iter().any(|r| r.contains(address)) => {
                let message = "failed to allocate IP: the provided IP is not in the valid range";
                problems.push(FieldError::invalid(field, &json!(wanted), message));
                continue;
            }
            Some(address) => Some(*address),
            None => state.claims.free_address(&own, &mut rand::rng()),
        };
        match address {
            Some(address) => chosen.push(address.to_string()),
            None => problems.push(FieldError::invalid(field, &json!(families), "range is full")),
        }
    }
    if let Some(first) = chosen.first() {
        set(value, &["spec", "clusterIP"], first.clone());
    }
    set(value, &["spec", "clusterIPs"], json!(chosen));
}

fn external_defaults(value: &mut Value) {
    let kind = str_at(value, "/spec/type").to_owned();
    if kind == "LoadBalancer" {
        fill(value, &["spec", "allocateLoadBalancerNodePorts"], true);
    }
    let external = !array_at(value, "/spec/externalIPs").is_empty() && kind != "ExternalName";
    if external || matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(value, &["spec", "externalTrafficPolicy"], "Cluster");
    }
}

fn node_ports(state: &State, key: &Key, value: &mut Value, problems: &mut Vec<FieldError>) {
    let mut chosen: Vec<(u16, String)> = Vec::new();
    let range = state.ranges.node_ports;
    let taken = |port: u16, protocol: &str| state.claims.port_taken(port, protocol, key);
    if uses_node_ports(value) {
        // Node port of each service port so far: one number serves both protocols of a port.
        let mut twins: Vec<(Value, u16)> = Vec::new();
        for port in array_at(value, "/spec/ports") {
            let number = port_number(port.get("nodePort"));
            if number != 0 {
                chosen.push((number, str_at(port, "/protocol").to_owned()));
                twins.push((port.get("port").cloned().unwrap_or_default(), number));
            }
        }
        for (at, port) in items_mut(value, "/spec/ports").enumerate() {
            let field = format!("spec.ports[{at}].nodePort");
            let protocol = str_at(port, "/protocol").to_owned();
            let number = port_number(port.get("nodePort"));
            if number != 0 {
                if taken(number, &protocol) {
                    let message = "provided port is already allocated";
                    problems.push(FieldError::invalid(field, &json!(number), message));
                } else if !(range.0..=range.1).contains(&number) {
                    let message = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.0, range.1
                    );
                    problems.push(FieldError::invalid(field, &json!(number), &message));
                }
                continue;
            }
            let own = port.get("port").cloned().unwrap_or_default();
            let fits = |n: u16| !taken(n, &protocol) && !chosen.contains(&(n, protocol.clone()));
            let twin = twins.iter().find(|(p, n)| *p == own && fits(*n)).map(|(_, n)| *n);
            let free = twin
                .or_else(|| state.claims.free_port(range, &protocol, &chosen, &mut rand::rng()));
            match free {
                Some(free) => {
                    set(port, &["nodePort"], free);
                    chosen.push((free, protocol));
                    twins.push((own, free));
                }
                None => problems.push(FieldError::invalid(field, &json!(0), "range is full")),
            }
        }
    }
    let local = str_at(value, "/spec/externalTrafficPolicy") == "Local";
    if local && str_at(value, "/spec/type") == "LoadBalancer" {
        let number = port_number(value.pointer("/spec/healthCheckNodePort"));
        let field = "spec.healthCheckNodePort";
        if number == 0 {
            match state.claims.free_port(range, "TCP", &chosen, &mut rand::rng()) {
                Some(free) => set(value, &["spec", "healthCheckNodePort"], free),
                None => problems.push(FieldError::invalid(field, &json!(0), "range is full")),
            }
        } else if taken(number, "TCP") {
            problems.push(FieldError::invalid(
                field,
                &json!(number),
                "provided port is already allocated",
            ));
        }
    }
}

fn status(value: &mut Value) {
    map_mut(value, &["status", "loadBalancer"]);
    for ingress in items_mut(value, "/status/loadBalancer/ingress") {
        if !str_at(ingress, "/ip").is_empty() {
            fill(ingress, &["ipMode"], "VIP");
        }
    }
}
