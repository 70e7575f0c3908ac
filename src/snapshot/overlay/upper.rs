//! What the upper folder of an active snapshot says, and what it leaves out.
//!
//! It says which names can have changed ([`UpperScope`]): whatever was written,
//! removed or copied up has its name there. It leaves out the other names of a
//! changed hard link: with the index, a write through one name changes all of
//! them, yet only that name is in the folder. For a difference the walk differ
//! finds them in the merged tree; for a folder that is to become a layer by
//! itself, [`complete_links`] puts them in.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_store::layer::diff::{Candidates, Scope};
use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::folders;
use crate::error::{Context, Error, Result};
use crate::walk;

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// `UTIME_OMIT` (utimensat(2)): leave this time alone.
const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: rustix::fs::UTIME_OMIT,
};

/// Narrows a difference to the names in an upper folder.
#[derive(Debug)]
pub(super) struct UpperScope {
    upper: OwnedFd,
}

impl UpperScope {
    /// Over the upper folder at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            upper: folders::open(path)?,
        })
    }
}

impl Scope for UpperScope {
    fn names(&self, path: &Path) -> Result<Candidates> {
        let dir = match walk::open_below(self.upper.as_fd(), path) {
            Ok(dir) => dir,
            // Never copied up: nothing below it has changed.
            Err(Errno::NOENT) => return Ok(Candidates::Only(Vec::new())),
            // Too long to look up in one step, or no directory any more: all of it is compared.
            Err(Errno::NAMETOOLONG | Errno::NOTDIR) => return Ok(Candidates::All),
            Err(error) => return Err(Error::io("open in the upper folder", path, error)),
        };
        match folders::xattr(dir.as_fd(), OPAQUE) {
            // It hides the directory below: everything there is gone, unless it was made again. A directory that was made
            // again in it says nothing of the kind itself.
            Ok(_) => Ok(Candidates::All),
            Err(Errno::NODATA) => Ok(Candidates::Only(
                walk::names(dir.as_fd()).context("list in the upper folder", path)?,
            )),
            Err(error) => Err(Error::io("read the attributes in the upper folder of", path, error)),
        }
    }
}

/// Whether the work folder's index holds anything: some hard link was copied up.
/// Its entries are named by file handles in hexadecimal; `#…` is overlayfs's whiteout to link from.
pub(super) fn has_index(work: &Path) -> Result<bool> {
    let index = work.join("index");
    let entries = match std::fs::read_dir(&index) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        listed => listed.context("list", &index)?,
    };
    for entry in entries {
        let name = entry.context("list", &index)?.file_name();
        if !name.as_encoded_bytes().starts_with(b"#") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies up the names that a copied-up hard link still lacks in `upper`, so that the folder says
/// the same without its index. `merged` is the mounted snapshot, writable. Nothing visible changes.
pub(super) fn complete_links(merged: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> Result<()> {
    let mut links: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    walk::walk(merged, &mut |entry| {
        if !walk::is_directory(&entry.stat) && entry.stat.st_nlink > 1 {
            links.entry(entry.stat.st_ino).or_default().push(entry.path.clone());
        }
        Ok(())
    })?;
    for names in links.values() {
        let (above, below): (Vec<_>, Vec<_>) = names.iter().partition(|name| is_in(upper, name));
        if above.is_empty() {
            continue;
        }
        for name in below {
            touch(merged, name)?;
        }
    }
    Ok(())
}

/// Whether the upper folder has this very name.
fn is_in(upper: BorrowedFd<'_>, path: &Path) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return false;
    };
    walk::open_below(upper, parent).is_ok_and(|dir| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
}

/// Setting the time that it has makes overlayfs copy the name up, which links it to the copied-up file.
fn touch(merged: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let dir = walk::open_below(merged, parent).context("open", parent)?;
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).context("look at", path)?;
    let same = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: OMIT,
        last_modification: same,
    };
    rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).context("copy up", path)
}

/// A handle on a folder that only names it: for [`complete_links`].
pub(super) fn handle(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).context("open", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_upper_folder_names_can_have_changed() {
        let upper = tempfile::tempdir().unwrap();
        std::fs::create_dir(upper.path().join("etc")).unwrap();
        std::fs::write(upper.path().join("etc/hosts"), "").unwrap();
        let scope = UpperScope::open(upper.path()).unwrap();
        let table = [
            ("", vec!["etc"]),
            ("etc", vec!["hosts"]),
            ("usr", vec![]),
            ("usr/lib", vec![]),
        ];
        for (path, names) in table {
            let wanted = Candidates::Only(names.into_iter().map(Into::into).collect());
            assert_eq!(scope.names(Path::new(path)).unwrap(), wanted, "{path}");
        }
    }

    #[test]
    fn a_work_folder_that_was_never_mounted_has_no_index() {
        let work = tempfile::tempdir().unwrap();
        assert!(!has_index(work.path()).unwrap());
        std::fs::create_dir(work.path().join("index")).unwrap();
        std::fs::write(work.path().join("index/#55a1"), "").unwrap();
        assert!(!has_index(work.path()).unwrap());
        std::fs::write(work.path().join("index/00fb"), "").unwrap();
        assert!(has_index(work.path()).unwrap());
    }
}
