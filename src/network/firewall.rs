//! NAT and published ports: one nftables table of plywood's own, `ip plywood`.
//!
//! The table is made once, by nft(8), in one transaction that may be repeated; whether it is there
//! is asked over netlink, so that a container without published ports starts no program. A
//! publication is an element of a map, found again by its key:
//!
//! ```text
//! arriving, own    a local address -> published -> the container, by address and port, then by port
//! leaving          from the pool elsewhere: masquerade; from 127.0.0.1, or back from where it came: too
//! forwarded        a new connection from elsewhere into the pool, that no publication made: drop
//! guard            127.0.0.0/8 on the bridge: drop
//! ```
//!
//! *guard* is what makes 127.0.0.1 safe to publish on: `route_localnet` would else let a container
//! reach the host's own loopback services.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::port::{Held, PublishedPort};
use super::subnet::Subnet;
use super::{BRIDGE, sysctl};
use crate::error::{Context, Error, Kind, Result};
use crate::explain;
use crate::sys::with_parent::ends_with_parent;

/// nft(8).
pub const PROGRAM: &str = "nft";
/// The Debian package that has it.
pub const PACKAGE: &str = "nftables";
/// Where it is looked for: not where the caller's variables say.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether this network namespace can translate addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Present,
    Absent,
    /// The kernel has no nftables for IPv4.
    Unknown,
}

/// Where nft is, if it is installed.
pub fn find() -> Option<PathBuf> {
    let places = PATH.split(':').map(|folder| PathBuf::from(folder).join(PROGRAM));
    places.into_iter().find(|path| path.is_file())
}

/// Whether this kernel has nftables for IPv4.
pub fn is_known() -> bool {
    matches!(look(), Ok(Table::Present | Table::Absent))
}

/// Makes the table unless it is there, and lets `pool` out through it.
///
/// # Errors
/// Where the kernel or nft cannot.
pub fn ensure(pool: Subnet) -> Result<()> {
    match look().map_err(|error| Error::io("ask for", "the nftables table plywood", error))? {
        Table::Present => Ok(()),
        Table::Absent => {
            apply(&base(pool))?;
            // Only now, as the table guards it.
            sysctl::set(&format!("net/ipv4/conf/{BRIDGE}/route_localnet"), "1").map(|_| ())
        }
        Table::Unknown => Err(Error::invalid("this kernel has no nftables for IPv4")),
    }
}

/// Makes `ports` lead to the container at `address`.
///
/// # Errors
/// Where nft cannot.
pub fn publish(ports: &[PublishedPort], address: Ipv4Addr) -> Result<()> {
    let elements = elements("add", ports, Some(address));
    // These ports are held by this process: what is there under their keys is a killed one's.
    apply(&elements).or_else(|_| withdraw(ports).and_then(|()| apply(&elements)))
}

/// Undoes [`publish`]; that they are gone is as good.
///
/// # Errors
/// Where nft cannot.
pub fn withdraw(ports: &[PublishedPort]) -> Result<()> {
    if ports.is_empty() || !matches!(look(), Ok(Table::Present)) {
        return Ok(());
    }
    // One by one where together fails: a missing element fails all.
    apply(&elements("delete", ports, None)).or_else(|_| {
        for port in ports {
            let _ = apply(&elements("delete", &[*port], None));
        }
        Ok(())
    })
}

/// Undoes what a killed plywood published for the container at `address`. What leads elsewhere by now is let be; so is,
/// where the address is `anothers` by now, what somebody holds.
///
/// # Errors
/// Where nft cannot.
pub fn withdraw_dead(ports: &[PublishedPort], address: Ipv4Addr, anothers: bool) -> Result<()> {
    if ports.is_empty() || !matches!(look(), Ok(Table::Present)) {
        return Ok(());
    }
    for port in ports {
        let is_held = || Held::take(&[*port]).is_err();
        if leads_to(port, address) && !(anothers && is_held()) {
            apply(&elements("delete", &[*port], None))?;
        }
    }
    Ok(())
}

/// Whether a published port is led to the container at `address`.
fn leads_to(port: &PublishedPort, address: Ipv4Addr) -> bool {
    let there = nft(&elements("get", &[*port], None));
    there.is_ok_and(|said| said.contains(&format!(": {address} . {} ", port.port)))
}

/// Asks the kernel for the table, without nft.
fn look() -> io::Result<Table> {
    const UNKNOWN: [i32; 4] = [
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
        libc::EOPNOTSUPP,
        libc::EINVAL,
    ];
    let answer = ask_for_table().map(|()| Table::Present);
    answer.or_else(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(Table::Absent),
        Some(code) if UNKNOWN.contains(&code) => Ok(Table::Unknown),
        _ => Err(error),
    })
}

/// `NFT_MSG_GETTABLE` (linux/netfilter/nf_tables.h): fails as the kernel does.
fn ask_for_table() -> io::Result<()> {
    const GET_TABLE: u16 = (10 << 8) | 1;
    const REQUEST: u16 = 1;
    const NAME: &[u8; 8] = b"plywood\0";
    const LENGTH: u32 = 16 + 4 + 4 + 8;
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(GET_TABLE.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    // nfgenmsg: IPv4, version 0; then NFTA_TABLE_NAME.
    message.extend([2, 0, 0, 0]);
    message.extend(12u16.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend(NAME);
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let word = |at: usize| answer.get(at..).and_then(|rest| rest.first_chunk::<4>().copied());
    const ERROR: [u8; 2] = 2u16.to_ne_bytes();
    match (answer.get(4..6), word(16).map(i32::from_ne_bytes)) {
        (Some(kind), Some(code)) if kind == ERROR && code != 0 => {
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Ok(()),
    }
}

/// The table, whole: what is in its chains is put there anew, the maps keep what they have.
fn base(pool: Subnet) -> String {
    const CHAINS: [(&str, &str); 6] = [
        ("guard", "{ type filter hook prerouting priority raw; }"),
        ("published", ""),
        ("arriving", "{ type nat hook prerouting priority dstnat; }"),
        ("own", "{ type nat hook output priority -100; }"),
        ("leaving", "{ type nat hook postrouting priority srcnat; }"),
        ("forwarded", "{ type filter hook forward priority filter; }"),
    ];
    let mut text = String::from(
        "add table ip plywood\n\
         add set ip plywood pools { type ipv4_addr; flags interval; }\n\
         add map ip plywood by_port { type inet_proto . inet_service : ipv4_addr . inet_service; }\n\
         add map ip plywood by_address { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }\n",
    );
    for (chain, hook) in CHAINS {
        text += &format!("add chain ip plywood {chain} {hook}\nflush chain ip plywood {chain}\n");
    }
    text += &format!("add element ip plywood pools {{ {pool} }}\n");
    let bridge = format!("\"{BRIDGE}\"");
    for (chain, rule) in [
        ("guard", format!("iifname {bridge} ip saddr 127.0.0.0/8 drop")),
        ("guard", format!("iifname {bridge} ip daddr 127.0.0.0/8 drop")),
        (
            "published",
            "dnat ip to ip daddr . meta l4proto . th dport map @by_address".to_owned(),
        ),
        (
            "published",
            "dnat ip to meta l4proto . th dport map @by_port".to_owned(),
        ),
        ("arriving", "fib daddr type local goto published".to_owned()),
        ("own", "fib daddr type local goto published".to_owned()),
        ("leaving", format!("oifname != {bridge} ip saddr @pools masquerade")),
        ("leaving", format!("oifname {bridge} ip saddr 127.0.0.0/8 masquerade")),
        (
            "leaving",
            format!("oifname {bridge} ip saddr @pools ct status dnat masquerade"),
        ),
        (
            "forwarded",
            format!("iifname != {bridge} oifname {bridge} ct state new ct status and dnat == 0 drop"),
        ),
    ] {
        text += &format!("add rule ip plywood {chain} {rule}\n");
    }
    text
}

/// A command for each port's element; with its value where there is an address to lead to.
fn elements(verb: &str, ports: &[PublishedPort], to: Option<Ipv4Addr>) -> String {
    let element = |port: &PublishedPort| {
        let (map, before) = if port.address.is_unspecified() {
            ("by_port", String::new())
        } else {
            ("by_address", format!("{} . ", port.address))
        };
        let value = to.map_or_else(String::new, |to| format!(" : {to} . {}", port.port));
        let (protocol, number) = (port.protocol.name(), port.host_port);
        format!("{verb} element ip plywood {map} {{ {before}{protocol} . {number}{value} }}\n")
    };
    ports.iter().map(element).collect()
}

/// Gives nft a ruleset.
fn apply(ruleset: &str) -> Result<()> {
    explain::step(|| format!("{} | {PROGRAM} -f -", explain::printf(ruleset.as_bytes())));
    nft(ruleset).map(drop)
}

/// What nft says to its commands.
fn nft(commands: &str) -> Result<String> {
    let path = find().ok_or_else(|| {
        Error::not_found(format!("the program {PROGRAM} is missing")).hinted(format!("apt-get install {PACKAGE}"))
    })?;
    let mut command = Command::new(path);
    command.args(["-f", "-"]).env_clear().env("LC_ALL", "C");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // What it published after plywood's death would be swept too early, and stay.
    let started = ends_with_parent(&mut command).spawn();
    let mut nft = started.context("start", PROGRAM)?;
    let written = nft
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(commands.as_bytes()));
    let ended = nft
        .wait_with_output()
        .map_err(|error| Error::io("wait for", PROGRAM, error))?;
    if ended.status.success() {
        written.context("write to", PROGRAM)?;
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.lines().next().unwrap_or("it says nothing").to_owned();
    Err(Error::new(Kind::Io, format!("{PROGRAM} refused the rules")).caused_by(io::Error::other(said)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::port::Publication;

    #[test]
    fn a_publication_is_an_element_under_its_own_key() {
        let Publication(ports) = "127.0.0.1:5353:53/udp".parse().unwrap();
        let to = Some(Ipv4Addr::new(10, 214, 0, 5));
        assert_eq!(
            elements("add", &ports, to),
            "add element ip plywood by_address { 127.0.0.1 . udp . 5353 : 10.214.0.5 . 53 }\n"
        );
        let Publication(ports) = "8080-8081:80-81".parse().unwrap();
        assert_eq!(
            elements("delete", &ports, None),
            "delete element ip plywood by_port { tcp . 8080 }\ndelete element ip plywood by_port { tcp . 8081 }\n"
        );
    }
}
