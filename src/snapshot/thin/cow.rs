//! Snapshots that keep their writes in an exception store, and their way back into a volume.
//!
//! The store is a thin volume of its own, the origin the parent's. To be committed
//! such a snapshot is *folded*:
//!
//! ```text
//! record  Cow(store)
//! step    target made, a snapshot of the parent's volume
//! record  Merging{store, target}     from here on it only goes forward
//! kernel  snapshot-merge             long, cut short it goes on; nobody mounts target
//! kernel  store discarded
//! step    store deleted
//! record  Thin(target)               like any other
//! ```

use plywood_store::ChainId;
use plywood_store::intent::{Intent, ThinStep};
use plywood_store::record::{Place, SnapshotRecord};

use super::branch::{new_snapshot, snap_quiet};
use super::{Thin, forget, id_of, thin_id};
use crate::dm::pool::ThinId;
use crate::dm::volume::Pool;
use crate::error::Result;

impl Thin {
    pub(super) fn prepare_store(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()> {
        let mut transaction = self.begin()?;
        self.require_free(key)?;
        self.layer(parent)?;
        self.pool.ensure_room()?;
        // A new volume reads as zeros, and so its first chunk says that the store is new.
        let make = |pool: &dyn Pool, id: ThinId| pool.create_thin(id);
        transaction.create(Some(key), None, make, |store, lock, id, _| {
            let snapshot = SnapshotRecord {
                place: Place::Cow(id.get()),
                ..new_snapshot(key, Some(parent), owner)
            };
            store.snapshots.put(lock, &snapshot)
        })?;
        transaction.finish()
    }

    pub(super) fn fold_store(&self, key: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut snapshot = self.snapshot(key)?;
        let store = match snapshot.place {
            Place::Cow(store) | Place::Merging { store, .. } => thin_id(store)?,
            Place::Thin(_) | Place::Folder(_) => return Ok(()),
        };
        let from = self.pool.claim(store)?;
        self.require_still(&snapshot)?;
        if let Place::Cow(_) = snapshot.place {
            self.begin_fold(&snapshot, store)?;
            snapshot = self.snapshot(key)?;
        }
        let into = self.pool.claim(id_of(&snapshot.place)?)?;
        self.pool.fold(&from, &into, progress)?;
        drop(into);
        // Of a store that is discarded in part nothing is merged: its header goes first.
        self.pool.discard(&from)?;
        let mut transaction = self.begin()?;
        let delete = |pool: &dyn Pool| pool.delete(store).map(drop);
        transaction.step(ThinStep::Delete { id: store.get() }, delete, |records, lock, _| {
            forget(records, lock, store)?;
            self.pool.forget(store)
        })?;
        transaction.finish()?;
        drop(from);
        Ok(())
    }

    /// Makes what the store is folded into.
    fn begin_fold(&self, snapshot: &SnapshotRecord, store: ThinId) -> Result<()> {
        let mut transaction = self.begin()?;
        let origin = self.origin_of(snapshot)?;
        self.pool.ensure_room()?;
        let make = |pool: &dyn Pool, id: ThinId| snap_quiet(pool, id, origin);
        transaction.create(Some(&snapshot.key), Some(origin), make, |records, lock, target, _| {
            let place = Place::Merging {
                store: store.get(),
                target: target.get(),
            };
            records.snapshots.put(
                lock,
                &SnapshotRecord {
                    place,
                    ..snapshot.clone()
                },
            )
        })?;
        transaction.finish()
    }
}
