//! Blocks on their way to the volume: gathered, so that what lies together is written together.
//!
//! Writes end on multiples of a mebibyte, so that no chunk of a thin pool is written twice, and are aligned in
//! memory too, so that the volume can be opened for direct I/O.

use super::{Step, Volume};
use crate::blocks::{ReadAt, WriteAt};
use crate::error::Context;
use crate::ext4::layout::BLOCK;

/// Bytes of one write at most, and what its end is a multiple of.
const WRITE: usize = 1 << 20;
/// What the volume is called in messages.
const NAME: &str = "the volume";

/// Memory that begins at a multiple of a block.
struct Aligned {
    memory: Vec<u8>,
    begin: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + BLOCK];
        let begin = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, begin, bytes }
    }

    fn all(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.begin..self.begin + self.bytes)
            .unwrap_or_default()
    }
}

/// Reads whole blocks.
pub(super) fn read(volume: &dyn Volume, block: u64, blocks: usize) -> Step<Vec<u8>> {
    let mut memory = Aligned::new(blocks * BLOCK);
    ReadAt::read_at(volume, memory.all(), block * BLOCK as u64).context("read", NAME)?;
    Ok(memory.all().to_vec())
}

/// What was not written yet.
pub(super) struct Stream<'v> {
    volume: &'v dyn Volume,
    memory: Aligned,
    /// Where the gathered bytes belong.
    at: u64,
    filled: usize,
    /// Bytes from `at` to where this write is to end.
    room: usize,
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("at", &self.at).finish_non_exhaustive()
    }
}

impl<'v> Stream<'v> {
    /// Nothing gathered yet.
    pub(super) fn new(volume: &'v dyn Volume) -> Self {
        Self {
            volume,
            memory: Aligned::new(WRITE),
            at: 0,
            filled: 0,
            room: 0,
        }
    }

    /// Writes one block: `bytes`, then zeros.
    pub(super) fn put(&mut self, block: u32, bytes: &[u8]) -> Step<()> {
        let at = u64::from(block) * BLOCK as u64;
        if self.at + self.filled as u64 != at || self.filled == self.room {
            self.flush()?;
            self.at = at;
            let past = usize::try_from(at % WRITE as u64).unwrap_or(0);
            self.room = WRITE - past;
        }
        let filled = self.filled;
        if let Some(to) = self.memory.all().get_mut(filled..filled + BLOCK) {
            let (data, rest) = to.split_at_mut(bytes.len().min(BLOCK));
            data.copy_from_slice(bytes.get(..data.len()).unwrap_or_default());
            rest.fill(0);
        }
        self.filled += BLOCK;
        Ok(())
    }

    /// Writes all that is gathered.
    pub(super) fn flush(&mut self) -> Step<()> {
        let filled = std::mem::take(&mut self.filled);
        self.room = 0;
        let Some(bytes) = self.memory.all().get(..filled).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        WriteAt::write_at(self.volume, bytes, self.at).context("write", NAME)?;
        Ok(())
    }
}
