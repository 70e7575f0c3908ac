//! Free blocks, handed out in ascending order.
//!
//! What one file leaves the next one begins with, so that a whole layer is one long run around the volume's own
//! tables. Blocks that are given back are not handed out again.

use std::collections::BTreeMap;

use super::geometry::{Geometry, clear_bit, set_bit};
use super::stream::Stream;
use super::{Step, Stop, Volume};

/// The free blocks of a volume.
#[derive(Debug)]
pub(super) struct Blocks<'v> {
    volume: VolumeRef<'v>,
    /// Of the groups that were looked at.
    bitmaps: BTreeMap<u32, Vec<u8>>,
    /// Blocks from here on are not handed out yet.
    next: u32,
    /// Up to here they are known to be free.
    free_to: u32,
}

struct VolumeRef<'v>(&'v dyn Volume);

impl std::fmt::Debug for VolumeRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("volume")
    }
}

impl<'v> Blocks<'v> {
    /// All that are free on an empty volume.
    pub(super) fn new(volume: &'v dyn Volume) -> Self {
        Self {
            volume: VolumeRef(volume),
            bitmaps: BTreeMap::new(),
            next: 0,
            free_to: 0,
        }
    }

    /// The next free block; declined where there is none.
    pub(super) fn take(&mut self, geometry: &Geometry) -> Step<u32> {
        if self.next == self.free_to {
            self.find(geometry)?;
        }
        let block = self.next;
        self.next += 1;
        let bitmap = self.bitmap(geometry, block / geometry.group_blocks)?;
        set_bit(bitmap, block % geometry.group_blocks);
        Ok(block)
    }

    /// Gives blocks back.
    pub(super) fn give_back(&mut self, geometry: &Geometry, first: u32, blocks: u32) -> Step<()> {
        for block in first..first.saturating_add(blocks) {
            let bitmap = self.bitmap(geometry, block / geometry.group_blocks)?;
            clear_bit(bitmap, block % geometry.group_blocks);
        }
        Ok(())
    }

    /// Writes the bitmaps that changed, and notes the counts.
    pub(super) fn write(&self, geometry: &mut Geometry, out: &mut Stream<'_>) -> Step<()> {
        for (group, bitmap) in &self.bitmaps {
            geometry.set_blocks(*group, bitmap);
            out.put(geometry.block_bitmap(*group), bitmap)?;
        }
        Ok(())
    }

    fn bitmap(&mut self, geometry: &Geometry, group: u32) -> Step<&mut Vec<u8>> {
        use std::collections::btree_map::Entry;
        match self.bitmaps.entry(group) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(vacant) => {
                let bitmap = geometry.blocks_in_use(self.volume.0, group)?;
                Ok(vacant.insert(bitmap))
            }
        }
    }

    /// Finds the next run of free blocks, within one group.
    fn find(&mut self, geometry: &Geometry) -> Step<()> {
        while self.next < geometry.blocks {
            let group = self.next / geometry.group_blocks;
            let begin = group * geometry.group_blocks;
            let end = begin.saturating_add(geometry.group_blocks).min(geometry.blocks);
            let from = self.next;
            let bitmap = self.bitmap(geometry, group)?;
            let is_free = |block: &u32| {
                let bit = *block - begin;
                let byte = bitmap.get(bit as usize / 8).copied().unwrap_or(u8::MAX);
                byte & 1 << (bit % 8) == 0
            };
            let Some(first) = (from..end).find(is_free) else {
                self.next = end;
                continue;
            };
            let last = (first..end).find(|block| !is_free(block)).unwrap_or(end);
            (self.next, self.free_to) = (first, last);
            return Ok(());
        }
        Err(Stop::declined("the layer does not fit into the volume"))
    }
}
