//! Owns the plan of the site: who has which address, and the lines of `ip` that make it so. Pure.
//!
//! ```text
//!      office client 192.168.88.10
//!             |  192.168.88.0/24, fd00:88::/64
//!        router (site) ------- API server 192.168.77.1:6443
//!             |  192.168.77.0/24, fd00:77::/64
//!     +-------+-------+
//!     n1      n2      n3      192.168.77.11, .12, .13; fd00:77::11, ...
//! kube-bridge kube-bridge     pods 10.244.N.0/24, fd00:10:244:N::/64 (from the Node objects)
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Interface of a node or of the office client toward the router.
pub const UPLINK: &str = "eth0";
/// The pods' bridge on every node.
pub const BRIDGE: &str = "kube-bridge";
/// Port of the API server on the router.
pub const API_PORT: u16 = 6443;
/// Most nodes that a site has addresses for.
pub const MAX_NODES: usize = 99;

/// The router's address on the nodes' network.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The same, IPv6.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// The office client's address.
pub const OFFICE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 10);
/// The same, IPv6.
pub const OFFICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 0x10);

/// Kernel parameters of every namespace, before it has links. Nobody else is there to have the same
/// address, and looking for them takes two seconds, in which a new bridge answers no neighbour.
pub const HOST_SYSCTLS: &[(&str, &str)] =
    &[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/default/dad_transmits", "0")];

/// Kernel parameters of every namespace that forwards. Strict source checks would drop replies
/// that the data plane sends another way than the kernel thinks.
pub const ROUTER_SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// Kernel parameters that some kernels have, per namespace: no netfilter on bridged frames.
pub const BRIDGE_SYSCTLS: &[(&str, &str)] = &[
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Name of the Node object: n1, n2, ...
    pub name: String,
    /// Address on the nodes' network.
    pub v4: Ipv4Addr,
    /// The same, IPv6.
    pub v6: Ipv6Addr,
    /// Failure zone, for topology hints.
    pub zone: String,
}

/// The nodes of a site: n1, n2, ..., in zones a and b by turns.
#[must_use]
pub fn nodes(count: usize) -> Vec<NodePlan> {
    (1..=u8::try_from(count.min(MAX_NODES)).unwrap_or(0))
        .map(|n| NodePlan {
            name: format!("n{n}"),
            v4: Ipv4Addr::new(192, 168, 77, 10 + n),
            // Written as decimals, so that fd00:77::11 goes with 192.168.77.11.
            v6: Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, decimal_digits_as_hex(10 + n)),
            zone: if n % 2 == 1 { "zone-a" } else { "zone-b" }.to_owned(),
        })
        .collect()
}

fn decimal_digits_as_hex(n: u8) -> u16 {
    let n = u16::from(n);
    ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10)
}

/// Where agents and kubelets find the API server.
#[must_use]
pub fn api_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ROUTER_V4), API_PORT)
}

/// `ip` lines for the router; `netns` gives the paths of the other namespaces by part: `n1`, `office`.
#[must_use]
pub fn router_script(nodes: &[NodePlan], netns: impl Fn(&str) -> String) -> String {
    let mut s = String::from("link add lan type bridge\n");
    // A fixed address: a bridge otherwise changes its own as ports come.
    s.push_str("link set lan address 02:77:00:00:00:01 up\n");
    for node in nodes {
        let (name, peer) = (&node.name, netns(&node.name));
        let _ = writeln!(s, "link add {name} type veth peer name {UPLINK} netns {peer}");
        let _ = writeln!(s, "link set {name} master lan up");
    }
    let _ = writeln!(s, "link add office type veth peer name {UPLINK} netns {}", netns("office"));
    s.push_str("link set office up\n");
    let _ = writeln!(s, "address add {ROUTER_V4}/24 dev lan");
    let _ = writeln!(s, "address add {ROUTER_V6}/64 dev lan nodad");
    s.push_str("address add 192.168.88.1/24 dev office\n");
    s.push_str("address add fd00:88::1/64 dev office nodad\n");
    s
}

/// `ip` lines for a host behind the router: its addresses, and the router as its default gateway.
#[must_use]
pub fn host_script(
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    gateway_v4: Ipv4Addr,
    gateway_v6: Ipv6Addr,
) -> String {
    format!(
        "link set {UPLINK} up\n\
         address add {v4}/24 dev {UPLINK}\n\
         address add {v6}/64 dev {UPLINK} nodad\n\
         route add default via {gateway_v4}\n\
         route add default via {gateway_v6}\n"
    )
}

/// `ip` lines for the office client.
#[must_use]
pub fn office_script() -> String {
    let gateway_v6 = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);
    host_script(OFFICE_V4, OFFICE_V6, Ipv4Addr::new(192, 168, 88, 1), gateway_v6)
}

/// `ip` lines with routes to the pods of all nodes but `own` (the router's: `None`).
#[must_use]
pub fn pod_routes(nodes: &[(NodePlan, Vec<IpNet>)], own: Option<&str>) -> String {
    let mut s = String::new();
    for (node, cidrs) in nodes.iter().filter(|(node, _)| Some(node.name.as_str()) != own) {
        for cidr in cidrs {
            let via: IpAddr = if cidr.addr().is_ipv4() { node.v4.into() } else { node.v6.into() };
            let _ = writeln!(s, "route replace {cidr} via {via}");
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_matching_addresses_in_both_families() {
        let nodes = nodes(12);
        assert_eq!(nodes[0].name, "n1");
        assert_eq!(nodes[0].v4.to_string(), "192.168.77.11");
        assert_eq!(nodes[0].v6.to_string(), "fd00:77::11");
        assert_eq!(nodes[11].v6.to_string(), "fd00:77::22");
    }

    #[test]
    fn a_node_routes_to_the_pods_of_the_others_only() {
        let cidrs = |n: u8| {
            vec![
                format!("10.244.{n}.0/24").parse().unwrap(),
                format!("fd00:10:244:{n}::/64").parse().unwrap(),
            ]
        };
        let nodes: Vec<_> = nodes(2).into_iter().zip([cidrs(1), cidrs(2)]).collect();
        let expected = "route replace 10.244.2.0/24 via 192.168.77.12\nroute replace fd00:10:244:2::/64 via fd00:77::12\n";
        assert_eq!(pod_routes(&nodes, Some("n1")), expected);
        assert_eq!(pod_routes(&nodes, None).lines().count(), 4);
    }
}
