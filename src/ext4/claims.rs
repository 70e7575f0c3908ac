//! Which blocks belong to the files that were looked at: no two files share one.
//!
//! Without this a small forged volume could look like any number of large files, and each of them would be read from
//! its beginning to its end: one extent tree under a million inodes costs a million walks. The kernel gives a block to
//! one file only (volumes of plywood's have no feature under which it would not), so a second one that says it has it
//! is damage.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};

/// Numbers in one page.
const PAGE: u64 = 1 << 15;
const WORDS: usize = (PAGE / 64) as usize;
/// Pages that are kept: 64 MiB, enough for the blocks of 2 TiB.
const PAGES: usize = 1 << 14;

/// A set of numbers, in pages of bits.
#[derive(Debug, Default)]
struct Set {
    pages: HashMap<u64, Box<[u64; WORDS]>>,
}

impl Set {
    fn has(&self, number: u64) -> bool {
        let page = self.pages.get(&(number / PAGE));
        let (word, mask) = place(number % PAGE);
        page.and_then(|page| page.get(word))
            .is_some_and(|word| word & mask != 0)
    }

    /// Adds `numbers`, none of which was in it; a lower one that was.
    fn add(&mut self, numbers: Range<u64>) -> Result<Option<u64>> {
        let mut at = numbers.start;
        while at < numbers.end {
            let full = self.pages.len() >= PAGES;
            let page = match self.pages.get_mut(&(at / PAGE)) {
                Some(page) => page,
                None if full => return Err(too_large()),
                None => self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; WORDS])),
            };
            let end = numbers.end.min((at / PAGE + 1) * PAGE);
            while at < end {
                let (word, first) = place(at % PAGE);
                let count = (64 - at % 64).min(end - at);
                // `count` bits from the first one on.
                let mask = (u64::MAX >> (64 - count)) << first.trailing_zeros();
                let Some(word) = page.get_mut(word) else { break };
                if *word & mask != 0 {
                    let there = u64::from((*word & mask).trailing_zeros());
                    return Ok(Some(at - at % 64 + there));
                }
                *word |= mask;
                at += count;
            }
        }
        Ok(None)
    }
}

fn too_large() -> Error {
    Error::invalid("the ext4 filesystem is larger than can be read by its blocks")
        .hinted("--diff=walk looks at the mounted trees instead")
}

fn place(within: u64) -> (usize, u64) {
    (usize::try_from(within / 64).unwrap_or(WORDS), 1 << (within % 64))
}

/// The blocks of the files that were looked at.
#[derive(Debug, Default)]
pub(super) struct Claims {
    blocks: Set,
    inodes: Set,
}

impl Claims {
    /// Whether the inode's blocks are known, all of them its own.
    pub(super) fn knows(&self, inode: u32) -> bool {
        self.inodes.has(inode.into())
    }

    /// Whether a file that was looked at has the block.
    pub(super) fn is_taken(&self, block: u64) -> bool {
        self.blocks.has(block)
    }

    /// Notes the blocks of an inode that is not known yet.
    ///
    /// # Errors
    /// Corrupt where another one has one of them; invalid where there are more than can be kept.
    pub(super) fn take(&mut self, inode: u32, runs: impl Iterator<Item = Range<u64>>) -> Result<()> {
        for run in runs {
            if let Some(block) = self.blocks.add(run)? {
                return Err(Error::corrupt(format!(
                    "inode {inode}: block {block} is another file's as well"
                )));
            }
        }
        self.inodes.add(inode.into()..u64::from(inode) + 1).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_taken_once_whatever_pages_and_words_it_crosses() {
        let mut set = Set::default();
        let taken = [3..5, 60..70, 128..192, PAGE - 1..PAGE + 1, 3 * PAGE..5 * PAGE];
        for run in taken.clone() {
            assert_eq!(set.add(run).unwrap(), None);
        }
        for number in (0..300)
            .chain(PAGE - 70..PAGE + 70)
            .chain(3 * PAGE - 2..3 * PAGE + 2)
            .chain(5 * PAGE - 1..5 * PAGE + 1)
        {
            let expected = taken.iter().any(|run| run.contains(&number));
            assert_eq!(set.has(number), expected, "{number}");
        }
        for (run, there) in [
            (4..5, 4),
            (5..61, 60),
            (70..129, 128),
            (PAGE..PAGE + 9, PAGE),
            (2 * PAGE..4 * PAGE, 3 * PAGE),
        ] {
            assert_eq!(set.add(run).unwrap(), Some(there));
        }
        let error = set.add(6 * PAGE..(6 + PAGES as u64) * PAGE).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        assert!(set.pages.len() <= PAGES);
    }
}
