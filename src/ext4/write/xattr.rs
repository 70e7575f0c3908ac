//! Extended attributes as ext4 keeps them: what fits behind the inode's fields, the rest in a block of its own.
//!
//! POSIX ACLs have a shorter form on the disk than in a system call, and one that says no more than the mode is
//! none at all. What a kernel would refuse to set is declined here, so that the kernel says why.
//! Format: `Documentation/filesystems/ext4/attributes.rst`; ACLs as in acl(5), `linux/posix_acl_xattr.h`.

use super::fields::{checksum, put, put16, put32, u16_at, u32_at};
use super::{Step, Stop};
use crate::ext4::layout::{BLOCK, XATTR_MAGIC, mode};

/// Bytes of an inode behind its fields.
pub(super) const INLINE: usize = 96;
/// Of those, the magic number before the attributes.
const MAGIC_BYTES: usize = 4;
const HEADER: usize = 32;
const ENTRY: usize = 16;
/// The zero word that ends the entries.
const END: usize = 4;
/// What a capability's attribute holds in its second revision: what every kernel takes as it is.
const CAPABILITY_BYTES: usize = 20;
const CAPABILITY_REVISION: u32 = 0x0200_0000;

/// What becomes of the attributes of an entry.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What goes into the inode; empty for none.
    pub(super) inline: Vec<u8>,
    /// What goes into a block, without its checksum.
    pub(super) block: Option<Vec<u8>>,
    /// The permission bits, where an ACL says them.
    pub(super) permissions: Option<u16>,
}

/// One attribute, named as on the disk.
struct Attribute<'a> {
    index: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

impl Attribute<'_> {
    fn entry_bytes(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4)
    }

    fn bytes(&self) -> usize {
        self.entry_bytes() + self.value.len().next_multiple_of(4)
    }

    /// `e_hash`: of the name's bytes and the value's words.
    fn hash(&self) -> u32 {
        let mut hash = 0_u32;
        for byte in self.name {
            hash = hash.rotate_left(5) ^ u32::from(*byte);
        }
        for word in self.value.chunks(4) {
            let mut padded = [0; 4];
            put(&mut padded, 0, word);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(padded);
        }
        hash
    }
}

/// Arranges the attributes of something whose mode says that it is of type `kind`.
pub(super) fn arrange<'a>(kind: u16, attributes: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Step<Kept> {
    let mut kept = Kept::default();
    let mut all = Vec::new();
    for (name, value) in attributes {
        let found = match name {
            b"system.posix_acl_access" => {
                let acl = Acl::parse(kind, value)?;
                kept.permissions = Some(acl.permissions);
                acl.says_more().then(|| (2, &b""[..], acl.stored))
            }
            b"system.posix_acl_default" if kind == mode::DIRECTORY => {
                Some((3, &b""[..], Acl::parse(kind, value)?.stored))
            }
            _ => Some(plain(kind, name, value)?),
        };
        if let Some((index, name, value)) = found {
            all.push(Attribute { index, name, value });
        }
    }
    all.sort_by_key(|attribute| (attribute.index, attribute.name.len(), attribute.name));
    let mut room = INLINE - MAGIC_BYTES - END;
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for attribute in all {
        if attribute.bytes() <= room {
            room -= attribute.bytes();
            inside.push(attribute);
        } else {
            outside.push(attribute);
        }
    }
    if !inside.is_empty() {
        kept.inline = vec![0; INLINE];
        put32(&mut kept.inline, 0, XATTR_MAGIC);
        // Values count from the first entry here, and from the block's beginning there.
        fill(&mut kept.inline, MAGIC_BYTES, MAGIC_BYTES, &inside);
    }
    if !outside.is_empty() {
        kept.block = Some(block_of(&outside)?);
    }
    Ok(kept)
}

fn plain<'a>(kind: u16, name: &'a [u8], value: &[u8]) -> Step<(u8, &'a [u8], Vec<u8>)> {
    let spaces = [(1, "user."), (4, "trusted."), (6, "security.")];
    let found = spaces
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(prefix.as_bytes())?)));
    let Some((index, short)) = found.filter(|(_, short)| !short.is_empty() && name.len() <= 255 && name.is_ascii())
    else {
        return Err(Stop::declined("an unusual extended attribute"));
    };
    if index == 1 && !matches!(kind, mode::FILE | mode::DIRECTORY) {
        return Err(Stop::declined(
            "a user's extended attribute of something that is no file",
        ));
    }
    if name == b"security.capability" {
        let usual = value.len() == CAPABILITY_BYTES && u32_at(value, 0) & 0xFF00_0000 == CAPABILITY_REVISION;
        if !usual {
            return Err(Stop::declined("an unusual capability"));
        }
    }
    Ok((index, short, value.to_vec()))
}

/// Puts entries at `at`, their values at the end; offsets count from `from`.
fn fill(area: &mut [u8], mut at: usize, from: usize, attributes: &[Attribute<'_>]) {
    let mut end = area.len();
    for attribute in attributes {
        end -= attribute.value.len().next_multiple_of(4);
        let offset = if attribute.value.is_empty() { 0 } else { end - from };
        put(
            area,
            at,
            &[u8::try_from(attribute.name.len()).unwrap_or(0), attribute.index],
        );
        put16(area, at + 2, u16::try_from(offset).unwrap_or(0));
        put32(area, at + 8, u32::try_from(attribute.value.len()).unwrap_or(0));
        put32(area, at + 12, attribute.hash());
        put(area, at + ENTRY, attribute.name);
        put(area, end, &attribute.value);
        at += attribute.entry_bytes();
    }
}

fn block_of(attributes: &[Attribute<'_>]) -> Step<Vec<u8>> {
    let bytes: usize = attributes.iter().map(Attribute::bytes).sum();
    if HEADER + bytes + END > BLOCK {
        return Err(Stop::declined("more extended attributes than one block holds"));
    }
    let mut block = vec![0; BLOCK];
    fill(&mut block, HEADER, 0, attributes);
    let mut hash = 0_u32;
    for attribute in attributes {
        match attribute.hash() {
            // One that has none: neither has the block.
            0 => {
                hash = 0;
                break;
            }
            of => hash = hash.rotate_left(16) ^ of,
        }
    }
    put32(&mut block, 0, XATTR_MAGIC);
    // One inode has it, and it is one block.
    put32(&mut block, 4, 1);
    put32(&mut block, 8, 1);
    put32(&mut block, 12, hash);
    Ok(block)
}

/// Completes a block that is to be at `at`.
pub(super) fn seal(block: &mut [u8], seed: u32, at: u32) {
    put32(block, 16, 0);
    let sum = checksum(checksum(seed, &u64::from(at).to_le_bytes()), block);
    put32(block, 16, sum);
}

struct Acl {
    /// As on the disk.
    stored: Vec<u8>,
    permissions: u16,
    entries: usize,
}

/// Tags of ACL entries, in the order in which they must come.
const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];

impl Acl {
    fn parse(kind: u16, value: &[u8]) -> Step<Self> {
        let odd = || Stop::declined("an unusual ACL");
        let (version, entries) = value.split_at_checked(4).ok_or_else(odd)?;
        if kind == mode::SYMLINK || u32_at(version, 0) != 2 || entries.len() % 8 != 0 {
            return Err(odd());
        }
        let mut stored = 1_u32.to_le_bytes().to_vec();
        let mut permissions = [None; 6];
        let mut last = 0;
        for entry in entries.chunks_exact(8) {
            let (tag, bits) = (u16_at(entry, 0), u16_at(entry, 2));
            let number = TAGS.iter().position(|known| *known == tag).ok_or_else(odd)?;
            let named = matches!(tag, 0x02 | 0x08);
            if bits > 7 || number < last || (number == last && permissions.get(number) != Some(&None) && !named) {
                return Err(odd());
            }
            last = number;
            if let Some(slot) = permissions.get_mut(number) {
                *slot = Some(bits);
            }
            stored.extend(entry.get(..if named { 8 } else { 4 }).unwrap_or_default());
            if named && u32_at(entry, 4) == u32::MAX {
                return Err(odd());
            }
        }
        let [Some(user), users, Some(group), groups, mask, Some(other)] = permissions else {
            return Err(odd());
        };
        if (users.is_some() || groups.is_some()) && mask.is_none() {
            return Err(odd());
        }
        Ok(Self {
            stored,
            permissions: user << 6 | mask.unwrap_or(group) << 3 | other,
            entries: entries.len() / 8,
        })
    }

    /// Whether it says something that the mode does not.
    fn says_more(&self) -> bool {
        self.entries > 3
    }
}
