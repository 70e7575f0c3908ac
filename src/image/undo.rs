//! Long work that adds to the store: where it fails, what it made is taken out again.

use std::collections::BTreeSet;

use plywood_store::blob::{BlobWriter, Stored};
use plywood_store::intent::{Intent, Plan};
use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, Digest, Store};

use crate::error::{Result, both};
use crate::snapshot::{NewLayer, Snapshotter};

/// What is in the store now that was not before.
#[derive(Debug, Default)]
pub struct Made {
    blobs: Vec<Digest>,
    layers: Vec<ChainId>,
}

impl Made {
    /// Publishes a blob that `intent` pins; `expected` is the digest and the length in bytes that it must have.
    ///
    /// # Errors
    /// Corrupt where it has others; I/O.
    pub fn blob(
        &mut self,
        writer: BlobWriter,
        intent: &mut Intent,
        expected: Option<(&Digest, u64)>,
    ) -> Result<Stored> {
        let stored = writer.finish_pinned(intent, expected)?;
        if stored.created {
            self.blobs.push(stored.digest);
        }
        Ok(stored)
    }

    /// Commits the leased snapshot `key` as a layer on the one it was prepared over.
    ///
    /// # Errors
    /// What the driver refuses; I/O.
    pub fn layer(
        &mut self,
        store: &Store,
        snapshotter: &dyn Snapshotter,
        intent: &mut Intent,
        key: &str,
        new: &NewLayer,
    ) -> Result<LayerRecord> {
        let parent = store.snapshots.get(key)?.and_then(|snapshot| snapshot.parent);
        let chain = ChainId::new(parent, new.diff_id);
        // Before it is there: a gc in between must not take it for garbage.
        intent.pin_layer(chain)?;
        let is_new = store.layers.get(&chain.0.hex())?.is_none();
        let layer = snapshotter.commit(key, new)?;
        if is_new {
            self.layers.push(chain);
        }
        Ok(layer)
    }
}

/// Runs `work` under an intent that pins what `plan` says; where it fails, takes out what it made.
///
/// # Errors
/// The work's; a failed undo is told beside it.
pub fn undoing<T>(
    store: &Store,
    snapshotter: &dyn Snapshotter,
    plan: Plan,
    work: impl FnOnce(&mut Intent, &mut Made) -> Result<T>,
) -> Result<T> {
    let mut intent = store.intents.begin(plan)?;
    let mut made = Made::default();
    match work(&mut intent, &mut made) {
        Ok(done) => {
            // What was acknowledged is there; a left-over intent only keeps a dead owner's name.
            if let Err(error) = intent.done() {
                tracing::warn!("cannot remove an intent that is done: {error}");
            }
            Ok(done)
        }
        Err(cause) => both(
            Err(cause),
            intent.done().and_then(|()| take_out(store, snapshotter, &made)),
        ),
    }
}

/// Removes what was made, where nothing needs it. Somebody else may by now.
fn take_out(store: &Store, snapshotter: &dyn Snapshotter, made: &Made) -> Result<()> {
    if !made.layers.is_empty() {
        let lock = store.shared()?;
        let garbage = plywood_store::gc::mark(store)?;
        drop(lock);
        for layer in garbage
            .layers
            .iter()
            .filter(|layer| made.layers.contains(&layer.chain_id))
        {
            snapshotter.remove_layer(&layer.chain_id)?;
        }
    }
    if !made.blobs.is_empty() {
        let lock = store.exclusive()?;
        let garbage: BTreeSet<Digest> = plywood_store::gc::mark(store)?
            .blobs
            .into_iter()
            .map(|(digest, _)| digest)
            .collect();
        for blob in made.blobs.iter().filter(|blob| garbage.contains(blob)) {
            store.blobs.remove(&lock, blob)?;
        }
        lock.done()?;
    }
    Ok(())
}
