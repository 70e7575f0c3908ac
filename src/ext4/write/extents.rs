//! Extents: where the blocks of a file are, as a list and as the tree that ext4 keeps.
//!
//! Four extents fit into an inode; more lie in blocks of 340, under as many levels of index blocks as
//! it takes. Format: `Documentation/filesystems/ext4/ifork.rst`.

use super::Step;
use super::fields::{checksum, put, put16, put32};
use crate::ext4::layout::{BLOCK, EXTENT_MAGIC, LONGEST_EXTENT};

/// Bytes of `i_block`.
pub(super) const ROOT_BYTES: usize = 60;
/// Extents that an inode holds.
const IN_ROOT: usize = 4;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Extents or index entries of a block.
const IN_BLOCK: usize = (BLOCK - HEADER) / ENTRY;

/// A run of blocks of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first one's number in the file.
    pub(super) logical: u32,
    /// How many, at most [`LONGEST_EXTENT`].
    pub(super) length: u16,
    /// Where the first one is.
    pub(super) physical: u32,
}

/// The blocks of a file, in ascending order of both numbers.
#[derive(Debug, Default)]
pub(super) struct Extents {
    list: Vec<Extent>,
    /// All lengths together.
    pub(super) blocks: u32,
}

impl Extents {
    /// Adds the file's block `logical`, which is at `physical`.
    pub(super) fn push(&mut self, logical: u32, physical: u32) {
        self.blocks += 1;
        if let Some(last) = self.list.last_mut()
            && last.length < LONGEST_EXTENT
            && last.logical + u32::from(last.length) == logical
            && last.physical + u32::from(last.length) == physical
        {
            last.length += 1;
            return;
        }
        self.list.push(Extent {
            logical,
            length: 1,
            physical,
        });
    }

    /// No blocks.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.blocks = 0;
    }

    /// The extent, where there is one that begins with the file; none and `Some(None)` where there are no blocks.
    pub(super) fn only(&self) -> Option<Option<Extent>> {
        match self.list.as_slice() {
            [] => Some(None),
            [one] if one.logical == 0 => Some(Some(*one)),
            _ => None,
        }
    }

    /// What `i_block` holds. Blocks of the tree come from `take`, and are handed to `give`; their number is added
    /// to [`Extents::blocks`]. `seed` is the inode's.
    pub(super) fn root(
        &mut self,
        seed: u32,
        take: &mut dyn FnMut() -> Step<u32>,
        give: &mut dyn FnMut(u32, &[u8]) -> Step<()>,
    ) -> Step<[u8; ROOT_BYTES]> {
        let mut level: Vec<[u8; ENTRY]> = self.list.iter().map(leaf_entry).collect();
        let mut depth = 0;
        while level.len() > IN_ROOT {
            let mut above = Vec::new();
            for entries in level.chunks(IN_BLOCK) {
                let at = take()?;
                let mut block = [0; BLOCK];
                node(&mut block, entries, IN_BLOCK, depth);
                let tail = HEADER + IN_BLOCK * ENTRY;
                let sum = checksum(seed, block.get(..tail).unwrap_or_default());
                put32(&mut block, tail, sum);
                give(at, &block)?;
                self.blocks += 1;
                above.push(index_entry(entries.first(), at));
            }
            level = above;
            depth += 1;
        }
        let mut root = [0; ROOT_BYTES];
        node(&mut root, &level, IN_ROOT, depth);
        Ok(root)
    }
}

/// What `i_block` holds for at most one extent.
pub(super) fn single(extent: Option<Extent>) -> [u8; ROOT_BYTES] {
    let mut root = [0; ROOT_BYTES];
    let entry = extent.as_ref().map(leaf_entry);
    node(&mut root, entry.as_slice(), IN_ROOT, 0);
    root
}

/// The extents of an inode that needs no blocks for them; none where it does, or is mapped otherwise.
pub(super) fn parse(root: &[u8]) -> Option<Vec<Extent>> {
    use super::fields::{u16_at, u32_at};
    let entries = usize::from(u16_at(root, 2));
    if u16_at(root, 0) != EXTENT_MAGIC || u16_at(root, 6) != 0 || entries > IN_ROOT {
        return None;
    }
    let extent = |number| {
        let at = HEADER + number * ENTRY;
        let length = u16_at(root, at + 4);
        let fits = u16_at(root, at + 6) == 0 && length <= LONGEST_EXTENT;
        fits.then(|| Extent {
            logical: u32_at(root, at),
            length,
            physical: u32_at(root, at + 8),
        })
    };
    (0..entries).map(extent).collect()
}

fn node(node: &mut [u8], entries: &[[u8; ENTRY]], most: usize, depth: u16) {
    put16(node, 0, EXTENT_MAGIC);
    put16(node, 2, u16::try_from(entries.len()).unwrap_or(u16::MAX));
    put16(node, 4, u16::try_from(most).unwrap_or(u16::MAX));
    put16(node, 6, depth);
    for (number, entry) in entries.iter().enumerate() {
        put(node, HEADER + number * ENTRY, entry);
    }
}

fn leaf_entry(extent: &Extent) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    put32(&mut entry, 0, extent.logical);
    put16(&mut entry, 4, extent.length);
    put32(&mut entry, 8, extent.physical);
    entry
}

/// Both kinds of entries begin with the first block's number in the file.
fn index_entry(first: Option<&[u8; ENTRY]>, at: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let logical = first.and_then(|first| first.first_chunk::<4>()).copied();
    put(&mut entry, 0, &logical.unwrap_or_default());
    put32(&mut entry, 4, at);
    entry
}
