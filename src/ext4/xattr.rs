//! Extended attributes, in the inode and in a block of their own (`Documentation/filesystems/ext4/attributes.rst`).
//!
//! ACLs lie there in a short form; the one that programs see is made of it, as `getxattr` does.

use std::ops::Range;

use plywood_store::layer::{Xattrs, carried};

use super::fields::{is_same_but, u16_at, u32_at};
use super::inode::Inode;
use super::layout::{BLOCK, INODE, XATTR_MAGIC};
use super::volume::Volume;
use crate::error::{Error, Result};

/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Bytes before the entries of a block.
const HEADER: usize = 32;
/// `VFS_CAP_REVISION_3` and `_2`, in the capability's first word.
const CAPABILITY_3: u32 = 0x0300_0000;
const CAPABILITY_2: u32 = 0x0200_0000;
const CAPABILITY_REVISION: u32 = 0xFF00_0000;

/// The extended attributes that a layer carries, sorted; the others are told to `left_out`.
///
/// # Errors
/// Corrupt where they do not fit together.
pub fn xattrs(volume: &Volume, inode: &Inode, left_out: &mut dyn FnMut(&[u8])) -> Result<Xattrs> {
    let mut found = Xattrs::new();
    let begin = 0x80 + inode.extra();
    let own = inode.raw().get(begin..INODE).unwrap_or_default();
    let broken = |what: &str| Error::corrupt(format!("inode {}: {what}", inode.number()));
    if u32_at(own, 0) == XATTR_MAGIC {
        let body = own.get(4..).unwrap_or_default();
        parse(body, body, &mut found).ok_or_else(|| broken("its extended attributes are none"))?;
    }
    if inode.xattr_block() != 0 {
        let block = volume.block(inode.xattr_block())?;
        let entries = block.get(HEADER..).filter(|_| u32_at(block.as_ref(), 0) == XATTR_MAGIC);
        entries
            .and_then(|entries| parse(entries, block.as_ref(), &mut found))
            .ok_or_else(|| broken("its block of extended attributes is none"))?;
    }
    found.sort();
    found.retain(|(name, _)| {
        let carried = carried(name);
        if !carried {
            left_out(name);
        }
        carried
    });
    Ok(found)
}

/// Whether a block of extended attributes says the same as it did: how many files share it is not part of that.
pub fn is_same_block(one: &[u8; BLOCK], other: &[u8; BLOCK]) -> bool {
    // h_refcount, h_checksum.
    const MASKED: [Range<usize>; 3] = [4..8, 0x10..0x14, BLOCK..BLOCK];
    u32_at(one, 0) == XATTR_MAGIC && is_same_but(one, other, &MASKED)
}

/// The list that begins `entries`, whose values' offsets count from the beginning of `values`.
fn parse(entries: &[u8], values: &[u8], found: &mut Xattrs) -> Option<()> {
    let mut rest = entries;
    while u32_at(rest, 0) != 0 {
        let length = usize::from(*rest.first()?);
        let index = *rest.get(1)?;
        let (offset, inode, size) = (usize::from(u16_at(rest, 2)), u32_at(rest, 4), u32_at(rest, 8));
        let name = rest.get(ENTRY..ENTRY + length)?;
        if inode != 0 || name.contains(&0) {
            return None;
        }
        let size = usize::try_from(size).ok()?;
        let value = values.get(offset..offset.checked_add(size)?)?;
        let name = [prefix(index)?, name].concat();
        let value = match index {
            2 | 3 => acl(value)?,
            _ if name == b"security.capability" => capability(value),
            _ => value.to_vec(),
        };
        found.push((name, value));
        rest = rest.get((ENTRY + length).next_multiple_of(4)..)?;
    }
    Some(())
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        _ => return None,
    })
}

/// From version 1, which gives an id to named users and groups alone, to version 2 of `linux/posix_acl_xattr.h`.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    if u32_at(value, 0) != 1 {
        return None;
    }
    let mut long = 2u32.to_le_bytes().to_vec();
    let mut rest = value.get(4..)?;
    while !rest.is_empty() {
        let named = matches!(u16_at(rest, 0), USER | GROUP);
        let length = if named { 8 } else { 4 };
        let entry = rest.get(..length)?;
        long.extend_from_slice(entry.get(..4)?);
        long.extend_from_slice(if named { entry.get(4..)? } else { &[0xFF; 4] });
        rest = rest.get(length..)?;
    }
    Some(long)
}

/// The kernel shows version 2 of one that is the host's root's (capabilities(7), "Namespaced file capabilities").
fn capability(value: &[u8]) -> Vec<u8> {
    let first = u32_at(value, 0);
    if value.len() == 24 && first & CAPABILITY_REVISION == CAPABILITY_3 && u32_at(value, 20) == 0 {
        let first = (first & !CAPABILITY_REVISION) | CAPABILITY_2;
        return [&first.to_le_bytes(), value.get(4..20).unwrap_or_default()].concat();
    }
    value.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_shown_as_programs_know_it() {
        let short = [
            &1u32.to_le_bytes()[..],
            &[1, 0, 6, 0],
            &[2, 0, 7, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 4, 0],
        ]
        .concat();
        let long = [
            &2u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 7, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(acl(&short).unwrap(), long);
        assert_eq!(acl(&short[..6]), None);
        assert_eq!(acl(&long), None);
    }
}
