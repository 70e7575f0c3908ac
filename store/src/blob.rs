//! Content under its own digest: `blobs/sha256/<hex>`, mode 0600, never changed.
//!
//! A blob is written to `tmp/`, hashed on the way, fsynced, renamed to its
//! digest, and its folder fsynced: when [`BlobWriter::finish`] returns, the
//! blob survives a power cut. Storing what is there already is a success, and
//! says so. A reader checks the digest on the way and fails at the end of a
//! blob that is not what its name says.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Hasher;
use crate::durable::{self, Temporary};
use crate::error::Context;
use crate::intent::Intent;
use crate::lock::Exclusive;
use crate::write_back::WriteBack;
use crate::{Digest, Error, Result};

/// Bytes that a writer gathers before it hashes and writes them. What comes in pieces of this size is not gathered.
const BUFFER: usize = 256 << 10;

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
pub struct Blobs {
    folder: PathBuf,
    tmp: PathBuf,
}

impl Blobs {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            folder: root.join("blobs/sha256"),
            tmp: root.join("tmp"),
        }
    }

    /// Where a blob is kept, whether it is there or not.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Begins a blob. Dropping the writer leaves nothing behind.
    ///
    /// # Errors
    /// I/O.
    pub fn writer(&self) -> Result<BlobWriter> {
        Ok(BlobWriter {
            folder: self.folder.clone(),
            content: BufWriter::with_capacity(BUFFER, Growing::new(Temporary::create(&self.tmp)?)),
        })
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// I/O.
    pub fn put(&self, content: &[u8]) -> Result<Stored> {
        let mut writer = self.writer()?;
        writer.write_all(content).context("write", writer.path())?;
        writer.finish(None)
    }

    /// Stores small blobs; their folder is made durable once, when all have their names.
    ///
    /// # Errors
    /// I/O.
    pub fn put_all(&self, contents: &[&[u8]]) -> Result<()> {
        for content in contents {
            let mut writer = self.writer()?;
            writer.write_all(content).context("write", writer.path())?;
            let stored = writer.seal(None)?;
            writer.name(stored)?;
        }
        durable::sync_folder(&self.folder)
    }

    /// Opens a blob; the reader fails at the end if the content is not what the digest says.
    ///
    /// # Errors
    /// Not found, I/O.
    pub fn open(&self, digest: &Digest) -> Result<BlobReader> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(digest),
            _ => Error::io("open blob", &path, error),
        })?;
        let metadata = file.metadata().context("look at", &path)?;
        Ok(BlobReader {
            file,
            size: metadata.len(),
            digest: *digest,
            hasher: Some(Hasher::default()),
        })
    }

    /// Reads a whole blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// Not found; corrupt; invalid where it is longer.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut reader = self.open(digest)?;
        if reader.size > limit {
            return Err(Error::invalid(format!(
                "blob {digest} has {} bytes, more than the {limit} that are allowed here",
                reader.size
            )));
        }
        let mut content = Vec::new();
        reader
            .read_to_end(&mut content)
            .context("read blob", self.path(digest))?;
        Ok(content)
    }

    /// The blob's length in bytes, or none where it is missing.
    ///
    /// # Errors
    /// I/O.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match path.symlink_metadata() {
            Ok(metadata) => Ok(Some(metadata.size())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at blob", path, error)),
        }
    }

    /// Every blob with its length in bytes, by digest.
    ///
    /// # Errors
    /// I/O.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for entry in std::fs::read_dir(&self.folder).context("list", &self.folder)? {
            let entry = entry.context("list", &self.folder)?;
            let name = entry.file_name();
            // A stray name is `check`'s business.
            let Some(digest) = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok())
            else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) => blobs.push((digest, metadata.len())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at blob", entry.path(), error)),
            }
        }
        blobs.sort_unstable();
        Ok(blobs)
    }

    /// Removes a blob that nothing names; false where there was none.
    ///
    /// # Errors
    /// I/O.
    pub fn remove(&self, _lock: &Exclusive, digest: &Digest) -> Result<bool> {
        durable::remove(&self.path(digest))
    }
}

fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("blob {digest} is not in the store"))
        .hinted("`plywood check` says what needs it; importing its image again brings it back")
}

/// A blob that is being written, hashed on the way.
#[derive(Debug)]
pub struct BlobWriter {
    folder: PathBuf,
    content: BufWriter<Growing>,
}

/// The file of one, and what is in it so far.
#[derive(Debug)]
struct Growing {
    temporary: Temporary,
    hasher: Hasher,
    write_back: WriteBack,
}

impl Growing {
    fn new(temporary: Temporary) -> Self {
        Self {
            temporary,
            hasher: Hasher::default(),
            write_back: WriteBack::default(),
        }
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.temporary.file()?;
        let count = file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or(bytes));
        self.write_back.advance(file, self.hasher.bytes());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Makes the blob durable under its digest. With `expected`, anything else is refused and leaves nothing.
    ///
    /// Nothing keeps the blob from `gc` until a record or an intent names it:
    /// where the digest was not pinned before, use [`BlobWriter::finish_pinned`].
    ///
    /// # Errors
    /// Corrupt where the content is not `expected`; I/O.
    pub fn finish(mut self, expected: Option<(&Digest, u64)>) -> Result<Stored> {
        let stored = self.seal(expected)?;
        self.publish(stored)
    }

    /// The same for a blob whose digest was not known before: `intent` pins it
    /// before it gets its name, so that no `gc` can take it away in between.
    ///
    /// # Errors
    /// As [`BlobWriter::finish`].
    pub fn finish_pinned(mut self, intent: &mut Intent, expected: Option<(&Digest, u64)>) -> Result<Stored> {
        let stored = self.seal(expected)?;
        intent.pin_blob(stored.digest)?;
        self.publish(stored)
    }

    /// The digest and length in bytes of what was written so far.
    ///
    /// # Errors
    /// I/O.
    pub fn so_far(&mut self) -> Result<(Digest, u64)> {
        self.write_out()?;
        let hasher = &self.content.get_ref().hasher;
        Ok((hasher.clone().digest(), hasher.bytes()))
    }

    /// What was written so far, to be read beside this writer.
    ///
    /// # Errors
    /// I/O.
    pub fn written(&mut self) -> Result<File> {
        self.write_out()?;
        File::open(self.path()).context("read again", self.path())
    }

    /// What was written, from its beginning, and no blob: it goes when the handle is closed.
    ///
    /// # Errors
    /// I/O.
    pub fn reread(mut self) -> Result<File> {
        self.write_out()?;
        let file = self.content.get_ref().temporary.file().and_then(File::try_clone);
        file.and_then(|mut file| io::Seek::rewind(&mut file).map(|()| file))
            .context("read again", self.path())
    }

    /// Writes out what is gathered, and says what the content is.
    fn seal(&mut self, expected: Option<(&Digest, u64)>) -> Result<Stored> {
        let (digest, size) = self.so_far()?;
        if let Some((wanted, length)) = expected
            && (*wanted, length) != (digest, size)
        {
            return Err(Error::corrupt(format!(
                "blob {wanted} of {length} bytes came as {digest} of {size} bytes"
            )));
        }
        Ok(Stored {
            digest,
            size,
            created: true,
        })
    }

    /// Gives the sealed content its name. What has that name is replaced: storing
    /// a blob again repairs a damaged one.
    fn publish(self, stored: Stored) -> Result<Stored> {
        let folder = self.folder.clone();
        let stored = self.name(stored)?;
        durable::sync_folder(&folder)?;
        Ok(stored)
    }

    /// The same but for the name, which is durable when the folder is synced.
    fn name(self, stored: Stored) -> Result<Stored> {
        let target = self.folder.join(stored.digest.hex());
        let there = target.symlink_metadata().is_ok();
        let content = self.content.into_inner().map_err(io::IntoInnerError::into_error);
        content.context("write", &target)?.temporary.publish_unsynced(&target)?;
        tracing::debug!(digest = %stored.digest, size = stored.size, there, "blob stored");
        Ok(Stored {
            created: !there,
            ..stored
        })
    }

    /// Where it is until it has its name.
    fn path(&self) -> &Path {
        self.content.get_ref().temporary.path()
    }

    fn write_out(&mut self) -> Result<()> {
        let written = self.content.flush();
        written.context("write", self.path())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    /// Hashes and writes what is gathered, so that who reads [`BlobWriter::written`] finds it.
    fn flush(&mut self) -> io::Result<()> {
        self.content.flush()
    }
}

/// Reads a blob and checks it.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    size: u64,
    digest: Digest,
    /// None once the end was reached and found right.
    hasher: Option<Hasher>,
}

impl BlobReader {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        let Some(hasher) = &mut self.hasher else {
            return Ok(count);
        };
        hasher.update(buffer.get(..count).unwrap_or_default());
        if count == 0 {
            let found = hasher.clone().digest();
            if found != self.digest {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    Error::corrupt(format!("blob {} is damaged: its content is {found}", self.digest))
                        .hinted("importing its image again repairs it"),
                ));
            }
            self.hasher = None;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::Plan;
    use crate::{Driver, Kind, Store};

    #[test]
    fn blobs_round_trip_and_say_whether_they_were_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 7] {
            let content: Vec<u8> = (0..=250).cycle().take(size).collect();
            let stored = store.blobs.put(&content).unwrap();
            assert_eq!(stored.digest, Digest::of(&content));
            assert!(stored.created);
            assert!(!store.blobs.put(&content).unwrap().created);
            assert_eq!(store.blobs.size(&stored.digest).unwrap(), Some(size as u64));
            assert_eq!(store.blobs.read(&stored.digest, size as u64).unwrap(), content);
        }
        assert_eq!(store.blobs.list().unwrap().len(), 6);
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_that_leaves_memory_while_it_is_written_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let piece: Vec<u8> = (0..=250).cycle().take((1 << 20) - 1).collect();
        let mut writer = store.blobs.writer().unwrap();
        for _ in 0..120 {
            writer.write_all(&piece).unwrap();
        }
        let (digest, bytes) = writer.so_far().unwrap();
        assert_eq!(bytes, 120 * piece.len() as u64);
        writer.finish(Some((&digest, bytes))).unwrap();
        let read = io::copy(&mut store.blobs.open(&digest).unwrap(), &mut io::sink()).unwrap();
        assert_eq!(read, bytes);
    }

    #[test]
    fn the_unexpected_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        for (digest, size) in [(Digest::of(b"abc"), 4), (Digest::of(b"abd"), 3)] {
            let mut writer = store.blobs.writer().unwrap();
            writer.write_all(b"abc").unwrap();
            let error = writer.finish(Some((&digest, size))).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
        drop(store.blobs.writer().unwrap());
        assert!(store.blobs.list().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_told_at_the_end_and_storing_again_repairs_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let digest = store.blobs.put(b"content").unwrap().digest;
        for damage in [&b"contenu"[..], b"conten", b"contents", b""] {
            std::fs::write(store.blobs.path(&digest), damage).unwrap();
            let error = store.blobs.read(&digest, 100).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{damage:?}");
            store.blobs.put(b"content").unwrap();
            assert_eq!(store.blobs.read(&digest, 100).unwrap(), b"content");
        }
        assert_eq!(store.blobs.read(&digest, 3).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(store.blobs.open(&Digest::of(b"")).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_pinned_blob_has_its_pin_before_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let plan = Plan::Work {
            verb: "commit".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        let mut intent = store.intents.begin(plan).unwrap();
        let writer = store.blobs.writer().unwrap();
        let stored = writer.finish_pinned(&mut intent, None).unwrap();
        assert!(matches!(intent.plan(), Plan::Work { blobs, .. } if blobs == &[stored.digest]));
    }
}
