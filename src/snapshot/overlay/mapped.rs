//! A stack for a container with users of its own.
//!
//! An overlay mount cannot show other owners than its layers have (EINVAL, on Linux 6.1 and 6.18). So the layers do:
//! `ROOT/overlay` is bind-mounted, that mount shows the container's users, and the stack is made of the folders as
//! they are seen there. What overlayfs makes by itself (its work folders) it makes as the user who mounted it; the
//! host's root is nobody in that mount, so it is mounted as the container's.
//!
//! overlayfs has mounts of its own of its folders, so the bind mount goes again when the stack stands.

use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::folders::Folders;
use super::stack::{Point, Stack};
use crate::error::{Context, Error, Kind, Result, both};
use crate::explain::{quote, step};
use crate::snapshot::Users;
use crate::sys::mount_setattr;

/// Mounts `stack` at `target` with its owners shown as those of `users`.
pub(super) fn mount(
    stack: &Stack,
    folders: &Folders,
    points: &Path,
    target: &Path,
    flags: MsFlags,
    users: Users<'_>,
) -> Result<()> {
    let point = Point::make(points)?;
    let shown = show(folders.base(), point.path(), users);
    let mounted = shown.and_then(|()| {
        let stacked = stack.mount_seen_from(folders, point.path(), Some(users.root), target, flags);
        step(|| format!("umount -l {}", quote(point.path())));
        let gone = nix::mount::umount2(point.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        both(
            stacked,
            gone.map_err(std::io::Error::from).context("unmount", point.path()),
        )
    });
    both(mounted, point.close())
}

/// Bind-mounts `base` on `point` with other owners.
fn show(base: &Path, point: &Path, users: Users<'_>) -> Result<()> {
    step(|| {
        let (base, point) = (quote(base), quote(point));
        format!("mkdir {point} && mount --bind -o X-mount.idmap=/proc/$users/ns/user {base} {point}")
    });
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, base, flags).context("bind-mount", base)?;
    mount_setattr::map_ids(&copy, users.namespace, false).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::INVAL | Errno::NOSYS) => Error::new(
            Kind::Incompatible,
            format!(
                "the filesystem under {} cannot show other owners (--userns auto)",
                base.display()
            ),
        )
        .caused_by(Error::io("map the owners in", base, error))
        .hinted("keep the root folder on ext4, XFS or Btrfs (plywood --root DIR), or run it with --userns host"),
        _ => Error::io("map the owners in", base, error),
    })?;
    move_mount(copy.as_fd(), "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("bind-mount on", point)
}
