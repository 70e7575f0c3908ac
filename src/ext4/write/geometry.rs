//! Where an empty volume has its tables, as its superblock and descriptors say, and the counts in them.
//!
//! The writer takes over all that the formatter decided: journal, backups, table positions, seeds. What it
//! changes are counts, bitmaps and checksums. Format: `Documentation/filesystems/ext4/{super,group_descr}.rst`.

use std::ops::Range;

use super::fields::{checksum, halves, put16, put32, u16_at, u32_at, words};
use super::hash::Hasher;
use super::stream::{Stream, read};
use super::{Step, Stop, Volume};
use crate::ext4::layout::{
    BLOCK, DESCRIPTOR, FIRST_INODE, INODE, INODES_PER_BLOCK, SUPERBLOCK, SUPERBLOCK_BYTES, group,
};
use crate::ext4::superblock::{self, has_superblock};

/// `s_flags`: names are hashed with unsigned bytes.
const UNSIGNED_HASH: u32 = 2;
/// `s_def_hash_version`.
const HALF_MD4: u8 = 1;

/// Fields of a group descriptor: where its low and high half are.
type Field = (usize, usize);
const BLOCK_BITMAP: Field = (0x0, 0x20);
const INODE_BITMAP: Field = (0x4, 0x24);
const INODE_TABLE: Field = (0x8, 0x28);
const FREE_BLOCKS: Field = (0xC, 0x2C);
const FREE_INODES: Field = (0xE, 0x2E);
const DIRECTORIES: Field = (0x10, 0x30);
const UNUSED_INODES: Field = (0x1C, 0x32);
const BLOCK_BITMAP_SUM: Field = (0x18, 0x38);
const INODE_BITMAP_SUM: Field = (0x1A, 0x3A);
const FLAGS: usize = 0x12;
const DESCRIPTOR_SUM: usize = 0x1E;
const SUPERBLOCK_SUM: usize = 0x3FC;

/// The layout of a volume.
#[derive(Debug)]
pub(super) struct Geometry {
    /// The block in which the superblock is.
    first: Vec<u8>,
    descriptors: Vec<u8>,
    /// Blocks of the volume.
    pub(super) blocks: u32,
    /// Blocks of a group.
    pub(super) group_blocks: u32,
    /// Inodes of a group.
    pub(super) group_inodes: u32,
    /// Inodes of the volume.
    pub(super) inodes: u32,
    /// Groups.
    pub(super) groups: u32,
    /// What all checksums begin with.
    pub(super) seed: u32,
    /// How names are hashed.
    pub(super) hasher: Hasher,
    /// Bitmaps and tables of all groups, ascending.
    metadata: Vec<Range<u32>>,
}

impl Geometry {
    /// Reads the layout of an empty volume.
    pub(super) fn read(volume: &dyn Volume) -> Step<Self> {
        let first = read(volume, 0, 1)?;
        let at = usize::try_from(SUPERBLOCK).unwrap_or_default();
        let sb = first.get(at..at + SUPERBLOCK_BYTES).unwrap_or_default();
        let layout = superblock::Geometry::parse(sb).map_err(|error| Stop::declined(&error.to_string()))?;
        let sound = u32_at(sb, SUPERBLOCK_SUM) == checksum(!0, sb.get(..SUPERBLOCK_SUM).unwrap_or_default());
        // Numbers of blocks are 32 bits wide here.
        let Some(blocks) = u32::try_from(layout.blocks).ok().filter(|_| sound) else {
            return Err(Stop::declined("the volume is not formatted as plywood does it"));
        };
        if sb.get(0xFC) != Some(&HALF_MD4) {
            return Err(Stop::declined("the volume hashes names in another way than plywood's"));
        }
        if u32_at(sb, 0x10) != layout.inodes - (FIRST_INODE - 1) {
            return Err(Stop::declined("the volume is not empty"));
        }
        let seed = checksum(!0, sb.get(0x68..0x78).unwrap_or_default());
        let hasher = Hasher {
            seed: [0xEC, 0xF0, 0xF4, 0xF8].map(|at| u32_at(sb, at)),
            signed: u32_at(sb, 0x160) & UNSIGNED_HASH == 0,
        };
        let groups = blocks.div_ceil(layout.blocks_per_group);
        let table = (groups as usize * DESCRIPTOR).div_ceil(BLOCK);
        let descriptors = read(volume, 1, table)?;
        let mut geometry = Self {
            first,
            descriptors,
            blocks,
            group_blocks: layout.blocks_per_group,
            group_inodes: layout.inodes_per_group,
            inodes: layout.inodes,
            groups,
            seed,
            hasher,
            metadata: Vec::new(),
        };
        geometry.find_metadata()?;
        Ok(geometry)
    }

    fn superblock(&self) -> &[u8] {
        let at = usize::try_from(SUPERBLOCK).unwrap_or_default();
        self.first.get(at..at + SUPERBLOCK_BYTES).unwrap_or_default()
    }

    /// Blocks of the volume's inode table that belong to one group.
    fn table_blocks(&self) -> u32 {
        self.group_inodes / u32::try_from(INODES_PER_BLOCK).unwrap_or(1)
    }

    fn find_metadata(&mut self) -> Step<()> {
        let mut metadata = Vec::new();
        for group in 0..self.groups {
            let sound = self.descriptor_sum(group) == u16_at(self.descriptor(group), DESCRIPTOR_SUM);
            let table = self.block_bitmap(group)..=self.inode_table(group).saturating_add(self.table_blocks());
            if !sound || table.is_empty() || *table.end() > self.blocks || self.inode_bitmap(group) >= self.blocks {
                return Err(Stop::declined("the volume has a damaged group descriptor"));
            }
            for (at, blocks) in [
                (self.block_bitmap(group), 1),
                (self.inode_bitmap(group), 1),
                (self.inode_table(group), self.table_blocks()),
            ] {
                metadata.push(at..at + blocks);
            }
        }
        metadata.sort_unstable_by_key(|range| range.start);
        self.metadata = metadata;
        Ok(())
    }

    fn descriptor(&self, group: u32) -> &[u8] {
        let at = group as usize * DESCRIPTOR;
        self.descriptors.get(at..at + DESCRIPTOR).unwrap_or_default()
    }

    fn field(&self, group: u32, field: Field) -> u32 {
        let descriptor = self.descriptor(group);
        u32::from(u16_at(descriptor, field.0)) | u32::from(u16_at(descriptor, field.1)) << 16
    }

    fn set(&mut self, group: u32, field: Field, value: u32) {
        let at = group as usize * DESCRIPTOR;
        let (low, high) = halves(value);
        put16(&mut self.descriptors, at + field.0, low);
        put16(&mut self.descriptors, at + field.1, high);
    }

    /// Addresses above 2^32 blocks were refused with the superblock.
    fn address(&self, group: u32, field: Field) -> u32 {
        u32_at(self.descriptor(group), field.0)
    }

    /// Where the block bitmap of a group is.
    pub(super) fn block_bitmap(&self, group: u32) -> u32 {
        self.address(group, BLOCK_BITMAP)
    }

    /// Where its inode bitmap is.
    pub(super) fn inode_bitmap(&self, group: u32) -> u32 {
        self.address(group, INODE_BITMAP)
    }

    /// Where its inode table begins.
    pub(super) fn inode_table(&self, group: u32) -> u32 {
        self.address(group, INODE_TABLE)
    }

    /// The blocks in use of a group before anything was written, one bit each.
    pub(super) fn blocks_in_use(&self, volume: &dyn Volume, number: u32) -> Step<Vec<u8>> {
        let flags = u16_at(self.descriptor(number), FLAGS);
        if flags & group::BLOCK_UNINIT == 0 {
            let bitmap = read(volume, self.block_bitmap(number).into(), 1)?;
            if checksum(self.seed, &bitmap) != self.field(number, BLOCK_BITMAP_SUM) {
                return Err(Stop::declined("the volume has a damaged bitmap"));
            }
            return Ok(bitmap);
        }
        let mut bitmap = vec![0; BLOCK];
        let begin = number * self.group_blocks;
        let end = begin.saturating_add(self.group_blocks);
        let mut mark = |range: Range<u32>| {
            for block in range.start.max(begin)..range.end.min(end) {
                set_bit(&mut bitmap, block - begin);
            }
        };
        if has_superblock(number.into()) {
            let table = u32::try_from(self.descriptors.len() / BLOCK).unwrap_or(0);
            let reserved = u16_at(self.superblock(), 0xCE);
            mark(begin..begin + 1 + table + u32::from(reserved));
        }
        for range in &self.metadata {
            mark(range.clone());
        }
        // What is behind the end of the volume is in use.
        mark(self.blocks..end);
        Ok(bitmap)
    }

    /// Notes which blocks of a group are in use now.
    pub(super) fn set_blocks(&mut self, group: u32, bitmap: &[u8]) {
        let free = bitmap.iter().map(|byte| byte.count_zeros()).sum();
        self.set(group, FREE_BLOCKS, free);
        self.set(group, BLOCK_BITMAP_SUM, checksum(self.seed, bitmap));
        self.clear(group, group::BLOCK_UNINIT);
    }

    /// Notes which inodes of a group are in use: `last` is the last one's number in it, and so many of them are
    /// directories that were not there before.
    pub(super) fn set_inodes(&mut self, group: u32, bitmap: &[u8], last: u32, directories: u32) {
        let used: u32 = bitmap
            .iter()
            .take(self.group_inodes.div_ceil(8) as usize)
            .map(|byte| byte.count_ones())
            .sum();
        self.set(group, FREE_INODES, self.group_inodes - used);
        let unused = self.field(group, UNUSED_INODES).min(self.group_inodes - 1 - last);
        self.set(group, UNUSED_INODES, unused);
        let directories = directories + self.field(group, DIRECTORIES);
        self.set(group, DIRECTORIES, directories);
        let covered = bitmap.get(..self.group_inodes as usize / 8).unwrap_or_default();
        self.set(group, INODE_BITMAP_SUM, checksum(self.seed, covered));
        self.clear(group, group::INODE_UNINIT);
    }

    fn clear(&mut self, group: u32, flag: u16) {
        let at = group as usize * DESCRIPTOR + FLAGS;
        let flags = u16_at(&self.descriptors, at) & !flag;
        put16(&mut self.descriptors, at, flags);
    }

    fn descriptor_sum(&self, group: u32) -> u16 {
        let descriptor = self.descriptor(group);
        let (before, rest) = descriptor.split_at(DESCRIPTOR_SUM.min(descriptor.len()));
        let sum = checksum(checksum(self.seed, &group.to_le_bytes()), before);
        let sum = checksum(sum, &[0, 0]);
        halves(checksum(sum, rest.get(2..).unwrap_or_default())).0
    }

    /// Writes descriptors and superblock with the counts and checksums that are true now.
    pub(super) fn write(&mut self, out: &mut Stream<'_>) -> Step<()> {
        let (mut free_blocks, mut free_inodes) = (0_u64, 0);
        for group in 0..self.groups {
            let sum = self.descriptor_sum(group);
            put16(&mut self.descriptors, group as usize * DESCRIPTOR + DESCRIPTOR_SUM, sum);
            free_blocks += u64::from(self.field(group, FREE_BLOCKS));
            free_inodes += self.field(group, FREE_INODES);
        }
        let at = usize::try_from(SUPERBLOCK).unwrap_or_default();
        let (low, high) = words(free_blocks);
        put32(&mut self.first, at + 0xC, low);
        put32(&mut self.first, at + 0x158, high);
        put32(&mut self.first, at + 0x10, free_inodes);
        let sum = checksum(!0, self.superblock().get(..SUPERBLOCK_SUM).unwrap_or_default());
        put32(&mut self.first, at + SUPERBLOCK_SUM, sum);
        out.put(0, &self.first)?;
        for (block, bytes) in (1..).zip(self.descriptors.chunks(BLOCK)) {
            out.put(block, bytes)?;
        }
        Ok(())
    }

    /// The inode numbers of a group: the first, and where its slot is, as a block and bytes in that.
    pub(super) fn slot(&self, inode: u32) -> (u32, usize) {
        let (group, number) = ((inode - 1) / self.group_inodes, (inode - 1) % self.group_inodes);
        let in_block = u32::try_from(INODES_PER_BLOCK).unwrap_or(1);
        let block = self.inode_table(group) + number / in_block;
        (block, (number % in_block) as usize * INODE)
    }
}

/// Marks a bit.
pub(super) fn set_bit(bitmap: &mut [u8], bit: u32) {
    if let Some(byte) = bitmap.get_mut(bit as usize / 8) {
        *byte |= 1 << (bit % 8);
    }
}

/// Takes the mark off a bit.
pub(super) fn clear_bit(bitmap: &mut [u8], bit: u32) {
    if let Some(byte) = bitmap.get_mut(bit as usize / 8) {
        *byte &= !(1 << (bit % 8));
    }
}
