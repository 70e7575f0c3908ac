//! Trees by handles: looking at every name, adding up space.
//!
//! Neither follows a symlink, leaves the tree that it was given, or needs
//! a descriptor per level: a tree that a container made may be deeper than any
//! path and any descriptor table.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::openat2;

/// Bytes of one `st_blocks` unit, whatever the filesystem's block size (stat(2)).
const BLOCK: u64 = 512;

/// One name of a walked tree.
#[derive(Debug)]
pub struct Entry {
    /// Relative to the tree's root.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
}

/// Shows every name under `root` once, in no order, without holding more than one directory open.
/// What vanishes meanwhile is passed over; so is what lies deeper than a path can say.
pub fn walk(root: BorrowedFd<'_>, each: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<()> {
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = match open_below(root, &path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        for name in names(dir.as_fd()).context("list", &path)? {
            let stat = match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(Error::io("look at", path.join(&name), error)),
            };
            let entry = Entry {
                path: path.join(&name),
                stat,
            };
            each(&entry)?;
            if is_directory(&entry.stat) {
                pending.push(entry.path);
            }
        }
    }
    Ok(())
}

/// Whether a directory.
pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens the directory at `path` (empty: the root itself) without leaving `root` or following a link.
pub fn open_below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2::open(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The names in a directory, without `.` and `..`.
pub fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Bytes on the disk of everything under `root`; a hard-linked file counts once.
pub fn space(root: BorrowedFd<'_>) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut blocks = u64::try_from(rustix::fs::fstat(root).context("look at", "the tree")?.st_blocks).unwrap_or(0);
    walk(root, &mut |entry| {
        let stat = &entry.stat;
        if is_directory(stat) || stat.st_nlink < 2 || seen.insert(stat.st_ino) {
            blocks = blocks.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0));
        }
        Ok(())
    })?;
    Ok(blocks.saturating_mul(BLOCK))
}

/// Bytes on the disk of the folder `path` with all that is in it; 0 where it is not there, or has just gone.
///
/// # Errors
/// No folder; I/O.
pub fn space_at(path: &Path) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => space(folder.as_fd()),
        Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(Error::io("open", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_measured_and_deleted() {
        let tree = tempfile::tempdir().unwrap();
        let mut dir = open(tree.path());
        for _ in 0..1000 {
            rustix::fs::mkdirat(&dir, "depth", rustix::fs::Mode::RWXU).unwrap();
            dir = rustix::fs::openat(
                &dir,
                "depth",
                OFlags::DIRECTORY | OFlags::RDONLY,
                rustix::fs::Mode::empty(),
            )
            .unwrap();
        }
        let root = open(tree.path());
        assert!(space(root.as_fd()).is_ok());
        plywood_store::layer::empty_tree(root.as_fd()).unwrap();
        assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_hard_link_takes_space_once() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("a"), vec![1; 1 << 16]).unwrap();
        let before = space(open(tree.path()).as_fd()).unwrap();
        fs::hard_link(tree.path().join("a"), tree.path().join("b")).unwrap();
        assert_eq!(space(open(tree.path()).as_fd()).unwrap(), before);
        assert!(before >= 1 << 16);
    }

    #[test]
    fn the_walk_shows_each_name_once() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::write(tree.path().join("a/f"), "").unwrap();
        let mut seen = Vec::new();
        walk(open(tree.path()).as_fd(), &mut |entry| {
            seen.push(entry.path.clone());
            Ok(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["a", "a/b", "a/f"].map(PathBuf::from));
    }
}
