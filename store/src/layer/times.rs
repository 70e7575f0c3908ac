//! The times of a layer's tar, given to the tree that it was made of.
//!
//! Where late times are clamped, a tar says others than the tree has. Where that
//! tree is to be the layer's content, it must have the tar's: what the layer's id
//! stands for is then the same whether it was committed or imported.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, ResolveFlags};

use super::Limits;
use super::handle::{DIRECTORY, is_whiteout, modified, open_at};
use super::read::Reader;
use crate::{Error, Result};

/// Gives each entry under `root` the modification time that `tar`, made of this tree, has for it. The root
/// itself has none in a layer.
///
/// # Errors
/// An entry that is not there; a tar that cannot be read; I/O.
pub fn set_times(root: BorrowedFd<'_>, tar: &mut dyn Read, limits: &Limits) -> Result<()> {
    let mut reader = Reader::new(tar, limits);
    while let Some(entry) = reader.next_entry()? {
        let (Some(above), Some(name)) = (entry.path.parent(), entry.path.file_name()) else {
            continue;
        };
        if is_whiteout(name) {
            continue;
        }
        let inside = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        open_at(root, above, DIRECTORY, inside)
            .and_then(|dir| rustix::fs::utimensat(dir.as_fd(), name, &modified(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|cause| Error::io("set the time of", Path::new("/").join(&entry.path), cause))?;
    }
    Ok(())
}
