//! A file's content, cut into blocks; those of zeros are holes.

use super::Step;
use super::extents::Extents;
use crate::ext4::layout::BLOCK;

/// The file at hand.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Where its blocks are, so far.
    pub(super) extents: Extents,
    /// A block of which not all has come.
    part: Vec<u8>,
    /// Its number in the file; of no use where there is none.
    number: u32,
}

/// Writes a block, and says where.
type Place<'a> = &'a mut dyn FnMut(&[u8]) -> Step<u32>;

impl Content {
    /// Adds a piece. Pieces come in the order of the file; what none covers is zeros.
    pub(super) fn add(&mut self, offset: u64, piece: &[u8], place: Place<'_>) -> Step<()> {
        let (mut at, mut rest) = (offset, piece);
        while !rest.is_empty() {
            let number = u32::try_from(at / BLOCK as u64).unwrap_or(u32::MAX);
            let within = usize::try_from(at % BLOCK as u64).unwrap_or(0);
            if !self.part.is_empty() && self.number != number {
                self.finish(place)?;
            }
            let (now, after) = rest.split_at(rest.len().min(BLOCK - within));
            if now.len() == BLOCK {
                self.put(number, now, place)?;
            } else {
                if self.part.is_empty() {
                    self.part.resize(BLOCK, 0);
                    self.number = number;
                }
                if let Some(to) = self.part.get_mut(within..within + now.len()) {
                    to.copy_from_slice(now);
                }
                if within + now.len() == BLOCK {
                    self.finish(place)?;
                }
            }
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Writes the block of which no more comes.
    pub(super) fn finish(&mut self, place: Place<'_>) -> Step<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::take(&mut self.part);
        self.put(self.number, &part, place)?;
        // The memory is for the next one.
        self.part = part;
        self.part.clear();
        Ok(())
    }

    fn put(&mut self, number: u32, block: &[u8], place: Place<'_>) -> Step<()> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let at = place(block)?;
        self.extents.push(number, at);
        Ok(())
    }
}
