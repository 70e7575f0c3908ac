//! The superblock and the group descriptors: what a volume is, and where its tables are.

use std::ops::Range;

use super::fields::{joined, u16_at, u32_at};
use super::layout::{
    self, BLOCK, DESCRIPTOR, FIRST_INODE, INODE, INODES_PER_BLOCK, MAGIC, compat, group, incompat, ro_compat,
};
use crate::error::{Error, Result};

/// The features that [`mkfs`](crate::dm::ext4) pins, each word whole: `s_feature_compat`, `s_feature_incompat`,
/// `s_feature_ro_compat`. None of them comes or goes while a volume lives, but for the journal's
/// [`RECOVER`](incompat::RECOVER).
const FEATURES: [u32; 3] = [
    compat::HAS_JOURNAL | compat::EXT_ATTR | compat::DIR_INDEX,
    incompat::FILETYPE | incompat::EXTENTS | incompat::BIT64 | incompat::FLEX_BG,
    ro_compat::SPARSE_SUPER
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::METADATA_CSUM,
];
/// `s_state` of a filesystem that is whole, and its bit for one in which an error was found.
const WHOLE: u16 = 1;
const ERRORS: u16 = 2;

const BLOCK_NUMBER: u64 = BLOCK as u64;
/// Groups of a volume of 128 TiB.
const GROUPS: u64 = 1 << 20;

/// What a superblock says about its filesystem's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Whole, and nothing left in the journal.
    Clean,
    /// The journal has to be replayed: mounted while its last user ended.
    NeedsRecovery,
    /// The kernel recorded an error in it.
    Errors,
}

impl Health {
    /// What the 1024 bytes of a superblock say (`Documentation/filesystems/ext4/super.rst`: `s_magic`, `s_state`,
    /// `s_error_count`, `s_feature_incompat`). None where they are no superblock.
    pub fn of(superblock: &[u8]) -> Option<Self> {
        if u16_at(superblock, 0x38) != MAGIC {
            return None;
        }
        let recorded_errors = u16_at(superblock, 0x3A) & ERRORS != 0 || u32_at(superblock, 0x194) != 0;
        let journal_full = u32_at(superblock, 0x60) & incompat::RECOVER != 0;
        Some(match (recorded_errors, journal_full) {
            (true, _) => Self::Errors,
            (false, true) => Self::NeedsRecovery,
            (false, false) => Self::Clean,
        })
    }
}

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
    /// Reads the superblock, whose 1024 bytes are given: the one place that says whether a filesystem is one of
    /// plywood's, to read it as well as to write onto it.
    ///
    /// # Errors
    /// Invalid where its journal has to be replayed, or its features are not plywood's; corrupt where it tells of an
    /// error, or its numbers do not fit together.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        require_clean(bytes)?;
        require_features(bytes)?;
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

fn require_clean(bytes: &[u8]) -> Result<()> {
    let state = u16_at(bytes, 0x3A);
    match Health::of(bytes) {
        None => Err(Error::corrupt("there is no ext4 superblock")),
        Some(Health::Errors) => Err(Error::corrupt("the kernel recorded an error in the ext4 filesystem")),
        Some(Health::NeedsRecovery) => Err(Error::invalid("the ext4 journal has to be replayed first")),
        Some(Health::Clean) if state != WHOLE => Err(Error::corrupt(format!(
            "the ext4 filesystem is in a state that plywood leaves none in ({state:#x})"
        ))),
        Some(Health::Clean) => Ok(()),
    }
}

/// What plywood's own volumes have, and nothing else: a feature that is not known may change any meaning.
fn require_features(bytes: &[u8]) -> Result<()> {
    let features @ [compatible, incompatible, read_only] = [0x5C, 0x60, 0x64].map(|at| u32_at(bytes, at));
    let fits = features == FEATURES
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
    fn health_is_what_the_superblock_says() {
        let mut block = [0; 1024];
        assert_eq!(Health::of(&block), None);
        block[0x38..0x3A].copy_from_slice(&[0x53, 0xEF]);
        block[0x3A] = 1;
        assert_eq!(Health::of(&block), Some(Health::Clean));
        block[0x60] = 4;
        assert_eq!(Health::of(&block), Some(Health::NeedsRecovery));
        block[0x194] = 1;
        assert_eq!(Health::of(&block), Some(Health::Errors));
        block[0x194] = 0;
        block[0x3A] = 2;
        assert_eq!(Health::of(&block), Some(Health::Errors));
    }

    /// One that plywood makes: 256 MiB.
    fn superblock() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let words = [
            (0x00, 65_536),
            (0x04, 65_536),
            (0x18, 2),
            (0x20, 32_768),
            (0x28, 32_768),
            (0x54, 11),
        ];
        let features = [0x5C, 0x60, 0x64].into_iter().zip(FEATURES);
        for (at, word) in words.into_iter().chain(features) {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
        }
        for (at, half) in [(0x38, MAGIC), (0x3A, WHOLE), (0x58, 256), (0xFE, 64)] {
            bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_superblock_is_one_of_plywoods_to_the_bit_or_refused() {
        let good = superblock();
        assert_eq!(Geometry::parse(&good).unwrap().groups(), 2);
        for (at, bit, why) in [
            (0x38, 1, "no ext4 superblock"),
            (0x3A, 2, "recorded an error"),
            (0x194, 1, "recorded an error"),
            (0x3A, 1, "a state"),
            (0x60, incompat::RECOVER, "replayed"),
            (0x5C, compat::HAS_JOURNAL, "features"),
            (0x60, incompat::EXTENTS, "features"),
            (0x60, 1, "features"),
            (0x64, ro_compat::LARGE_FILE, "features"),
            (0x58, 128, "features"),
            (0x54, 1, "fit together"),
            (0x00, 1, "fit together"),
            (0x22, 1, "fit together"),
        ] {
            let mut bad = good.clone();
            let word = u32_at(&bad, at) ^ bit;
            bad[at..at + 4].copy_from_slice(&word.to_le_bytes());
            let error = Geometry::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{at:#x}: {error}");
        }
    }

    #[test]
    fn copies_of_the_superblock_are_in_the_groups_that_sparse_super_names() {
        let groups: Vec<u64> = (0..130).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
