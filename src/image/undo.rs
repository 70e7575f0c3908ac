//! Long work that adds to the store: where it fails, what it made is taken out again.

use std::collections::BTreeSet;

use plywood_store::intent::{Intent, Plan};
use plywood_store::{ChainId, Digest, Store};

use crate::error::{Result, both};
use crate::snapshot::Snapshotter;

/// What is in the store now that was not before.
#[derive(Debug, Default)]
pub struct Made {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Layers.
    pub layers: Vec<ChainId>,
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
