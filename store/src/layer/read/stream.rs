//! The bytes of a tar: blocks, and between them the content of the entry at hand.
//!
//! ```text
//! header │ bodies of extended headers, header, sparse map │ content, in pieces │ padding │ header …
//! ```
//!
//! It counts where it is, and knows which entry that is: every error says so. Content that nobody
//! asked for is passed over; the buffer's own bytes are lent, so that none is copied here.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::layer::entry::shown;
use crate::layer::header::BLOCK;
use crate::layer::sparse::{self, Segment};
use crate::{Error, Kind, Result, compress};

/// Bytes read at once: what a pipe of ours holds, and a good write.
const BUFFER: usize = 256 << 10;

/// A tar as it comes.
pub(super) struct Stream<'a> {
    input: BufReader<&'a mut dyn Read>,
    /// Bytes of the stream that headers and their bodies took, and contents that were passed.
    at: u64,
    /// Stored bytes of the current entry that nobody has read yet, without padding.
    left: u64,
    /// Bytes of the input's buffer that [`Stream::content`] has handed out.
    lent: usize,
    /// Bytes after them up to the next block.
    padding: u64,
    /// Where the stored bytes go, last segment first.
    segments: Vec<Segment>,
    current: PathBuf,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tar: &'a mut dyn Read) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, tar),
            at: 0,
            left: 0,
            lent: 0,
            padding: 0,
            segments: Vec::new(),
            current: PathBuf::new(),
        }
    }

    /// Where the content of the entry at hand begins, and how many stored bytes are left of it.
    pub(super) fn extent(&self) -> (u64, u64) {
        (self.at, self.left)
    }

    /// Fills `buffer`. What it means where the stream ends before is the caller's to say.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(buffer)?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// Fills `buffer` with what belongs to the entry at hand.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.read(buffer).map_err(|cause| broken(&self.current, cause))
    }

    /// From here on it is the entry at `path`.
    pub(super) fn begin(&mut self, path: &Path) {
        path.clone_into(&mut self.current);
    }

    /// The entry at hand has so many bytes of content in the tar.
    pub(super) fn expect(&mut self, stored: u64) {
        self.left = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
    }

    /// A whole block of that content; none where less is left.
    pub(super) fn stored_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.left < BLOCK as u64 {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)?;
        self.left -= BLOCK as u64;
        Ok(Some(block))
    }

    /// What is left of that content goes where `map` says, in a file of `size` bytes.
    pub(super) fn lay_out(&mut self, mut map: Vec<Segment>, size: u64) -> Result<()> {
        sparse::check(&map, size, self.left).map_err(|what| self.bad(what))?;
        map.retain(|segment| segment.length > 0);
        map.reverse();
        self.segments = map;
        Ok(())
    }

    /// The next bytes of the content, with their offset in the file; none at its end.
    pub(super) fn content(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.take_back();
        let Some(segment) = self.segments.last_mut() else {
            return Ok(None);
        };
        let offset = segment.offset;
        let got = match self.input.fill_buf() {
            Ok(buffer) => buffer.len().min(usize::try_from(segment.length).unwrap_or(BUFFER)),
            Err(cause) => return Err(broken(&self.current, cause)),
        };
        if got == 0 {
            return Err(short(&self.current));
        }
        segment.offset += got as u64;
        segment.length -= got as u64;
        if segment.length == 0 {
            self.segments.pop();
        }
        self.left -= got as u64;
        self.at += got as u64;
        self.lent = got;
        Ok(self.input.buffer().get(..got).map(|piece| (offset, piece)))
    }

    fn take_back(&mut self) {
        self.input.consume(std::mem::take(&mut self.lent));
    }

    /// Passes over what is left of the content.
    pub(super) fn skip_content(&mut self) -> Result<()> {
        self.take_back();
        self.segments.clear();
        let mut skip = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        self.at += skip;
        while skip > 0 {
            let count = match self.input.fill_buf() {
                Ok(buffer) => buffer.len().min(usize::try_from(skip).unwrap_or(usize::MAX)),
                Err(cause) => return Err(broken(&self.current, cause)),
            };
            if count == 0 {
                return Err(short(&self.current));
            }
            self.input.consume(count);
            skip -= count as u64;
        }
        Ok(())
    }

    /// Reads on to the very end: nothing but zeros may follow the end mark, and no more than `most` of them.
    pub(super) fn end(&mut self, most: u64) -> Result<()> {
        let mut trailing = 0_u64;
        loop {
            let buffer = self
                .input
                .fill_buf()
                .map_err(|cause| compress::broken("the end of the tar", cause))?;
            let count = buffer.len();
            if count == 0 {
                return Ok(());
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(self.bad("data after the end mark"));
            }
            trailing += count as u64;
            if trailing > most {
                return Err(self.bad("zeros without end after the end mark"));
            }
            self.input.consume(count);
        }
    }

    /// The error for a tar that has `what` where it is now.
    pub(super) fn bad(&self, what: &str) -> Error {
        let place = if self.current.as_os_str().is_empty() {
            "at its beginning".to_owned()
        } else {
            format!("at or after {}", shown(&self.current))
        };
        Error::new(Kind::Invalid, format!("the tar has {what}, {place}"))
    }
}

fn broken(current: &Path, cause: io::Error) -> Error {
    compress::broken(&format!("the tar at {}", shown(current)), cause)
}

fn short(current: &Path) -> Error {
    Error::invalid(format!("the tar is cut off at {}", shown(current)))
}
