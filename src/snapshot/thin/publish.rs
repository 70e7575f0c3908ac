//! How an active snapshot's volume becomes a layer's: sealed, then named by the layer's record in one step.

use plywood_store::ChainId;
use plywood_store::intent::ThinStep;
use plywood_store::record::{LayerRecord, Phase};

use super::{Thin, id_of};
use crate::error::{Error, Kind, Result};
use crate::snapshot::{NewLayer, Snapshotter};

impl Thin {
    pub(super) fn publish(&self, key: &str, layer: &NewLayer) -> Result<LayerRecord> {
        self.fold(key, &mut |_, _| ())?;
        let snapshot = self.snapshot(key)?;
        if snapshot.read_only {
            return Err(Error::invalid(format!(
                "the snapshot {key:?} is a view: there is nothing to commit"
            )));
        }
        let claim = self.pool.claim(id_of(&snapshot.place)?)?;
        self.pool.seal(&claim, self.clean.take() == Some(claim.id()))?;
        let chain_id = ChainId::new(snapshot.parent, layer.diff_id);
        let mut transaction = self.begin()?;
        self.require_still(&snapshot)?;
        match self.store.layers.get(&chain_id.0.hex())? {
            Some(there) if there.phase == Phase::Ready => {
                transaction.finish()?;
                drop(claim);
                self.remove(key)?;
                return Ok(there);
            }
            Some(_) => {
                return Err(
                    Error::new(Kind::InUse, format!("the layer {chain_id} is being deleted")).hinted("try again"),
                );
            }
            None => {}
        }
        if let Some(parent) = &snapshot.parent {
            self.layer(parent)?;
        }
        let record = LayerRecord {
            chain_id,
            diff_id: layer.diff_id,
            parent: snapshot.parent,
            blob: layer.blob.clone(),
            size: layer.size,
            place: snapshot.place,
            phase: Phase::Ready,
        };
        let publish = ThinStep::Publish {
            key: key.to_owned(),
            layer: Box::new(record.clone()),
        };
        transaction.step(
            publish,
            |_| Ok(()),
            |store, lock, _| {
                store.layers.put(lock, &record)?;
                store.snapshots.remove(lock, key).map(drop)
            },
        )?;
        transaction.finish()?;
        drop(claim);
        self.note_names(&record);
        Ok(record)
    }
}
