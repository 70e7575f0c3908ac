//! What a container's record keeps of its network: what was asked for, and its place on the bridge while it runs.

use std::net::IpAddr;

use plywood_store::Store;
use plywood_store::record::ContainerRecord;
use serde::{Deserialize, Serialize};

use crate::cli::{NetworkChoice, RunArgs};
use crate::commands::container;
use crate::error::{Error, Kind, Result};
use crate::exec::spec::{Network, Spec};
use crate::network::Endpoint;
use crate::network::port::{Publication, PublishedPort};

/// A name in `/etc/hosts` for another container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its id, or, as it was typed, its name.
    pub container: String,
    /// The name for it.
    pub alias: String,
}

/// The network of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Ports of the host's that lead to it.
    pub ports: Vec<PublishedPort>,
    /// Names for other containers.
    pub links: Vec<Link>,
    /// Resolvers, instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Its place on the bridge, while it runs there.
    pub endpoint: Option<Endpoint>,
}

impl Connection {
    /// What was typed.
    ///
    /// # Errors
    /// Invalid for what cannot be understood, and for what the network that was asked for does not have.
    pub fn asked(args: &RunArgs) -> Result<Self> {
        let mut ports = Vec::new();
        for text in &args.publish {
            ports.extend(text.parse::<Publication>()?.0);
        }
        let asked = Self {
            ports,
            links: args.link.iter().map(|text| link(text)).collect::<Result<_>>()?,
            dns: args.dns.iter().map(|text| resolver(text)).collect::<Result<_>>()?,
            endpoint: None,
        };
        let on_bridge = args.net == NetworkChoice::Bridge;
        let joined = matches!(args.net, NetworkChoice::Container(_));
        let misplaced = [
            ("-p", !asked.ports.is_empty() && !on_bridge),
            ("--link", !asked.links.is_empty() && !on_bridge),
            ("--dns", !asked.dns.is_empty() && joined),
        ];
        if let Some((option, _)) = misplaced.into_iter().find(|(_, misplaced)| *misplaced) {
            return Err(Error::invalid(format!("{option} does not go with --net {}", args.net)).hinted(
                "leave out --net for the bridge; ports, links and resolvers are those of the container whose network is joined",
            ));
        }
        Ok(asked)
    }

    /// The same with each link's container found: they go by id from then on.
    ///
    /// # Errors
    /// Where one is not there.
    pub fn found(mut self, store: &Store) -> Result<Self> {
        for link in &mut self.links {
            link.container = store.find_container(&link.container)?.id;
        }
        Ok(self)
    }

    /// What a record keeps; nothing special where it keeps nothing.
    ///
    /// # Errors
    /// Incompatible where another plywood wrote it in words that this one does not know.
    pub fn of(container: &ContainerRecord) -> Result<Self> {
        let Some(document) = &container.network else {
            return Ok(Self::default());
        };
        serde_json::from_value(document.clone()).map_err(|error| {
            Error::new(
                Kind::Incompatible,
                format!("cannot read the network of container {}", container.name),
            )
            .caused_by(error)
        })
    }

    /// For the record.
    pub fn document(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self).ok()
    }
}

/// The network that was typed, where a container still goes by its name.
pub fn of_choice(choice: &NetworkChoice) -> Network {
    match choice {
        NetworkChoice::Bridge => Network::Bridge,
        NetworkChoice::None => Network::None,
        NetworkChoice::Host => Network::Host,
        NetworkChoice::Container(name) => Network::Container(name.clone()),
    }
}

/// Makes a run join the network of `other`, whose host name it has too unless it was given one of its own.
///
/// # Errors
/// Where the other one's record cannot be read.
pub fn join(spec: &mut Spec, other: &ContainerRecord, same_name: bool) -> Result<()> {
    spec.network = Network::Container(other.id.clone());
    if same_name {
        let own = format!("HOSTNAME={}", spec.hostname);
        spec.hostname = container::recorded_spec(other)?.hostname;
        for entry in spec.env.iter_mut().filter(|entry| **entry == own) {
            *entry = format!("HOSTNAME={}", spec.hostname);
        }
    }
    Ok(())
}

/// `CONTAINER[:ALIAS]`.
fn link(text: &str) -> Result<Link> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if container.is_empty() || alias.is_empty() || !alias.bytes().all(fits) {
        return Err(Error::invalid(format!("cannot understand the link {text:?}"))
            .hinted("write CONTAINER or CONTAINER:ALIAS, as in database:db"));
    }
    Ok(Link {
        container: container.to_owned(),
        alias: alias.to_owned(),
    })
}

fn resolver(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        Error::invalid(format!("{text:?} is no address of a resolver")).hinted("write it as in --dns 192.0.2.1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_container_and_a_name_for_it() {
        let of = |text: &str| link(text).map(|link| (link.container, link.alias)).ok();
        let both = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(of("database:db"), both("database", "db"));
        assert_eq!(of("database"), both("database", "database"));
        for bad in ["", ":", "a:", ":a", "a:b c", "a:b:c", "a:b\nc"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
