//! The node's interfaces: the pods' bridge and its veths, the uplinks, and which pod is behind
//! which veth. Read by netlink, also in the pods' namespaces (`IFLA_TARGET_NETNSID`), so that no
//! pod can claim another's address.

use std::collections::HashMap;
use std::net::IpAddr;

use futures::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{
    Handle, MulticastGroup, new_connection_with_strict_check, new_multicast_connection,
};

use crate::Error;
use crate::layout::Pod;

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Index of the bridge it belongs to.
    pub(crate) controller: Option<u32>,
    /// A veth's other end: index there, and the number of that namespace here.
    pub(crate) peer: Option<(u32, i32)>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// All interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) pods: HashMap<IpAddr, Pod>,
    /// Indices of the interfaces to pods.
    to_pods: Vec<u32>,
}

impl Inventory {
    pub(crate) fn has(&self, index: u32) -> bool {
        self.interfaces.iter().any(|interface| interface.index == index)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The addresses of all interfaces.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.interfaces.iter().flat_map(|one| one.addresses.iter().copied())
    }

    /// The interfaces to pods: veths.
    pub(crate) fn to_pods(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(|veth| self.to_pods.contains(&veth.index))
    }

    /// Takes as interfaces to pods the veths that are ports of a bridge, and those whose name starts
    /// with `prefix`.
    fn find_pods(&mut self, bridge: &str, prefix: Option<&str>) {
        let bridge = self.by_name(bridge).map(|bridge| bridge.index);
        let is_port = |veth: &&Interface| bridge.is_some() && veth.controller == bridge;
        let is_named = |veth: &&Interface| prefix.is_some_and(|start| veth.name.starts_with(start));
        let veths = self.interfaces.iter().filter(|veth| veth.peer.is_some());
        let to_pods = veths.filter(|veth| is_port(veth) || is_named(veth));
        self.to_pods = to_pods.map(|veth| veth.index).collect();
    }
}

/// Reads everything, and the pods behind the veths of `bridge` and those named with `prefix`.
pub(crate) async fn scan(bridge: &str, prefix: Option<&str>) -> Result<Inventory, Error> {
    let failed = |operation| move |error| Error::netlink(operation, error);
    let (connection, handle, _) = new_connection_with_strict_check()
        .map_err(|error| Error::netlink("open a socket", error))?;
    let driver = tokio::spawn(connection);
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(failed("list links"))?;
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
    let mut inventory = Inventory::default();
    for link in &links {
        if let Some(mut interface) = interface(link) {
            interface.addresses = addresses
                .iter()
                .filter(|message| message.header.index == interface.index)
                .filter_map(address)
                .collect();
            inventory.interfaces.push(interface);
        }
    }
    inventory.find_pods(bridge, prefix);
    let mut pods = HashMap::new();
    for veth in inventory.to_pods() {
        // A pod that goes away meanwhile is no error.
        for (address, pod) in behind(&handle, veth).await.unwrap_or_default() {
            // Two pods with one address: neither is believed.
            pods.entry(address).and_modify(|pod| *pod = None).or_insert(Some(pod));
        }
    }
    inventory.pods = pods.into_iter().filter_map(|(address, pod)| Some((address, pod?))).collect();
    driver.abort();
    Ok(inventory)
}

/// The addresses behind a veth.
async fn behind(handle: &Handle, veth: &Interface) -> Option<Vec<(IpAddr, Pod)>> {
    let (index, namespace) = veth.peer?;
    let mut request = handle.link().get().match_index(index);
    request.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
    let link = request.execute().next().await?.ok()?;
    let mac: [u8; 6] = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })?;
    let mut request = handle.address().get().set_link_index_filter(index);
    request.message_mut().attributes.push(AddressAttribute::TargetNetNsId(namespace));
    let addresses: Vec<AddressMessage> = request.execute().try_collect().await.ok()?;
    let pod = Pod { ifindex: veth.index, mac };
    let routable = addresses.iter().filter_map(address).filter(|address| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    Some(routable.map(|address| (address, pod)).collect())
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        controller: None,
        peer: None,
        addresses: Vec::new(),
    };
    let (mut peer, mut namespace, mut veth) = (None, None, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Controller(index) => found.controller = Some(*index),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    found.peer = peer.zip(namespace).filter(|_| veth);
    (!found.name.is_empty()).then_some(found)
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links `Address` is the peer's, `Local` ours.
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

/// Fires when a link or an address of the node changes. Events come in bursts.
///
/// # Errors
/// The netlink socket cannot be opened.
pub fn link_events() -> Result<impl Stream<Item = ()> + Send + Unpin, Error> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, messages) = new_multicast_connection(&groups)
        .map_err(|error| Error::netlink("listen to changes", error))?;
    tokio::spawn(connection);
    Ok(messages.map(|_| ()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail")]

    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// A VLAN's interface is one as others are.
    #[test]
    fn an_interface_of_a_vlan_is_found_with_its_addresses() {
        let done = std::thread::spawn(|| {
            if !nix::unistd::geteuid().is_root() {
                println!("SKIP: a network namespace needs root");
                return;
            }
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let ip =
                |args: &str| Command::new("ip").args(args.split(' ')).status().unwrap().success();
            assert!(ip("link add base type veth peer name other"));
            if !ip("link add link base name base.77 type vlan id 77") {
                println!("SKIP: this kernel has no VLANs");
                return;
            }
            for args in ["link set base up", "link set other up", "link set base.77 up"] {
                assert!(ip(args), "{args}");
            }
            for address in ["192.0.2.1/24", "2001:db8::1/64"] {
                assert!(ip(&format!("address add {address} dev base.77 nodad")), "{address}");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let found = runtime.unwrap().block_on(scan("none", None)).unwrap();
            let vlan = found.by_name("base.77").unwrap_or_else(|| panic!("{found:?}"));
            for address in ["192.0.2.1", "2001:db8::1"] {
                assert!(vlan.addresses.contains(&address.parse().unwrap()), "{found:?}");
            }
            assert_eq!((vlan.controller, vlan.peer), (None, None));
        });
        done.join().unwrap();
    }
}
