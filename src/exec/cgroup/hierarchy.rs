//! Which cgroup hierarchies this machine has: cgroup v2's one tree, v1's trees
//! mounted controller by controller, or both.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::exec::error::{Attempt, Result, Stage};

/// What plywood uses, by v1's names; v2 calls `blkio` `io`, and counts processor time by itself.
const USED: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "blkio", DEVICES];

/// On v2 a program in its place.
pub(super) const DEVICES: &str = "devices";

/// The two interfaces of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Documentation/admin-guide/cgroup-v1.
    V1,
    /// Documentation/admin-guide/cgroup-v2.rst.
    V2,
}

/// One mounted tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Where it is mounted.
    pub(super) at: PathBuf,
    /// The controllers that plywood uses of it, as v1 calls them.
    pub(super) controllers: Vec<&'static str>,
}

/// Where cgroup v1's tree of the freezer is mounted; none where it is not.
pub(super) fn freezer() -> Result<Option<PathBuf>> {
    let mounts = mounts()?;
    let found = parse(&mounts, &["freezer"], |_| String::new());
    Ok(found.into_iter().next().map(|tree| tree.at))
}

/// The trees that have something for plywood, always in the same order; looked for once.
pub(super) fn all() -> Result<Vec<Hierarchy>> {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let found = look()?;
    Ok(FOUND.get_or_init(|| found).clone())
}

fn look() -> Result<Vec<Hierarchy>> {
    Ok(parse(&mounts()?, &USED, |at| {
        std::fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default()
    }))
}

fn mounts() -> Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").attempt(Stage::Limits, || "read /proc/self/mountinfo".to_owned())
}

/// The hierarchies of a mountinfo(5) text that have one of these controllers; `controllers` reads what a v2 tree has.
fn parse(mounts: &str, wanted: &[&'static str], controllers: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((own, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next(), filesystem.nth(1).unwrap_or_default());
        let Some(at) = own.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let (version, named) = match kind {
            Some("cgroup") => (Version::V1, options.replace(',', " ")),
            Some("cgroup2") => (Version::V2, controllers(&at)),
            _ => continue,
        };
        let v1 = |name| if name == "io" { "blkio" } else { name };
        let named: Vec<&str> = named.split_whitespace().map(v1).collect();
        // A tree that is mounted twice is one tree.
        let is_taken = |name: &&str| found.iter().any(|other| other.controllers.contains(name));
        let controllers: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|name| named.contains(name) && !is_taken(name))
            .collect();
        if !controllers.is_empty() {
            found.push(Hierarchy {
                version,
                at,
                controllers,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_both_kinds_are_found() {
        let hybrid = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
23 1 0:5 / /proc rw - proc proc rw
nonsense";
        let tree = |version, at: &str, controllers: &[&'static str]| Hierarchy {
            version,
            at: at.into(),
            controllers: controllers.to_vec(),
        };
        assert_eq!(
            parse(hybrid, &USED, |_| String::new()),
            [
                tree(Version::V1, "/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                tree(Version::V1, "/sys/fs/cgroup/memory", &["memory"]),
            ]
        );
        let freezer = "37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer";
        assert_eq!(
            parse(freezer, &["freezer"], |_| String::new()),
            [tree(Version::V1, "/sys/fs/cgroup/freezer", &["freezer"])]
        );
        let unified = "41 31 0:38 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            parse(unified, &USED, |_| "cpuset cpu io memory hugetlb pids\n".to_owned()),
            [tree(Version::V2, "/sys/fs/cgroup", &["memory", "cpu", "pids", "blkio"])]
        );
    }
}
