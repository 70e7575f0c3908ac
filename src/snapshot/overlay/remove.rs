//! How snapshots and layers go: record first, then the folder, forward only.

use plywood_store::lock::Exclusive;
use plywood_store::record::{LayerRecord, Phase, SnapshotRecord};
use plywood_store::{ChainId, gc};

use super::{Overlay, Upper, folder, folders};
use crate::error::{Error, Result};
use crate::explain::{quote, step};

impl Overlay {
    /// Takes a snapshot out of the records; its folder, if its own, is left to be deleted.
    pub(super) fn unrecord(&self, lock: &Exclusive, record: &SnapshotRecord) -> Result<Option<String>> {
        let Upper::Own(name) = Upper::of(record)? else {
            self.store.snapshots.remove(lock, &record.key)?;
            return Ok(None);
        };
        if self.store.snapshots.is_passing(&record.key) {
            // The mark says all that recovery needs to know.
            self.folders.unhook(lock, name)?;
            self.store.snapshots.remove(lock, &record.key)?;
            return Ok(Some(name.to_owned()));
        }
        if self.is_published(name)? {
            // A commit was killed between the layer's record and this one: the mark tells recovery.
            self.store.snapshots.remove(lock, &record.key)?;
            return Ok(None);
        }
        self.folders.mark_deletion(lock, name)?;
        if record.phase == Phase::Ready {
            self.store.snapshots.put(
                lock,
                &SnapshotRecord {
                    phase: Phase::Deleting,
                    ..record.clone()
                },
            )?;
        }
        self.folders.unhook(lock, name)?;
        self.store.snapshots.remove(lock, &record.key)?;
        Ok(Some(name.to_owned()))
    }

    /// Whether the folder is a layer's already. Only where it is marked can there be doubt.
    fn is_published(&self, name: &str) -> Result<bool> {
        if !self.folders.is_marked(name) {
            return Ok(false);
        }
        let layers = self.store.layers.list()?;
        Ok(layers
            .iter()
            .any(|layer| folder(&layer.place).is_ok_and(|place| place == name)))
    }

    /// The same for a layer, to the end of the records' part; gives the folder's name.
    pub(super) fn finish_layer(&self, lock: &Exclusive, record: &LayerRecord) -> Result<String> {
        let name = folder(&record.place)?;
        if !folders::is_name(name) {
            return Err(Error::corrupt(format!(
                "layer {} names the folder {name:?}",
                record.chain_id
            )));
        }
        self.folders.mark_deletion(lock, name)?;
        if record.phase == Phase::Ready {
            self.store.layers.put(
                lock,
                &LayerRecord {
                    phase: Phase::Deleting,
                    ..record.clone()
                },
            )?;
        }
        self.folders.unhook(lock, name)?;
        self.store.layers.remove(lock, &record.chain_id.0.hex())?;
        Ok(name.to_owned())
    }

    pub(super) fn delete_folder(&self, name: &str) -> Result<()> {
        step(|| {
            format!(
                "rm -rf {} {}",
                quote(self.folders.tree(name)),
                quote(self.folders.work(name))
            )
        });
        self.folders.delete(name).map(|_| ())
    }

    /// What stands on a layer, or none.
    pub(super) fn user_of(&self, lock: &Exclusive, chain: &ChainId) -> Result<Option<String>> {
        for layer in self.store.layers.list()? {
            if layer.parent.as_ref() == Some(chain) {
                return Ok(Some(format!("layer {}", layer.chain_id)));
            }
        }
        for snapshot in self.store.snapshots.list()? {
            if snapshot.parent.as_ref() == Some(chain) {
                return Ok(Some(format!("snapshot {}", snapshot.key)));
            }
        }
        gc::promised(&self.store, lock, chain)
    }
}
