//! A file or block device, read past the page cache.
//!
//! The kernel writes a pool's metadata past it too, so what is cached of their device may be old.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::blocks::ReadAt;
use crate::error::{Context, Result};

/// What direct I/O wants offsets, lengths and addresses to be multiples of, on any device.
const ALIGNED: usize = 4096;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Open for direct reads, at any offset and of any length.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// With room for an aligned piece, as long as the longest read so far.
    buffer: RefCell<Vec<u8>>,
}

impl Direct {
    /// Opens a file or block device.
    ///
    /// # Errors
    /// The operating system's; a filesystem in memory has no direct I/O.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        Ok(Self {
            file: options.open(path).context("open", path)?,
            buffer: RefCell::new(Vec::new()),
        })
    }
}

impl ReadAt for Direct {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in buffer.chunks_mut(PIECE) {
            // The piece begins at most this many bytes earlier.
            let before = usize::try_from(at % ALIGNED as u64).unwrap_or(0);
            if before == 0 && part.len() % ALIGNED == 0 && part.as_ptr().align_offset(ALIGNED) == 0 {
                fill(&self.file, part, at, part.len())?;
                at += part.len() as u64;
                continue;
            }
            let length = (before + part.len()).next_multiple_of(ALIGNED);
            let mut room = self.buffer.borrow_mut();
            if room.len() < length + ALIGNED {
                room.resize(length + ALIGNED, 0);
            }
            let begin = room.as_ptr().align_offset(ALIGNED);
            let piece = room.get_mut(begin..begin.saturating_add(length));
            let piece = piece.ok_or(ErrorKind::OutOfMemory)?;
            fill(&self.file, piece, at - before as u64, before + part.len())?;
            part.copy_from_slice(&piece[before..before + part.len()]);
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Reads into all of `piece`, of which `needed` bytes must be there.
fn fill(file: &File, piece: &mut [u8], offset: u64, needed: usize) -> io::Result<()> {
    let mut done = 0;
    while done < needed {
        match FileExt::read_at(file, &mut piece[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Only the end of a file is no multiple; then what is needed is there, or never will be.
        if done % ALIGNED != 0 && done < needed {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_file_can_be_read() {
        // Where tests build there is a disk.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> = (0..(3 << 20) + 1000_u32).map(|at| (at / 7).to_le_bytes()[0]).collect();
        std::fs::write(file.path(), &content).unwrap();
        let direct = Direct::open(file.path()).unwrap();
        for (offset, length) in [
            (0, 4096),
            (1, 1),
            (4095, 2),
            (5000, 2 << 20),
            (0, content.len()),
            (content.len(), 0),
        ] {
            let mut read = vec![0; length];
            direct.read_at(&mut read, offset as u64).unwrap();
            assert!(read == content[offset..offset + length], "{length} bytes at {offset}");
        }
        for offset in [content.len() - 9, content.len(), content.len() + 10_000] {
            let error = direct.read_at(&mut [0; 10], offset as u64).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "at {offset}");
        }
    }
}
