//! Mount targets that an image does not have, and how they go away again.
//!
//! plywood mounts `/proc`, `/etc/resolv.conf` and the like; where the image has
//! nothing there, the child makes an empty folder or file to mount on. It is
//! not the command's change, so it is not to be in a layer: after the run the
//! parent removes it, if it is still the same one and empty, and gives its
//! folder the time it had, if nobody else changed the folder.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::explain;
use crate::sys::openat2;

/// Seconds and nanoseconds of a modification.
type Modified = (i64, i64);

/// One empty file or folder that plywood made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its folder's path from the root, free of symbolic links; bytes.
    pub(super) folder: Vec<u8>,
    /// Its name; bytes.
    pub(super) name: Vec<u8>,
    /// A folder, not a file.
    pub(super) is_folder: bool,
    /// Its inode number; none where that is not known.
    pub(super) inode: Option<u64>,
    /// When its folder was changed last, before it was made.
    pub(super) folder_before: Modified,
    /// The same, afterwards.
    pub(super) folder_after: Modified,
}

/// When a file was changed last.
pub(super) fn modified(stat: &Stat) -> Modified {
    (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

impl Made {
    /// The same in a copy of the tree that it was made in, which has other inodes.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            inode: None,
            ..self.clone()
        }
    }
}

/// Removes what was made in `root`, which a person finds at `shown`, the latest first.
/// What is not as it was made stays.
pub fn remove(root: impl AsFd, shown: &Path, made: &[Made]) {
    for one in made.iter().rev() {
        if let Err(error) = remove_one(root.as_fd(), shown, one) {
            tracing::debug!(name = %OsStr::from_bytes(&one.name).display(), %error, "a mount target stays");
        }
    }
}

fn remove_one(root: impl AsFd, shown: &Path, made: &Made) -> Result<(), Errno> {
    let name = OsStr::from_bytes(&made.name);
    let folder = open_folder(root, &made.folder)?;
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_untouched = made.inode.is_none_or(|inode| stat.st_ino == inode) && (made.is_folder || stat.st_size == 0);
    if !is_untouched {
        return Err(Errno::EXIST);
    }
    let before = modified(&rustix::fs::fstat(&folder)?);
    let parent = OsStr::from_bytes(&made.folder);
    let parent = shown.join(Path::new(parent).strip_prefix("/").unwrap_or(Path::new(parent)));
    explain::step(|| {
        format!(
            "{} {}",
            if made.is_folder { "rmdir" } else { "rm" },
            explain::quote(parent.join(name))
        )
    });
    let flags = if made.is_folder {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    // A folder that holds something refuses to go, and is right.
    rustix::fs::unlinkat(&folder, name, flags)?;
    if before == made.folder_after {
        let (tv_sec, tv_nsec) = made.folder_before;
        explain::step(|| format!("touch -m -d @{tv_sec}.{tv_nsec:09} {}", explain::quote(&parent)));
        let now_or_then = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        rustix::fs::utimensat(&folder, ".", &now_or_then, AtFlags::empty())?;
    }
    Ok(())
}

fn open_folder(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2::open(root, OsStr::from_bytes(path), flags, resolve)
}

/// A handle on the directory `path` of the host.
pub(super) fn open_host_folder(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
