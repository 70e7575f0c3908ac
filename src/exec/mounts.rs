//! Mounts by handle: made detached, flagged, then attached to a handle. No path
//! is resolved between looking and mounting, so nothing can be swapped in between.
//!
//! Each function tells its step as the mount command that a person would type.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::error::{Attempt, Result, Stage};
use crate::explain;
use crate::sys::mount_setattr;

/// No set-user-id, no devices.
pub(super) const NO_PRIVILEGE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// Data only: no set-user-id, no devices, no programs.
pub(super) const DATA_ONLY: MountAttrFlags = NO_PRIVILEGE.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A filesystem of the kernel's own, to be mounted.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    /// `proc`, `tmpfs`, ….
    pub(super) kind: &'a str,
    /// Its own options; a flag has an empty value.
    pub(super) options: &'a [(&'a str, &'a str)],
    /// The mount's flags.
    pub(super) flags: MountAttrFlags,
}

impl New<'_> {
    /// Mounts it on `target`, which the command names `at`; gives its root.
    pub(super) fn mount_on(&self, target: impl AsFd, at: &str) -> Result<OwnedFd> {
        self.try_mount_on(target, at)
            .attempt(Stage::Mounts, || format!("mount {} on {at}", self.kind))
    }

    /// As [`New::mount_on`], with the bare error for who can do without.
    pub(super) fn try_mount_on(&self, target: impl AsFd, at: &str) -> Result<OwnedFd, Errno> {
        explain::step(|| self.command(at));
        let context = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        // What mountinfo shows as the device.
        fsconfig_set_string(&context, "source", self.kind)?;
        for (key, value) in self.options {
            if value.is_empty() {
                fsconfig_set_flag(&context, *key)?;
            } else {
                fsconfig_set_string(&context, *key, *value)?;
            }
        }
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.flags)?;
        attach(&mount, target)?;
        Ok(mount)
    }

    fn command(&self, at: &str) -> String {
        let own = self.options.iter().map(|(key, value)| {
            if value.is_empty() {
                (*key).to_owned()
            } else {
                format!("{key}={value}")
            }
        });
        let options: Vec<String> = flag_words(self.flags)
            .into_iter()
            .map(str::to_owned)
            .chain(own)
            .collect();
        format!(
            "mount -t {0} -o {1} {0} {2}",
            self.kind,
            options.join(","),
            explain::quote(at)
        )
    }
}

/// What a bind mount shows, as a detached copy of the mount.
#[derive(Debug)]
pub(super) struct Copy(OwnedFd);

impl Copy {
    /// Of the file or folder `name` in `folder`.
    pub(super) fn of(folder: impl AsFd, name: &str) -> Result<Self, Errno> {
        open_tree(
            folder,
            name,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map(Self)
    }

    /// Of what `handle` is.
    pub(super) fn of_handle(handle: impl AsFd) -> Result<Self, Errno> {
        open_tree(
            handle,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
        )
        .map(Self)
    }

    /// Of the host's `path`, with the mounts beneath it. A link is followed: the user named it.
    pub(super) fn of_host(path: &Path) -> Result<Self, Errno> {
        open_tree(
            CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
        )
        .map(Self)
    }

    /// Adds flags, on the mounts beneath too.
    pub(super) fn flag(&self, flags: MountAttrFlags) -> Result<(), Errno> {
        if flags.is_empty() {
            return Ok(());
        }
        mount_setattr::add_flags(&self.0, flags, true)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Lets device nodes in it open what they name.
    pub(super) fn allow_devices(&self) -> Result<(), Errno> {
        mount_setattr::clear_flags(&self.0, MountAttrFlags::MOUNT_ATTR_NODEV)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Shows the owners of its files as this user namespace has them.
    pub(super) fn map_ids(&self, user_namespace: BorrowedFd<'_>) -> Result<(), Errno> {
        mount_setattr::map_ids(&self.0, user_namespace, true)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Attaches it to `target`.
    pub(super) fn attach(&self, target: impl AsFd) -> Result<(), Errno> {
        attach(&self.0, target)
    }
}

impl AsFd for Copy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// The flags as mount(8) calls them.
pub(super) fn flag_words(flags: MountAttrFlags) -> Vec<&'static str> {
    [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, "ro"),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, "nosuid"),
        (MountAttrFlags::MOUNT_ATTR_NODEV, "nodev"),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, "noexec"),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, "strictatime"),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .map(|(_, word)| word)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_one_that_mount_takes() {
        let proc = New {
            kind: "proc",
            options: &[],
            flags: DATA_ONLY,
        };
        assert_eq!(proc.command("/proc"), "mount -t proc -o nosuid,nodev,noexec proc /proc");
        let pts = New {
            kind: "devpts",
            options: &[("newinstance", ""), ("mode", "0620")],
            flags: MountAttrFlags::MOUNT_ATTR_NOSUID,
        };
        assert_eq!(
            pts.command("/dev/pts"),
            "mount -t devpts -o nosuid,newinstance,mode=0620 devpts /dev/pts"
        );
    }
}
