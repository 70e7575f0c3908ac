//! A classic snapshot's exception store, read as it lies on the disk: which chunks of its origin it replaces.
//!
//! ```text
//! chunk 0         magic u32 "SnAp"   valid u32   version u32   sectors of a chunk u32
//! chunk 1         area 0: entries {chunk of the origin u64, chunk of this store u64}, as many as a chunk holds
//! chunk 2..       the chunks that its entries name, one for each
//!                 area 1, and so on
//! ```
//!
//! Little-endian; `drivers/md/dm-snap-persistent.c`. An entry of chunk 0 of this store ends it. Entries come in
//! the order in which they were written; neither target is loaded while they are read, or both are suspended.

use std::io::{self, ErrorKind};
use std::ops::Range;

use super::source::{BlockSource, Ranges};
use crate::blocks::{BLOCK, ReadAt};
use crate::error::{Error, Kind, Result};

/// `SNAP_MAGIC`.
const MAGIC: u32 = 0x7041_6e53;
/// `SNAPSHOT_DISK_VERSION`.
const VERSION: u32 = 1;
/// Bytes of an entry.
const ENTRY: u64 = 16;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Bytes of an area that are read at once.
const PIECE: u64 = 64 << 10;

/// Consecutive chunks of the origin that are consecutive in the store too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    old: u64,
    new: u64,
    length: u64,
}

/// What an exception store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceptions {
    /// Bytes.
    chunk: u64,
    /// Bytes of the origin.
    origin_size: u64,
    /// By `old`, apart.
    runs: Vec<Run>,
}

impl Exceptions {
    /// Reads a store of `size` bytes over an origin of `origin_size`. One that was never used, whose first bytes are
    /// zeros, has none.
    ///
    /// # Errors
    /// Corrupt where the kernel has given the store up, or it is damaged; incompatible where a newer kernel wrote it;
    /// what reading fails with.
    pub fn read(store: &dyn ReadAt, size: u64, origin_size: u64) -> Result<Self> {
        let mut header = [0; 16];
        read(store, &mut header, 0)?;
        let [magic, valid, version, sectors] = [0, 4, 8, 12].map(|at| le32(&header, at));
        let mut found = Self {
            chunk: BLOCK,
            origin_size,
            runs: Vec::new(),
        };
        if magic == 0 {
            return Ok(found);
        }
        if magic != MAGIC {
            return Err(damaged("it has another magic number"));
        }
        if valid == 0 {
            return Err(
                Error::corrupt("the kernel has given the exception store up: it is marked invalid")
                    .hinted("plywood pool repair takes it back, and tells what is lost"),
            );
        }
        if version != VERSION {
            return Err(Error::new(
                Kind::Incompatible,
                format!("the exception store has version {version}, which this plywood does not know"),
            ));
        }
        found.chunk = u64::from(sectors) * SECTOR;
        if !sectors.is_power_of_two() || found.chunk > size {
            return Err(damaged("no chunk has that size"));
        }
        found.read_areas(store, size)?;
        found.sort()?;
        Ok(found)
    }

    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> u64 {
        self.chunk
    }

    /// The chunks of the origin that have an exception: runs of their numbers, ascending and apart.
    pub fn chunks(&self) -> Vec<Range<u64>> {
        let mut chunks: Vec<Range<u64>> = Vec::new();
        for run in &self.runs {
            let end = run.old + run.length;
            match chunks.last_mut() {
                Some(last) if last.end == run.old => last.end = end,
                _ => chunks.push(run.old..end),
            }
        }
        chunks
    }

    /// Reads the areas, up to the entry that ends them.
    fn read_areas(&mut self, store: &dyn ReadAt, size: u64) -> Result<()> {
        let (chunks, entries) = (size / self.chunk, self.chunk / ENTRY);
        let origin = self.origin_size.div_ceil(self.chunk);
        let mut piece = vec![0; usize::try_from(self.chunk.min(PIECE)).unwrap_or(0)];
        // Every area is further on, so that the end of the store ends this too.
        for area in (1..).step_by(usize::try_from(entries + 1).unwrap_or(usize::MAX)) {
            if area >= chunks {
                return Err(damaged("it goes on past its end"));
            }
            for at in (0..self.chunk).step_by(piece.len()) {
                read(store, &mut piece, area * self.chunk + at)?;
                for entry in piece.chunks_exact(16) {
                    let (old, new) = (le64(entry, 0), le64(entry, 8));
                    if new == 0 {
                        return Ok(());
                    }
                    if new >= chunks || (new - 1) % (entries + 1) == 0 {
                        return Err(damaged("an exception is past its end, or where others are listed"));
                    }
                    if old >= origin {
                        return Err(damaged("an exception is past the end of the origin"));
                    }
                    self.push(old, new);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, old: u64, new: u64) {
        match self.runs.last_mut() {
            Some(last) if last.old + last.length == old && last.new + last.length == new => last.length += 1,
            _ => self.runs.push(Run { old, new, length: 1 }),
        }
    }

    /// Sorts, and refuses what is there twice.
    fn sort(&mut self) -> Result<()> {
        let twice = |runs: &[Run], begin: fn(&Run) -> u64| {
            runs.windows(2)
                .any(|pair| begin(&pair[0]) + pair[0].length > begin(&pair[1]))
        };
        self.runs.sort_unstable_by_key(|run| run.new);
        if twice(&self.runs, |run| run.new) {
            return Err(damaged("two exceptions are in one chunk"));
        }
        self.runs.sort_unstable_by_key(|run| run.old);
        if twice(&self.runs, |run| run.old) {
            return Err(damaged("a chunk of the origin has two exceptions"));
        }
        Ok(())
    }

    /// Where the bytes from `offset` on are: their place in the store, or none where the origin has them; and for
    /// how many bytes that is so.
    fn find(&self, offset: u64) -> (Option<u64>, u64) {
        let chunk = offset / self.chunk;
        let next = self.runs.partition_point(|run| run.old <= chunk);
        if let Some(run) = next.checked_sub(1).map(|at| self.runs[at])
            && chunk < run.old + run.length
        {
            let there = (run.new + (chunk - run.old)) * self.chunk + offset % self.chunk;
            return (Some(there), (run.old + run.length) * self.chunk - offset);
        }
        let end = self.runs.get(next).map(|run| run.old * self.chunk);
        (None, end.map_or(u64::MAX, |end| end - offset))
    }
}

impl BlockSource for Exceptions {
    fn changed(&self) -> Result<Vec<Range<u64>>> {
        let mut ranges = Ranges::within(self.origin_size);
        for chunks in self.chunks() {
            ranges.add(chunks.start * self.chunk..chunks.end * self.chunk);
        }
        Ok(ranges.done())
    }
}

/// A snapshot as it is seen: its origin, with what the store replaces of it.
#[derive(Debug)]
pub struct Seen<'a, O, S> {
    origin: O,
    store: S,
    exceptions: &'a Exceptions,
}

impl<'a, O: ReadAt, S: ReadAt> Seen<'a, O, S> {
    /// `exceptions` were read from `store`, and are of `origin`.
    pub fn new(origin: O, store: S, exceptions: &'a Exceptions) -> Self {
        Self {
            origin,
            store,
            exceptions,
        }
    }
}

impl<O: ReadAt, S: ReadAt> ReadAt for Seen<'_, O, S> {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.exceptions.origin_size) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        while !buffer.is_empty() {
            let (there, length) = self.exceptions.find(offset);
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(length);
            match there {
                Some(there) => self.store.read_at(part, there)?,
                None => self.origin.read_at(part, offset)?,
            }
            buffer = rest;
            offset += length as u64;
        }
        Ok(())
    }
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("the exception store is damaged: {what}"))
}

fn read(store: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<()> {
    match store.read_at(buffer, offset) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(damaged("it is cut short")),
        Err(error) => Err(Error::io(
            "read",
            format!("the exception store at byte {offset}"),
            error,
        )),
    }
}

/// The little-endian word of 4 bytes at `at`, which lies within.
fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The same of 8 bytes.
fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
