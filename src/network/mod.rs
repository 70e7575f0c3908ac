//! Network: the bridge `plywood0`, and a container's place on it.
//!
//! ```text
//! host                                             container
//! plywood0  10.214.0.1/16 ---- ply0ad60005 ======= eth0  10.214.0.5/16, default route through 10.214.0.1
//!    |                         (veth pair)
//!    +-- ip plywood (nftables): out by masquerade, in by published ports
//! ```
//!
//! The container's network namespace is made first, on a thread of its own, and furnished over
//! netlink; the container's first process then joins it. The namespace has no name: when its last
//! process and the plywood that made it are gone, the kernel takes it away with the veth pair and
//! the address, however they ended. What outlives a killed plywood is a publication's rule (which
//! leads nowhere, as the address is gone) and the file of names; the next command sweeps both.
//!
//! There is no daemon that could answer for names. Each container's `/etc/hosts` is a file of the
//! host's, bind-mounted, and whoever starts or ends a container writes all of them anew
//! ([`names`]).

mod link;
mod netlink;

pub mod firewall;
pub mod names;
pub mod port;
pub mod subnet;
mod sysctl;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::explain;
use netlink::Route;
use subnet::Subnet;

/// The bridge, one for each network namespace of the host's.
pub const BRIDGE: &str = "plywood0";

/// The loopback interface's number in every namespace.
const LOOPBACK: u32 = 1;

/// A container's place on the bridge, as its record keeps it while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's address.
    pub address: Ipv4Addr,
    /// Bits of the network's part.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The Ethernet address, `02:50:…`.
    pub mac: String,
    /// The host's end of the veth pair.
    pub host_veth: String,
    /// Its number: the name becomes another container's with the address, this does not.
    pub host_index: u32,
}

/// What has become of an endpoint whose plywood is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its link is still there.
    There,
    /// The kernel has taken it away.
    Gone,
    /// Another container has got the address since.
    Another,
}

impl Endpoint {
    /// What has become of it, in this network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fate(&self) -> Result<Fate> {
        Ok(
            match link::index(&self.host_veth).context("look for", &self.host_veth)? {
                None => Fate::Gone,
                Some(index) if index == self.host_index => Fate::There,
                Some(_) => Fate::Another,
            },
        )
    }
}

/// A network namespace on the bridge. It ends with its last process and this.
#[derive(Debug)]
pub struct Attachment {
    /// The place on the bridge.
    pub endpoint: Endpoint,
    /// The network that it lies in.
    pub pool: Subnet,
    namespace: OwnedFd,
}

impl Attachment {
    /// The network namespace, to be joined.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Lets the container reach its own published ports by the host's addresses: such packets come back by the
    /// way that they went.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reach_itself(&self) -> Result<()> {
        let route = Route::open().context("open", "a netlink socket")?;
        let name = &self.endpoint.host_veth;
        link::hairpin(&route, name).context("reflect packets at", name)
    }

    /// Takes the container, which has ended, off the bridge.
    ///
    /// # Errors
    /// As for [`detach`].
    pub fn close(self) -> Result<()> {
        detach(&self.endpoint)?;
        self.leave();
        Ok(())
    }

    /// Leaves it to the kernel to take the container, which has ended, off the bridge: that takes it some milliseconds,
    /// in which the address stays taken.
    pub fn leave(self) {
        explain::step(|| format!("ip netns del {}", self.endpoint.host_veth));
    }
}

/// Makes a network namespace with loopback and `eth0`, on the bridge, which is made where it is not there.
///
/// `pool` is the network that was asked for, if any; `preferred` says where in it to begin looking for an address, so
/// that a container tends to get the same one again. A namespace that is `given` is furnished in place of a new one.
///
/// # Errors
/// In use where no address or no network is free; incompatible where the bridge has another network; the kernel's.
pub fn attach(pool: Option<Subnet>, preferred: u32, given: Option<BorrowedFd<'_>>) -> Result<Attachment> {
    let host = Route::open().context("open", "a netlink socket")?;
    let (bridge, pool) = bridge(&host, pool)?;
    // A namespace belongs to a thread: this one goes back to nowhere.
    let mut attachment = std::thread::scope(|threads| {
        let work = || furnish(&host, bridge, pool, preferred, given);
        let thread = std::thread::Builder::new().spawn_scoped(threads, work);
        let thread = thread.context("start", "a thread for the network namespace")?;
        let gone = |_| {
            Err(Error::new(
                Kind::Io,
                "the thread that makes a network namespace is gone",
            ))
        };
        thread.join().unwrap_or_else(gone)
    })?;
    // By this thread, which is in the host's namespace.
    let name = &attachment.endpoint.host_veth;
    let index = link::index(name).context("look for", name)?;
    attachment.endpoint.host_index = index.ok_or_else(|| Error::not_found(format!("the link {name} is gone")))?;
    Ok(attachment)
}

/// Takes a container off the bridge; that it is gone is as good. A link of the same name that is another container's
/// by now is let be.
///
/// # Errors
/// The kernel's.
pub fn detach(endpoint: &Endpoint) -> Result<()> {
    if endpoint.fate()? != Fate::There {
        return Ok(());
    }
    let route = Route::open().context("open", "a netlink socket")?;
    link::remove(&route, &endpoint.host_veth).context("remove the link", &endpoint.host_veth)
}

/// Lets the host pass packets on; gives whether it did not before.
///
/// # Errors
/// Where it cannot be set.
pub fn enable_forwarding() -> Result<bool> {
    sysctl::set("net/ipv4/ip_forward", "1")
}

/// The bridge's number and network. Making it may be done by several at once: each step may find itself done.
fn bridge(route: &Route, asked: Option<Subnet>) -> Result<(u32, Subnet)> {
    let look = || link::index(BRIDGE).context("look for", BRIDGE);
    let found = look()?;
    let network = |index| -> Result<Option<Subnet>> {
        let address = link::address_of(route, index).context("look at the addresses of", BRIDGE)?;
        Ok(address.map(|(address, prefix)| Subnet::around(address, prefix)))
    };
    if let Some(index) = found
        && let Some(pool) = network(index)?
    {
        return same_network(index, pool, asked);
    }
    let chosen = choose(route, found, asked);
    // Another plywood may have made it since: then the routes are its own.
    if let Some(index) = look()?
        && let Some(pool) = network(index)?
    {
        return same_network(index, pool, asked);
    }
    let pool = chosen?;
    let gateway = pool.gateway();
    link::make_bridge(route, gateway).context("make the bridge", BRIDGE)?;
    let index = look()?.ok_or_else(|| Error::not_found(format!("the bridge {BRIDGE} has just been removed")))?;
    // A container must not become the host's IPv6 router by announcing itself as one.
    sysctl::set(&format!("net/ipv6/conf/{BRIDGE}/accept_ra"), "0")?;
    explain::step(|| format!("ip link set {BRIDGE} up"));
    link::up(route, index).context("bring up", BRIDGE)?;
    explain::step(|| format!("ip addr add {gateway}/{} dev {BRIDGE}", pool.prefix()));
    // The address last: a bridge that has one is whole.
    link::add_address(route, index, gateway, pool.prefix()).context("give an address to", BRIDGE)?;
    same_network(index, network(index)?.unwrap_or(pool), asked)
}

fn same_network(index: u32, pool: Subnet, asked: Option<Subnet>) -> Result<(u32, Subnet)> {
    match asked {
        Some(asked) if asked != pool => Err(Error::new(
            Kind::Incompatible,
            format!("the bridge {BRIDGE} has the network {pool}, not {asked}"),
        )
        .hinted(format!(
            "leave out PLYWOOD_POOL, or remove the bridge when no container runs: ip link del {BRIDGE}"
        ))),
        _ => Ok((index, pool)),
    }
}

/// A network that the host has no route into.
fn choose(route: &Route, own: Option<u32>, asked: Option<Subnet>) -> Result<Subnet> {
    let routed = link::routed(route, own).context("list", "the host's routes")?;
    let is_free = |pool: &&Subnet| !routed.iter().any(|there| there.overlaps(**pool));
    let candidates = asked.as_ref().map_or(Subnet::candidates(), std::slice::from_ref);
    candidates.iter().find(is_free).copied().ok_or_else(|| {
        let tried: Vec<_> = candidates.iter().map(Subnet::to_string).collect();
        Error::new(
            Kind::InUse,
            format!(
                "no network is free for containers: the host has routes into {}",
                tried.join(", ")
            ),
        )
        .hinted("name another one: PLYWOOD_POOL=10.99.0.0/16; ip route shows what is taken")
    })
}

/// Furnishes a namespace of this thread's own, or the one that is given.
fn furnish(
    host: &Route,
    bridge: u32,
    pool: Subnet,
    preferred: u32,
    given: Option<BorrowedFd<'_>>,
) -> Result<Attachment> {
    match given {
        Some(given) => nix::sched::setns(given, CloneFlags::CLONE_NEWNET),
        None => nix::sched::unshare(CloneFlags::CLONE_NEWNET),
    }
    .map_err(io::Error::from)
    .context("make", "a network namespace")?;
    let namespace = OwnedFd::from(File::open("/proc/thread-self/ns/net").context("open", "the network namespace")?);
    let inside = Route::open().context("open", "a netlink socket")?;
    let endpoint = take_address(host, bridge, pool, preferred, namespace.as_fd())?;
    let (name, address, prefix) = (&endpoint.host_veth, endpoint.address, endpoint.prefix);
    let step = |command: String| explain::step(|| format!("ip -n {name} {command}"));
    let at = format!("{} of the container at {address}", link::INSIDE);

    step("link set lo up".to_owned());
    link::up(&inside, LOOPBACK).context("bring up", "the loopback interface")?;
    let index = link::index(link::INSIDE).context("look for", &at)?;
    let index = index.ok_or_else(|| Error::not_found(format!("{at} is gone")))?;
    step(format!("addr add {address}/{prefix} dev {}", link::INSIDE));
    link::add_address(&inside, index, address, prefix).context("give an address to", &at)?;
    // The kernel announces the address when the link comes up: a gratuitous ARP.
    sysctl::set_inside(name, &format!("net/ipv4/conf/{}/arp_notify", link::INSIDE), "1")?;
    // There are no IPv6 networks here; without them no neighbour can pass for a router of one.
    sysctl::set_inside(name, &format!("net/ipv6/conf/{}/disable_ipv6", link::INSIDE), "1")?;
    step(format!("link set {} up", link::INSIDE));
    link::up(&inside, index).context("bring up", &at)?;
    step(format!("route add default via {}", endpoint.gateway));
    link::add_default_route(&inside, endpoint.gateway).context("make a default route for", &at)?;
    Ok(Attachment {
        endpoint,
        pool,
        namespace,
    })
}

/// Makes the veth pair with the first free address's name.
fn take_address(
    host: &Route,
    bridge: u32,
    pool: Subnet,
    preferred: u32,
    namespace: BorrowedFd<'_>,
) -> Result<Endpoint> {
    for address in pool.addresses(preferred) {
        let name = format!("ply{:08x}", u32::from(address));
        if link::make_pair(host, bridge, &name, address, namespace).context("make the link", &name)? {
            let mac = link::hardware_text(link::hardware(address));
            explain::step(|| format!("ip netns add {name}"));
            explain::step(|| {
                let inside = link::INSIDE;
                format!("ip link add {name} master {BRIDGE} type veth peer name {inside} address {mac} netns {name}")
            });
            explain::step(|| format!("ip link set {name} up"));
            return Ok(Endpoint {
                address,
                prefix: pool.prefix(),
                gateway: pool.gateway(),
                mac,
                host_veth: name,
                // Not known in here.
                host_index: 0,
            });
        }
    }
    Err(Error::new(
        Kind::InUse,
        format!("the address pool {pool} is empty: {} containers have its addresses", pool.capacity()),
    )
    .hinted(format!(
        "end one, or give {BRIDGE} a larger network when none runs: ip link del {BRIDGE}, then PLYWOOD_POOL=10.99.0.0/16"
    )))
}
