//! One pass over a layer: copy, hash, inflate, hash, unpack.
//!
//! ```text
//! copier thread           reader ─> sha256 ─> blob file        (the original, as it came)
//!                            └────> bounded channel
//! this thread             channel ─> inflate ─> sha256 ─> confined child
//! ```
//!
//! Each stage is bounded, so memory does not grow with the layer. Nothing
//! becomes a layer before all of it was read and both digests are right; until
//! then it is a temporary file and a leased snapshot.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use plywood_store::blob::{BlobWriter, Descriptor};
use plywood_store::compress::{self, Compression};
use plywood_store::digest::Hashing;
use plywood_store::intent::Intent;
use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, DiffId, Digest, Store};

use super::Progress;
use super::budget::Budget;
use super::undo::Made;
use super::unpack::{Unpacker, of_reader};
use crate::dm::room::is_watched;
use crate::error::{Context, Error, Kind, Result, undone};
use crate::ext4::write::Filled;
use crate::snapshot::{Access, Gauge, Mounted, NewLayer, Snapshotter};

const CHUNK: usize = 256 << 10;
/// What to do about what came damaged.
pub(super) const DAMAGED: &str = "the archive is damaged or was cut off: fetch or export it again";
/// Chunks that the copier may be ahead of the inflating.
const AHEAD: usize = 8;

/// What unpacks layers into a store.
pub(super) struct Loader<'a> {
    pub(super) store: &'a Store,
    pub(super) snapshotter: &'a dyn Snapshotter,
    pub(super) unpacker: &'a Unpacker,
    pub(super) budget: &'a Budget,
    pub(super) progress: &'a dyn Progress,
}

/// A layer as it comes from outside.
pub(super) struct Incoming<'a> {
    /// The packed bytes.
    pub(super) reader: Box<dyn Read + Send + 'a>,
    /// Their number, where it is known before.
    pub(super) size: Option<u64>,
    /// What the packed bytes must be.
    pub(super) blob: Option<(Digest, u64)>,
    /// What the unpacked bytes must be.
    pub(super) diff_id: Option<DiffId>,
    /// Where a person would find the tar.
    pub(super) shown: &'a Path,
    /// What it is, for the progress bar and a failure.
    pub(super) title: String,
}

impl Loader<'_> {
    /// Makes `incoming` a layer on `parent`, durably.
    pub(super) fn load(
        &self,
        intent: &mut Intent,
        parent: Option<&ChainId>,
        incoming: Incoming<'_>,
        made: &mut Made,
    ) -> Result<LayerRecord> {
        let key = random_key("import")?;
        self.snapshotter.prepare(&key, parent, Some(intent))?;
        let title = incoming.title.clone();
        self.fill_and_commit(&key, intent, incoming, made)
            .map_err(|cause| undone(named(&title, cause), self.snapshotter.remove(&key)))
    }

    /// Has what came unpacked into the snapshot: straight onto its device where it stands on nothing, else through a
    /// mount. What is no layer for the device goes through a mount after all, from the copy that was kept.
    fn fill(&self, key: &str, intent: &Intent, incoming: Incoming<'_>, writer: BlobWriter) -> Result<Passed> {
        let shown = incoming.shown;
        let device = match is_mounted_always() {
            true => None,
            false => self.snapshotter.device(key)?,
        };
        let Some(device) = device else {
            let mounted = self.snapshotter.mount(key, Access::Fill)?;
            let passed = one_pass(incoming, writer, self.progress, self.budget, &mut |tar| {
                self.unpack(&mounted, tar, shown)
            })?;
            mounted.close()?;
            return Ok(passed);
        };
        let mut declined = None;
        let mut passed = one_pass(incoming, writer, self.progress, self.budget, &mut |tar| {
            let sync = || device.sync();
            let mut metered = Metered::new(tar, self.snapshotter.gauge(), &sync);
            if let Filled::Declined(why) = self.unpacker.fill(&device, &mut metered, shown)? {
                declined = Some(why);
                io::copy(tar, &mut io::sink()).map_err(of_reader)?;
            }
            Ok(())
        })?;
        device.close()?;
        if let Some(why) = declined {
            tracing::debug!(key, "the layer is applied to a mounted volume, as it has {why}");
            self.snapshotter.remove(key)?;
            self.snapshotter.prepare(key, None, Some(intent))?;
            let mounted = self.snapshotter.mount(key, Access::Fill)?;
            let (_, mut tar) = compress::decoder(Box::new(passed.writer.written()?))?;
            self.unpack(&mounted, &mut tar, shown)?;
            mounted.close()?;
        }
        Ok(passed)
    }

    fn unpack(&self, mounted: &Mounted, tar: &mut dyn Read, shown: &Path) -> Result<()> {
        let sync = || rustix::fs::syncfs(mounted.dir()).context("sync", mounted.path());
        let mut tar = Metered::new(tar, self.snapshotter.gauge(), &sync);
        self.unpacker.unpack(mounted, &mut tar, shown).map(drop)
    }

    fn fill_and_commit(
        &self,
        key: &str,
        intent: &mut Intent,
        incoming: Incoming<'_>,
        made: &mut Made,
    ) -> Result<LayerRecord> {
        let (expected_blob, expected_diff) = (incoming.blob, incoming.diff_id);
        let writer = self.store.blobs.writer()?;
        self.progress
            .begin(&format!("importing {}", incoming.title), incoming.size);
        let passed = self.fill(key, intent, incoming, writer);
        self.progress.end();
        let Passed {
            writer,
            compression,
            diff_id,
            size,
        } = passed?;
        if let Some(expected) = expected_diff.filter(|expected| *expected != diff_id) {
            return Err(Error::corrupt(format!(
                "layer {expected} came as {diff_id}: its content is not what the config says"
            )));
        }
        let expected = expected_blob.as_ref().map(|(digest, size)| (digest, *size));
        let stored = made.blob(writer, intent, expected)?;
        let blob = Descriptor {
            media_type: compression.layer_media_type().to_owned(),
            digest: stored.digest,
            size: stored.size,
        };
        let new = NewLayer { diff_id, blob, size };
        made.layer(self.store, self.snapshotter, intent, key, &new)
    }
}

/// Says which layer it was; what is damaged came so, and not from this store.
fn named(title: &str, cause: Error) -> Error {
    let hint = match (cause.hint(), cause.kind()) {
        (Some(hint), _) => Some(hint.to_owned()),
        (None, Kind::Corrupt) => Some(DAMAGED.to_owned()),
        (None, _) => None,
    };
    let error = Error::new(cause.kind(), format!("cannot import {title}")).caused_by(cause);
    match hint {
        Some(hint) => error.hinted(hint),
        None => error,
    }
}

/// A layer that was read to its end, unpacked, and is not yet a blob.
struct Passed {
    writer: BlobWriter,
    compression: Compression,
    diff_id: DiffId,
    size: u64,
}

fn one_pass(
    incoming: Incoming<'_>,
    writer: BlobWriter,
    progress: &dyn Progress,
    budget: &Budget,
    unpack: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
) -> Result<Passed> {
    let (send, receive) = sync_channel(AHEAD);
    let given_up = AtomicBool::new(false);
    let expected = incoming.blob;
    std::thread::scope(|threads| {
        let copier = Copier {
            send,
            given_up: &given_up,
            progress,
            expected,
        };
        let copying = threads.spawn(move || copier.copy(incoming.reader, writer));
        let unpacked = inflate_and_unpack(receive, budget, unpack);
        if unpacked.is_err() && expected.is_none() {
            given_up.store(true, Ordering::Relaxed);
        }
        let mut writer = copying
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Io, "the thread that copies the layer panicked")))?;
        // What came is not what was promised: that explains why it could not be unpacked.
        let (digest, bytes) = writer.so_far()?;
        if let Some(expected) = expected.filter(|expected| *expected != (digest, bytes)) {
            return Err(mismatch(expected, &format!("{digest} of {bytes} bytes")));
        }
        let Unpacked { compression, content } = unpacked?;
        let (diff_id, size) = content.unwrap_or((DiffId(digest), bytes));
        Ok(Passed {
            writer,
            compression,
            diff_id,
            size,
        })
    })
}

struct Unpacked {
    compression: Compression,
    /// What was inside; none where nothing was packed, and inside and outside are the same.
    content: Option<(DiffId, u64)>,
}

fn inflate_and_unpack(
    receive: Receiver<Chunk>,
    budget: &Budget,
    unpack: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
) -> Result<Unpacked> {
    let packed = ChannelReader {
        receive,
        chunk: Arc::default(),
        at: 0,
        ended: false,
    };
    let (compression, tar) = compress::decoder(Box::new(packed))?;
    let mut tar = budget.unpacking(tar, compression != Compression::None);
    if compression == Compression::None {
        unpack(&mut tar)?;
        return Ok(Unpacked {
            compression,
            content: None,
        });
    }
    let mut hashing = Hashing::new(tar);
    unpack(&mut hashing)?;
    let (_, digest, size) = hashing.finish();
    Ok(Unpacked {
        compression,
        content: Some((DiffId(digest), size)),
    })
}

fn mismatch((digest, size): (Digest, u64), got: &str) -> Error {
    Error::corrupt(format!("blob {digest} of {size} bytes came as {got}")).hinted(DAMAGED)
}

/// Bytes of room above which nothing is brought to the pool before its time.
const METERED_AT: u64 = 4 << 30;
/// Bytes of room below which unpacking ends.
const METERED_LEAST: u64 = 4 << 20;

/// A piece of the stream, or the copier's failure, which ends it.
type Chunk = io::Result<Arc<[u8]>>;

/// Reads the original, keeps it, and passes it on.
struct Copier<'a> {
    send: SyncSender<Chunk>,
    given_up: &'a AtomicBool,
    progress: &'a dyn Progress,
    expected: Option<(Digest, u64)>,
}

impl Copier<'_> {
    /// Copies to the end, also when nobody listens any more: whether the blob is
    /// damaged is the better message then. Without a digest to compare with it stops early.
    fn copy(self, mut reader: Box<dyn Read + Send + '_>, mut writer: BlobWriter) -> Result<BlobWriter> {
        let mut buffer = vec![0; CHUNK];
        let mut listening = true;
        let mut copied = 0;
        while !self.given_up.load(Ordering::Relaxed) {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(self.fail(of_reader(cause))),
            };
            copied += count as u64;
            if let Some(expected) = self.expected.filter(|(_, size)| copied > *size) {
                return Err(self.fail(mismatch(expected, "more bytes")));
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            if let Err(cause) = writer.write_all(bytes) {
                return Err(self.fail(Error::io("write", "a blob", cause)));
            }
            self.progress.advance(count as u64);
            listening = listening && self.send.send(Ok(bytes.into())).is_ok();
        }
        Ok(writer)
    }

    /// Ends the stream with an error, so that nobody takes its end for the layer's.
    fn fail(&self, cause: Error) -> Error {
        let _ = self.send.send(Err(io::Error::other(cause.to_string())));
        cause
    }
}

struct ChannelReader {
    receive: Receiver<Chunk>,
    chunk: Arc<[u8]>,
    at: usize,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.chunk.len() && !self.ended {
            match self.receive.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                // The copier is done: this is the end.
                Err(_) => self.ended = true,
            }
        }
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

/// A tar that ends with an error before what it unpacks to fills the pool.
struct Metered<'a> {
    tar: &'a mut dyn Read,
    gauge: Option<Box<dyn Gauge>>,
    /// Brings what was written so far to the pool.
    sync: &'a dyn Fn() -> Result<()>,
    /// Bytes that may be read before it is looked again how much room there is.
    may_read: u64,
}

impl<'a> Metered<'a> {
    fn new(tar: &'a mut dyn Read, gauge: Option<Box<dyn Gauge>>, sync: &'a dyn Fn() -> Result<()>) -> Self {
        Self {
            tar,
            gauge,
            sync,
            may_read: 0,
        }
    }

    /// What is written so far is brought to the pool; half of what is left then may be read.
    fn look(&mut self) -> Result<()> {
        let Some(gauge) = self.gauge.as_ref().filter(|_| is_watched()) else {
            self.may_read = u64::MAX;
            return Ok(());
        };
        let mut room = gauge.look()?;
        if room.free.saturating_sub(room.floor) < self.may_read.max(METERED_AT) {
            (self.sync)()?;
            room = gauge.look()?;
        }
        if let Err(error) = room.require(METERED_LEAST) {
            gauge.make_room(METERED_LEAST).map_err(|cause| error.caused_by(cause))?;
            room = gauge.look()?;
        }
        let spare = room.free.saturating_sub(room.floor);
        room.require(METERED_LEAST)?;
        self.may_read = spare / 2;
        Ok(())
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.may_read == 0 {
            self.look().map_err(io::Error::other)?;
        }
        let most = usize::try_from(self.may_read).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.tar.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.may_read = self.may_read.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Whether base layers, too, are applied to a mounted volume: for those who want to compare, or who distrust.
fn is_mounted_always() -> bool {
    std::env::var_os("PLYWOOD_BASE_LAYER").is_some_and(|way| way == "mounted")
}

/// A key for a leased snapshot.
pub(super) fn random_key(verb: &str) -> Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("read", "random numbers")?;
    Ok(format!("{verb}-{:016x}", u64::from_ne_bytes(random)))
}
