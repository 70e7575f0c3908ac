//! Where a volume may have changed: what every way to find that out has in common.
//!
//! Thin metadata, an exception store and a comparison byte by byte are each a [`BlockSource`]; what they say in
//! their own units, [`refine`](super::bytewise::refine) makes exact.

use std::ops::Range;

use crate::blocks::BLOCK;
use crate::error::Result;

/// What can say where two states of a volume may differ.
pub trait BlockSource {
    /// Bytes of the volume that may differ: ranges at multiples of [`BLOCK`], ascending and apart. Everywhere else
    /// both are the same. What follows the last whole block is left out: no filesystem has anything there.
    ///
    /// # Errors
    /// Corrupt where the source is damaged; what reading fails with.
    fn changed(&self) -> Result<Vec<Range<u64>>>;
}

/// Collects ranges of bytes that come in ascending order.
pub(super) struct Ranges {
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Ranges {
    /// Of a volume with `size` bytes.
    pub(super) fn within(size: u64) -> Self {
        Self {
            ranges: Vec::new(),
            size: size / BLOCK * BLOCK,
        }
    }

    /// Adds the blocks that a range touches.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let start = range.start / BLOCK * BLOCK;
        let end = range
            .end
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(self.size)
            .min(self.size);
        match self.ranges.last_mut() {
            _ if start >= end => {}
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => self.ranges.push(start..end),
        }
    }

    /// All of them, apart.
    pub(super) fn done(self) -> Vec<Range<u64>> {
        self.ranges
    }
}
