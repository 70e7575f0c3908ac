//! Names without a daemon: `/etc/hosts` and `/etc/resolv.conf` of containers on the bridge.
//!
//! A resolver would have to run for as long as any container does. Here each container's
//! `/etc/hosts` is a file of the host's that is bind-mounted into it; who starts or ends a container
//! writes the files of all that run. It is written in place, as the mount shows this very file and
//! no other. Lines that the container itself adds below the last one of plywood's are kept.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Context, Result};
use crate::explain;

/// Bytes that are taken of a file.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a container's own lines that are kept.
const OWN_MAX: usize = 64 << 10;
/// The last line that is plywood's.
const END: &str = "# Lines below this one are kept.\n";

/// Resolvers as systemd-resolved knows them, where the host's own file leads to its loopback.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// A container that can be reached: its address and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// On the bridge.
    pub address: Ipv4Addr,
    /// Its name, its host name, aliases.
    pub names: Vec<String>,
}

/// What plywood puts into a hosts file: loopback, and then `hosts`, the container's own line first.
pub fn hosts(hosts: &[Host]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in hosts {
        text += &format!("{}\t{}\n", host.address, host.names.join(" "));
    }
    text + END
}

/// Makes the file that is to be mounted.
///
/// # Errors
/// I/O.
pub fn make(path: &Path, content: &str) -> Result<()> {
    explain::step(|| {
        let folder = path.parent().unwrap_or(path);
        let (folder, path) = (explain::quote(folder), explain::quote(path));
        format!("mkdir -p {folder} && {} > {path}", explain::printf(content.as_bytes()))
    });
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o644)
        .open(path)
        .context("make", path)?;
    file.write_all(content.as_bytes()).context("write", path)
}

/// Writes plywood's lines of a hosts file anew; one that is gone is let be.
///
/// # Errors
/// I/O.
pub fn rewrite(path: &Path, content: &str) -> Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.context("open", path)?,
    };
    let before = read(&mut file).context("read", path)?;
    let text = with_own_lines(content, &before);
    if text == before {
        return Ok(());
    }
    // Never empty in between: a reader sees old or new lines.
    file.seek(SeekFrom::Start(0)).context("write", path)?;
    file.write_all(&text).context("write", path)?;
    let length = u64::try_from(text.len()).unwrap_or(FILE_MAX);
    file.set_len(length).context("cut", path)
}

/// `content`, and what stands below plywood's last line in `before`.
fn with_own_lines(content: &str, before: &[u8]) -> Vec<u8> {
    let end = END.as_bytes();
    let own = before.windows(end.len()).position(|window| window == end);
    let own = own.and_then(|at| before.get(at + end.len()..)).unwrap_or_default();
    let own = own.get(..own.len().min(OWN_MAX)).unwrap_or_default();
    [content.as_bytes(), own].concat()
}

/// `/etc/resolv.conf` for a container: the resolvers `asked` for, or the host's that are not on its loopback.
///
/// # Errors
/// Where a file of the host's cannot be read.
pub fn resolv_conf(asked: &[IpAddr]) -> Result<String> {
    let own = read_host("/etc/resolv.conf")?;
    if !asked.is_empty() {
        return Ok(resolvers(asked) + &other_lines(&own));
    }
    let found = reachable(&own);
    if !found.is_empty() {
        return Ok(resolvers(&found) + &other_lines(&own));
    }
    let behind = read_host(RESOLVED)?;
    Ok(resolvers(&reachable(&behind)) + &other_lines(&own))
}

fn resolvers(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|one| format!("nameserver {one}\n")).collect()
}

/// The name servers that a container can reach: not those on the host's loopback.
fn reachable(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines()
        .filter_map(address)
        .filter(|one| !one.is_loopback())
        .collect()
}

/// What else a resolver's file says: where to search, and how.
fn other_lines(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        ["search", "domain", "options"]
            .iter()
            .any(|word| line.starts_with(word))
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// A file of the host's, empty where there is none.
fn read_host(path: &str) -> Result<String> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        opened => {
            let bytes = read(&mut opened.context("open", path)?).context("read", path)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

fn read(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_written_anew_and_keeps_the_containers_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let host = |last, name: &str| Host {
            address: Ipv4Addr::new(10, 0, 0, last),
            names: vec![name.to_owned(), format!("{name}-too")],
        };
        make(&path, &hosts(&[host(2, "web")])).unwrap();
        let own = "10.9.9.9 mine\n";
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(own.as_bytes())
            .unwrap();
        rewrite(&path, &hosts(&[host(2, "web"), host(3, "database")])).unwrap();
        rewrite(&path, &hosts(&[host(2, "web")])).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tweb web-too\n{END}{own}"
            )
        );
        std::fs::write(&path, "nothing of plywood's").unwrap();
        rewrite(&path, "x\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x\n");
        rewrite(&folder.path().join("gone"), "x").unwrap();
        assert!(!folder.path().join("gone").exists());
    }

    #[test]
    fn a_container_gets_resolvers_that_it_can_reach() {
        let text = "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nsearch example.org\noptions ndots:2\n";
        assert_eq!(reachable(text), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(other_lines(text), "search example.org\noptions ndots:2\n");
        let asked = ["192.0.2.7".parse().unwrap()];
        assert!(resolv_conf(&asked).unwrap().starts_with("nameserver 192.0.2.7\n"));
    }
}
