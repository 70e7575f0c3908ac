//! Directories: lists of names (`Documentation/filesystems/ext4/directory.rst`).
//!
//! The inner blocks of a hash tree look like blocks without a name, so all names are found by reading every
//! block in turn, whatever the tree says.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::extents::blocks_of;
use super::fields::{u16_at, u32_at};
use super::inode::Inode;
use super::layout::{BLOCK, CHECKSUM_ENTRY};
use super::superblock::Geometry;
use super::volume::Volume;
use crate::error::{Error, Result};

/// Bytes that one directory may have to be read here: a million long names.
const LARGEST: u64 = 512 << 20;

/// Names that one directory may have to be read here.
const MOST: usize = 1 << 22;

/// Blocks that are read together.
const TOGETHER: usize = 256;

/// The type of an entry that names a directory.
const DIRECTORY: u8 = 2;

/// A name, and the number of what it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Neither empty nor with a slash.
    pub name: OsString,
    /// From 1 on.
    pub inode: u32,
    /// What the entry says of it.
    pub is_directory: bool,
}

/// The names in a directory: its own and its parent's among them.
///
/// # Errors
/// Corrupt where a block is no list of names; what reading fails with.
pub fn entries(volume: &Volume, directory: &Inode) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for together in blocks(volume, directory)?.chunks(TOGETHER) {
        volume.fetch(together.iter().map(|(_, block)| *block).collect())?;
        for (_, block) in together {
            entries_of(volume, directory.number(), *block, &mut entries)?;
            if entries.len() > MOST {
                return Err(Error::corrupt(format!(
                    "directory {} has more than {MOST} names",
                    directory.number()
                )));
            }
        }
    }
    Ok(entries)
}

/// The blocks of a directory: which of its own each is, and where it lies.
///
/// # Errors
/// Corrupt where it has holes, or is larger than any that the kernel fills.
pub fn blocks(volume: &Volume, directory: &Inode) -> Result<Vec<(u64, u64)>> {
    let corrupt = |what: &str| Error::corrupt(format!("directory {}: {what}", directory.number()));
    if !directory.is_directory() || directory.size() > LARGEST {
        return Err(corrupt("it is none, or too large"));
    }
    let mapping = volume.mapping(directory)?;
    (0..blocks_of(directory.size()))
        .map(|logical| {
            let extent = mapping.find(logical).filter(|extent| !extent.unwritten);
            let extent = extent.ok_or_else(|| corrupt("a block of it is missing"))?;
            Ok((logical, extent.physical + (logical - extent.logical)))
        })
        .collect()
}

/// Adds the names in one block of `directory`.
///
/// # Errors
/// As for [`entries`].
pub fn entries_of(volume: &Volume, directory: u32, block: u64, entries: &mut Vec<Entry>) -> Result<()> {
    let bytes = volume.block(block)?;
    parse(bytes.as_ref(), volume.geometry(), &mut |name, inode, kind| {
        entries.push(Entry {
            name: name.to_owned(),
            inode,
            is_directory: kind == DIRECTORY,
        });
    })
    .ok_or_else(|| Error::corrupt(format!("directory {directory}: block {block} is no list of names")))
}

/// Tells each name of a block; none where it is no list.
fn parse(block: &[u8; BLOCK], geometry: &Geometry, each: &mut dyn FnMut(&OsStr, u32, u8)) -> Option<()> {
    let mut at = 0;
    while at < BLOCK {
        let entry = block.get(at..)?;
        let (inode, length) = (u32_at(entry, 0), usize::from(u16_at(entry, 4)));
        let (name_length, kind) = (usize::from(*entry.get(6)?), *entry.get(7)?);
        if length < 8 || length % 4 != 0 || length > entry.len() || name_length + 8 > length {
            return None;
        }
        if inode != 0 {
            let name = entry.get(8..8 + name_length)?;
            let is_name = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
            if inode > geometry.inodes || geometry.is_reserved(inode) || !is_name || kind == CHECKSUM_ENTRY {
                return None;
            }
            each(OsStr::from_bytes(name), inode, kind);
        }
        at += length;
    }
    Some(())
}

/// Whether it is the directory's own name or its parent's.
pub fn is_dots(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"." | b"..")
}
