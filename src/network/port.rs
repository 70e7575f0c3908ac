//! Published ports: how they are written, and how plywood holds them on the host.
//!
//! A publication is held by a socket of plywood's that is bound to it. So the kernel itself says
//! whether it is taken, by a program of the host's or by another container's publication, and it
//! is free as soon as its plywood is gone, however that ended. The packets themselves never reach
//! that socket: [`super::firewall`] sends them to the container.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Ports that one `-p` may publish: each is held by a descriptor.
const RANGE_MAX: u16 = 256;

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host's that leads to one of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address; unspecified for all of them.
    pub address: Ipv4Addr,
    /// On the host.
    pub host_port: u16,
    /// In the container.
    pub port: u16,
    /// What is carried.
    pub protocol: Protocol,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}->{}/{}",
            self.address,
            self.host_port,
            self.port,
            self.protocol.name()
        )
    }
}

/// What one `-p` publishes: a port, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication(pub Vec<PublishedPort>);

impl FromStr for Publication {
    type Err = Error;

    /// `[IP:]HOST:CONTAINER[/tcp|/udp]`, where both ports may be ranges of the same length.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!("cannot publish {text:?}: {why}"))
                .hinted("write [IP:]HOST:CONTAINER[/udp], as in 8080:80, 127.0.0.1:5353:53/udp or 8000-8009:80-89")
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad("a port is tcp or udp")),
        };
        let mut words = ports.rsplitn(3, ':');
        let (Some(inside), Some(outside)) = (words.next(), words.next()) else {
            return Err(bad("it names one port only"));
        };
        let address = match words.next() {
            None => Ipv4Addr::UNSPECIFIED,
            Some(word) => word.parse().map_err(|_| bad("the address is no IPv4 address"))?,
        };
        let range = |word| range(word).ok_or_else(|| bad("a port is a number from 1 to 65535"));
        let ((outside, count), (inside, inside_count)) = (range(outside)?, range(inside)?);
        if count != inside_count {
            return Err(bad("the two ranges have different lengths"));
        }
        if count > RANGE_MAX {
            return Err(bad("a range has 256 ports at most"));
        }
        let port = |at| PublishedPort {
            address,
            host_port: outside + at,
            port: inside + at,
            protocol,
        };
        Ok(Self((0..count).map(port).collect()))
    }
}

/// The first port and how many there are, of `N` or `N-M`.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// Digits only: no sign, and not port 0.
fn number(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|number| digits && *number > 0)
}

/// Publications that are this process's, until it is dropped.
#[derive(Debug, Default)]
pub struct Held {
    _listening: Vec<TcpListener>,
    _bound: Vec<UdpSocket>,
}

impl Held {
    /// Takes these ports of the host's.
    ///
    /// # Errors
    /// In use where one is taken; invalid where its address is none of the host's.
    pub fn take(ports: &[PublishedPort]) -> Result<Self> {
        let mut held = Self::default();
        for port in ports {
            let at = SocketAddrV4::new(port.address, port.host_port);
            let taken = match port.protocol {
                Protocol::Tcp => TcpListener::bind(at).map(|socket| held._listening.push(socket)),
                Protocol::Udp => UdpSocket::bind(at).map(|socket| held._bound.push(socket)),
            };
            taken.map_err(|error| refused(port, &error))?;
        }
        Ok(held)
    }
}

fn refused(port: &PublishedPort, error: &std::io::Error) -> Error {
    let (kind, why, hint) = match error.kind() {
        ErrorKind::AddrInUse => (
            Kind::InUse,
            "it is taken".to_owned(),
            "plywood ps shows the containers' ports, ss -lntup those of the host's programs",
        ),
        ErrorKind::AddrNotAvailable => (
            Kind::Invalid,
            format!("{} is not this host's", port.address),
            "ip -4 addr shows the host's addresses; without one the port is published on all of them",
        ),
        _ => (Kind::Io, error.to_string(), "see the error"),
    };
    let what = format!("{}:{}/{}", port.address, port.host_port, port.protocol.name());
    Error::new(kind, format!("cannot publish port {what}: {why}")).hinted(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Vec<String> {
        let Publication(ports) = text.parse().unwrap();
        ports.iter().map(PublishedPort::to_string).collect()
    }

    #[test]
    fn a_publication_is_address_port_and_port() {
        assert_eq!(shown("8080:80"), ["0.0.0.0:8080->80/tcp"]);
        assert_eq!(shown("8080:80/tcp"), ["0.0.0.0:8080->80/tcp"]);
        assert_eq!(shown("127.0.0.1:53:5353/udp"), ["127.0.0.1:53->5353/udp"]);
        assert_eq!(
            shown("65534-65535:1-2"),
            ["0.0.0.0:65534->1/tcp", "0.0.0.0:65535->2/tcp"]
        );
    }

    #[test]
    fn a_bad_publication_is_named_and_a_good_one_shown() {
        for bad in [
            "",
            ":",
            "80",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "65536:80",
            "-1:80",
            "+1:80",
            "80:80/icmp",
            "80:80/",
            "a:b",
            "localhost:80:80",
            "::1:80:80",
            "[::1]:80:80",
            "1:2:3:4",
            "80-79:80-79",
            "80-81:80",
            "1-300:1-300",
            "80:80/udp/tcp",
            "80:80/tcp/tcp",
            " 80:80",
            "80-:80",
        ] {
            let error = bad.parse::<Publication>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("8080:80")), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_published(
            address: Option<u32>, host in 1u16..=65535, port in 1u16..=65535, udp: bool,
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let address = address.map(Ipv4Addr::from);
            let before = address.map_or_else(String::new, |address| format!("{address}:"));
            let text = format!("{before}{host}:{port}/{}", protocol.name());
            let Publication(ports) = text.parse().unwrap();
            let expected = PublishedPort {
                address: address.unwrap_or(Ipv4Addr::UNSPECIFIED), host_port: host, port, protocol,
            };
            prop_assert_eq!(ports, vec![expected]);
        }

        #[test]
        fn any_text_is_refused_or_few_ports(text in "[0-9:/.\\-tcpud]{0,24}") {
            if let Ok(Publication(ports)) = text.parse::<Publication>() {
                prop_assert!((1..=usize::from(RANGE_MAX)).contains(&ports.len()));
                prop_assert!(ports.iter().all(|port| port.port > 0 && port.host_port > 0));
            }
        }
    }

    #[test]
    fn a_held_port_is_nobody_elses_until_it_is_let_go() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let publication: Publication = format!("127.0.0.1:{free}:80").parse().unwrap();
        let held = Held::take(&publication.0).unwrap();
        let error = Held::take(&publication.0).unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
        assert!(error.to_string().contains(&format!("127.0.0.1:{free}/tcp")), "{error}");
        drop(held);
        Held::take(&publication.0).unwrap();
    }
}
