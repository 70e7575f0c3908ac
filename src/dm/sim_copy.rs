//! Copies a simulated volume: every kind of file, with links, owners, modes, attributes and times.
//!
//! Not by `cp`: a child that is just being started holds copies of this
//! process's locks, and another thread of a test would find a volume in use.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::error::{Context, Error, Result};

/// Copies the tree at `from` to `to`, which is not there yet.
///
/// # Errors
/// The operating system's.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, &mut HashMap::new())
}

fn copy(from: &Path, to: &Path, links: &mut HashMap<u64, PathBuf>) -> Result<()> {
    let meta = fs::symlink_metadata(from).context("look at", from)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        fs::create_dir(to).context("make", to)?;
        for entry in fs::read_dir(from).context("list", from)? {
            let name = entry.context("list", from)?.file_name();
            copy(&from.join(&name), &to.join(&name), links)?;
        }
    } else if let Some(first) = links.get(&meta.ino()) {
        return fs::hard_link(first, to).context("link", to);
    } else if kind.is_symlink() {
        fs::read_link(from)
            .and_then(|target| symlink(target, to))
            .context("copy", from)?;
    } else if kind.is_file() {
        fs::copy(from, to).context("copy", from)?;
    } else {
        let node = match kind {
            kind if kind.is_fifo() => FileType::Fifo,
            kind if kind.is_char_device() => FileType::CharacterDevice,
            kind if kind.is_block_device() => FileType::BlockDevice,
            _ => FileType::Socket,
        };
        rustix::fs::mknodat(CWD, to, node, Mode::empty(), meta.rdev()).context("make", to)?;
    }
    if !kind.is_dir() && meta.nlink() > 1 {
        links.insert(meta.ino(), to.to_owned());
    }
    lchown(to, Some(meta.uid()), Some(meta.gid())).context("give away", to)?;
    if !kind.is_symlink() {
        fs::set_permissions(to, meta.permissions()).context("set the mode of", to)?;
    }
    copy_attributes(from, to)?;
    let time = |tv_sec, nanoseconds: i64| Timespec {
        tv_sec,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).context("set the times of", to)
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(from, &mut names[..]).context("list the attributes of", from)?;
    names.truncate(length);
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..]).context("read an attribute of", from)?;
        let value = value
            .get(..length)
            .ok_or_else(|| Error::corrupt("an attribute is longer than it says"))?;
        rustix::fs::lsetxattr(to, name, value, XattrFlags::empty()).context("set an attribute of", to)?;
    }
    Ok(())
}
