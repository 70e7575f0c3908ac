//! Content under its own digest: `blobs/sha256/<hex>`, mode 0600, never changed.
//!
//! A blob is written to `tmp/`, hashed on the way, fsynced, renamed to its
//! digest, and its folder fsynced: when [`BlobWriter::finish`] returns, the
//! blob survives a power cut. Storing what is there already is a success, and
//! says so. A reader checks the digest on the way and fails at the end of a
//! blob that is not what its name says.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{Digest, Result};

/// What a stored or expected blob is. OCI calls it a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The OCI media type.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// What storing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The content's digest.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// False where the blob was there already.
    pub created: bool,
}

/// The blobs of a root.
#[derive(Debug)]
pub struct Blobs {}

impl Blobs {
    /// Begins a blob. Dropping the writer leaves nothing behind.
    pub fn writer(&self) -> Result<BlobWriter> {
        todo!()
    }
    /// Stores a small blob.
    pub fn put(&self, content: &[u8]) -> Result<Stored> {
        let _ = content;
        todo!()
    }
    /// Opens a blob; the reader fails at the end if the content is not what the digest says.
    pub fn open(&self, digest: &Digest) -> Result<BlobReader> {
        let _ = digest;
        todo!()
    }
    /// Reads a whole blob of at most `limit` bytes, verified.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let _ = (digest, limit);
        todo!()
    }
    /// The blob's length in bytes, or none where it is missing.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let _ = digest;
        todo!()
    }
    /// Every blob with its length in bytes.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        todo!()
    }
}

/// A blob that is being written, hashed on the way.
#[derive(Debug)]
pub struct BlobWriter {}

impl BlobWriter {
    /// Makes the blob durable under its digest. With `expected`, anything else is refused and leaves nothing.
    pub fn finish(self, expected: Option<(&Digest, u64)>) -> Result<Stored> {
        let _ = expected;
        todo!()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let _ = buffer;
        todo!()
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a blob and checks it.
#[derive(Debug)]
pub struct BlobReader {}

impl BlobReader {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        todo!()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        todo!()
    }
}
