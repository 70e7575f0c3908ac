//! Reads a foreign tar: entries, checked and within limits.
//!
//! The framing is our own, over the `tar` crate's header types: where two tar
//! readers could disagree about where an entry ends, or what it is called, one
//! of them can be fooled, so such archives are refused by name (RUSTSEC-2025-0111).
//!
//! | what | rule |
//! |---|---|
//! | size | a PAX `size` wins; links, directories, devices and FIFOs carry no bytes |
//! | PAX records | malformed ones are errors, never skipped; global ones may not describe entries |
//! | names | bytes; leading `/` and `./` go, `.` and `//` fold, `..` and NUL are refused |
//! | sparse files | GNU (old, and PAX 0.0, 0.1, 1.0) with a sorted map inside the logical size |
//! | mode | its low twelve bits |
//! | uid, gid | 0 to 2^32-2 |
//! | mtime | whole seconds in 64 bits, PAX fractions cut to nanoseconds |
//! | the end | two zero blocks (one at the end of the stream); then nothing but zeros |
//!
//! [`Reader`] puts entries together from what its parts know: `stream` is the bytes, and where in
//! them it is; `extended` the headers before a header; `name`, `fields` and `layout` what an entry
//! is called, is, and holds.

mod extended;
mod fields;
mod layout;
mod name;
mod stream;

use std::io::{ErrorKind, Read};

use self::extended::Extended;
use self::stream::Stream;
use super::Limits;
use super::entry::shown;
pub use super::entry::{Device, Entry, EntryKind, Time};
use super::header::{BLOCK, form_of, has_numbers, is_sound, name_of, until_nul};
use crate::{Error, Result, compress};

/// Whether a stream that begins like this begins with a tar header.
pub fn is_header(begin: &[u8]) -> bool {
    let mut header = tar::Header::new_old();
    begin.get(..BLOCK).is_some_and(|block| {
        header.as_mut_bytes().copy_from_slice(block);
        is_sound(&header)
    })
}

/// The entries of a tar stream.
pub struct Reader<'a> {
    stream: Stream<'a>,
    limits: Limits,
    entries: u64,
    total: u64,
    notes: Vec<String>,
    ended: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Reads `tar`, within `limits`.
    pub fn new(tar: &'a mut dyn Read, limits: &Limits) -> Self {
        Self {
            stream: Stream::new(tar),
            limits: limits.clone(),
            entries: 0,
            total: 0,
            notes: Vec::new(),
            ended: false,
        }
    }

    /// Entries read so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Where in the stream the content of the entry at hand begins, and how many bytes it takes up
    /// there: for who wants to read it later by itself. Ask before [`Reader::content`].
    pub fn extent(&self) -> (u64, u64) {
        self.stream.extent()
    }

    /// What was left out on purpose since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The next entry; none after the last, when the stream has been read to its very end.
    ///
    /// # Errors
    /// Anything that the table above refuses, by entry; a limit; a failed read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.stream.skip_content()?;
        let mut extended = Extended::default();
        while let Some(header) = self.header()? {
            if !extended.take(&header, &mut self.stream, &self.limits)? {
                return self.entry(&header, extended).map(Some);
            }
        }
        if !extended.is_empty() {
            return Err(self.stream.bad("an extended header without an entry"));
        }
        self.ended = true;
        self.stream.end(self.limits.total_bytes)?;
        Ok(None)
    }

    /// The next bytes of the current entry's content, with their offset in the file; none at its end.
    /// What no piece covers, up to [`Entry::size`], is zeros.
    ///
    /// # Errors
    /// A stream that ends too early, or cannot be read.
    pub fn content(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.stream.content()
    }

    /// A block that is a header with a right check sum; none for the zero block of the end.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        let block: &mut [u8] = header.as_mut_bytes();
        self.stream.read(block).map_err(|cause| {
            if cause.kind() == ErrorKind::UnexpectedEof {
                return Error::invalid(format!(
                    "the tar ends without its end mark after {} entries: it is cut off, or no tar",
                    self.entries
                ));
            }
            compress::broken("the tar", cause)
        })?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !is_sound(&header) {
            let error = self.stream.bad("a header with a wrong check sum");
            return Err(if self.entries == 0 {
                error.hinted("is it a tar? gzip and zstd are recognised, other packings are not")
            } else {
                error
            });
        }
        if form_of(&header).is_none() {
            return Err(self.stream.bad("a header of an unknown format"));
        }
        if !has_numbers(&header) {
            return Err(self.stream.bad("a header with something else in a number's place"));
        }
        // Counted here, so that a stream of extended headers only is limited too.
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.stream.bad(&format!("more than {} entries", self.limits.entries)));
        }
        Ok(Some(header))
    }

    /// The entry whose own header this is.
    fn entry(&mut self, header: &tar::Header, extended: Extended) -> Result<Entry> {
        let (stream, limits) = (&mut self.stream, &self.limits);
        let old = header.as_old();
        let mut records = extended.into_records(stream)?;
        let raw = records.path.take().unwrap_or_else(|| name_of(header));
        let path = name::normalise(&raw, limits)?;
        stream.begin(&path);
        // Looked at even where it does not count, as others look at it.
        let in_header = fields::number(&old.size, "size", stream)?;
        let stored = records.size.unwrap_or(in_header);
        if i64::try_from(stored).is_err() {
            return Err(stream.bad("an impossible size"));
        }
        let target = records.link.take();
        let target = target.unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let kind = fields::kind(header, &raw, &target, stream, limits)?;
        if stored > 0 && !matches!(kind, EntryKind::File) {
            return Err(stream.bad("bytes of content in an entry that is no file"));
        }
        stream.expect(stored);
        let size = layout::lay_out(header, &mut records, stored, stream, limits)?;
        self.budget(size)?;
        let stream = &self.stream;
        let entry = Entry {
            path,
            kind,
            mode: fields::number::<u32>(&old.mode, "mode", stream)? & 0o7777,
            uid: fields::owner(records.uid, &old.uid, "uid", stream)?,
            gid: fields::owner(records.gid, &old.gid, "gid", stream)?,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => Time {
                    seconds: fields::number(&old.mtime, "mtime", stream)?,
                    nanoseconds: 0,
                },
            },
            size,
            xattrs: records.xattrs.into_iter().collect(),
        };
        for skipped in records.skipped {
            self.notes.push(format!("{}: {skipped} left out", shown(&entry.path)));
        }
        Ok(entry)
    }

    /// Counts a file of `size` bytes against the limits.
    fn budget(&mut self, size: u64) -> Result<()> {
        if size > self.limits.file_bytes {
            let most = self.limits.file_bytes;
            return Err(self.stream.bad(&format!("a file of {size} bytes, more than {most}")));
        }
        self.total = self.total.saturating_add(size);
        if self.total > self.limits.total_bytes {
            let most = self.limits.total_bytes;
            return Err(self.stream.bad(&format!("more than {most} bytes of content")));
        }
        Ok(())
    }
}
