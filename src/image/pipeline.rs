//! Layers into a store: each read, unpacked, and made a layer on the one before.
//!
//! What comes is kept, verified and inflated by threads of their own, ahead of this one ([`super::ahead`]); this
//! one has each layer unpacked by a confined child, and publishes it. Each stage is bounded, so memory does not grow
//! with the layer. Nothing becomes a layer before all of it was read and both digests are right; until then it is a
//! temporary file and a leased snapshot.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use plywood_store::blob::Descriptor;
use plywood_store::compress;
use plywood_store::intent::Intent;
use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, DiffId, Digest, Store};

use super::Progress;
use super::ahead::{Ahead, Arrived, Open, Outside, read_ahead};
use super::along;
use super::budget::Budget;
use super::undo::Made;
use super::unpack::{Unpacker, of_reader};
use crate::dm::room::is_watched;
use crate::error::{Context, Error, Kind, Result, undone};
use crate::ext4::write::Filled;
use crate::snapshot::{Access, Gauge, Mounted, NewLayer, Snapshotter};

/// What to do about what came damaged.
pub(super) const DAMAGED: &str = "the archive is damaged or was cut off: fetch or export it again";

/// What unpacks layers into a store.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub(super) store: &'a Store,
    pub(super) snapshotter: &'a dyn Snapshotter,
    pub(super) unpacker: &'a Unpacker,
    pub(super) budget: &'a Budget,
    pub(super) progress: &'a dyn Progress,
}

/// What is known of a layer before it comes.
pub(super) struct Incoming {
    /// The number of the packed bytes.
    pub(super) size: Option<u64>,
    /// What the packed bytes must be.
    pub(super) blob: Option<(Digest, u64)>,
    /// What the unpacked bytes must be.
    pub(super) diff_id: Option<DiffId>,
    /// Where a person would find the tar.
    pub(super) shown: PathBuf,
    /// What it is, for the progress bar and a failure.
    pub(super) title: String,
}

impl<'a> Loader<'a> {
    /// Has `work` make layers of `incoming`, in this order, while those that are not yet their turn are read ahead.
    ///
    /// # Errors
    /// The work's.
    pub(super) fn load<T>(
        self,
        incoming: Vec<(Open<'a>, Incoming)>,
        work: impl FnOnce(&mut Loading<'_>) -> Result<T>,
    ) -> Result<T> {
        let (mut outside, mut coming) = (Vec::new(), Vec::new());
        for (open, layer) in incoming {
            let blob = layer.blob;
            outside.push(Outside { open, blob });
            coming.push(layer);
        }
        read_ahead(&self.store.blobs, self.budget, outside, |ahead| {
            work(&mut Loading {
                loader: self,
                ahead,
                coming: coming.into_iter(),
            })
        })
    }
}

/// Makes layers of what is read ahead.
pub(super) struct Loading<'a> {
    loader: Loader<'a>,
    ahead: Ahead<'a>,
    coming: std::vec::IntoIter<Incoming>,
}

impl Loading<'_> {
    /// Makes the next one a layer on `parent`, durably.
    pub(super) fn next(
        &mut self,
        intent: &mut Intent,
        parent: Option<&ChainId>,
        made: &mut Made,
    ) -> Result<LayerRecord> {
        let coming = self.coming.next();
        let coming = coming.ok_or_else(|| Error::invalid("there is no layer left to load"))?;
        let (key, snapshotter) = (random_key("import")?, self.loader.snapshotter);
        snapshotter.prepare(&key, parent, Some(intent))?;
        self.fill_and_commit(&key, intent, &coming, made)
            .map_err(|cause| undone(named(&coming.title, cause), snapshotter.remove(&key)))
    }

    /// Has what came unpacked into the snapshot: straight onto its device where it stands on nothing, else through a
    /// mount. What is no layer for the device goes through a mount after all, from the copy that was kept.
    fn fill(&mut self, key: &str, intent: &Intent, shown: &Path) -> Result<Arrived> {
        let (loader, snapshotter, progress) = (self.loader, self.loader.snapshotter, self.loader.progress);
        let device = match is_mounted_always() {
            true => None,
            false => snapshotter.device(key)?,
        };
        let Some(device) = device else {
            let mounted = snapshotter.mount(key, Access::Fill)?;
            let unpack = &mut |tar: &mut dyn Read| loader.unpack(&mounted, tar, shown);
            let arrived = self.ahead.next(progress, unpack)?;
            mounted.close()?;
            return Ok(arrived);
        };
        let mut declined = None;
        let mut arrived = self.ahead.next(progress, &mut |tar| {
            let sync = || device.sync();
            let mut metered = Metered::new(tar, snapshotter.gauge(), &sync);
            let filled = loader.unpacker.fill(&device, &mut metered, shown);
            if let Filled::Declined(why) = filled.map_err(|cause| loader.cause_of(cause))? {
                declined = Some(why);
                io::copy(tar, &mut io::sink()).map_err(of_reader)?;
            }
            Ok(())
        })?;
        device.close()?;
        if let Some(why) = declined {
            tracing::debug!(key, "the layer is applied to a mounted volume, as it has {why}");
            snapshotter.remove(key)?;
            snapshotter.prepare(key, None, Some(intent))?;
            let mounted = snapshotter.mount(key, Access::Fill)?;
            let (_, mut tar) = compress::decoder(Box::new(arrived.writer.written()?))?;
            loader.unpack(&mounted, &mut tar, shown)?;
            mounted.close()?;
        }
        Ok(arrived)
    }

    fn fill_and_commit(
        &mut self,
        key: &str,
        intent: &mut Intent,
        coming: &Incoming,
        made: &mut Made,
    ) -> Result<LayerRecord> {
        let Loader {
            store,
            snapshotter,
            progress,
            ..
        } = self.loader;
        progress.begin(&format!("importing {}", coming.title), coming.size);
        let arrived = self.fill(key, intent, &coming.shown);
        progress.end();
        let Arrived {
            writer,
            compression,
            diff_id,
            size,
        } = arrived?;
        if let Some(expected) = coming.diff_id.filter(|expected| *expected != diff_id) {
            return Err(Error::corrupt(format!(
                "layer {expected} came as {diff_id}: its content is not what the config says"
            )));
        }
        let expected = coming.blob.as_ref().map(|(digest, size)| (digest, *size));
        let stored = made.blob(writer, intent, expected)?;
        let blob = Descriptor {
            media_type: compression.layer_media_type().to_owned(),
            digest: stored.digest,
            size: stored.size,
        };
        let new = NewLayer { diff_id, blob, size };
        made.layer(store, snapshotter, intent, key, &new)
    }
}

impl Loader<'_> {
    fn unpack(&self, mounted: &Mounted, tar: &mut dyn Read, shown: &Path) -> Result<()> {
        let (dir, path) = (mounted.dir(), mounted.path());
        let sync = || rustix::fs::syncfs(dir).context("sync", path);
        let mut tar = Metered::new(tar, self.snapshotter.gauge(), &sync);
        let unpacked = along::synced(&sync, &mut tar, |tar| self.unpacker.unpack(mounted, tar, shown));
        unpacked.map(drop).map_err(|cause| self.cause_of(cause))
    }

    /// Why something could not be written: the pool's state, where that is the reason.
    fn cause_of(&self, error: Error) -> Error {
        let may_be = matches!(error.kind(), Kind::NoSpace | Kind::Io);
        let gauge = self.snapshotter.gauge().filter(|_| may_be);
        match gauge.map(|gauge| gauge.look()) {
            Some(Err(state)) => state.caused_by(error),
            _ => error,
        }
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

/// Bytes of room above which nothing is brought to the pool before its time.
const METERED_AT: u64 = 4 << 30;
/// Bytes of room below which unpacking ends.
const METERED_LEAST: u64 = 4 << 20;

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
