//! A node of a B-tree.
//!
//! ```text
//!  0 checksum u32   4 flags u32: 1 internal, 2 leaf   8 own block u64
//! 16 entries u32   20 most entries u32   24 bytes of a value u32
//! 32 keys, u64 each, ascending; room for the most
//!    values after all of the keys' room; of an internal node the blocks of its children, u64 each
//! ```
//!
//! Little-endian; `struct node_header` of `drivers/md/persistent-data/dm-btree-internal.h`. An internal
//! node's key is no higher than the lowest key in its child.

use std::ops::RangeInclusive;

use super::MOST_BLOCKS;
use super::block::{Block, SIZE, le32, le64, sum};
use crate::error::{Error, Result};

/// What its checksum is mixed with.
const SALT: u32 = 121_107;
/// Bytes before the keys.
const HEADER: usize = 32;
/// Bytes of a key, and of a child's number.
const WORD: usize = 8;
/// Levels of a tree: the kernel's own limit of a descent.
pub(super) const DEEPEST: usize = 16;

/// Where a node is, and what follows from that for what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u64,
    /// Nodes above it.
    pub(super) depth: usize,
    /// Where its keys lie.
    pub(super) keys: RangeInclusive<u64>,
}

impl Place {
    /// The top of a tree.
    pub(super) fn root(block: u64) -> Self {
        Self {
            block,
            depth: 0,
            keys: 0..=u64::MAX,
        }
    }

    /// The error for damage there.
    pub(super) fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!(
            "block {} of the pool's metadata, a tree's node: {what}",
            self.block
        ))
    }
}

/// A checked node.
#[derive(Debug)]
pub(super) struct Node {
    bytes: Box<Block>,
    place: Place,
    is_leaf: bool,
    entries: usize,
    /// Where the values begin.
    values: usize,
    value_size: usize,
}

impl Node {
    /// Decodes the node at `place` of a tree whose leaves have values of `value_size` bytes.
    ///
    /// # Errors
    /// Corrupt.
    pub(super) fn decode(bytes: Box<Block>, place: Place, value_size: usize) -> Result<Self> {
        if le32(&bytes, 0) != sum(&bytes, SALT) {
            return Err(place.damaged("its checksum is wrong"));
        }
        if le64(&bytes, 8) != place.block {
            return Err(place.damaged("it is that of another block"));
        }
        let is_leaf = match le32(&bytes, 4) {
            1 => false,
            2 => true,
            _ => return Err(place.damaged("it is neither internal nor a leaf")),
        };
        let [entries, most, size] = [16, 20, 24].map(|at| le32(&bytes, at) as usize);
        if size != if is_leaf { value_size } else { WORD } {
            return Err(place.damaged("its values are of another size"));
        }
        if entries > most || most > (SIZE - HEADER) / (WORD + size) {
            return Err(place.damaged("it has more entries than room"));
        }
        if entries == 0 && !(is_leaf && place.depth == 0) {
            return Err(place.damaged("it is empty"));
        }
        let node = Self {
            bytes,
            place,
            is_leaf,
            entries,
            values: HEADER + WORD * most,
            value_size: size,
        };
        node.check_keys()?;
        Ok(node)
    }

    fn check_keys(&self) -> Result<()> {
        let mut least = Some(*self.place.keys.start());
        for at in 0..self.entries {
            let key = self.key(at);
            if least.is_none_or(|least| key < least) || key > *self.place.keys.end() {
                return Err(self.place.damaged("its keys are out of order, or out of their range"));
            }
            least = key.checked_add(1);
        }
        Ok(())
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The key of an entry, which there is.
    pub(super) fn key(&self, at: usize) -> u64 {
        debug_assert!(at < self.entries);
        le64(&self.bytes, HEADER + WORD * at)
    }

    /// The value of an entry, which there is: its first word.
    pub(super) fn word(&self, at: usize) -> u64 {
        le64(&self.bytes, self.values + self.value_size * at)
    }

    /// The word of 4 bytes at `byte` of the value of an entry, both of which there are.
    pub(super) fn half(&self, at: usize, byte: usize) -> u32 {
        le32(&self.bytes, self.values + self.value_size * at + byte)
    }

    /// The words at byte 8 of the value of an entry that is long enough.
    pub(super) fn second(&self, at: usize) -> u64 {
        le64(&self.bytes, self.values + self.value_size * at + WORD)
    }

    /// A child of an internal node.
    ///
    /// # Errors
    /// Corrupt where it cannot be one.
    pub(super) fn child(&self, at: usize) -> Result<Place> {
        let place = Place {
            block: self.word(at),
            depth: self.place.depth + 1,
            keys: self.key(at)..=match at + 1 < self.entries {
                // No overflow: it is higher than another key.
                true => self.key(at + 1) - 1,
                false => *self.place.keys.end(),
            },
        };
        if place.block >= MOST_BLOCKS {
            return Err(self.place.damaged("a child of it is past the end"));
        }
        if place.depth >= DEEPEST {
            return Err(self.place.damaged("the tree is deeper than any"));
        }
        Ok(place)
    }

    /// The entry under which a key would be: the last whose key is not higher.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        let (mut from, mut to) = (0, self.entries);
        while from < to {
            let middle = usize::midpoint(from, to);
            match self.key(middle) <= key {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        from.checked_sub(1)
    }
}
