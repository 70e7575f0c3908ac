//! A volume that is read block by block.
//!
//! Blocks that were read are kept, up to a bound: tables and directories are asked for again and again.
//! File contents are read past them.

use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use super::claims::Claims;
use super::extents::Mapping;
use super::fields::u32_at;
use super::inode::Inode;
use super::layout::{BLOCK, DESCRIPTOR, INODE, INODES_PER_BLOCK, JOURNAL, SUPERBLOCK, SUPERBLOCK_BYTES};
use super::superblock::{Descriptor, Geometry, Group};
use crate::blocks::ReadAt;
use crate::error::{Error, Result};

/// Blocks that are kept: 8 MiB.
const KEPT: usize = 2048;
/// Blocks that are read at once: 1 MiB.
const RUN: usize = 256;

/// A block's bytes.
pub type Block = Rc<[u8; BLOCK]>;

/// An ext4 filesystem that nothing writes to.
pub struct Volume {
    source: Box<dyn ReadAt>,
    geometry: Geometry,
    descriptors: Vec<Descriptor>,
    kept: RefCell<HashMap<u64, Block>>,
    claims: RefCell<Claims>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Reads the superblock and the group descriptors.
    ///
    /// # Errors
    /// As for [`Geometry::parse`] and [`Descriptor::parse`]; what `source` fails with.
    pub fn open(source: Box<dyn ReadAt>) -> Result<Self> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        read(source.as_ref(), &mut bytes, SUPERBLOCK, "the superblock")?;
        let geometry = Geometry::parse(&bytes)?;
        let groups = usize::try_from(geometry.groups()).unwrap_or(usize::MAX);
        bytes.resize(groups.saturating_mul(DESCRIPTOR), 0);
        read(source.as_ref(), &mut bytes, BLOCK as u64, "the group descriptors")?;
        let descriptors = bytes
            .chunks_exact(DESCRIPTOR)
            .map(|bytes| Descriptor::parse(bytes, &geometry));
        Ok(Self {
            descriptors: descriptors.collect::<Result<_>>()?,
            source,
            geometry,
            kept: RefCell::default(),
            claims: RefCell::default(),
        })
    }

    /// Its numbers.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Where each group's tables are.
    pub fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        self.descriptors.iter().map(|descriptor| descriptor.group)
    }

    /// Whether both are one filesystem at two times: then their tables can be compared block by block.
    pub fn is_akin(&self, other: &Self) -> bool {
        self.geometry == other.geometry && self.groups().eq(other.groups())
    }

    /// A block's bytes.
    ///
    /// # Errors
    /// Corrupt for one past the end; what the source fails with.
    pub fn block(&self, number: u64) -> Result<Block> {
        if number >= self.geometry.blocks {
            return Err(Error::corrupt(format!(
                "block {number} is past the end of the filesystem"
            )));
        }
        if let Some(block) = self.kept.borrow().get(&number) {
            return Ok(Rc::clone(block));
        }
        let mut bytes = [0; BLOCK];
        read(
            self.source.as_ref(),
            &mut bytes,
            number * BLOCK as u64,
            &format!("block {number}"),
        )?;
        let block = Rc::new(bytes);
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(number, Rc::clone(&block));
        Ok(block)
    }

    /// Reads those of these blocks that are not kept yet, neighbours at once, and keeps them: as many of the first as
    /// there is room for.
    ///
    /// # Errors
    /// As for [`Volume::block`].
    pub fn fetch(&self, mut blocks: Vec<u64>) -> Result<()> {
        let mut kept = self.kept.borrow_mut();
        blocks.retain(|block| *block < self.geometry.blocks && !kept.contains_key(block));
        blocks.sort_unstable();
        blocks.dedup();
        blocks.truncate(KEPT);
        if kept.len() + blocks.len() > KEPT {
            kept.clear();
        }
        let mut bytes = Vec::new();
        for run in blocks
            .chunk_by(|before, after| before + 1 == *after)
            .flat_map(|run| run.chunks(RUN))
        {
            let Some(&first) = run.first() else { continue };
            bytes.resize(run.len() * BLOCK, 0);
            let what = format!("{} blocks from {first} on", run.len());
            read(self.source.as_ref(), &mut bytes, first * BLOCK as u64, &what)?;
            let (found, _) = bytes.as_chunks::<BLOCK>();
            kept.extend(run.iter().copied().zip(found.iter().map(|block| Rc::new(*block))));
        }
        Ok(())
    }

    /// The block of a table that has the inode `number`.
    ///
    /// # Errors
    /// Corrupt where there is no such number.
    pub fn block_of_inode(&self, number: u32) -> Result<u64> {
        let (descriptor, index) = self.place_of(number)?;
        Ok(descriptor.group.inode_table + u64::from(index) / INODES_PER_BLOCK)
    }

    /// Fills `buffer` from a block on, without keeping it.
    ///
    /// # Errors
    /// Where that is past the end; what the source fails with.
    pub(super) fn read_content(&self, buffer: &mut [u8], block: u64, within: u64) -> io::Result<()> {
        let from = block.checked_mul(BLOCK as u64).and_then(|at| at.checked_add(within));
        let end = from.and_then(|from| from.checked_add(buffer.len() as u64));
        match (from, end) {
            (Some(from), Some(end)) if end <= self.geometry.blocks * BLOCK as u64 => self.source.read_at(buffer, from),
            _ => Err(io::Error::other(Error::corrupt(format!(
                "block {block} is past the end of the filesystem"
            )))),
        }
    }

    /// The inode `number`, in use or not.
    ///
    /// # Errors
    /// Corrupt where there is no such number.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        let block = self.block_of_inode(number)?;
        let (_, index) = self.place_of(number)?;
        let within = usize::try_from(u64::from(index) % INODES_PER_BLOCK).unwrap_or(0) * INODE;
        let bytes = self.block(block)?;
        Inode::parse(number, bytes.get(within..within + INODE).unwrap_or_default())
    }

    /// The inode `number`, where it is in use: by a file that has a name, or by one that somebody had open when it lost
    /// its last name.
    ///
    /// # Errors
    /// As for [`Volume::inode`].
    pub fn in_use(&self, number: u32) -> Result<Option<Inode>> {
        let (descriptor, index) = self.place_of(number)?;
        if descriptor.no_inodes || !is_set(self.block(descriptor.group.inode_bitmap)?.as_ref(), index) {
            return Ok(None);
        }
        self.inode(number).map(Some)
    }

    /// The inode `number`, where it is a file that has a name.
    ///
    /// # Errors
    /// As for [`Volume::inode`].
    pub fn live(&self, number: u32) -> Result<Option<Inode>> {
        Ok(self.in_use(number)?.filter(|inode| inode.links() > 0))
    }

    /// Whether nothing has the block.
    ///
    /// # Errors
    /// Where the bitmap cannot be read.
    pub fn is_free(&self, block: u64) -> Result<bool> {
        let per_group = u64::from(self.geometry.blocks_per_group);
        let group = usize::try_from(block / per_group).ok();
        let Some(descriptor) = group.and_then(|group| self.descriptors.get(group)) else {
            return Err(Error::corrupt(format!(
                "block {block} is past the end of the filesystem"
            )));
        };
        let index = u32::try_from(block % per_group).unwrap_or(u32::MAX);
        Ok(descriptor.no_blocks || !is_set(self.block(descriptor.group.block_bitmap)?.as_ref(), index))
    }

    /// The numbers of the inodes in one block of the inode table.
    pub fn inodes_at(&self, group: usize, block_of_table: u64) -> impl Iterator<Item = u32> + use<> {
        let first = group as u64 * u64::from(self.geometry.inodes_per_group) + block_of_table * INODES_PER_BLOCK + 1;
        (first..first + INODES_PER_BLOCK).filter_map(|number| u32::try_from(number).ok())
    }

    /// The blocks that are known to be a file's.
    pub(super) fn claims(&self) -> RefMut<'_, Claims> {
        self.claims.borrow_mut()
    }

    /// Where an inode's content is.
    ///
    /// # Errors
    /// Corrupt where its extents do not fit together, or another file that was asked for has one of the blocks.
    pub fn mapping(&self, inode: &Inode) -> Result<Mapping> {
        Mapping::of(self, inode)
    }

    /// Where the journal is.
    ///
    /// # Errors
    /// As for [`Volume::mapping`].
    pub fn journal(&self) -> Result<Mapping> {
        self.mapping(&self.inode(JOURNAL)?)
    }

    fn place_of(&self, number: u32) -> Result<(&Descriptor, u32)> {
        let place = self.geometry.place_of(number);
        let found = place.and_then(|(group, index)| Some((self.descriptors.get(group)?, index)));
        found.ok_or_else(|| Error::corrupt(format!("there is no inode {number}")))
    }
}

fn is_set(bitmap: &[u8; BLOCK], index: u32) -> bool {
    u32_at(bitmap, (index / 32) as usize * 4) & (1 << (index % 32)) != 0
}

fn read(source: &dyn ReadAt, buffer: &mut [u8], offset: u64, what: &str) -> Result<()> {
    let read = source.read_at(buffer, offset);
    read.map_err(|cause| Error::io("read", format!("{what} of the ext4 filesystem"), cause))
}
