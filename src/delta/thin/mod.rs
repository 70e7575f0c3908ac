//! A thin pool's metadata, read as they lie on the disk: which blocks a volume has, and where two differ.
//!
//! A superblock names two trees: from thin id to the root of that volume's mapping tree, and from thin id to
//! its details. A mapping tree goes from a block of the volume to a block of the pool's data. A snapshot begins
//! with the very root of its origin; a node that two volumes share is copied before it changes, and so is a data
//! block. So where two volumes have the same node they have the same content, and
//! [`Metadata::difference`] looks at nothing below it.
//!
//! What is read must not change: metadata at rest, or the metadata snapshot of a pool in use, through direct
//! I/O. Everything is checked, checksums first; damage is an error that names the block, never a panic and never
//! a walk without end. Formats: `drivers/md/dm-thin-metadata.c` and `drivers/md/persistent-data`.

mod block;
mod difference;
mod node;
mod superblock;
mod usage;

use std::cell::Cell;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;

use self::block::{Block, SIZE};
use self::node::{Node, Place};
use crate::blocks::ReadAt;
use crate::error::{Error, Result};

pub use self::difference::{Change, Difference, Source};
pub use self::superblock::Superblock;
pub use self::usage::{Count, RANKS, Usage};

/// Blocks that the kernel uses of metadata at most: `DM_SM_METADATA_MAX_BLOCKS`. What the superblock says of
/// their number is that of the day when the pool was made.
const MOST_BLOCKS: u64 = 255 * ((1 << 14) - 64);
/// Bytes of a value in the tree of the volumes and in that of their mappings.
const MAPPING: usize = 8;
/// Bytes of a volume's details.
const DETAILS: usize = 24;

/// The metadata of one moment.
pub struct Metadata<'a> {
    device: &'a dyn ReadAt,
    superblock: Superblock,
    read: Cell<u64>,
}

/// Where the mapping tree of a volume begins. The same root: the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(u64);

/// What a pool says of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details {
    /// Data blocks that it has, shared ones included.
    pub mapped_blocks: u64,
    /// The pool's transaction id when it was made.
    pub transaction_id: u64,
    /// The pool's count of snapshots when it was made.
    pub creation_time: u32,
    /// The same when it was last snapshotted.
    pub snapshotted_time: u32,
}

/// A block of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Its number in the volume.
    pub block: u64,
    /// The data block that it has.
    pub data: u64,
    /// The pool's count of snapshots when it was written.
    pub time: u32,
}

impl Mapping {
    fn new(block: u64, value: u64) -> Self {
        Self {
            block,
            data: value >> 24,
            // The lower 24 bits.
            time: (value & 0xff_ffff) as u32,
        }
    }
}

impl<'a> Metadata<'a> {
    /// The metadata that the superblock in this block begins: 0, or the held root of a metadata snapshot.
    ///
    /// # Errors
    /// Corrupt; incompatible where they are newer than this plywood; what reading fails with.
    pub fn open(device: &'a dyn ReadAt, superblock: u64) -> Result<Self> {
        let bytes = read(device, superblock)?;
        Ok(Self {
            device,
            superblock: Superblock::decode(&bytes, superblock)?,
            read: Cell::new(0),
        })
    }

    /// What the superblock says.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Nodes read so far.
    pub fn nodes_read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes of a data block.
    pub fn block_size(&self) -> u64 {
        u64::from(self.superblock.data_block_sectors) * 512
    }

    /// The mapping tree of a volume, if there is that volume.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn root_of(&self, id: u32) -> Result<Option<Root>> {
        let found = self.look_up(self.superblock.mapping_root, u64::from(id), MAPPING)?;
        Ok(found.map(|(node, at)| Root(node.word(at))))
    }

    /// What the pool says of a volume, if there is that volume.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn details_of(&self, id: u32) -> Result<Option<Details>> {
        let found = self.look_up(self.superblock.details_root, u64::from(id), DETAILS)?;
        Ok(found.map(|(node, at)| details(&node, at)))
    }

    /// All volumes, ascending.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn volumes(&self) -> Result<Vec<(u32, Root)>> {
        let mut found = Vec::new();
        let mut wrong = false;
        self.walk(
            self.superblock.mapping_root,
            MAPPING,
            &mut |node, at| match u32::try_from(node.key(at)) {
                Ok(id) if id < 1 << 24 => found.push((id, Root(node.word(at)))),
                _ => wrong = true,
            },
        )?;
        match wrong {
            true => Err(Error::corrupt(
                "the pool's metadata have a volume with a number that none can have",
            )),
            false => Ok(found),
        }
    }

    /// Tells `each` block of a volume, ascending.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn each_mapping(&self, root: Root, each: &mut dyn FnMut(Mapping)) -> Result<()> {
        self.walk(root.0, MAPPING, &mut |node, at| {
            each(Mapping::new(node.key(at), node.word(at)));
        })
    }

    /// The blocks that a volume has: runs, ascending and apart.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn mapped(&self, root: Root) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        self.each_mapping(root, &mut |mapping| match runs.last_mut() {
            Some(last) if last.end == mapping.block => last.end += 1,
            // The highest number would have no end; no volume reaches it.
            _ => runs.push(mapping.block..mapping.block.saturating_add(1)),
        })?;
        Ok(runs)
    }

    /// The leaf and the entry that have a key.
    fn look_up(&self, root: u64, key: u64, value_size: usize) -> Result<Option<(Node, usize)>> {
        let mut place = Place::root(root);
        loop {
            let node = self.node(place, value_size)?;
            let Some(at) = node.find(key) else {
                return Ok(None);
            };
            if node.is_leaf() {
                return Ok((node.key(at) == key).then_some((node, at)));
            }
            place = node.child(at)?;
        }
    }

    /// Tells `each` entry of a tree's leaves, ascending. All leaves are equally deep, and the keys of a node lie
    /// where its parent says: so it reads each block once for each level at most, and ends.
    fn walk(&self, root: u64, value_size: usize, each: &mut dyn FnMut(&Node, usize)) -> Result<()> {
        let mut leaves = None;
        let mut left = vec![Place::root(root)];
        while let Some(place) = left.pop() {
            let node = self.node(place.clone(), value_size)?;
            if node.is_leaf() != leaves.map_or(node.is_leaf(), |depth: usize| place.depth == depth) {
                return Err(place.damaged("it is deeper than others"));
            }
            if node.is_leaf() {
                leaves = Some(place.depth);
                (0..node.len()).for_each(|at| each(&node, at));
            } else {
                for at in (0..node.len()).rev() {
                    left.push(node.child(at)?);
                }
            }
        }
        Ok(())
    }

    fn node(&self, place: Place, value_size: usize) -> Result<Node> {
        self.read.set(self.read.get() + 1);
        Node::decode(read(self.device, place.block)?, place, value_size)
    }
}

impl fmt::Debug for Metadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("superblock", &self.superblock)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

fn details(node: &Node, at: usize) -> Details {
    Details {
        mapped_blocks: node.word(at),
        transaction_id: node.second(at),
        creation_time: node.half(at, 16),
        snapshotted_time: node.half(at, 20),
    }
}

fn read(device: &dyn ReadAt, block: u64) -> Result<Box<Block>> {
    let past_the_end = || Error::corrupt(format!("block {block} is past the end of the pool's metadata"));
    if block >= MOST_BLOCKS {
        return Err(past_the_end());
    }
    let mut bytes = Box::new([0; SIZE]);
    match device.read_at(bytes.as_mut_slice(), block * SIZE as u64) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(past_the_end()),
        Err(error) => Err(Error::io(
            "read",
            format!("block {block} of the pool's metadata"),
            error,
        )),
    }
}
