//! Where two states of a volume differ, by reading both.
//!
//! [`Bytewise`] reads everything, for what nothing else knows of. [`refine`] reads what another source names,
//! and says which blocks really differ: a data block of a pool has sixteen of them, of which one may have changed.

use std::io;
use std::ops::Range;

use super::source::{BlockSource, Ranges};
use crate::blocks::{BLOCK, ReadAt};
use crate::error::{Error, Result};

/// Bytes that are read at once, a multiple of [`BLOCK`]: of a long range, and of a short one. Each page of memory that
/// is written for the first time costs more than the call that reads into it.
const PIECE: usize = 1 << 20;
const SHORT: usize = 64 << 10;
/// Bytes of a block.
const STEP: usize = 4096;
const _: () = assert!(STEP as u64 == BLOCK);

/// Two states of a volume that are compared byte by byte.
pub struct Bytewise<'a> {
    before: &'a dyn ReadAt,
    after: &'a dyn ReadAt,
    size: u64,
    within: Option<Vec<Range<u64>>>,
}

impl<'a> Bytewise<'a> {
    /// Compares all of both, which are `size` bytes long.
    pub fn new(before: &'a dyn ReadAt, after: &'a dyn ReadAt, size: u64) -> Self {
        Self {
            before,
            after,
            size,
            within: None,
        }
    }

    /// Compares these ranges only, ascending: elsewhere neither has anything.
    #[must_use]
    pub fn within(mut self, ranges: Vec<Range<u64>>) -> Self {
        self.within = Some(ranges);
        self
    }
}

impl BlockSource for Bytewise<'_> {
    fn changed(&self) -> Result<Vec<Range<u64>>> {
        let mut looked = Ranges::within(self.size);
        match &self.within {
            Some(ranges) => ranges.iter().for_each(|range| looked.add(range.clone())),
            None => looked.add(0..self.size),
        }
        let mut ranges = Ranges::within(self.size);
        compare(self.before, self.after, &looked.done(), &mut |block| {
            ranges.add(block * BLOCK..(block + 1) * BLOCK);
        })?;
        Ok(ranges.done())
    }
}

impl std::fmt::Debug for Bytewise<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bytewise")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The numbers of the blocks of [`BLOCK`] bytes in these ranges that differ, ascending. The ranges are those of a
/// [`BlockSource`].
///
/// # Errors
/// What reading fails with.
pub fn refine(before: &dyn ReadAt, after: &dyn ReadAt, ranges: &[Range<u64>]) -> Result<Vec<u64>> {
    let mut blocks = Vec::new();
    compare(before, after, ranges, &mut |block| blocks.push(block))?;
    Ok(blocks)
}

/// Tells `each` block that differs, ascending.
fn compare(before: &dyn ReadAt, after: &dyn ReadAt, ranges: &[Range<u64>], each: &mut dyn FnMut(u64)) -> Result<()> {
    let longest = ranges.iter().map(|range| range.end.saturating_sub(range.start)).max();
    let longest = usize::try_from(longest.unwrap_or(0)).unwrap_or(PIECE).min(PIECE);
    // Whole pages, which are read into as they are.
    let [mut old, mut new] = [vec![0; longest + STEP], vec![0; longest + STEP]];
    let (old, new) = (whole_pages(&mut old), whole_pages(&mut new));
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(PIECE);
            let length = left.min(if left < PIECE { SHORT } else { PIECE });
            let (old, new) = (&mut old[..length], &mut new[..length]);
            before.read_at(old, at).map_err(|error| unread("before", at, error))?;
            after.read_at(new, at).map_err(|error| unread("after", at, error))?;
            if old != new {
                for (number, (old, new)) in (at / BLOCK..).zip(old.chunks(STEP).zip(new.chunks(STEP))) {
                    if old != new {
                        each(number);
                    }
                }
            }
            at += length as u64;
        }
    }
    Ok(())
}

fn whole_pages(buffer: &mut [u8]) -> &mut [u8] {
    let begin = buffer.as_ptr().align_offset(STEP).min(buffer.len());
    &mut buffer[begin..]
}

fn unread(which: &str, at: u64, error: io::Error) -> Error {
    Error::io("read", format!("the volume as it was {which}, at byte {at}"), error)
}
