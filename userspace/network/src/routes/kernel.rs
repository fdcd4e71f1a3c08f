//! Owns talking to the kernel: reading our routes, applying operations, hearing of changes, and
//! which networks are on links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, RouteNextHopBuilder};

use super::{Installed, METRIC, Op, PROTOCOL, Shown, Target, Way};

/// Operations under way at once: each waits for the kernel's answer.
const AT_ONCE: usize = 64;

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No socket.
    #[error("open a netlink socket: {0}")]
    Socket(std::io::Error),
    /// Reading failed.
    #[error("read {what}: {source}")]
    Read {
        /// What was read.
        what: &'static str,
        /// Why not.
        source: rtnetlink::Error,
    },
}

/// The kernel's routes in this network namespace.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: Handle,
}

/// What is on the node's links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Networks of addresses on interfaces that are up, sorted: what a next hop must be in.
    pub networks: Vec<IpNet>,
    /// The addresses themselves, sorted.
    pub addresses: Vec<IpAddr>,
    /// Those of them that packets may have as their source: not IPv6 ones that are still looked for
    /// elsewhere (RFC 4862 5.4).
    pub sources: Vec<IpAddr>,
}

impl Kernel {
    /// Opens a socket; runs its connection as a task of this runtime.
    ///
    /// # Errors
    /// [`RouteError::Socket`]
    pub fn open() -> Result<Self, RouteError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All routes of ours.
    ///
    /// # Errors
    /// [`RouteError::Read`]
    pub async fn routes(&self) -> Result<Vec<Installed>, RouteError> {
        Ok(self.shown().await?.ours)
    }

    /// All routes of ours, and the default routes of others.
    ///
    /// # Errors
    /// [`RouteError::Read`]
    pub async fn shown(&self) -> Result<Shown, RouteError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut all = Shown::default();
        for question in [v4, v6] {
            let shown: Vec<RouteMessage> = self
                .handle
                .route()
                .get(question)
                .execute()
                .try_collect()
                .await
                .map_err(|source| RouteError::Read { what: "routes", source })?;
            collect(&shown, &mut all.ours);
            let ways = shown.iter().filter_map(way_out);
            all.ways_out.extend(ways.min_by_key(|(metric, _)| *metric).map(|(_, way)| way));
        }
        Ok(all)
    }

    /// Networks and addresses of interfaces that are up.
    ///
    /// # Errors
    /// [`RouteError::Read`]
    pub async fn links(&self) -> Result<Links, RouteError> {
        let failed = |what| move |source| RouteError::Read { what, source };
        let links: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("links"))?;
        let is_up = |index: u32| {
            links
                .iter()
                .any(|link| link.header.index == index && link.header.flags.contains(LinkFlags::Up))
        };
        let shown: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("addresses"))?;
        let mut result = Links::default();
        for message in shown.iter().filter(|message| is_up(message.header.index)) {
            let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
                message.attributes.iter().find_map(wanted)
            };
            let local = of(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            // The other end on point-to-point links, else the address itself.
            let address = of(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            let Some(address) = address.or(local) else { continue };
            result.addresses.push(local.unwrap_or(address));
            if !is_unsettled(message) {
                result.sources.push(local.unwrap_or(address));
            }
            if address.is_loopback() {
                continue;
            }
            if let Ok(network) = IpNet::new(address, message.header.prefix_len) {
                result.networks.push(network.trunc());
            }
        }
        result.networks.sort_unstable();
        result.networks.dedup();
        result.addresses.sort_unstable();
        result.addresses.dedup();
        result.sources.sort_unstable();
        result.sources.dedup();
        Ok(result)
    }

    /// Applies operations, some at once, and says for each how it went, in order.
    pub async fn apply(&self, ops: Vec<Op>) -> Vec<(Op, Result<(), String>)> {
        futures::stream::iter(ops)
            .map(|op| async move {
                let result = self.apply_one(&op).await.map_err(|error| error.to_string());
                (op, result)
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// Removes all routes of ours; returns what they were, and for those that stay why.
    ///
    /// # Errors
    /// [`RouteError::Read`]
    pub async fn remove_all(&self) -> Result<Vec<(IpNet, Result<(), String>)>, RouteError> {
        let ops = self.routes().await?.into_iter().map(|route| Op::Delete(route.prefix)).collect();
        let done = self.apply(ops).await;
        Ok(done.into_iter().map(|(op, result)| (op.prefix(), result)).collect())
    }

    async fn apply_one(&self, op: &Op) -> Result<(), rtnetlink::Error> {
        match op {
            Op::Replace(prefix, target) => {
                self.handle.route().add(message(prefix, Some(target))).replace().execute().await
            }
            Op::Delete(prefix) => {
                match self.handle.route().del(message(prefix, None)).execute().await {
                    // Gone with its interface.
                    Err(rtnetlink::Error::NetlinkError(error))
                        if error.raw_code() == -libc_esrch() =>
                    {
                        Ok(())
                    }
                    result => result,
                }
            }
        }
    }
}

/// Whether the kernel does not take it as a source yet, or never will.
fn is_unsettled(message: &AddressMessage) -> bool {
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(AddressFlags::empty());
    flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        && !flags.contains(AddressFlags::Optimistic)
}

/// ESRCH of Linux on every architecture.
const fn libc_esrch() -> i32 {
    3
}

/// A route message of ours: for deleting without a target, for the kernel finds it by prefix,
/// metric and protocol.
fn message(prefix: &IpNet, target: Option<&Target>) -> RouteMessage {
    let protocol = RouteProtocol::Other(PROTOCOL);
    let mut message = match prefix {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .protocol(protocol)
            .priority(METRIC)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .protocol(protocol)
            .priority(METRIC)
            .build(),
    };
    match target {
        None => message.header.kind = RouteType::Unspec,
        Some(Target::Unreachable) => message.header.kind = RouteType::Unreachable,
        Some(Target::Via(Way { next_hops, source, link })) => {
            message.attributes.extend(link.map(RouteAttribute::Oif));
            message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(gateway(ip))));
            match next_hops.as_slice() {
                [hop] => message.attributes.push(RouteAttribute::Gateway(gateway(*hop))),
                hops => {
                    let all = hops.iter().filter_map(|hop| {
                        let builder = match hop {
                            IpAddr::V4(_) => RouteNextHopBuilder::new_ipv4(),
                            IpAddr::V6(_) => RouteNextHopBuilder::new_ipv6(),
                        };
                        builder.via(*hop).ok().map(RouteNextHopBuilder::build)
                    });
                    message.attributes.push(RouteAttribute::MultiPath(all.collect()));
                }
            }
        }
    }
    message
}

fn gateway(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn address(wire: &RouteAddress) -> Option<IpAddr> {
    match wire {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Routes of ours among those shown. Some kernels show an IPv6 multipath route as several.
fn collect(shown: &[RouteMessage], routes: &mut Vec<Installed>) {
    for message in shown {
        let Some((prefix, target)) = ours(message) else { continue };
        let before = routes.iter_mut().rev().find(|route| route.prefix == prefix);
        match (before, target) {
            (Some(Installed { target: Target::Via(way), .. }), Target::Via(more)) => {
                way.next_hops.extend(more.next_hops);
                way.next_hops.sort_unstable();
            }
            (_, target) => routes.push(Installed { prefix, target }),
        }
    }
}

/// Whether a route is ours: protocol, table and metric, by all of which the kernel finds what we replace
/// and delete. With the protocol alone it is somebody else's, whatever they mean by it.
fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(PROTOCOL)
        && metric_in_main(message) == Some(METRIC)
}

/// A route's metric; `None` for one of another table.
fn metric_in_main(message: &RouteMessage) -> Option<u32> {
    let (mut table, mut metric) = (u32::from(message.header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(metric)
}

/// Whether a route is a default route of somebody else.
fn is_foreign_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
        && message.header.kind == RouteType::Unicast
        && metric_in_main(message).is_some()
        && !is_ours(message)
}

/// Metric and first next hop of a default route of somebody else; those without a gateway lead to no
/// neighbour that packets of many addresses could be handed to.
fn way_out(message: &RouteMessage) -> Option<(u32, Way)> {
    if !is_foreign_default(message) {
        return None;
    }
    let (mut hop, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(wire) => hop = address(wire),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(all) => {
                let first = all.first()?;
                link = Some(first.interface_index);
                hop = first.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(wire) => address(wire),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let hop = hop?;
    let way = Way { next_hops: vec![hop], source: None, link: link.filter(|_| is_link_local(hop)) };
    Some((metric_in_main(message)?, way))
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn ours(message: &RouteMessage) -> Option<(IpNet, Target)> {
    if !is_ours(message) {
        return None;
    }
    let zero = match message.header.address_family {
        netlink_packet_route::AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut destination = zero;
    let (mut hops, mut source, mut link) = (Vec::new(), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(wire) => destination = address(wire)?,
            RouteAttribute::Gateway(wire) => hops.extend(address(wire)),
            RouteAttribute::PrefSource(wire) => source = address(wire),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(all) => {
                for attribute in all.iter().flat_map(|hop| &hop.attributes) {
                    if let RouteAttribute::Gateway(wire) = attribute {
                        hops.extend(address(wire));
                    }
                }
            }
            _ => {}
        }
    }
    let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    let target = match message.header.kind {
        RouteType::Unicast => {
            let link = link.filter(|_| hops.iter().copied().any(is_link_local));
            match Target::via(hops)? {
                Target::Via(way) => Target::Via(Way { source, link, ..way }),
                Target::Unreachable => return None,
            }
        }
        _ => Target::Unreachable,
    };
    Some((prefix, target))
}

/// Fires when links or addresses change, when someone else deletes or changes a route of ours, and
/// when a default route comes or goes.
///
/// # Errors
/// [`RouteError::Socket`]
pub fn changes() -> Result<impl Stream<Item = ()> + Send + Unpin, RouteError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(RouteError::Socket)?;
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| {
        let told = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                is_ours(&route) || is_foreign_default(&route)
            }
            // Our own, for the most part; what else others add is none of our business.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                is_foreign_default(&route)
            }
            _ => true,
        };
        std::future::ready(told.then_some(()))
    }))
}
