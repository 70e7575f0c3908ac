//! The superblock and the group descriptors: what a volume is, and where its tables are.

use std::ops::Range;

use super::fields::{joined, u16_at, u32_at};
use super::layout::{self, BLOCK, DESCRIPTOR, FIRST_INODE, INODE, INODES_PER_BLOCK, MAGIC, group, incompat, ro_compat};
use crate::error::{Error, Result};

const BLOCK_NUMBER: u64 = BLOCK as u64;
/// Groups of a volume of 128 TiB.
const GROUPS: u64 = 1 << 20;

/// The numbers of a filesystem that do not change while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// `s_uuid`.
    pub uuid: [u8; 16],
    /// Blocks of 4 KiB.
    pub blocks: u64,
    /// Inodes; numbers go from 1 to this.
    pub inodes: u32,
    /// Blocks in a group.
    pub blocks_per_group: u32,
    /// Inodes in a group.
    pub inodes_per_group: u32,
    /// The first number that is not reserved, but for the root's.
    pub first_inode: u32,
    /// Blocks after the superblock that descriptors take, and those kept for more of them.
    descriptor_blocks: u64,
}

impl Geometry {
    /// Reads the superblock, whose 1024 bytes are given.
    ///
    /// # Errors
    /// Invalid where it is not a clean filesystem with plywood's features; corrupt where its numbers do not fit
    /// together.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if u16_at(bytes, 0x38) != MAGIC {
            return Err(Error::corrupt("there is no ext4 superblock"));
        }
        features(bytes)?;
        let blocks = joined(u32_at(bytes, 0x04), u32_at(bytes, 0x150));
        let geometry = Self {
            uuid: bytes
                .get(0x68..0x78)
                .and_then(|uuid| uuid.try_into().ok())
                .unwrap_or_default(),
            blocks,
            inodes: u32_at(bytes, 0x00),
            blocks_per_group: u32_at(bytes, 0x20),
            inodes_per_group: u32_at(bytes, 0x28),
            first_inode: u32_at(bytes, 0x54),
            descriptor_blocks: 0,
        };
        let per_group = u64::from(geometry.inodes_per_group);
        let fits = u32_at(bytes, 0x14) == 0
            && geometry.first_inode == FIRST_INODE
            && geometry.blocks_per_group as usize == 8 * BLOCK
            && (1..=8 * BLOCK as u64).contains(&per_group)
            && per_group.is_multiple_of(INODES_PER_BLOCK)
            && blocks > 0
            && geometry.groups() <= GROUPS
            && u64::from(geometry.inodes) == geometry.groups() * per_group;
        if !fits {
            return Err(Error::corrupt("the numbers of the ext4 superblock do not fit together"));
        }
        let descriptor_blocks =
            (geometry.groups() * DESCRIPTOR as u64).div_ceil(BLOCK_NUMBER) + u64::from(u16_at(bytes, 0xCE));
        Ok(Self {
            descriptor_blocks,
            ..geometry
        })
    }

    /// Groups of blocks.
    pub fn groups(&self) -> u64 {
        self.blocks.div_ceil(u64::from(self.blocks_per_group.max(1)))
    }

    /// The group that an inode is in, and its place there. None where there is no such number.
    pub fn place_of(&self, inode: u32) -> Option<(usize, u32)> {
        let index = inode.checked_sub(1).filter(|_| inode <= self.inodes)?;
        Some((
            usize::try_from(index / self.inodes_per_group).ok()?,
            index % self.inodes_per_group,
        ))
    }

    /// Blocks of a group's part of the inode table.
    pub fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group) / INODES_PER_BLOCK
    }

    /// Whether an inode is the filesystem's own: none of a file.
    pub fn is_reserved(&self, inode: u32) -> bool {
        inode < self.first_inode && inode != layout::ROOT
    }

    /// The blocks that hold the superblock and the descriptors, and copies of them.
    pub fn headers(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let groups = (0..self.groups()).filter(|group| has_superblock(*group));
        groups.map(|group| {
            let first = group * u64::from(self.blocks_per_group);
            first..first + 1 + self.descriptor_blocks
        })
    }
}

/// With sparse_super: groups 0, 1, and the powers of 3, 5 and 7.
pub(super) fn has_superblock(group: u64) -> bool {
    let is_power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
}

/// What plywood's own volumes have, and nothing else: a feature that is not known may change any meaning.
fn features(bytes: &[u8]) -> Result<()> {
    let (compatible, incompatible, read_only) = (u32_at(bytes, 0x5C), u32_at(bytes, 0x60), u32_at(bytes, 0x64));
    if incompatible & incompat::RECOVER != 0 {
        return Err(Error::invalid("the ext4 journal has to be replayed first"));
    }
    if u16_at(bytes, 0x3A) != 1 || u32_at(bytes, 0x194) != 0 {
        return Err(Error::corrupt("the kernel recorded an error in the ext4 filesystem"));
    }
    let needed = incompat::FILETYPE | incompat::EXTENTS | incompat::BIT64 | incompat::FLEX_BG;
    let known = ro_compat::SPARSE_SUPER
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::METADATA_CSUM;
    let compatible_known = layout::compat::HAS_JOURNAL | layout::compat::EXT_ATTR | layout::compat::DIR_INDEX;
    let fits = incompatible == needed
        && read_only & !known == 0
        && read_only & ro_compat::SPARSE_SUPER != 0
        && compatible & !compatible_known == 0
        && u32_at(bytes, 0x18) == 2
        && usize::from(u16_at(bytes, 0x58)) == INODE
        && usize::from(u16_at(bytes, 0xFE)) == DESCRIPTOR;
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the ext4 filesystem has features that plywood does not make ({compatible:#x}, {incompatible:#x}, {read_only:#x})"
    )))
}

/// Where a group's bitmaps and inodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Block of the block bitmap.
    pub block_bitmap: u64,
    /// Block of the inode bitmap.
    pub inode_bitmap: u64,
    /// First block of the inodes.
    pub inode_table: u64,
}

/// A descriptor: where things are, which never changes, and flags, which do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Where things are.
    pub group: Group,
    /// No inode is in use, whatever the bitmap says.
    pub no_inodes: bool,
    /// No block is in use but for metadata, whatever the bitmap says.
    pub no_blocks: bool,
}

impl Descriptor {
    /// Reads the 64 bytes of one.
    ///
    /// # Errors
    /// Corrupt where it points out of the filesystem.
    pub fn parse(bytes: &[u8], geometry: &Geometry) -> Result<Self> {
        let group = Group {
            block_bitmap: joined(u32_at(bytes, 0x00), u32_at(bytes, 0x20)),
            inode_bitmap: joined(u32_at(bytes, 0x04), u32_at(bytes, 0x24)),
            inode_table: joined(u32_at(bytes, 0x08), u32_at(bytes, 0x28)),
        };
        let inside = |block: u64, length: u64| block > 0 && block.saturating_add(length) <= geometry.blocks;
        if !inside(group.block_bitmap, 1)
            || !inside(group.inode_bitmap, 1)
            || !inside(group.inode_table, geometry.table_blocks())
        {
            return Err(Error::corrupt("an ext4 group descriptor points out of the filesystem"));
        }
        let flags = u16_at(bytes, 0x12);
        Ok(Self {
            group,
            no_inodes: flags & group::INODE_UNINIT != 0,
            no_blocks: flags & group::BLOCK_UNINIT != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_superblock_are_in_the_groups_that_sparse_super_names() {
        let groups: Vec<u64> = (0..130).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
