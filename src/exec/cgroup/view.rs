//! What a container sees of cgroups: its own at `/sys/fs/cgroup`, as if there
//! were no other, read-only.
//!
//! A cgroup namespace begins at the cgroup in which its first process is then,
//! so [`View::enter`] belongs after plywood has put the child into the
//! container's. The hierarchies are the kernel's own list, not the host's mounts:
//! a tree each for cgroup v1's controllers, and v2's one tree, alone or in
//! `unified` beside them.

use std::io::Read;
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use crate::exec::error::{Attempt, Result, Stage};
use crate::exec::mounts::{DATA_ONLY, New};
use crate::explain;
use crate::sys::mount_setattr;

/// Where everybody looks for them.
pub(in crate::exec) const PATH: &str = "/sys/fs/cgroup";
/// Bytes of `/proc/self/cgroup`; a line for each hierarchy.
const LIST_MAX: u64 = 1 << 16;

/// A place for them, and what there is to see.
#[derive(Debug)]
pub(in crate::exec) struct View {
    folder: OwnedFd,
    hierarchies: Vec<Hierarchy>,
    flags: MountAttrFlags,
}

/// One of the kernel's trees of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    /// cgroup v2's.
    Unified,
    /// One of v1's: its controllers, or `name=NAME`.
    Controllers(String),
}

impl View {
    /// At `folder`, of what `/proc` lists.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub(in crate::exec) fn new(folder: OwnedFd, proc: &OwnedFd, privileged: bool) -> Result<Self> {
        let at = || "list the cgroup hierarchies".to_owned();
        let list = rustix::fs::openat(proc, "self/cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut text = String::new();
        std::fs::File::from(list.attempt(Stage::Mounts, at)?)
            .take(LIST_MAX)
            .read_to_string(&mut text)
            .attempt(Stage::Mounts, at)?;
        let read_only = match privileged {
            true => MountAttrFlags::empty(),
            false => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        Ok(Self {
            folder,
            hierarchies: parse(&text),
            flags: DATA_ONLY | read_only,
        })
    }

    /// Makes the cgroup that this process is in the root of all that it sees.
    pub(in crate::exec) fn enter(self) -> Result<()> {
        explain::step(|| "exec unshare --cgroup sh".to_owned());
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .attempt(Stage::Namespaces, || "make a cgroup namespace".to_owned())?;
        if self.hierarchies == [Hierarchy::Unified] {
            let unified = New {
                kind: "cgroup2",
                options: &[],
                flags: self.flags,
            };
            return unified.mount_on(&self.folder, PATH).map(drop);
        }
        self.mount_each()
    }

    /// A folder for each hierarchy, and a link for each controller that shares one.
    fn mount_each(&self) -> Result<()> {
        let folders = New {
            kind: "tmpfs",
            options: &[("mode", "0755"), ("size", "1m")],
            flags: DATA_ONLY,
        };
        let folders = folders.mount_on(&self.folder, PATH)?;
        for hierarchy in &self.hierarchies {
            let name = match hierarchy {
                Hierarchy::Unified => "unified",
                Hierarchy::Controllers(words) => words.strip_prefix("name=").unwrap_or(words),
            };
            let at = format!("{PATH}/{name}");
            let target = make_folder(&folders, name, &at)?;
            match hierarchy {
                Hierarchy::Unified => self.mount("cgroup2", &[], &target, &at)?,
                Hierarchy::Controllers(words) => {
                    let options: Vec<_> = words
                        .split(',')
                        .map(|word| word.split_once('=').unwrap_or((word, "")))
                        .collect();
                    self.mount("cgroup", &options, &target, &at)?;
                }
            }
            for link in name.split(',').filter(|link| *link != name) {
                explain::step(|| format!("ln -s {name} {PATH}/{link}"));
                rustix::fs::symlinkat(name, &folders, link)
                    .attempt(Stage::Mounts, || format!("make the link {PATH}/{link}"))?;
            }
        }
        if self.flags.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            explain::step(|| format!("mount -o remount,bind,ro {PATH}"));
            mount_setattr::add_flags(&folders, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
                .attempt(Stage::Mounts, || format!("make {PATH} read-only"))?;
        }
        Ok(())
    }

    fn mount(&self, kind: &str, options: &[(&str, &str)], target: &OwnedFd, at: &str) -> Result<()> {
        let new = New {
            kind,
            options,
            flags: self.flags,
        };
        new.mount_on(target, at).map(drop)
    }
}

fn make_folder(folders: &OwnedFd, name: &str, at: &str) -> Result<OwnedFd> {
    explain::step(|| format!("mkdir {at}"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::mkdirat(folders, name, Mode::from_raw_mode(0o755))
        .and_then(|()| rustix::fs::openat(folders, name, flags, Mode::empty()))
        .attempt(Stage::Mounts, || format!("make the folder {at}"))
}

/// The lines of cgroups(7)'s `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`, v2's with neither number nor controller.
fn parse(text: &str) -> Vec<Hierarchy> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        match (fields.next()?, fields.next()?) {
            ("0", "") => Some(Hierarchy::Unified),
            (_, words) if !words.is_empty() && !words.contains('/') => Some(Hierarchy::Controllers(words.to_owned())),
            _ => None,
        }
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let controllers = |words: &str| Hierarchy::Controllers(words.to_owned());
        assert_eq!(parse("0::/a:b\n"), [Hierarchy::Unified]);
        assert_eq!(
            parse("9:name=systemd:/\n4:cpu,cpuacct:/x\n0::/\n"),
            [
                controllers("name=systemd"),
                controllers("cpu,cpuacct"),
                Hierarchy::Unified
            ]
        );
        assert_eq!(parse("\n1\n1:\n1::/\n"), []);
    }
}
