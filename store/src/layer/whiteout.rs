//! Whiteouts: they hide what was there before this layer, wherever in the tar they stand.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::apply::{Applier, failed};
use super::entry::{Entry, EntryKind, Time, shown};
use super::handle::{self, DIRECTORY, NodeKind};
use super::place::implied;
use crate::{Error, Result};

/// The name that hides all that a directory had.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether an entry is a mark of aufs, as old Docker layers have them: no file, and no whiteout.
pub fn is_foreign_mark(parent: &Path, name: &OsStr) -> bool {
    let special = |name: &OsStr| name.as_bytes().starts_with(b".wh..wh.");
    parent.iter().any(special) || special(name) && name.as_bytes() != OPAQUE
}

/// The error for a whiteout that hides nothing, or has something in it.
pub(super) fn invalid(entry: &Entry) -> Error {
    Error::invalid(format!("the tar has an invalid whiteout {}", shown(&entry.path)))
}

impl Applier {
    /// Honours a whiteout.
    pub(super) fn whiteout(&mut self, entry: &Entry, parent: &Path, name: &OsStr) -> Result<()> {
        let hidden = name
            .as_bytes()
            .strip_prefix(b".wh.")
            .map(OsStr::from_bytes)
            .unwrap_or_default();
        let no_name = matches!(hidden.as_bytes(), b"" | b"." | b"..");
        if entry.kind != EntryKind::File || no_name {
            return Err(invalid(entry));
        }
        self.applied.whiteouts += 1;
        let dir = match self.resolve(parent) {
            // Nothing there that could be hidden.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            _ if !self.lower => return Ok(()),
            found => found.map_err(|cause| failed("open", parent, cause))?,
        };
        // Touched, but not entered: what only loses something is not made by this layer.
        let stat = rustix::fs::fstat(&dir).map_err(|cause| failed("look at", parent, cause))?;
        self.touch(parent, &stat)?;
        if name.as_bytes() == OPAQUE {
            return self.hide_below(&dir, parent);
        }
        if !self.is_made(stat.st_ino, hidden) {
            return self.remove(dir.as_fd(), hidden, &entry.path);
        }
        // Made before its whiteout was read: only what is beneath it from before goes.
        let Ok(dir) = handle::open_child(dir.as_fd(), hidden) else {
            return Ok(());
        };
        let path = parent.join(hidden);
        self.forget_lower(&dir, &path)?;
        self.hide_below(&dir, &path)
    }

    /// A directory from before that no entry describes is as if it had just been made.
    fn forget_lower(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        let stat = rustix::fs::fstat(dir).map_err(|cause| failed("look at", path, cause))?;
        self.touch(path, &stat)?;
        if self.touched.get(&stat.st_ino).is_some_and(|touched| touched.described) {
            return Ok(());
        }
        self.describe(dir.as_fd(), &implied(path), true)?;
        if let Some(touched) = self.touched.get_mut(&stat.st_ino) {
            touched.mtime = Time::default();
        }
        Ok(())
    }

    /// Removes what is in a directory and was there before this layer.
    fn hide_below(&mut self, top: &OwnedFd, path: &Path) -> Result<()> {
        let mut rest = vec![PathBuf::new()];
        while let Some(below) = rest.pop() {
            let at = path.join(&below);
            let opened = handle::open_at(
                top.as_fd(),
                &below,
                DIRECTORY,
                ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
            );
            let dir = opened.map_err(|cause| failed("open", &at, cause))?;
            let stat = rustix::fs::fstat(&dir).map_err(|cause| failed("look at", &at, cause))?;
            self.touch(&at, &stat)?;
            if !below.as_os_str().is_empty() {
                self.forget_lower(&dir, &at)?;
            }
            for (name, _) in handle::list(dir.as_fd()).map_err(|cause| failed("list", &at, cause))? {
                if !self.is_made(stat.st_ino, &name) {
                    self.remove(dir.as_fd(), &name, &at.join(&name))?;
                    continue;
                }
                let node = handle::look(dir.as_fd(), &name).map_err(|cause| failed("look at", &at, cause))?;
                if node.is_some_and(|node| node.kind == NodeKind::Directory) {
                    rest.push(below.join(&name));
                }
            }
        }
        Ok(())
    }

    fn is_made(&self, dir: u64, name: &OsStr) -> bool {
        self.touched
            .get(&dir)
            .is_some_and(|touched| touched.made.contains(&self.number(name)))
    }
}
