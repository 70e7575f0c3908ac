//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` of a container: made
//! from the host's, and mounted over the image's, which stay as they are.

use std::io::Read;

use super::Surroundings;
use super::error::{Attempt, Result, Stage};
use super::spec::{Network, Spec};

/// Bytes that are taken of a file of the host's.
const FILE_MAX: u64 = 1 << 20;

/// Hosts of a container that has a network of its own, or none.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// A file for the container: where, and what it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Generated {
    /// Absolute, in the container.
    pub(super) path: &'static str,
    /// What it holds.
    pub(super) content: Vec<u8>,
}

/// The files for `spec`, but for a hosts file that is given; reads the host's.
pub(super) fn generate(spec: &Spec, given: Surroundings<'_>) -> Result<Vec<Generated>> {
    let mut files = vec![Generated {
        path: "/etc/hostname",
        content: format!("{}\n", spec.hostname).into_bytes(),
    }];
    if let Some(content) = given.resolv_conf {
        files.push(Generated {
            path: "/etc/resolv.conf",
            content: content.into(),
        });
    }
    match spec.network {
        _ if given.hosts.is_some() => {}
        Network::Host => {
            let content = hosts_with(read_host("/etc/hosts")?, &spec.hostname);
            files.push(Generated {
                path: "/etc/hosts",
                content,
            });
            if given.resolv_conf.is_none() {
                files.push(Generated {
                    path: "/etc/resolv.conf",
                    content: read_host("/etc/resolv.conf")?,
                });
            }
        }
        // Names lead nowhere: the image's own resolv.conf does no harm.
        Network::None | Network::Bridge | Network::Container(_) => files.push(Generated {
            path: "/etc/hosts",
            content: hosts_with(HOSTS.into(), &spec.hostname),
        }),
    }
    Ok(files)
}

/// `hosts` with a line for `hostname` where it has none: `sudo` asks for it.
fn hosts_with(mut hosts: Vec<u8>, hostname: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&hosts);
    let has_it = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| line.split_whitespace().skip(1).any(|word| word == hostname));
    if !has_it && !hostname.is_empty() {
        if !hosts.is_empty() && !hosts.ends_with(b"\n") {
            hosts.push(b'\n');
        }
        hosts.extend_from_slice(format!("127.0.1.1\t{hostname}\n").as_bytes());
    }
    hosts
}

/// A file of the host's, empty where there is none.
fn read_host(path: &str) -> Result<Vec<u8>> {
    let at = || format!("read the host's {path}");
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.attempt(Stage::Request, at)?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX)
        .read_to_end(&mut bytes)
        .attempt(Stage::Request, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::hosts_with;

    #[test]
    fn the_containers_name_is_in_its_hosts_once() {
        for (hosts, expected) in [
            ("", "127.0.1.1\tweb\n"),
            ("127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.1.1\tweb\n"),
            ("10.0.0.1 x web\n", "10.0.0.1 x web\n"),
            ("10.0.0.1 x # web\n", "10.0.0.1 x # web\n127.0.1.1\tweb\n"),
        ] {
            assert_eq!(String::from_utf8(hosts_with(hosts.into(), "web")).unwrap(), expected);
        }
    }
}
