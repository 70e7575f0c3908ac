//! What a tar says of one path.

use std::path::{Path, PathBuf};

/// A point in time, as tar and the kernel have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, with [`Entry::size`] bytes.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, with its target as it stands.
    Symlink(PathBuf),
    /// Another name of the file at this normalised path.
    HardLink(PathBuf),
    /// A character device.
    Character(Device),
    /// A block device.
    Block(Device),
    /// A FIFO.
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Major, 12 bits.
    pub major: u32,
    /// Minor, 20 bits.
    pub minor: u32,
}

/// One entry, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative and normalised; empty for the root.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// The low twelve bits of its mode.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When its content changed.
    pub mtime: Time,
    /// Bytes of content as a program will read it, holes included.
    pub size: u64,
    /// Extended attributes by name, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A name for messages: quoted, with what would play tricks on a terminal escaped.
pub(super) fn shown(path: &Path) -> String {
    format!("{path:?}")
}
