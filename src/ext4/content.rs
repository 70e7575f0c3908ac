//! A file's content, read through its extents.

use std::io::{self, Read};
use std::rc::Rc;

use super::extents::Mapping;
use super::inode::Inode;
use super::layout::{BLOCK, mode};
use super::volume::Volume;
use crate::error::{Error, Result};

/// Reads a file from its beginning to its end; holes and what is unwritten are zeros.
#[derive(Debug)]
pub struct Content {
    volume: Rc<Volume>,
    mapping: Mapping,
    at: u64,
    size: u64,
}

impl Content {
    /// The content of a regular file, or of a symbolic link that has extents.
    ///
    /// # Errors
    /// Corrupt where it is something else, or its extents do not fit together.
    pub fn open(volume: &Rc<Volume>, inode: &Inode) -> Result<Self> {
        let kind = inode.mode() & mode::TYPE;
        let readable = matches!(kind, mode::FILE | mode::SYMLINK) && (inode.has_extents() || inode.size() == 0);
        if !readable || inode.size() > 1 << 44 {
            return Err(Error::corrupt(format!(
                "inode {} has no content that can be read",
                inode.number()
            )));
        }
        Ok(Self {
            volume: Rc::clone(volume),
            mapping: volume.mapping(inode)?,
            at: 0,
            size: inode.size(),
        })
    }

    /// Bytes from here on that are of one kind, and the first of them on the disk; none of them for zeros.
    fn run(&self) -> (u64, Option<u64>) {
        const BYTES: u64 = BLOCK as u64;
        let left = self.size.saturating_sub(self.at);
        let logical = self.at / BYTES;
        match self.mapping.at_or_after(logical) {
            None => (left, None),
            Some(extent) if extent.logical > logical => ((extent.logical * BYTES - self.at).min(left), None),
            Some(extent) => {
                let end = (extent.logical + extent.length) * BYTES;
                let first = extent.physical * BYTES + (self.at - extent.logical * BYTES);
                ((end - self.at).min(left), (!extent.unwritten).then_some(first))
            }
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (run, disk) = self.run();
        let count = usize::try_from(run).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..count).unwrap_or_default();
        match disk {
            _ if piece.is_empty() => {}
            Some(first) => self
                .volume
                .read_content(piece, first / BLOCK as u64, first % BLOCK as u64)?,
            None => piece.fill(0),
        }
        self.at += count as u64;
        Ok(count)
    }
}
