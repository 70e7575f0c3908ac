//! Links, addresses and routes: each function makes one of them, and tells it as an ip(8) command.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::BRIDGE;
use super::netlink::Route;
use super::subnet::Subnet;
use crate::explain;

/// The container's end of the pair.
pub(super) const INSIDE: &str = "eth0";

/// An Ethernet address that follows from the IPv4 one: an address that comes back is the same
/// machine to its neighbours, whose tables need not forget anything.
pub(super) fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // Bit 1 of the first octet: administered locally.
    [0x02, 0x50, a, b, c, d]
}

/// As ip(8) writes it.
pub(super) fn hardware_text(hardware: [u8; 6]) -> String {
    hardware.map(|byte| format!("{byte:02x}")).join(":")
}

/// A link's number in this thread's network namespace; none where there is none of that name.
pub(super) fn index(name: &str) -> io::Result<Option<u32>> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    match rustix::net::netdevice::name_to_index(socket, name) {
        Ok(index) => Ok(Some(index)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the bridge, down; that it is there already is as good.
pub(super) fn make_bridge(route: &Route, address: Ipv4Addr) -> io::Result<()> {
    let hardware = hardware(address);
    explain::step(|| format!("ip link add {BRIDGE} address {} type bridge", hardware_text(hardware)));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(BRIDGE.to_owned()),
        LinkAttribute::Address(hardware.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    unless_there(route.change(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL))
}

/// Makes a veth pair: `name` on the bridge and up, the other end in `namespace`. Gives whether it was made: one of
/// that name may be there.
pub(super) fn make_pair(
    route: &Route,
    bridge: u32,
    name: &str,
    address: Ipv4Addr,
    namespace: BorrowedFd<'_>,
) -> io::Result<bool> {
    let hardware = hardware(address).to_vec();
    let mut inside = LinkMessage::default();
    inside.attributes = vec![
        LinkAttribute::IfName(INSIDE.to_owned()),
        LinkAttribute::Address(hardware),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
        ]),
    ];
    match route.change(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the bridge send packets back out of the port that they came in by.
pub(super) fn hairpin(route: &Route, name: &str) -> io::Result<()> {
    explain::step(|| format!("ip link set {name} type bridge_slave hairpin on"));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    route.change(Message::NewLink(link), 0)
}

/// Removes a link; that it is gone is as good.
pub(super) fn remove(route: &Route, name: &str) -> io::Result<()> {
    explain::step(|| format!("ip link del {name}"));
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match route.change(Message::DelLink(link), 0) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
        removed => removed,
    }
}

/// Brings a link up.
pub(super) fn up(route: &Route, index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    route.change(Message::SetLink(link), 0)
}

/// Gives a link an address; that it has it already is as good.
pub(super) fn add_address(route: &Route, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    unless_there(route.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL))
}

/// The first IPv4 address of a link, with its prefix length.
pub(super) fn address_of(route: &Route, index: u32) -> io::Result<Option<(Ipv4Addr, u8)>> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let list = route.list(Message::GetAddress(message))?;
    Ok(list.into_iter().find_map(|item| match item {
        Message::NewAddress(found) if found.header.index == index => {
            let address = found.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            address.map(|address| (address, found.header.prefix_len))
        }
        _ => None,
    }))
}

/// Sends what has no nearer route through `gateway`.
pub(super) fn add_default_route(route: &Route, gateway: Ipv4Addr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
    route.change(Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// The networks that have a route, but for those through link `own` and the default.
pub(super) fn routed(route: &Route, own: Option<u32>) -> io::Result<Vec<Subnet>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let list = route.list(Message::GetRoute(message))?;
    let networks = list.into_iter().filter_map(|item| match item {
        Message::NewRoute(found) => network(&found, own),
        _ => None,
    });
    Ok(networks.collect())
}

fn network(found: &RouteMessage, own: Option<u32>) -> Option<Subnet> {
    let through = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(link) if Some(*link) == own);
    if found.header.destination_prefix_length == 0 || found.attributes.iter().any(through) {
        return None;
    }
    found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
            Some(Subnet::around(*address, found.header.destination_prefix_length))
        }
        _ => None,
    })
}

fn unless_there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
