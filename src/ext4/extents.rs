//! Extents: which blocks of the disk a file's content is in (`Documentation/filesystems/ext4/ifork.rst`).

use std::ops::Range;

use super::fields::{joined, u16_at, u32_at};
use super::inode::Inode;
use super::layout::{BLOCK, EXTENT_MAGIC, LONGEST_EXTENT};
use super::volume::Volume;
use crate::error::{Error, Result};

/// Levels that an extent tree has at most.
const DEPTH: u16 = 5;
/// Extents of one file: more are left to the kernel.
const MOST: usize = 1 << 20;
const ENTRY: usize = 12;

/// Blocks of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first, counted in the file.
    pub logical: u64,
    /// How many.
    pub length: u64,
    /// The first, counted on the disk.
    pub physical: u64,
    /// They are kept for the file, and read as zeros.
    pub unwritten: bool,
}

/// Where a file's content is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// In the order of the file; what is between them reads as zeros.
    pub extents: Vec<Extent>,
    /// Blocks that hold the tree itself.
    pub nodes: Vec<u64>,
}

impl Mapping {
    /// Of an inode that has extents; empty for one that has none.
    pub(super) fn of(volume: &Volume, inode: &Inode) -> Result<Self> {
        let mut mapping = Self::default();
        if inode.has_extents() {
            let number = inode.number();
            let is_known = volume.claims().knows(number);
            let mut walk = Walk {
                volume,
                inode: number,
                is_known,
                mapping: &mut mapping,
            };
            walk.node(inode.payload(), None, (0, 1 << 32))?;
            // A small disk would look like a large file.
            if !mapping.is_apart() {
                return Err(corrupt(number, "a block of it is in two places"));
            }
            if !is_known {
                volume.claims().take(number, mapping.runs())?;
            }
        }
        Ok(mapping)
    }

    /// All blocks of it, those of its tree first.
    fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let nodes = self.nodes.iter().map(|node| *node..*node + 1);
        let extents = self.extents.iter();
        nodes.chain(extents.map(|extent| extent.physical..extent.physical + extent.length))
    }

    /// Whether no block is in it twice.
    fn is_apart(&self) -> bool {
        let mut runs: Vec<Range<u64>> = self.runs().collect();
        runs.sort_unstable_by_key(|run| run.start);
        runs.is_sorted_by(|before, after| before.end <= after.start)
    }

    /// The extent that has a block of the file.
    pub fn find(&self, logical: u64) -> Option<&Extent> {
        let after = self.extents.partition_point(|extent| extent.logical <= logical);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        (logical < extent.logical + extent.length).then_some(extent)
    }

    /// The first extent that ends after a block of the file.
    pub(super) fn at_or_after(&self, logical: u64) -> Option<&Extent> {
        let after = self
            .extents
            .partition_point(|extent| extent.logical + extent.length <= logical);
        self.extents.get(after)
    }
}

struct Walk<'a> {
    volume: &'a Volume,
    inode: u32,
    /// Its blocks were found to be its own before.
    is_known: bool,
    mapping: &'a mut Mapping,
}

impl Walk<'_> {
    /// One node, which has the blocks of the file from the first of `range` to before the second. Each of its
    /// children lies in a range of its own and none is empty: so no tree is endless.
    fn node(&mut self, bytes: &[u8], depth: Option<u16>, range: (u64, u64)) -> Result<()> {
        let (entries, own_depth) = (usize::from(u16_at(bytes, 2)), u16_at(bytes, 6));
        let fits = u16_at(bytes, 0) == EXTENT_MAGIC
            && ENTRY * (entries + 1) <= bytes.len()
            && own_depth <= DEPTH
            && depth.is_none_or(|depth| own_depth == depth && entries > 0);
        if !fits {
            return Err(self.corrupt("a node of its extent tree is none"));
        }
        if own_depth == 0 {
            return self.leaf(bytes, entries, range);
        }
        let first_of = |entry: usize| u64::from(u32_at(bytes, ENTRY * (entry + 1)));
        for entry in 0..entries {
            let from = first_of(entry);
            let to = if entry + 1 < entries {
                first_of(entry + 1)
            } else {
                range.1
            };
            if from < range.0 || from >= to || to > range.1 {
                return Err(self.corrupt("the nodes of its extent tree overlap"));
            }
            let at = ENTRY * (entry + 1);
            let block = joined(u32_at(bytes, at + 4), u16_at(bytes, at + 8));
            if self.mapping.nodes.len() >= MOST {
                return Err(self.corrupt("its extent tree has more nodes than can be kept"));
            }
            // What many say is theirs is read for one of them only.
            if !self.is_known && self.volume.claims().is_taken(block) {
                return Err(self.corrupt("a block of its extent tree is another file's as well"));
            }
            self.mapping.nodes.push(block);
            let child = self.volume.block(block)?;
            self.node(child.as_ref(), Some(own_depth - 1), (from, to))?;
        }
        Ok(())
    }

    fn leaf(&mut self, bytes: &[u8], entries: usize, range: (u64, u64)) -> Result<()> {
        let mut next = range.0;
        for entry in 1..=entries {
            let at = ENTRY * entry;
            let length = u16_at(bytes, at + 4);
            let unwritten = length > LONGEST_EXTENT;
            let extent = Extent {
                logical: u64::from(u32_at(bytes, at)),
                length: u64::from(if unwritten { length - LONGEST_EXTENT } else { length }),
                physical: joined(u32_at(bytes, at + 8), u16_at(bytes, at + 6)),
                unwritten,
            };
            let end = extent.physical.saturating_add(extent.length);
            let fits = extent.length > 0
                && extent.logical >= next
                && extent.logical + extent.length <= range.1
                && extent.physical > 0
                && end <= self.volume.geometry().blocks;
            if !fits {
                return Err(self.corrupt("its extents overlap, or are out of the filesystem"));
            }
            if self.mapping.extents.len() >= MOST {
                return Err(self.corrupt("it has more extents than can be kept"));
            }
            next = extent.logical + extent.length;
            self.mapping.extents.push(extent);
        }
        Ok(())
    }

    fn corrupt(&self, what: &str) -> Error {
        corrupt(self.inode, what)
    }
}

fn corrupt(inode: u32, what: &str) -> Error {
    Error::corrupt(format!("inode {inode}: {what}"))
}

/// Blocks that a file of this size has.
pub(super) fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64)
}
