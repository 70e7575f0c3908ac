//! Removing snapshots and layers, and the volumes that are theirs.
//!
//! The record says *deleting*, the volume is discarded, deleted, the record
//! removed: from the first on it only goes forward.

use plywood_store::intent::ThinStep;
use plywood_store::lock::Exclusive;
use plywood_store::record::{LayerRecord, Phase, Place, Record, SnapshotRecord};
use plywood_store::{ChainId, Store, gc};

use super::{Thin, id_of, thin_id};
use crate::dm::pool::ThinId;
use crate::dm::volume::{Claim, Pool};
use crate::error::{Error, Kind, Result};
use crate::snapshot::shown;

impl Thin {
    pub(super) fn remove_snapshot(&self, key: &str) -> Result<()> {
        let lock = self.store.exclusive()?;
        let Some(snapshot) = self.recorded(key)? else {
            return lock.done();
        };
        if let Some(target) = &snapshot.mounted_at
            && shown::mounted_at(target)?.is_some()
        {
            return Err(
                Error::new(Kind::InUse, format!("{key} is mounted at {}", target.display()))
                    .hinted("plywood umount first"),
            );
        }
        if snapshot.read_only {
            self.store.snapshots.remove(&lock, key)?;
            return lock.done();
        }
        let mut claims = Vec::new();
        for id in snapshot.place.volumes() {
            claims.push(self.pool.claim(thin_id(id)?)?);
        }
        self.store.snapshots.put(
            &lock,
            &SnapshotRecord {
                phase: Phase::Deleting,
                ..snapshot
            },
        )?;
        lock.done()?;
        claims.into_iter().try_for_each(|claim| self.erase(claim).map(drop))
    }

    pub(super) fn remove_layer_of(&self, chain: &ChainId) -> Result<()> {
        let lock = self.store.exclusive()?;
        let Some(layer) = self.store.layers.get(&chain.0.hex())? else {
            return lock.done();
        };
        if let Some(user) = self.user_of(&lock, chain)? {
            return Err(Error::new(Kind::InUse, format!("the layer {chain} is under {user}")));
        }
        let claim = self.pool.claim(id_of(&layer.place)?)?;
        self.store.layers.put(
            &lock,
            &LayerRecord {
                phase: Phase::Deleting,
                ..layer
            },
        )?;
        lock.done()?;
        self.forget_names(chain);
        self.erase(claim).map(drop)
    }

    /// Deletes the volume of a record that says *deleting*, and that record. False where somebody
    /// else has done it before the volume was claimed.
    pub(super) fn erase(&self, claim: Claim) -> Result<bool> {
        let id = claim.id();
        if !self.is_going(id)? {
            self.pool.forget(id)?;
            return Ok(false);
        }
        self.pool.discard(&claim)?;
        let mut transaction = self.begin()?;
        let delete = |pool: &dyn Pool| pool.delete(id).map(drop);
        transaction.step(ThinStep::Delete { id: id.get() }, delete, |store, lock, _| {
            forget(store, lock, id)?;
            self.pool.forget(id)
        })?;
        transaction.finish()?;
        drop(claim);
        Ok(true)
    }

    /// Whether a record says of this very volume that it is being deleted. A view's is not its own.
    fn is_going(&self, id: ThinId) -> Result<bool> {
        let going = |there: &Place, phase: Phase| there.volumes().contains(&id.get()) && phase == Phase::Deleting;
        let snapshots = self.store.snapshots.list()?;
        let layers = self.store.layers.list()?;
        Ok(snapshots
            .iter()
            .any(|one| !one.read_only && going(&one.place, one.phase))
            || layers.iter().any(|one| going(&one.place, one.phase)))
    }

    /// What stands on a layer, if anything that stays does.
    fn user_of(&self, lock: &Exclusive, chain: &ChainId) -> Result<Option<String>> {
        let stays = |parent: &Option<ChainId>, phase: Phase| parent.as_ref() == Some(chain) && phase == Phase::Ready;
        if let Some(layer) = self
            .store
            .layers
            .list()?
            .into_iter()
            .find(|layer| stays(&layer.parent, layer.phase))
        {
            return Ok(Some(format!("the layer {}", layer.chain_id)));
        }
        let snapshots = self.store.snapshots.list()?;
        let user = snapshots
            .into_iter()
            .find(|snapshot| stays(&snapshot.parent, snapshot.phase));
        match user {
            Some(snapshot) => Ok(Some(format!("the snapshot {:?}", snapshot.key))),
            None => gc::promised(&self.store, lock, chain),
        }
    }
}

/// Removes the records of a volume that is deleted. A snapshot that has another volume stays with that one.
pub(super) fn forget(store: &Store, lock: &Exclusive, id: ThinId) -> Result<()> {
    for snapshot in store.snapshots.list()? {
        let had = snapshot.place.volumes().contains(&id.get()) && !snapshot.read_only;
        match snapshot.place.without(id.get()) {
            Some(place) if had => store.snapshots.put(lock, &SnapshotRecord { place, ..snapshot })?,
            None if snapshot.phase == Phase::Deleting && had => {
                store.snapshots.remove(lock, &snapshot.key)?;
            }
            _ => {}
        }
    }
    let place = Place::Thin(id.get());
    for layer in store.layers.list()? {
        if layer.place == place && layer.phase == Phase::Deleting {
            store.layers.remove(lock, &layer.key())?;
        }
    }
    Ok(())
}
