//! mount_setattr(2): the flags and the owners' numbers of one mount, by handle (Linux 5.12).
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

/// `MOUNT_ATTR_IDMAP` of linux/mount.h.
const IDMAP: u64 = 0x0010_0000;

/// Adds `set` to the flags of the mount whose root `mount` is, and of all
/// mounts beneath it where `recursive`.
///
/// # Errors
/// The kernel's.
pub fn add_flags(mount: impl AsFd, set: MountAttrFlags, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(set.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

/// Takes `flags` from those of the mount whose root `mount` is.
///
/// # Errors
/// The kernel's: `EPERM` for a flag that another user namespace has locked.
pub fn clear_flags(mount: impl AsFd, flags: MountAttrFlags) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: u64::from(flags.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount.as_fd(), &attributes, false)
}

/// Shows the owners of the detached mount `mount`, and of all mounts beneath it where `recursive`, as this user
/// namespace maps them; what is on the disk stays.
///
/// # Errors
/// The kernel's: `EINVAL` where the filesystem cannot do that.
pub fn map_ids(mount: impl AsFd, user_namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let namespace = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = libc::mount_attr {
        attr_set: IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace,
    };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a C string, the structure lives through the call and its own size is told.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
